"""Verification: are two faces of one person? Accuracy over folds, TAR at FAR, AUC, EER."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from recognition.evaluation.listed import MISSED

RULES = ("exact", "arcface_torch", "xqlfw", "epfl")
DISTANCE = {"arcface_torch": (2, 2), "xqlfw": (1, 1), "epfl": (0, 1)}  # a rule's distance is a - b * score
ROC_POINTS = 200
BLOCK = 1 << 12  # pairs whose embeddings are held in double precision: 32 MiB at 512 dimensions


def verify(
    embeddings: ArrayLike | Tensor,
    same: ArrayLike | Tensor,
    folds: int | ArrayLike = 10,
    *,
    far: Sequence[float] = (1e-2, 1e-3),
    rule: str = "exact",
) -> dict:
    """Verification of P pairs by the cosine of their embeddings.

    embeddings: (2P, D), rows 2i and 2i + 1 are pair i; they are normalised here. same: (P,) bool. The rest, the result
    and the errors: see verify_scores.
    """
    rows = as_array(embeddings)
    if rows.ndim != 2 or len(rows) % 2:
        raise ValueError(f"embeddings of pairs must be (2P, D), rows 2i and 2i + 1 being pair i; got {rows.shape}")
    return verify_scores(pair_scores(rows[0::2], rows[1::2]), same, folds, far=far, rule=rule)


def pair_scores(first: ArrayLike | Tensor, second: ArrayLike | Tensor) -> np.ndarray:
    """Cosines of row i of `first` with row i of `second`, both (P, D): (P,) float64.

    ValueError for NaN, infinite or zero embeddings.
    """
    first, second = as_array(first), as_array(second)
    if first.shape != second.shape:
        raise ValueError(f"pairs need as many first embeddings as second ones, got {first.shape} and {second.shape}")
    found = np.empty(len(first))
    for begin in range(0, len(first), BLOCK):
        block = slice(begin, begin + BLOCK)
        found[block] = (unit_rows(first[block]) * unit_rows(second[block])).sum(1)
    return found


def unit_rows(embeddings: ArrayLike | Tensor, copy: bool = True) -> np.ndarray:
    """(N, D) float64 rows of length one. ValueError for a row that is NaN, infinite or zero.

    copy: False divides an array in float64 itself.
    """
    rows = as_array(embeddings).astype(np.float64, copy=copy)
    norm = np.empty((len(rows), 1))
    for begin in range(0, len(rows), BLOCK):  # a norm squares its rows in a copy
        block = slice(begin, begin + BLOCK)
        norm[block] = np.linalg.norm(rows[block], axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norm[:, 0]) | (norm[:, 0] == 0))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(rows)} embeddings are NaN, infinite or zero, the first in row {bad[0]}: "
            "the model has diverged, or computes in a precision that overflows"
        )
    rows /= norm
    return rows


def verify_scores(
    scores: ArrayLike,
    same: ArrayLike | Tensor,
    folds: int | ArrayLike = 10,
    *,
    far: Sequence[float] = (1e-2, 1e-3),
    rule: str = "exact",
) -> dict:
    """Verification of P pairs by their similarity.

    scores: (P,), higher = more alike; cosines for rules "arcface_torch" and "xqlfw". One of exactly MISSED is a pair
    without a face: no threshold accepts it, and it stays in every denominator. same: (P,) bool.
    folds: number of contiguous folds, or a fold per pair (P,). Each fold is judged by the threshold that is best on the
    other folds; accuracy is the mean over folds.
    rule: "exact" - a pair passes where score >= threshold, every distinct score is a candidate, and of equally good
    thresholds the lowest is taken; "arcface_torch" - squared distance < threshold for thresholds 0, 0.01, ... 3.99,
    the first best one, and also `val` = TAR at FAR 1e-3 by its folds and its interpolation; "xqlfw" - 1 - cosine <
    threshold for thresholds 0, 0.001, ... 1.999, the first best one; "epfl" - score > threshold for 1,000 thresholds
    equally spaced above the lowest score of the other folds (MISSED apart) up to their highest, the lowest of those
    with the largest TAR - FAR there.

    Returns accuracy, accuracy_std, accuracy_per_fold (F,), threshold_per_fold (F,) as scores, fold (P,), scores (P,),
    correct (P,) bool, pairs, genuine, impostors, rule, auc, eer, eer_threshold, roc {"far", "tar"}, and
    tar {f: {"tar", "far", "threshold", "nearest", "nearest_far"}}: at the lowest threshold whose FAR is at most f, and
    the FAR reached: 0 where there are fewer than 1 / f impostors; nearest: at the point whose FAR is nearest to f, even
    above it, and of several the most lenient. With rule "arcface_torch" also val, val_std and val_far.
    ValueError for scores that are not finite, and where a fold, or the set, holds one class only.
    """
    scores, same = np.asarray(scores, np.float64), as_array(same).astype(bool)
    if scores.ndim != 1 or scores.shape != same.shape:
        raise ValueError(f"scores and same must both be (P,), got {scores.shape} and {same.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"the score of pair {np.flatnonzero(~np.isfinite(scores))[0]} is not finite")
    if rule not in RULES:
        raise ValueError(f"unknown rule '{rule}' of verification (have: {', '.join(RULES)})")
    names, fold = check_folds(folds, same)
    threshold = _thresholds(scores, same, fold, rule)
    if rule == "exact":
        accepted = (scores >= threshold[fold]) & (scores != MISSED)
    else:
        a, b = DISTANCE[rule]
        accepted = (a - b * scores < threshold[fold]) & (scores != MISSED)
        threshold = (a - threshold) / b
    correct = accepted == same
    per_fold = np.bincount(fold, correct) / np.bincount(fold)
    result = {
        "accuracy": float(per_fold.mean()),
        "accuracy_std": float(per_fold.std()),
        "accuracy_per_fold": per_fold,
        "threshold_per_fold": threshold,
        "fold": names[fold],
        "correct": correct,
        "scores": scores,
        "pairs": len(same),
        "genuine": int(same.sum()),
        "impostors": int((~same).sum()),
        "rule": rule,
        **curve(scores, same, far),
    }
    if rule == "arcface_torch":
        val = _vals(2 - 2 * scores, same, fold)
        result |= {
            "val": float(val[:, 0].mean()),
            "val_std": float(val[:, 0].std()),
            "val_far": float(val[:, 1].mean()),
        }
    return result


def allowed_accepts(far: float, impostors: int) -> int:
    """Impostors that may pass at this FAR; the small term keeps 0.003 * 1000 from becoming 2."""
    return int(np.floor(far * impostors + 1e-9))


def as_array(values: ArrayLike | Tensor) -> np.ndarray:
    """A numpy array of anything array-like, tensors on any device included."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def check_folds(folds: int | ArrayLike, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The folds' names (F,) and each pair's fold (P,) as a position in them.

    folds, same: as of verify_scores. ValueError where a fold holds one class only, and for a number that does not fit.
    """
    if np.ndim(folds) == 0:
        count = int(folds)  # type: ignore[arg-type]
        if not 2 <= count <= len(same):
            raise ValueError(f"folds={count}: {len(same)} pairs can be cut in 2 .. {len(same)} folds")
        names, fold = np.arange(count), _contiguous(len(same), count)
    else:
        if np.shape(folds) != same.shape:
            raise ValueError(f"folds must be a number or one fold per pair {same.shape}, got {np.shape(folds)}")
        names, fold = np.unique(np.asarray(folds), return_inverse=True)
        if len(names) < 2:
            raise ValueError("all pairs are in one fold: a threshold is chosen on other folds, so two are needed")
    alone = _of_one_kind(fold, same)
    if len(alone):
        f = alone[0]
        kind = "genuine" if same[fold == f].all() else "impostor"
        advice = "give the protocol's own fold per pair, or an order in which every fold holds both kinds"
        if np.ndim(folds) == 0:
            cuts = {n: _contiguous(len(same), n) for n in range(2, len(names))}
            fits = [n for n, cut in cuts.items() if not len(_of_one_kind(cut, same))]
            even = [n for n in fits if np.ptp(np.bincount(cuts[n], same)) == 0]  # as many genuine pairs in each
            best = max(even or fits, default=0)
            advice = f"say --argument folds={best}, or folds={best} in the recipe" if best else advice
        raise ValueError(
            f"fold {names[f]} holds {kind} pairs only ({(fold == f).sum()} of them), so no accuracy can be measured on "
            f"it: {advice}"
        )
    return names, fold


def _contiguous(pairs: int, folds: int) -> np.ndarray:
    """Fold of each pair (P,); the first folds take the rest."""
    return np.repeat(np.arange(folds), pairs // folds + (np.arange(folds) < pairs % folds))


def _of_one_kind(fold: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Folds, as positions, whose pairs are all genuine or all impostors."""
    genuine, pairs = np.bincount(fold, same), np.bincount(fold)
    return np.flatnonzero((genuine == 0) | (genuine == pairs))


