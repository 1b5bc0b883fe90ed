"""One table of several recipes, settings and seeds: values with intervals, and paired differences from the base."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recognition.delivery import MODEL
from recognition.evaluation.intervals import interval, resample_mean, resample_tar
from recognition.evaluation.measures import by_fold
from recognition.evaluation.protocol import ITEMS
from recognition.evaluation.results import load_results

RESAMPLES = 1000
BASE = "base"
MEAN = "mean"


@dataclass(frozen=True)
class Cell:
    """One figure: its mean over seeds, and its resampled values, drawn alike for every model of the table."""

    value: float
    resampled: np.ndarray
    seeds: tuple[float, ...]

    def text(self) -> str:
        """Per cent with its interval."""
        lo, hi = interval(self.resampled)
        return f"{100 * self.value:.1f} [{100 * lo:.1f}, {100 * hi:.1f}]"

    def gain(self, other: Cell) -> str:
        """Points over `other` with the interval of the paired difference; a star where it excludes zero."""
        lo, hi = interval(self.resampled - other.resampled)
        star = "*" if lo > 0 or hi < 0 else ""
        return f"{100 * (self.value - other.value):+.1f} [{100 * lo:+.1f}, {100 * hi:+.1f}]{star}"


def write_comparison(folder: str | Path, runs: Mapping[tuple[str, str, int], Path], against: str = "") -> str:
    """Write folder/comparison.md and return its text. runs: (setting, recipe, seed) -> finished run folder.

    For each setting: the starting model, as one of the runs has evaluated it, and every recipe, per set and measure, at
    every low resolution. Values are means over seeds; intervals are 95 % bootstrap over pairs, over people for ranks,
    with the same resamples for all rows. against: a recipe that all others are compared with, besides the base.
    """
    settings = list(dict.fromkeys(setting for setting, _, _ in runs))
    before = next((path / "report" / "before" for path in runs.values() if (path / "report" / "before").is_dir()), None)
    base = {} if before is None else {BASE: [load_results(before)]}
    text = "\n".join(_setting(s, {k[1:]: v for k, v in runs.items() if k[0] == s}, base, against) for s in settings)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.md").write_text(text)
    return text


def _setting(setting: str, runs: Mapping[tuple[str, int], Path], base: dict[str, list[dict]], against: str) -> str:
    recipes = list(dict.fromkeys(recipe for recipe, _ in runs))
    folders = {recipe: [path for (name, _), path in runs.items() if name == recipe] for recipe in recipes}
    results = base | {r: [load_results(path / "report" / "after") for path in paths] for r, paths in folders.items()}
    lines = [f"## {setting}", "", *_costs(folders)]
    sample = next(iter(results.values()))[0]
    for name, sides in sample.items():
        for measure in _measures(next(iter(sides.values()))):
            cells = {m: {s: _cell([r[name][s] for r in found], measure) for s in sides} for m, found in results.items()}
            if len(sides) > 1:
                cells = {model: row | {MEAN: _mean(row.values())} for model, row in cells.items()}
            lines += _table(f"{name}: {measure}, %", cells, lambda cell, _: cell.text())
            for other, called in ((BASE, "the base"), (against, against)):
                if other in cells:
                    gains = {model: row for model, row in cells.items() if model not in (BASE, other)}
                    title = f"{name}: {measure}, points over {called} (* = interval without zero)"
                    lines += _table(title, gains, lambda cell, s, row=cells[other]: cell.gain(row[s]))
    return "\n".join(lines)


def _costs(folders: Mapping[str, Sequence[Path]]) -> list[str]:
    rows = []
    for recipe, paths in folders.items():
        summaries = [json.loads((path / "summary.json").read_text()) for path in paths]
        minutes = np.mean([s["train_seconds"] for s in summaries]) / 60
        count, total = summaries[0]["trainable_parameters"], summaries[0]["parameters"]
        size = (paths[0] / MODEL).stat().st_size / 1024
        cost = f"{count:,} ({100 * count / total:.2f} %) | {size:,.0f} | {minutes:.1f}"
        rows.append(f"| {recipe} | {len(paths)} | {cost} |")
    return [
        "| recipe | seeds | trainable parameters | file, KiB | training, minutes |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


def _measures(measures: Mapping[str, object]) -> list[str]:
    return [key for key in measures if key == "accuracy" or key == "rank-1" or key.startswith("tar@")]


def _cell(found: Sequence[dict], measure: str) -> Cell:
    values = tuple(result[measure]["value"] for result in found)
    return Cell(float(np.mean(values)), np.mean([_resample(r[ITEMS], measure) for r in found], axis=0), values)


def _mean(cells: Collection[Cell]) -> Cell:
    """Of all sides, whose pairs or people are one and the same, and so are their resamples."""
    of_each_seed = np.mean([cell.seeds for cell in cells], axis=0)
    resampled = np.mean([cell.resampled for cell in cells], axis=0)
    return Cell(float(of_each_seed.mean()), resampled, tuple(of_each_seed.tolist()))


def _resample(items: Mapping[str, np.ndarray], measure: str) -> np.ndarray:
    if measure == "accuracy":
        return resample_mean(by_fold(items), resamples=RESAMPLES)
    if measure == "rank-1":
        return resample_mean(items["position"] <= 1, groups=items["person"], resamples=RESAMPLES)
    far = float(measure.removeprefix("tar@"))
    return resample_tar(items["score"], items["same"], far, resamples=RESAMPLES, paired=True)


def _table(title: str, cells: Mapping[str, Mapping[str, Cell]], text: Callable[[Cell, str], str]) -> list[str]:
    sides = [*next(iter(cells.values()))]
    heads = [side.replace("-", " against ") for side in sides]
    rows = [f"| {model} | {' | '.join(text(row[s], s) for s in sides)} |" for model, row in cells.items()]
    return [f"**{title}**", "", f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}", *rows, ""]
