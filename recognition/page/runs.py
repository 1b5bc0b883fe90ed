"""What run folders hold, for the page: nothing is computed, and what is not there is said."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from easydict import EasyDict

from adapters import ADAPTERS
from recognition.checkpoint import newest
from recognition.config import arguments, from_json, run_of
from recognition.delivery import FOLDER, MODEL, SUMMARY
from recognition.evaluation.results import load_about, load_results
from recognition.page.bins import items_of as items
from recognition.page.markup import code, join
from recognition.page.numbers import sides_of
from recognition.weights import read_card

WHENS = ("before", "after")
BASE = "base"
THRESHOLD = "threshold@"  # measures that are no results, but settings for use


@dataclass(frozen=True)
class Run:
    """One run folder."""

    path: Path
    name: str
    config: EasyDict
    provenance: dict
    summary: dict
    card: dict
    lines: list[dict]  # of metrics.jsonl
    results: dict[str, dict]  # by "before" and "after"
    quality: dict  # of its edc folder, or empty
    about: dict[str, dict] = field(default_factory=dict)  # protocol and rules, by set
    notes: list[str] = field(default_factory=list)  # what could not be read

    @property
    def backbone(self) -> str:
        """What the run started from; runs of one start share their base's results."""
        return json.dumps(self.config.backbone, sort_keys=True)

    @property
    def finished(self) -> bool:
        """Whether there is a trained model; tools/evaluate.py takes the run itself then, and else its checkpoints."""
        return (self.path / FOLDER).is_dir()

    @property
    def gated(self) -> bool:
        """Whether its model looks at quality: an adapter without a gate leaves config.scorer alone."""
        try:
            own = arguments(self.config.adapter, "adapter")
            return bool(ADAPTERS.create(self.config.adapter.name, **own).needs_gate)
        except ValueError:  # an adapter that is not installed here
            return bool(self.config.scorer.get("name"))


@dataclass(frozen=True)
class Shown:
    """One model's results as a series of the page."""

    name: str
    style: int  # 0 = base
    results: dict
    run: Run


def read_runs(paths: Sequence[str | Path]) -> list[Run]:
    """The runs, in order. ValueError for two of one name; the others as read_run."""
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            both = ", ".join(str(run.path) for run in runs if run.name == name)
            raise ValueError(
                f"{both}: both runs are named '{name}', and the page tells runs apart by name; name one through a link "
                "to it, such as `ln -s RUN other_name`"
            )
    return runs


def read_run(path: str | Path) -> Run:
    """A run folder, finished or not. FileNotFoundError where it is none, ValueError for files that are damaged."""
    folder = run_of(path)
    notes: list[str] = []
    lines = _lines(folder / "metrics.jsonl", notes)
    results = {when: found for when in WHENS if (found := _results(folder / "report" / when)) is not None}
    quality = _json(folder / "edc" / "edc.json")
    run = Run(
        folder,
        Path(os.path.abspath(folder)).name,
        from_json(folder / "config.json"),
        _json(folder / "provenance.json"),
        _json(folder / SUMMARY),
        read_card(folder / MODEL),
        lines,
        results,
        quality.get("sets", {}),
        _about(folder),
        notes,
    )
    if "after" not in results:
        notes.append(_unevaluated(run))
    return run


def _unevaluated(run: Run) -> str:
    """Why there are no results of the trained model, and what makes some."""
    told = "There are no results of the trained model: "
    if not run.config.evaluation.sets:
        protocol = code(f"python tools/evaluate.py {run.path} --protocol NAME --data DATA")
        return join([told, "evaluation.sets names nothing to evaluate on. ", protocol, " takes a set of its own."])
    if run.finished:
        return join([told, code(f"python tools/evaluate.py {run.path}"), " evaluates it."])
    told += "its training has not come to an end"
    last = newest(run.path / "checkpoints")
    if last is None:
        return f"{told}, and there is no checkpoint yet."
    kept = code(f"{run.path}/evaluation/{last.name}")
    return join(
        [told, ". ", code(f"python tools/evaluate.py {last}"), " evaluates its newest checkpoint, into ", kept, "."]
    )


