"""Bootstrap intervals, vectorised: a resample is a row of counts, a statistic a weighted mean.

The same seed draws the same resamples, so the difference of two models' resampled values is the paired bootstrap.
Percentile intervals are degenerate at 0 and 1: where every item is right, no resample can hold a wrong one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from recognition.evaluation.verification import allowed_accepts

LEVEL = 0.95
CHUNK = 1 << 24  # counts held at once: 128 MiB


def interval(resampled: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of resampled values (R,): (lo, hi)."""
    lo, hi = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(lo), float(hi)


def resample_mean(
    values: ArrayLike, *, groups: ArrayLike | None = None, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Means of `resamples` resamples, (resamples,) float64.

    values: (N,), one per item: 1 right, 0 wrong. groups: (N,) ids such as people; whole groups are drawn then, since
    the items of one group are not independent. None draws items.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"values must be finite and (N,) with N > 0, got {values.shape}")
    if groups is None:
        total, size = values, np.ones(len(values))
    else:
        if np.shape(groups) != values.shape:
            raise ValueError(f"groups must be one per value, {values.shape}, got {np.shape(groups)}")
        _, group = np.unique(np.asarray(groups), return_inverse=True)
        total, size = np.bincount(group, values), np.bincount(group).astype(np.float64)
    generator = np.random.default_rng(seed)
    drawn = [(counts @ total) / (counts @ size) for counts in draw_counts(generator, len(total), resamples)]
    return np.concatenate(drawn)


def resample_tar(scores: ArrayLike, same: ArrayLike, far: float, *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """TAR at the lowest threshold whose FAR is at most `far`, found anew in each resample: (resamples,) float64.

    scores, same: (P,). Genuine and impostor pairs are drawn apart, as a protocol fixes how many there are of each.
    """
    scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
    genuine, impostor = (-np.sort(-scores[kind]) for kind in (same, ~same))
    if not len(genuine) or not len(impostor):
        raise ValueError("TAR needs genuine and impostor pairs")
    last = np.flatnonzero(np.append(np.diff(impostor) != 0, True))  # of each run of equal scores
    # genuine pairs above each distinct impostor score; all of them where no impostor limits the threshold
    above = np.append(np.searchsorted(-genuine, -impostor[last]), len(genuine))
    allowed = allowed_accepts(far, len(impostor))
    generators = [np.random.default_rng([seed, kind]) for kind in (0, 1)]
    chunks = [
        draw_counts(g, len(n), resamples, len(scores)) for g, n in zip(generators, (genuine, impostor), strict=True)
    ]
    drawn = []
    for genuine_counts, impostor_counts in zip(*chunks, strict=True):
        passes = np.cumsum(impostor_counts, 1)[:, last] <= allowed
        reached = np.pad(np.cumsum(genuine_counts, 1), ((0, 0), (1, 0)))
        drawn.append(reached[np.arange(len(passes)), above[passes.sum(1)]] / len(genuine))
    return np.concatenate(drawn)


def difference(
    before: ArrayLike, after: ArrayLike, *, groups: ArrayLike | None = None, resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """after - before on the same items: {"value", "lo", "hi"}, by the paired bootstrap.

    before, after: (N,) per-item results of two models, in one order. groups: as in resample_mean.
    """
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if before.shape != after.shape:
        raise ValueError(f"a paired difference needs the same items, got {before.shape} and {after.shape}")
    gain = after - before
    lo, hi = interval(resample_mean(gain, groups=groups, resamples=resamples, seed=seed))
    return {"value": float(gain.mean()), "lo": lo, "hi": hi}


def draw_counts(generator: np.random.Generator, items: int, resamples: int, width: int = 0) -> Iterator[np.ndarray]:
    """Rows of how often each item is drawn when `items` are drawn with replacement: chunks (r, items) int64.

    width: sizes the chunks where several generators have to keep step.
    """
    rows = max(1, CHUNK // max(items, width))
    for begin in range(0, resamples, rows):
        r = min(rows, resamples - begin)
        drawn = generator.integers(items, size=(r, items)) + np.arange(r)[:, None] * items
        yield np.bincount(drawn.ravel(), minlength=r * items).reshape(r, items)
