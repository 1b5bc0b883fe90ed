"""tools/verify.py: one pair and lists of them, thresholds from cards, faults in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from recognition.export import export_onnx
from tests.answering import Run, faces, tiny_run, write_picture
from tests.tiny import nameable
from tools import verify

FACES = faces(3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with nameable():
        yield tiny_run(tmp_path_factory.mktemp("verify"))


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    return [str(write_picture(tmp_path / f"{name}.png", face)) for name, face in zip("ab", FACES, strict=False)]


def test_one_pair(run: Run, pair: list[str], capsys: pytest.CaptureFixture) -> None:
    model = ["--model", str(run.path)]
    assert verify.main([pair[0], pair[0], *model]) == 0
    said = capsys.readouterr().out
    assert "similarity  1.0000\nanswer      one person\n" in said and "quality" in said and "gate" in said
    assert "threshold   0.5000 at FAR 0.001, measured on faces/112" in said
    assert verify.main([*pair, *model, "--threshold", "1"]) == 0
    assert "answer      two people" in capsys.readouterr().out
    assert verify.main([*pair, *model, "--json", "--far", "1e-2", "--operating", "faces/112"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["threshold"]["threshold"] == 0.25 and told["threshold"]["far"] == 0.01
    assert set(told["pairs"][0]["first"]) == {"norm", "quality", "gate"} and told["errors"] == []


def test_a_threshold_of_another_flip_is_told(run: Run, pair: list[str], capsys: pytest.CaptureFixture) -> None:
    card = pair[0] + ".json"
    own = {"set": "faces", "part": "112", "flip": "none", "at": {"0.001": {"threshold": {"value": 0.5}}}}
    Path(card).write_text(json.dumps({"thresholds": own}))
    arguments = [*pair, "--model", str(run.path), "--card", card]
    assert verify.main([*arguments, "--flip", "sum"]) == 0
    assert "measured with flip none, and this is flip sum" in capsys.readouterr().out
    assert verify.main(arguments) == 0
    assert "flip" not in capsys.readouterr().out


def test_a_list_of_pairs(run: Run, pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    listed = tmp_path / "pairs.txt"
    listed.write_text("# first second\na.png b.png\n\na.png,b.png\na.png\tgone.png\n")
    arguments = ["--model", str(run.path), "--pairs", str(listed), "--root", str(tmp_path)]
    assert verify.main(arguments) == 1
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 4 and "1 of 3 without an answer" in said.err
    assert verify.main([*arguments, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert len(told["pairs"]) == 2 and told["errors"] == [
        {"name": str(tmp_path / "gone.png"), "error": "there is no such file"}
    ]
    for path, words in ((pair[0], "a.png is no list: it is no text"), ("gone.csv", "there is no list gone.csv")):
        assert verify.main(["--model", str(run.path), "--pairs", path]) == 2
        assert capsys.readouterr().err.startswith(words if path == "gone.csv" else str(tmp_path))
    for text, words in (("a.png\n", "line 1: wanted two paths"), ("# none\n", "holds no pairs")):
        listed.write_text(text)
        assert verify.main(arguments) == 2
        assert words in capsys.readouterr().err


def test_an_onnx_file_without_thresholds(
    run: Run, pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = ["--model", str(export_onnx(run.model, tmp_path / "face.onnx").path)]
    assert verify.main([*pair, *model]) == 0
    said = capsys.readouterr()
    assert "answer      -" in said.out and "threshold   none" in said.out
    assert "note: no threshold: " in said.err and "--card FILE" in said.err
    assert verify.main([*pair, *model, "--card", str(run.path)]) == 0
    assert "threshold   0.5000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--far", "1e-6"], "holds no threshold at FAR 1e-06 for faces/112, but at 0.01, 0.001"),
        (["--operating", "ijbc"], "no thresholds for 'ijbc'"),
        (["--threshold", "40"], "it is a cosine"),
        (["--card", "gone.json"], "gone.json: there is no card"),
    ],
)
def test_faults_in_words(
    run: Run, pair: list[str], arguments: list[str], words: str, capsys: pytest.CaptureFixture
) -> None:
    assert verify.main([*pair, "--model", str(run.path), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_nothing_to_compare(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for arguments in (["a.png"], ["a.png", "b.png", "--pairs", "c.txt"]):
        with pytest.raises(SystemExit, match="2"):
            verify.parse([*arguments, "--model", "run"])
    assert verify.main(["gone.png", str(tmp_path), "--model", str(run.path)]) == 2
    assert "gone.png: there is no such file" in capsys.readouterr().err