def _thresholds(scores: np.ndarray, same: np.ndarray, fold: np.ndarray, rule: str) -> np.ndarray:
    """(F,) for each fold the threshold that is best on the others: a score for "exact", else the rule's distance."""
    folds = range(int(fold.max()) + 1)
    if rule == "exact":
        ranked = [values[_falling(scores)] for values in (scores, same, fold)]  # one sort for all folds
        return np.array([_lowest_best(*(values[ranked[2] != f] for values in ranked[:2])) for f in folds])
    a, b = DISTANCE[rule]
    distance = np.where(scores == MISSED, np.inf, a - b * scores)
    if rule != "epfl":
        grid = np.arange(0, 4, 0.01) if rule == "arcface_torch" else np.arange(0, 2, 0.001)
        genuine, impostors = _closer(distance, same, fold, grid)
        return grid[np.argmax(genuine - impostors, 1)]
    found = []
    for f in folds:
        chosen = fold != f
        seen = scores[chosen & (scores != MISSED)]
        seen = seen if len(seen) else scores[chosen]
        lowest = seen.min()
        grid = a - b * (lowest + (seen.max() - lowest) / 1000 * np.arange(1, 1001))
        alike = [chosen & same, chosen & ~same]
        genuine, impostors = (np.searchsorted(np.sort(distance[kind]), grid) for kind in alike)
        # TAR - FAR, in whole numbers: rounding would choose among equals
        found.append(grid[np.argmax(genuine * int(alike[1].sum()) - impostors * int(alike[0].sum()))])
    return np.array(found)


