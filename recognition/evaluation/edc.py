"""Error-versus-discard curves: does a quality score find the pairs that a matcher gets wrong?

The pairs of worst quality are discarded first, and the false non-match rate of those that are left is drawn over the
share discarded (Grother and Tabassi, IEEE TPAMI 2007; ISO/IEC 29794-1). A pair is as good as the worse of its two
images (pair_quality), as both papers have it. The threshold stays where all impostors of the set put it before anything
is discarded, so that a curve falls by what was discarded and by nothing else; only genuine pairs are.

Pairs of equal quality are discarded in no order: the curve is its expected value over all orders of them, so neither
the order in a file nor a scorer that says little can gain by it, and a constant score gives a flat curve.

pAUC is the area under the curve from nothing to `most` discarded, divided by `most`: the mean FNMR of that range.
Relative pAUC (after Schlett et al., arXiv 2303.13294, who take the best curve's area off) is 0 for the ideal, which
discards an error each time while there is one, and 1 for no gain by discarding; above 1 the score misleads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from recognition.evaluation.intervals import draw_counts, interval
from recognition.evaluation.verification import allowed_accepts

POINTS = 1000  # of a curve, at most


@dataclass(frozen=True)
class Discarding:
    """What discarding gains at one FAR, by the name of the score; resampled values are drawn alike for all of them."""

    far: float  # reached; 0 where there are fewer than 1 / far impostors
    threshold: float  # the highest impostor score that does not pass: a pair passes above it; -inf: all pass
    fnmr: float  # of all genuine pairs, with nothing discarded
    share: np.ndarray  # (G,) of the genuine pairs discarded, from 0 to `most`
    curves: Mapping[str, np.ndarray]  # (G,) FNMR of the pairs left
    ideal: np.ndarray  # (G,) of a score that knows the errors
    pauc: Mapping[str, float]
    relative: Mapping[str, float]  # NaN where all pairs, or none, are errors, and discarding can change nothing
    resampled: Mapping[str, np.ndarray]  # (R,): "fnmr", and "pauc/NAME" and "relative/NAME"

    def measure(self, figure: str, name: str = "") -> dict[str, float | None]:
        """{"value", "lo", "hi"} of fnmr, or of pauc or relative of a score; None where it cannot be told.

        Resamples that have no relative pAUC are left out of its interval.
        """
        value = self.fnmr if figure == "fnmr" else getattr(self, figure)[name]
        return _measure(value, self.resampled[f"{figure}/{name}".rstrip("/")])

    def difference(self, name: str, other: str, figure: str = "pauc") -> dict[str, float | None]:
        """A score's figure less another's, on the same resamples; below 0 where it is the better one."""
        values, resampled = getattr(self, figure), self.resampled
        drawn = resampled[f"{figure}/{name}"] - resampled[f"{figure}/{other}"]
        return _measure(values[name] - values[other], drawn)


def pair_quality(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Quality of pairs, (P,) float64: that of the worse image. ValueError for a quality that is not finite."""
    quality = np.minimum(np.asarray(first, np.float64), np.asarray(second, np.float64))
    if not np.isfinite(quality).all():
        raise ValueError(f"the quality of pair {np.flatnonzero(~np.isfinite(quality))[0]} is not finite")
    return quality


def discard(
    scores: ArrayLike,
    same: ArrayLike,
    quality: Mapping[str, ArrayLike],
    *,
    far: float,
    most: float = 0.3,
    resamples: int = 1000,
    seed: int = 0,
) -> Discarding:
    """What discarding by each quality gains at one FAR.

    scores: (P,) similarities of pairs. same: (P,) bool. quality: by name (P,), of the pairs.
    far: the threshold is the lowest whose FAR does not exceed it, as in verification. most: share discarded, in (0, 1).
    resamples: of the pairs, genuine and impostors apart, the threshold found anew in each; 0 = no intervals.
    ValueError for arrays of different lengths, values that are not finite, and pairs of one kind only.
    """
    scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
    quality = {name: np.asarray(values, np.float64) for name, values in quality.items()}
    _check(scores, same, quality, far, most)
    genuine, impostor = scores[same], -np.sort(-scores[~same])
    share = _shares(len(genuine), most)
    whole = np.ones((1, len(genuine)), np.int64), np.ones((1, len(impostor)), np.int64)
    order = {name: _Order(values[same]) for name, values in quality.items()}
    limit, value = _figures(genuine, impostor, order, share, far, *whole)
    drawn = [_figures(genuine, impostor, order, share, far, *counts)[1] for counts in _drawn(whole, resamples, seed)]
    return Discarding(
        far=float((impostor > limit).mean()),
        threshold=float(limit[0]),
        fnmr=float(value["fnmr"][0]),
        share=share,
        curves={name: value[f"curve/{name}"][0] for name in quality},
        ideal=_ideal(value["fnmr"], share)[0],
        pauc={name: float(value[f"pauc/{name}"][0]) for name in quality},
        relative={name: float(value[f"relative/{name}"][0]) for name in quality},
        resampled={
            key: np.concatenate([part[key] for part in drawn]) if drawn else np.empty(0)
            for key in value
            if not key.startswith("curve/")
        },
    )