def shown(runs: Sequence[Run]) -> list[Shown]:
    """The series of the page: each different base once, then every run's trained model."""
    bases: dict[str, Run] = {}
    for run in runs:
        if "before" in run.results:
            bases.setdefault(run.backbone, run)
    found = []
    for run in bases.values():
        name = BASE if len(bases) == 1 else f"base of {run.name}"
        found.append(Shown(name, 0, run.results["before"], run))
    for number, run in enumerate(runs, start=1):
        if "after" in run.results:
            found.append(Shown("adapted" if len(runs) == 1 else run.name, number, run.results["after"], run))
    return found


def base_of(series: Shown, everything: Sequence[Shown]) -> Shown | None:
    """The base that a trained model is compared with: its own, or that of a run of the same start."""
    return next((s for s in everything if s.style == 0 and s.run.backbone == series.run.backbone), None)


def sets_of(series: Sequence[Shown]) -> list[str]:
    """Names of all evaluation sets, in order."""
    return list(dict.fromkeys(name for one in series for name in one.results))


def parts_of(series: Sequence[Shown], name: str) -> list[str]:
    """Names of all parts of a set: in the order of the first that has it, others at their place by resolution."""
    first, *others = [list(one.results[name]) for one in series if name in one.results] or [[]]
    order = list(first)
    for parts in others:
        for part in parts:
            if part not in order:
                order.insert(_place(order, part), part)
    return order


def _place(order: Sequence[str], part: str) -> int:
    """Where a part belongs among others: beside those of its kind, which fall or rise by the probe's side."""
    kind, side = _kind(part)
    alike = [(number, _kind(other)[1]) for number, other in enumerate(order) if kind and _kind(other)[0] == kind]
    if not alike:
        return len(order)
    rising = alike[0][1] < alike[-1][1]
    return next((number for number, other in alike if (other > side) == rising), alike[-1][0] + 1)


def _kind(part: str) -> tuple[tuple, int]:
    """Name and gallery side, 0 where the probe has the same; and the probe's side. ((), 0) for no resolution."""
    name, first, second = sides_of(part) or ("", 0, 0)
    return ((name, first * (first != second)), second) if second else ((), 0)


def part_of(series: Shown, name: str, part: str) -> dict:
    """Measures of one part; empty where the series has none."""
    return series.results.get(name, {}).get(part, {})


def items_of(series: Shown, name: str, part: str) -> dict:
    """Arrays per pair or probe of one part; empty where there are none."""
    return items(series.results, name, part)


def measures_of(part: Mapping) -> dict[str, dict]:
    """The measures of a part, without its counts, curves, thresholds and arrays."""
    return {
        key: one
        for key, one in part.items()
        if isinstance(one, dict) and one.get("value") is not None and not key.startswith(THRESHOLD)
    }


def impostors_of(part: Mapping) -> int:
    """Impostor pairs of a part; 0 where it does not tell them."""
    told = part.get("impostors", part.get("pairs", 0) - part["genuine"] if "genuine" in part else 0)
    return told if isinstance(told, int) else 0


def flat(section: Mapping, where: str = "") -> dict[str, object]:
    """Settings by their dotted name."""
    found: dict[str, object] = {}
    for key, value in section.items():
        found |= flat(value, f"{where}{key}.") if isinstance(value, Mapping) else {f"{where}{key}": value}
    return found


def _results(folder: Path) -> dict | None:
    if not (folder / "results.json").is_file():
        return None
    try:
        return load_results(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder} holds results.json without its items.npz ({error}); evaluate again"
        ) from None
    except (ValueError, KeyError, zipfile.BadZipFile, RecursionError) as error:
        raise ValueError(f"{folder} holds no results that can be read ({error}); evaluate again") from None


def _about(folder: Path) -> dict[str, dict]:
    for when in reversed(WHENS):
        if (folder / "report" / when / "results.json").is_file():
            return load_about(folder / "report" / when)
    return {}


def _json(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object")
    return found


def _lines(path: Path, notes: list[str]) -> list[dict]:
    if not path.is_file():
        notes.append(f"There is no {path.name}: the curves of training are missing.")
        return []
    lines, bad = [], 0
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if isinstance(line, dict) and isinstance(line.get("update"), int):
            lines.append(line)
        else:
            bad += 1
    if bad:
        notes.append(f"{bad} lines of {path.name} are damaged and left out.")
    return lines