def _lowest_best(ranked: np.ndarray, same: np.ndarray) -> float:
    """The threshold at which most pairs are right, of several the lowest; scores falling, without MISSED."""
    steps, genuine, impostors = _steps(ranked, same)
    return float(steps[::-1][np.argmax((genuine - impostors)[::-1])])  # from lax to strict


def _sweep(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds from strict to lax, and the genuine and impostor pairs that pass each.

    The first threshold lies above every score, so that nothing passes; then come all distinct scores but MISSED.
    """
    order = _falling(scores)
    return _steps(scores[order], same[order])


def _falling(scores: np.ndarray) -> np.ndarray:
    """Positions of the scores from the highest on; those at MISSED are left out."""
    order = np.argsort(-scores, kind="stable")
    return order[scores[order] != MISSED]


def _steps(ranked: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What _sweep says, of falling scores without MISSED."""
    if not len(ranked):
        return np.array([np.nextafter(MISSED, np.inf)]), np.zeros(1, np.int64), np.zeros(1, np.int64)
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of each run of equal scores
    genuine = np.cumsum(same)[last]
    steps = np.append(np.nextafter(ranked[0], np.inf), ranked[last])
    return steps, np.append(0, genuine), np.append(0, last + 1 - genuine)


def _closer(
    distance: np.ndarray, same: np.ndarray, fold: np.ndarray, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Genuine and impostor pairs closer than each value of the grid in all folds but one: (F, len(grid)) int64 each."""
    place = np.searchsorted(grid, distance, side="right") + fold * (len(grid) + 1)
    shape = int(fold.max()) + 1, len(grid) + 1
    found = []
    for kind in (same, ~same):
        table = np.bincount(place[kind], minlength=shape[0] * shape[1]).reshape(shape)[:, :-1].cumsum(1)
        found.append(table.sum(0) - table)
    return found[0], found[1]


def _vals(distance: np.ndarray, same: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """(F, 2) TAR and FAR of each fold, at the distance where the other folds have FAR 1e-3 (arcface_torch).

    With numpy's linear interpolation, which defines what scipy's does not: repeated FARs.
    """
    grid, target = np.arange(0, 4, 0.001), 1e-3
    _, impostors = _closer(distance, same, fold, grid)
    strangers = np.bincount(fold, ~same)
    found = []
    for f, accepted in enumerate(impostors):
        far = accepted / (strangers.sum() - strangers[f])
        threshold = np.interp(target, far, grid) if far.max() >= target else 0.0
        held = fold == f
        passed, alike = distance[held] < threshold, same[held]
        found.append((passed[alike].mean(), passed[~alike].mean()))
    return np.array(found)


def curve(scores: np.ndarray, same: np.ndarray, far: Sequence[float]) -> dict:
    """What needs no folds: tar, auc, eer, eer_threshold and roc, as verify_scores gives them, of (P,) pairs.

    ValueError for a FAR outside (0, 1].
    """
    steps, genuine, impostors = _sweep(scores, same)
    strangers = int((~same).sum())
    tar, false = genuine / same.sum(), impostors / strangers
    at = {}
    for target in far:
        if not 0 < target <= 1:
            raise ValueError(f"far={target}: a false accept rate lies in (0, 1]")
        i = np.searchsorted(impostors, allowed_accepts(target, strangers), side="right") - 1
        gap = np.abs(false - target)
        near = np.flatnonzero(gap <= gap.min() + 1e-12)[-1]
        at[float(target)] = {"tar": float(tar[i]), "far": float(false[i]), "threshold": float(steps[i])}
        at[float(target)] |= {"nearest": float(tar[near]), "nearest_far": float(false[near])}
    equal = np.argmin(np.abs(false - (1 - tar)))
    grid = np.geomspace(1 / strangers, 1, ROC_POINTS)
    grid_tar = tar[np.searchsorted(false, grid * (1 + 1e-9), side="right") - 1]
    return {
        "tar": at,
        "auc": float(np.trapezoid(np.append(tar, 1), np.append(false, 1))),  # pairs at MISSED are one tie
        "eer": float((false[equal] + 1 - tar[equal]) / 2),
        "eer_threshold": float(steps[equal]),
        "roc": {"far": grid, "tar": grid_tar},
    }
