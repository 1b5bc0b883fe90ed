"""start_up: marks of a real training in order, and what becomes of them."""

import json
import os
import sys
from pathlib import Path

import pytest

from recognition import distributed
from recognition.bench import first_step, start_up
from tests.launch import run_processes
from tests.small import write_recipe
from tools import benchmark


class Left(Exception):
    pass


def first_update(rank: int, recipe: Path, marks: Path) -> dict[str, float]:
    """For run_processes: the marks of a training that ends with its first update."""

    def leave(code: int) -> None:
        raise Left(code)

    distributed.stop()  # the training starts its own
    os.environ[first_step.MARKS] = str(marks)
    with pytest.raises(Left, match=r"^0$"):
        first_step.main([str(recipe), *start_up.WORK, "evaluation.sets=[]"], leave)
    return json.loads(marks.read_text())


def test_a_training_tells_when_it_reaches_what_and_ends_with_its_first_update(tmp_path):
    found = run_processes(1, first_update, write_recipe(tmp_path), tmp_path / "marks")[0]
    assert tuple(found) == start_up.PHASES  # in the order of time, too:
    assert [*found.values()] == sorted(found.values())
    assert not (tmp_path / "runs" / "small" / "metrics.jsonl").exists()


def test_phases_and_helps_become_medians_beside_the_limits(tmp_path, capsys, monkeypatch):
    asked = []

    def run(line, variables):
        asked.append([str(word) for word in line])
        if first_step.MARKS in variables:  # every phase takes a second more than the one before it, under torchrun two
            step, at = 1 + ("--standalone" in line), start_up.time.monotonic()
            marks = {}
            for number, phase in enumerate(start_up.PHASES):
                at += number * step
                marks[phase] = at
            Path(variables[first_step.MARKS]).write_text(json.dumps(marks))
        return 0.5 if line[-1] == "import torch" else 0.25

    monkeypatch.setattr(start_up, "_run", run)
    recipe = str(write_recipe(tmp_path))
    argv = ["start_up", recipe, "--tools", "train", "report", "--repeats", "3", "--set", "optim.lr=0.5"]
    assert benchmark.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:6] == [
        "| `python -c pass` | 0.25 | 0.25 - 0.25 |",
        "| `python -c 'import torch'` | 0.50 | 0.50 - 0.50 |",
        "| `train --help` | 0.25 | 0.25 - 0.25 |",
        "| `report --help` | 0.25 | 0.25 - 0.25 |",
    ]
    table = [line for line in lines if line.startswith("| ")][5:]
    assert [line.split(" | ")[0][2:] for line in table] == [
        "s, median (min - max)",
        *start_up.PHASES,
        "**first update**",
        "times python -c 'import torch' (0.50 s)",
    ]
    total = sum(range(len(start_up.PHASES)))
    assert f"**{total:.2f}**" in table[-2] and f"**{2 * total:.2f}**" in table[-2]
    assert table[-1].endswith(f"| {total / 0.5:.1f} | {2 * total / 0.5:.1f} |")
    trainings = [line for line in asked if recipe in line]
    assert len(trainings) == 6 and all(
        {"optim.lr=0.5", "train.resume=never", *start_up.WORK} <= {*t} for t in trainings
    )
    assert benchmark.main([*argv, "--whole", "--processes", "1"]) == 0
    assert "as it stands" in capsys.readouterr().out and not {*start_up.WORK} & {*asked[-1]}


def test_missing_records_are_made_and_what_cannot_be_run_is_a_sentence(tmp_path, capsys, monkeypatch):
    recipe = write_recipe(tmp_path, 'config.needs = [edict(path="nowhere.rec", help="make them")]\n')
    asked = []
    monkeypatch.setattr(start_up, "_run", lambda line, _: asked.append(line) or 0.1)
    args = benchmark.parse(["start_up", str(recipe)])
    launches = start_up._launches(args, tmp_path)
    assert "--identities" in asked[0] and str(tmp_path / "faces") in asked[0]
    assert f"data.records={tmp_path / 'faces' / 'train.rec'}" in launches["python"]
    monkeypatch.undo()
    assert start_up._run([sys.executable, "-c", "pass"], {}) > 0
    with pytest.raises(ValueError, match=r"code 3: it says why"):
        start_up._run([sys.executable, "-c", "import sys; print('it says why', file=sys.stderr); sys.exit(3)"], {})
    assert benchmark.main(["start_up", "--tools", "trian"]) == 1
    assert "did you mean 'train'?" in capsys.readouterr().err
