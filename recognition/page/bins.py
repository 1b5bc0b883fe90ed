"""Accuracy over quality: pairs or probes in fifths of their quality, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recognition.evaluation.intervals import interval, resample_mean
from recognition.evaluation.protocol import ITEMS

BINS, LEAST_BINS = 5, 3
FEWEST = 10  # values in a bin
WHAT = ("quality", "gate")
RESAMPLES, MOST_DRAWS = 1000, 4e8  # values drawn for one interval: a few seconds


@dataclass(frozen=True)
class Bin:
    """Pairs or probes between two qualities."""

    least: float
    most: float
    count: int
    value: float
    lo: float
    hi: float


def resamples_for(items: int) -> int:
    """How many resamples a page takes of so many items: 1000, of millions fewer, 100 at least."""
    return int(min(RESAMPLES, max(100, MOST_DRAWS // max(1, items))))


def items_of(results: Mapping, name: str, part: str) -> Mapping[str, np.ndarray]:
    """Arrays per pair or probe of one part; empty where there are none."""
    return results.get(name, {}).get(part, {}).get(ITEMS, {})


def right(items: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """(N,) bool: pairs judged rightly, probes found first. None where items tell neither."""
    if "correct" in items:
        return np.asarray(items["correct"], bool)
    return np.asarray(items["position"]) == 1 if "position" in items else None


def worth(items: Mapping[str, np.ndarray], what: str) -> np.ndarray | None:
    """(N,) quality, or gate, of the worse image of each pair, or of each probe; NaN where no face was found.

    None where items do not tell it.
    """
    if f"{what}_1" in items and f"{what}_2" in items:
        return np.minimum(items[f"{what}_1"], items[f"{what}_2"]).astype(np.float64)
    return np.asarray(items[what], np.float64) if what in items else None


def told(results: Mapping, name: str, parts: Sequence[str]) -> str:
    """ "quality", or "gate" where that alone is in the items of some part; "" where neither is."""
    found = [items for part in parts if right(items := items_of(results, name, part)) is not None]
    return next((what for what in WHAT if any(worth(items, what) is not None for items in found)), "")


def by_quality(results: Mapping, ruler: Mapping, name: str, parts: Sequence[str]) -> list[Bin]:
    """Accuracy of one model in fifths of the quality that `ruler`, another model's results, tells of the images.

    All parts together: a pair, or a person, comes in each of them, and is drawn with all of its rows.
    Empty where quality is not told, too few fifths hold enough, or the two models have other items.
    """
    what = told(ruler, name, parts)
    values, correct, group = [], [], []
    for part in parts:
        own, theirs = items_of(results, name, part), items_of(ruler, name, part)
        is_right, quality = right(own), worth(theirs, what) if what else None
        if is_right is None or quality is None:
            continue
        if len(is_right) != len(quality) or any(
            not np.array_equal(own.get(k), theirs.get(k)) for k in ("same", "person")
        ):
            return []
        known = np.isfinite(quality)
        values.append(quality[known])
        correct.append(is_right[known])
        group.append(np.asarray(own.get("person", np.arange(len(is_right))))[known])
    if not values:
        return []
    value, good, who = (np.concatenate(rows) for rows in (values, correct, group))
    edges = np.unique(np.quantile(value, np.linspace(0, 1, BINS + 1)))
    if len(edges) < 3:
        return []
    place = np.clip(np.searchsorted(edges, value, side="right") - 1, 0, len(edges) - 2)
    found = []
    for number in range(len(edges) - 1):
        mine = place == number
        if mine.sum() < FEWEST:
            continue
        resamples = resamples_for(int(mine.sum()))
        lo, hi = interval(resample_mean(good[mine], groups=who[mine], resamples=resamples))
        found.append(Bin(edges[number], edges[number + 1], int(mine.sum()), float(good[mine].mean()), lo, hi))
    return found if len(found) >= LEAST_BINS else []
