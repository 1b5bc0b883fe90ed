"""Documents with a beginning and an end: their commands in order, in one folder, each on what the last one left."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.documents import workspace
from tests.documents.cases import WALKS, not_run
from tests.documents.collect import ROOT, of_document, python_of
from tests.documents.running import carry_out
from tests.tiny import nameable

NAME = "docs/quick_start.md"


def walk(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the document that is run. No run is there that the walk itself did not make."""
    walked = [one for one in of_document((ROOT / name).read_text(), name) if not not_run(one.text)]
    assert len(walked) > 5, "these are walks, of several steps"
    for run in (folder / "runs").iterdir():
        if run.is_dir() and run.name not in ("a", "b", "c"):  # any two runs that are compared
            shutil.rmtree(run)
    with nameable():
        for one in walked:
            print(f"{one.place}: {one.text}")
            carry_out(one.text, folder, monkeypatch, walk=name)


def test_the_quick_start(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = workspace.copied(finished, tmp_path / "work")
    text = (ROOT / NAME).read_text()
    recipe, use = (one.text for one in python_of(text, NAME))
    path = re.search(r"`(my_\w+\.py)`", text)[1]  # as the document names it
    assert f"tools/train.py {path}" in text
    (folder / path).write_text(recipe)
    made = ("data/mine", "data/mine_test", "sheet.png", "faces.npz")
    for name in made:
        shutil.rmtree(folder / name, ignore_errors=True)
    walk(NAME, folder, monkeypatch)
    run = Path(path).stem
    for name in (*made, f"runs/{run}/report/report.html", f"runs/{run}/onnx/{run}.onnx"):
        assert (folder / name).exists(), f"the walk ends without {name}"
    with nameable():
        exec(compile(use.replace("1e-2", "0.1"), NAME, "exec"), {})


@pytest.mark.parametrize("name", WALKS[1:])
def test_every_step(name: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk(name, workspace.copied(finished, tmp_path / "work"), monkeypatch)
