"""Areas under the ROC curve, their intervals, and the test of two on the same pairs (DeLong et al. 1988).

The variance is that of each pair's placement among the other kind, which sorting gives at once (Sun and Xu 2014), so
millions of pairs take seconds and nothing is drawn. Pairs count as independent; where people appear in many pairs the
intervals are too narrow.
"""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import ArrayLike

from recognition.evaluation.intervals import LEVEL


def placements(scores: ArrayLike, same: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Share of impostors below each genuine pair (m,), and of genuine pairs above each impostor (n,); a tie is half.

    scores, same: (P,). The mean of either is the AUC. ValueError where one kind is missing or a score is not finite.
    """
    scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
    if scores.shape != same.shape or scores.ndim != 1 or not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite, and both (P,): got {scores.shape} and {same.shape}")
    if same.all() or not same.any():
        raise ValueError("an AUC needs genuine and impostor pairs")
    genuine, impostor = np.sort(scores[same]), np.sort(scores[~same])
    return _below(scores[same], impostor), 1 - _below(scores[~same], genuine)


def auc(scores: ArrayLike, same: ArrayLike, level: float = LEVEL) -> dict[str, float | None]:
    """AUC with its interval: {"value", "lo", "hi"}. scores, same: (P,).

    The interval is symmetric in log-odds, so that it stays within 0 and 1. lo and hi are None where DeLong's variance
    is 0 or unknown: for a perfect ROC, and for a single pair of a kind.
    """
    of_genuine, of_impostor = placements(scores, same)
    value = float(of_genuine.mean())
    variance = _variance(of_genuine, of_impostor)
    if not variance or not 0 < value < 1:
        return {"value": value, "lo": None, "hi": None}
    of = scipy.special  # loaded here, by scipy itself: a fifth of a second that most processes do not need
    reach = float(of.ndtri((1 + level) / 2)) * math.sqrt(variance) / (value * (1 - value))
    lo, hi = of.expit(of.logit(value) - reach), of.expit(of.logit(value) + reach)
    return {"value": value, "lo": float(lo), "hi": float(hi)}


def difference(before: ArrayLike, after: ArrayLike, same: ArrayLike, level: float = LEVEL) -> dict[str, float | None]:
    """AUC of `after` less that of `before` on the same pairs: {"value", "lo", "hi", "p"}; p is two-sided.

    before, after, same: (P,), in one order. Where the difference has no variance, p is 1 for equal AUCs, and lo, hi and
    p are None for unequal ones.
    """
    if np.shape(before) != np.shape(after):
        raise ValueError(f"a paired difference needs the same items, got {np.shape(before)} and {np.shape(after)}")
    old, new = placements(before, same), placements(after, same)
    value = float(new[0].mean() - old[0].mean())
    variance = _variance(new[0] - old[0], new[1] - old[1])
    if not variance:
        zero = 0.0 if value == 0 and variance is not None else None
        return {"value": value, "lo": zero, "hi": zero, "p": None if zero is None else 1.0}
    spread = math.sqrt(variance)
    reach = float(scipy.special.ndtri((1 + level) / 2)) * spread
    p = math.erfc(abs(value) / spread / math.sqrt(2))
    return {"value": value, "lo": value - reach, "hi": value + reach, "p": p}


def _below(values: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    return (np.searchsorted(ranked, values, "left") + np.searchsorted(ranked, values, "right")) / (2 * len(ranked))


def _variance(of_genuine: np.ndarray, of_impostor: np.ndarray) -> float | None:
    """DeLong's, from placements or the differences of two models'; None where a kind has one pair only."""
    if min(len(of_genuine), len(of_impostor)) < 2:
        return None
    return float(of_genuine.var(ddof=1) / len(of_genuine) + of_impostor.var(ddof=1) / len(of_impostor))