class _Order:
    """Genuine pairs from the worst quality on, and the last of each run of equals."""

    def __init__(self, quality: np.ndarray) -> None:
        self.order = np.argsort(quality, kind="stable")
        self.last = np.flatnonzero(np.append(np.diff(quality[self.order]) != 0, True))

    def curve(self, wrong: np.ndarray, counts: np.ndarray, share: np.ndarray) -> np.ndarray:
        """FNMR of the pairs left, (R, G). wrong, counts: (R, n), how often each pair is an error, and is there.

        Within a run of equals errors are discarded at their share of the run: the expected value over its orders.
        """
        pairs = counts.sum(1, keepdims=True)
        gone, errors = (
            np.pad(np.cumsum(each[:, self.order], 1)[:, self.last], ((0, 0), (1, 0))).astype(np.float64)
            for each in (counts, wrong)
        )
        # one call of interp: every row gets a stretch of the axis for itself
        begin = np.arange(len(counts))[:, None] * (pairs.max() + 1.0)
        discarded = np.interp(begin + share * pairs, (begin + gone).ravel(), errors.ravel())
        return (wrong.sum(1, keepdims=True) - discarded) / (pairs * (1 - share))


def _figures(
    genuine: np.ndarray,
    impostor: np.ndarray,
    order: Mapping[str, _Order],
    share: np.ndarray,
    far: float,
    genuine_counts: np.ndarray,
    impostor_counts: np.ndarray,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Threshold (R,) and all figures of R resamples. impostor: from the highest score on."""
    last = np.flatnonzero(np.append(np.diff(impostor) != 0, True))  # of each run of equal scores
    passing = np.cumsum(impostor_counts, 1)[:, last] <= allowed_accepts(far, len(impostor))
    limit = np.append(impostor[last], -np.inf)[passing.sum(1)]
    wrong = (genuine <= limit[:, None]) * genuine_counts
    fnmr = wrong.sum(1) / genuine_counts.sum(1)
    best = _mean(_ideal(fnmr, share), share)
    found = {"fnmr": fnmr}
    for name, one in order.items():
        found[f"curve/{name}"] = one.curve(wrong, genuine_counts, share)
        found[f"pauc/{name}"] = _mean(found[f"curve/{name}"], share)
        room = np.where((fnmr > 0) & (fnmr < 1), fnmr - best, np.nan)
        found[f"relative/{name}"] = (found[f"pauc/{name}"] - best) / room
    return limit, found


def _ideal(fnmr: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(R, G): an error is discarded each time, while there is one."""
    return np.maximum(fnmr[:, None] - share, 0) / (1 - share)


def _mean(curves: np.ndarray, share: np.ndarray) -> np.ndarray:
    return np.trapezoid(curves, share, axis=1) / share[-1]


def _shares(pairs: int, most: float) -> np.ndarray:
    """Where whole pairs are gone, and the end."""
    whole = np.arange(int(np.floor(most * pairs + 1e-9)) + 1)
    if len(whole) > POINTS:
        return np.linspace(0, most, POINTS + 1)
    return np.append(whole[whole < most * pairs - 1e-9] / pairs, most)


def _drawn(whole: tuple[np.ndarray, np.ndarray], resamples: int, seed: int):
    """Chunks of counts (r, genuine) and (r, impostors), in step with each other."""
    sizes = [counts.shape[1] for counts in whole]
    generators = [np.random.default_rng([seed, kind]) for kind in (0, 1)]
    parts = [draw_counts(g, size, resamples, sum(sizes)) for g, size in zip(generators, sizes, strict=True)]
    return zip(*parts, strict=True)


def _measure(value: float, resampled: np.ndarray) -> dict[str, float | None]:
    known = resampled[np.isfinite(resampled)]
    if not np.isfinite(value):
        return {"value": None, "lo": None, "hi": None}
    lo, hi = interval(known) if len(known) else (None, None)
    return {"value": float(value), "lo": lo, "hi": hi}


def _check(scores: np.ndarray, same: np.ndarray, quality: Mapping[str, np.ndarray], far: float, most: float) -> None:
    if scores.ndim != 1 or any(values.shape != scores.shape for values in (same, *quality.values())):
        shapes = [values.shape for values in (scores, same, *quality.values())]
        raise ValueError(f"scores, same and every quality must be (P,), one per pair; got {shapes}")
    for name, values in {"similarity": scores, **quality}.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} of pair {np.flatnonzero(~np.isfinite(values))[0]} is not finite")
    if same.all() or not same.any():
        raise ValueError(f"{len(same)} pairs of one kind: genuine ones are discarded, impostors set the threshold")
    if not 0 < far <= 1:
        raise ValueError(f"far={far}: a false accept rate lies in (0, 1]")
    if not 0 < most < 1:
        raise ValueError(f"most={most}: the largest share discarded lies between 0 and 1, such as 0.3")
