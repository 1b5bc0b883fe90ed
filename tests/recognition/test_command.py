"""`lrface COMMAND ...`: tools by name, and ends that are no tracebacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import recognition
from recognition import command

ROOT = Path(__file__).resolve().parents[2]


CODE = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import recognition.command as c; sys.exit(c.main())"


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CODE, *arguments], cwd=folder, capture_output=True, text=True)


def test_help_names_every_tool_with_its_first_sentence(capsys: pytest.CaptureFixture) -> None:
    assert command.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert {line.split()[0] for line in shown.split("commands:")[1].splitlines()[1:-2]} == {
        path.stem for path in (ROOT / "tools").glob("*.py")
    }
    assert "  train              Trains or adapts a face-recognition model by a recipe\n" in shown
    assert command.main([]) == 2 and command.main(["--version"]) == 0
    assert capsys.readouterr().out.endswith(f"lrface {recognition.__version__}\n")


def test_a_wrong_command_is_answered_with_neighbours(capsys: pytest.CaptureFixture) -> None:
    assert command.main(["exprot_onnx"]) == 2
    assert "unknown command 'exprot_onnx'; did you mean 'export_onnx'" in capsys.readouterr().err


def test_a_tool_gets_its_arguments_and_gives_its_code(tmp_path: Path) -> None:
    helped = run("train", "--help", folder=tmp_path)
    assert helped.returncode == 0 and helped.stdout.startswith("usage: lrface train ")
    wrong = run("train", "demo", "optim.rl=1", folder=tmp_path)
    assert wrong.returncode == 2 and "did you mean config.optim.lr" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize("called", [["-c", CODE, "--help"], ["-c", CODE, "recipes"], ["tools/recipes.py"]])
@pytest.mark.parametrize(("output", "code"), [("gone", 141), ("/dev/full", 2)])
def test_output_that_nobody_takes_ends_without_a_traceback(called: list[str], output: str, code: int) -> None:
    """As of `lrface recipes | head -1`, and on a full disk."""
    if output == "gone":
        reader, where = os.pipe()
        os.close(reader)
    else:
        where = os.open(output, os.O_WRONLY)
    done = subprocess.run([sys.executable, *called], cwd=ROOT, stdout=where, stderr=subprocess.PIPE, text=True)
    os.close(where)
    said = {141: "", 2: "lrface: [Errno 28] No space left on device\n"}
    assert (done.returncode, done.stderr) == (code, said[code])


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only command, `mine`: a file that is still to be written."""
    monkeypatch.setattr(command, "tools", lambda: {"mine": tmp_path / "mine.py"})
    monkeypatch.setattr(sys, "argv", ["lrface"])
    return tmp_path / "mine.py"


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("raise KeyboardInterrupt", 130, ""),  # while torch is being imported
        ("open('/nowhere/at/all')", 2, "lrface: [Errno 2] No such file or directory: '/nowhere/at/all'\n"),
    ],
)
def test_what_a_tool_does_not_catch(tool: Path, capsys: pytest.CaptureFixture, text: str, code: int, said: str) -> None:
    tool.write_text(text)
    assert command.main(["mine"]) == code and capsys.readouterr() == ("", said)


def test_a_tool_is_the_main_module_of_its_own_file(tool: Path, capsys: pytest.CaptureFixture) -> None:
    tool.write_text(
        "import sys\nhere = sys.modules['__main__']\n"
        "print(__name__, here.here is here, __file__, __spec__, *sys.argv)\nsys.exit(7)\n"
    )
    before = sys.modules["__main__"]
    with pytest.raises(SystemExit, match="7"):
        command.main(["mine", "a", "b"])
    assert capsys.readouterr().out == f"__main__ True {tool} None lrface mine a b\n"
    assert sys.modules["__main__"] is before and [*tool.parent.iterdir()] == [tool]
