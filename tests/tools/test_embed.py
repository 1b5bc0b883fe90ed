"""tools/embed.py: files of embeddings, broken pictures, faults in words."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lrface import LRFace
from recognition.export import export_onnx
from tests.answering import Run, faces, tiny_run, write_picture
from tests.tiny import nameable
from tools import embed

ROOT = Path(__file__).parents[2]
FACES = faces(3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with nameable():
        yield tiny_run(tmp_path_factory.mktemp("embed"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name, face in zip("abc", FACES, strict=True):
        write_picture(tmp_path / "faces" / f"{name}.png", face)
    return tmp_path / "faces"


def test_a_run_an_adapter_and_an_onnx_file(run: Run, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    exported = export_onnx(run.model, pictures.parent / "face.onnx").path
    wanted, out = LRFace.load(run.path).embed(FACES), pictures.parent / "out.npz"
    models = [["--model", str(run.path)], ["--model", str(run.path / "model"), "--base", str(run.base)]]
    for model in [*models, ["--model", str(exported)]]:
        assert embed.main([str(pictures), "--output", str(out), *model]) == 0
        with np.load(out) as file:
            assert file["names"].tolist() == ["a.png", "b.png", "c.png"]
            assert (file["embedding"] * wanted).sum(1).min() > 1 - 1e-4
    printed = capsys.readouterr().out
    assert printed.count(f"written: {out}, 3 x 12") == 3
    assert printed.splitlines()[0].split() == ["name", "norm", "quality", "gate"]


def test_broken_pictures_are_listed_and_the_others_written(
    run: Run, pictures: Path, capsys: pytest.CaptureFixture
) -> None:
    (pictures / "torn.jpg").write_bytes(b"\xff\xd8torn")
    out, model = pictures.parent / "out.jsonl", ["--model", str(run.path)]
    assert embed.main([str(pictures), "gone.png", "--output", str(out), *model]) == 1
    said = capsys.readouterr().err
    assert "torn.jpg: 6 bytes that do not decode" in said and "gone.png: there is no such file" in said
    assert "2 of 5 without an answer" in said and len(out.read_text().splitlines()) == 3
    assert embed.main([str(pictures), "--output", str(out), *model, "--json", "--raw", "--flip", "sum"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["errors"][0]["name"] == "torn.jpg" and not told["normalised"] and told["flip"] == "sum"
    assert {"name", "norm", "quality", "gate"} == set(told["images"][0]) and told["written"] == [str(out)]
    out.unlink()
    assert embed.main(["gone.png", "--output", str(out), *model]) == 2 and not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "nowhere", "x.png", "--output", "o.npz"], "there is no nowhere: name a run"),
        (["--model", "RUN", "EMPTY", "--output", "o.npz"], "holds no picture"),
        (["--model", "RUN", "x.png", "--output", "o.npz", "--scorer", "sharpness"], "has a scorer of its own"),
        (["--model", "RUN", "x.png", "--output", "o.npz", "--batch-size", "0"], "at least 1"),
        (["--model", "RUN", "x.png", "--output", "o.npz", "--base", "gone.pt"], "gone.pt: there is no such file"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(
    run: Run, arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    names = {"RUN": str(run.path), "EMPTY": str(tmp_path)}
    assert embed.main([names.get(one, one) for one in arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    pictures: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed.command_line, "load", lambda arguments: pytest.fail("nothing is loaded"))
    (pictures.parent / "o.npz").write_text("")
    (pictures.parent / "folder.npz").mkdir()
    for name, words in (("o.npz/x.npz", "cannot be written: Not a directory"), ("folder.npz", "is a folder")):
        out = pictures.parent / name
        assert embed.main([str(pictures), "--output", str(out), "--model", "some/run"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"{out} ") and words in said
    assert sorted(path.name for path in pictures.parent.iterdir()) == ["faces", "folder.npz", "o.npz"]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--outptu", "o.npz"], "there is no option --outptu; is --output meant?"),
        (["--card", "c.json", "--output", "o.npz"], "there is no option --card"),
        (["--frobnicate=3"], "there is no option --frobnicate, see --help"),
    ],
)
def test_an_option_that_there_is_not(option: list[str], words: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        embed.parse(["x.png", *option, "--model", "m"])
    assert words in capsys.readouterr().err


def test_another_ending_is_told_at_once(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        embed.parse(["--model", "run", "x.png", "--output", "o.pkl"])
    assert "must end in one of .npz" in capsys.readouterr().err


@pytest.mark.parametrize("tool", ["embed", "verify", "identify"])
def test_help_needs_no_torch(tool: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; from tools.{tool} import parse; parse(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "--base" in done.stdout, done.stderr
