"""`lrface COMMAND ...`, and recipes and weights that are found wherever LRFace lies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import recognition
from recognition import command
from recognition import config as settings
from recognition import recipes

ROOT = Path(__file__).resolve().parents[2]
MINE = 'from easydict import EasyDict as edict\n\nparent = "{}"\nconfig = edict(optim=edict(lr=0.125))\n'


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import recognition.command as c; sys.exit(c.main())"
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True)


@pytest.fixture(autouse=True)
def said() -> None:
    recipes._say.cache_clear()


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
    assert helped.returncode == 0 and helped.stdout.startswith("usage: train.py ")
    wrong = run("train", "demo", "optim.rl=1", folder=tmp_path)
    assert wrong.returncode == 2 and "did you mean config.optim.lr" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_shipped_recipe_is_found_by_name_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "demo.py", "configs/demo.py"):
        assert settings.load(name).run.name == "demo"
        assert settings.load(name, ["optim.lr=0.5"]).optim.lr == 0.5
        where = f"{name}: the recipe that ships with LRFace, {ROOT / 'configs' / 'demo.py'}\n"
        assert capsys.readouterr() == ("", where), "said once"
    monkeypatch.setenv("RANK", "1")
    recipes._say.cache_clear()
    settings.load("demo")
    assert capsys.readouterr().err == ""


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    Path("configs/demo.py").write_text(MINE.format("demo_lora.py"))
    assert settings.load("configs/demo.py").optim.lr == 0.125
    assert settings.load("demo").optim.lr != 0.125, "a bare name is a file of this folder, or a shipped one"
    with pytest.raises(settings.ConfigError, match=r"no recipe at other/demo\.py"):
        settings.load("other/demo.py")
    with pytest.raises(settings.ConfigError, match=r"no recipe at dmeo; did you mean 'demo\.py'"):
        settings.load("dmeo")


def test_a_parent_is_looked_for_beside_the_recipe_and_then_among_the_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, here = tmp_path / "recipes", tmp_path / "here"
    mine.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "demo_lora.py").write_text("raise SystemExit('not of the recipe folder')")
    (mine / "mine.py").write_text(MINE.format("demo_lora.py"))
    found = settings.load(mine / "mine.py")
    assert (found.adapter.name, found.optim.lr, found.data.batch_size) == ("lora", 0.125, 32)
    (mine / "demo_lora.py").write_text(MINE.format("base.py").replace("lr=0.125", "clip=2.0"))
    assert settings.load(mine / "mine.py").adapter.name == "full"
    (mine / "mine.py").write_text(MINE.format("demo_lroa.py"))
    with pytest.raises(settings.ConfigError, match=r"no recipe at .*demo_lroa\.py; did you mean 'demo_lora\.py'"):
        settings.load(mine / "mine.py")


def test_shipped_weights_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load(ROOT / "configs" / "demo.py").backbone.weights == "weights/demo_base.safetensors", "it is here"
    monkeypatch.chdir(tmp_path)
    shipped = str(ROOT / "weights" / "demo_base.safetensors")
    config = settings.load("demo")
    assert config.backbone.weights == shipped and shipped in [need["path"] for need in config.needs]
    missing = settings.missing_needs(config)
    assert len(missing) == 2 and all("lrface make_synthetic data/demo" in sentence for sentence in missing)
    other = settings.load("demo", ["backbone.weights=weights/mine.safetensors"])
    assert other.backbone.weights == "weights/mine.safetensors"
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "demo_base.safetensors").touch()
    assert settings.load("demo").backbone.weights == "weights/demo_base.safetensors", "a file here comes first"


def test_the_demos_hints_are_what_make_does() -> None:
    made = (ROOT / "Makefile").read_text()
    for need in settings.load(ROOT / "configs" / "demo.py").needs[:2]:
        assert need["help"].split("lrface ")[1].replace("make_synthetic", "tools/make_synthetic.py") in made
