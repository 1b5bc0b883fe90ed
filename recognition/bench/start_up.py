"""What `tools/benchmark.py start_up` measures: seconds from a process's start to --help, and to the first update."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import recognition
from recognition import config as settings
from recognition.bench.first_step import MARKS
from recognition.command import tools
from recognition.recipes import SHIPPED
from recognition.registry import nearest

PEOPLE, PICTURES = 20, 6  # of the synthetic set where the recipe's records are missing
WORK = ("evaluation.at_start=False", "classifier.init=random")  # without what a recipe has done with all its pictures
INTERPRETER, TORCH = "python -c pass", "python -c 'import torch'"
PHASES = ("launcher", "interpreter", "import torch", "our imports", "records opened", "model and optimizer")
PHASES += ("run begun", "first batch", "forward and backward", "step")


def report(args: Namespace) -> list[str]:
    """Markdown: seconds of --help of each tool, and of each phase until the first update.

    args: recipe, set (overrides), whole (with the recipe's evaluation and class means before the first update), tools
    (names, empty = all), processes (of the second column, under torchrun; 1 = python only, 0 = no training), repeats.
    Every measurement is a fresh process; they take turns. ValueError where one of them fails, with its last words.
    """
    known = tools()
    for name in args.tools:
        if name not in known:
            raise ValueError(f"--tools {name}: no such tool{nearest(name, known)}")
    chosen = {f"{name} --help": [str(known[name]), "--help"] for name in args.tools or known}
    bare = {INTERPRETER: ["-c", "pass"], TORCH: ["-c", "import torch"]}
    seconds: dict[str, list[float]] = {name: [] for name in (*bare, *chosen)}
    with tempfile.TemporaryDirectory() as folder:
        launches = _launches(args, Path(folder))
        phases: dict[str, list[dict[str, float]]] = {name: [] for name in launches}
        for repeat in range(args.repeats):
            for name, line in {**bare, **chosen}.items():
                seconds[name].append(_run([sys.executable, *line], {}))
            for name, line in launches.items():
                phases[name].append(_first_step(line, Path(folder) / f"{name.replace(' ', '')}{repeat}"))
    lines = ["| | s, median | min - max |", "|---|---:|---:|"]
    lines += [f"| `{name}` | {_median(found)} | {_span(found)} |" for name, found in seconds.items()]
    if not launches:
        return lines
    done = ", ".join(WORK) if not args.whole else "as it stands"
    return [*lines, "", f"{args.recipe}, {done}:", "", *_table(phases, seconds[TORCH])]


def _launches(args: Namespace, folder: Path) -> dict[str, list[str]]:
    """Command lines of trainings by their columns' names."""
    if not args.processes:
        return {}
    overrides = [*args.set]
    config = settings.load(args.recipe, overrides)
    if settings.missing_needs(config):
        path = folder / "faces"
        line = [str(SHIPPED / "tools" / "make_synthetic.py"), str(path)]
        _run([sys.executable, *line, "--identities", str(PEOPLE), "--images", str(PICTURES)], {})
        overrides += [f"data.records={path / 'train.rec'}", "needs=[]", "evaluation.sets=[]"]
    overrides += [f"run.root={folder / 'runs'}", "train.resume=never", *([] if args.whole else WORK)]
    line = ["-m", "recognition.bench.first_step", args.recipe, *overrides]
    found = {"python": [sys.executable, *line]}
    if args.processes > 1:
        agent = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        found[f"torchrun, {args.processes} processes"] = [*agent, f"--nproc-per-node={args.processes}", *line]
    return found


def _run(line: Sequence[str], variables: dict[str, str]) -> float:
    """Seconds of a command from its start to its end. ValueError with its last words where it fails."""
    paths = [str(Path(recognition.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    around = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **variables}
    around.pop("PYTHONDONTWRITEBYTECODE", None)  # what is compiled once is kept, as users have it
    begin = time.monotonic()
    done = subprocess.run(line, capture_output=True, text=True, env=around)
    seconds = time.monotonic() - begin
    if done.returncode:
        words = (done.stderr or done.stdout).strip()[-1500:]
        raise ValueError(f"{' '.join(line)} ended with code {done.returncode}: {words}")
    return seconds


def _first_step(line: Sequence[str], marks: Path) -> dict[str, float]:
    """Seconds of each phase, from the command's start on."""
    begin = time.monotonic()
    _run(line, {MARKS: str(marks)})
    at = json.loads(marks.read_text())
    found = {}
    for phase in PHASES:
        found[phase], begin = max(0.0, at[phase] - begin), at[phase]  # a process's start is known to 0.01 s
    return found


def _table(phases: dict[str, list[dict[str, float]]], torch_alone: Sequence[float]) -> list[str]:
    limit = statistics.median(torch_alone)
    lines = [f"| s, median (min - max) | {' | '.join(phases)} |", "|---" + "|---:" * len(phases) + "|"]
    for phase in PHASES:
        cells = [[run[phase] for run in runs] for runs in phases.values()]
        lines.append(f"| {phase} | " + " | ".join(f"{_median(cell)} ({_span(cell)})" for cell in cells) + " |")
    sums = [[sum(run.values()) for run in runs] for runs in phases.values()]
    lines.append("| **first update** | " + " | ".join(f"**{_median(one)}** ({_span(one)})" for one in sums) + " |")
    times = " | ".join(f"{statistics.median(one) / limit:.1f}" for one in sums)
    lines.append(f"| times {TORCH} ({limit:.2f} s) | {times} |")
    return lines


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}"


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} - {max(values):.2f}"
