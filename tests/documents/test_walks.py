"""Documents with a beginning and an end: their commands in order, in one folder, each on what the last one left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.documents import workspace
from tests.documents.cases import WALKS, not_run
from tests.documents.collect import ROOT, of_document, python_of
from tests.documents.running import carry_out
from tests.tiny import nameable

NAME = "docs/quick_start.md"
MADE = ("data/mine", "data/mine_test", "runs/mine", "sheet.png", "faces.npz")  # by the quick start itself


def walk(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the document that is run."""
    walked = [one for one in of_document((ROOT / name).read_text(), name) if not not_run(one.text)]
    assert len(walked) > 5, "these are walks, of several steps"
    with nameable():
        for one in walked:
            print(f"{one.place}: {one.text}")
            carry_out(one.text, folder, monkeypatch)


def test_the_quick_start(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = workspace.copied(finished, tmp_path / "work")
    for name in MADE:
        shutil.rmtree(folder / name, ignore_errors=True)
    recipe, use = (one.text for one in python_of((ROOT / NAME).read_text(), NAME))
    (folder / "configs" / "mine.py").write_text(recipe)
    walk(NAME, folder, monkeypatch)
    for name in (*MADE, "runs/mine/report/report.html", "runs/mine/onnx/mine.onnx"):
        assert (folder / name).exists(), f"the walk ends without {name}"
    with nameable():
        exec(compile(use.replace("1e-2", "0.1"), NAME, "exec"), {})


@pytest.mark.parametrize("name", WALKS[1:])
def test_every_step(name: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk(name, workspace.copied(finished, tmp_path / "work"), monkeypatch)
