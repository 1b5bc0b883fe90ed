"""tools/identify.py: galleries and their index, candidates, faults in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.answering import Run, faces, tiny_run, write_picture
from tests.tiny import nameable
from tools import identify

FACES = faces(5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with nameable():
        yield tiny_run(tmp_path_factory.mktemp("identify"))


@pytest.fixture
def arguments(run: Run, tmp_path: Path) -> list[str]:
    for number, face in enumerate(FACES[:4]):
        write_picture(tmp_path / "people" / f"p{number % 2}" / f"{number}.png", face)
    probe = write_picture(tmp_path / "probe.png", FACES[1])
    return [str(probe), "--model", str(run.path), "--gallery", str(tmp_path / "people")]


def test_the_first_candidate_and_what_to_expect(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    assert identify.main([*arguments, "--top", "1"]) == 0
    said = capsys.readouterr()
    heads, row, gallery, threshold = said.out.splitlines()
    assert threshold.startswith("threshold   0.5000 at FAR 0.001, measured on faces/112")
    assert heads.split() == ["probe", "quality", "gate", "person", "similarity", "accepted", "face"]
    assert row.split()[-4:] == ["p1", "1.0000", "yes", "p1/1.png"]
    assert gallery.startswith("gallery     2 people, 4 faces; 4 embedded now")
    assert "compared with 4 of the gallery: at FAR 0.001" in said.err and "expect 0.004 false matches" in said.err
    assert "the card's lowest is at FAR 0.001" in said.err


def test_the_index_is_kept_and_serves_alone(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    index = ["--index", str(tmp_path / "people.npz")]
    assert identify.main([*arguments, *index, "--half"]) == 0
    assert identify.main([*arguments, *index]) == 0
    assert "0 embedded now" in capsys.readouterr().out.split("gallery")[2]
    assert identify.main([*arguments[:3], *index, "--json", "--fuse", "mean", "--search", "flat"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["gallery"] == {"people": 2, "faces": 4, "embedded": 0, "errors": []}
    (probe,) = told["probes"]
    assert [one["person"] for one in probe["candidates"]] == ["p1", "p0"] and probe["person"] == "p1"
    assert probe["gate"] is not None and told["threshold"]["operating"] == "faces/112"
    assert identify.main([*arguments[:3], *index, "--flip", "sum"]) == 2
    assert "was made with another flip" in capsys.readouterr().err


def test_broken_ones_on_both_sides(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "people" / "p0" / "torn.png").write_bytes(b"torn")
    assert identify.main([*arguments, "gone.png"]) == 1
    said = capsys.readouterr().err
    assert "left out of the gallery: p0/torn.png: 4 bytes" in said and "failed: gone.png: there is no such file" in said
    assert "1 of 5 pictures of the gallery were left out" in said and "1 of 2 without an answer" in said
    assert identify.main(arguments) == 0, "every probe is answered"
    capsys.readouterr()
    assert identify.main(["gone.png", *arguments[1:], "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in told["errors"]] == ["gone.png"]
    assert [one["name"] for one in told["gallery"]["errors"]] == ["p0/torn.png"]
    assert identify.main(["gone.png", *arguments[1:]]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "1 of 1 without an answer" in said.err and "false matches" not in said.err


def test_a_folder_that_is_not_the_galleries(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    index = ["--index", str(tmp_path / "people.npz")]
    assert identify.main([*arguments, *index]) == 0
    write_picture(tmp_path / "others" / "bo" / "1.png", FACES[4])
    other = [*arguments[:-1], str(tmp_path / "others"), *index]
    capsys.readouterr()
    assert identify.main(other) == 2
    said = capsys.readouterr().err
    assert said.startswith("of the 4 faces in ") and "people.npz 4, of 2 people, are not among" in said
    assert identify.main([*other, "--prune"]) == 0
    capsys.readouterr()
    assert identify.main([*arguments[:-1], str(tmp_path / "gone"), *index]) == 2
    assert capsys.readouterr().err.startswith(f"there is no folder {tmp_path / 'gone'}")


def test_numbers_stand_to_the_right_with_several_candidates(
    arguments: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert identify.main(arguments) == 0
    heads, first, second = capsys.readouterr().out.splitlines()[:3]
    end = heads.index("quality") + len("quality")
    assert first[:end].rstrip() == first[:end] and first[end] == " " and not second[:end].strip()


def test_labels(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("".join(f"p{n % 2}/{n}.png,number {n}\n" for n in range(4)))
    assert identify.main([*arguments, "--labels", str(labels), "--top", "1"]) == 0
    assert "number 1" in capsys.readouterr().out
    labels.write_text("p0/0.png,someone\n")
    assert identify.main([*arguments, "--labels", str(labels)]) == 2
    assert "leave out 3 of 4 pictures" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--index", "i.npz", "--labels", "l.csv"],
        ["--gallery", "g", "--index", "i.pkl"],
        ["--gallery", "g", "--top", "0"],
        ["--index", "i.npz", "--prune"],
    ],
)
def test_unusable_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        identify.parse(["probe.png", "--model", "run", *arguments])
