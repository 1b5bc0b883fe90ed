"""Figures with their intervals, in the one form that results have: what protocols make of scores and positions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from recognition.evaluation import intervals
from recognition.evaluation.identification import identify
from recognition.evaluation.protocol import ITEMS, Asked
from recognition.evaluation.verification import verify_scores


def measure(value: float, resample, *arguments, asked: Asked, **options) -> dict:
    """{"value", "lo", "hi"}: lo and hi from resample(*arguments, resamples, seed, **options), None without resamples.

    resample: such as intervals.resample_mean; gives (resamples,) values.
    """
    if not asked.resamples:
        return {"value": value, "lo": None, "hi": None}
    lo, hi = intervals.interval(resample(*arguments, resamples=asked.resamples, seed=asked.seed, **options))
    return {"value": value, "lo": lo, "hi": hi}


def verification(
    scores: np.ndarray,
    same: np.ndarray,
    asked: Asked,
    folds: int | ArrayLike = 10,
    items: Mapping[str, np.ndarray] | None = None,
) -> dict:
    """One part's results from scores of pairs: accuracy, tar@F, auc, eer, their thresholds, the ROC, and items.

    scores, same, folds: as verify_scores takes them. items: more arrays per pair to keep.
    """
    found = verify_scores(scores, same, folds, far=asked.far)
    kept = {"correct": found["correct"], "score": found["scores"], "same": same, "fold": found["fold"]}
    measures = {"accuracy": measure(found["accuracy"], intervals.resample_mean, by_fold(kept), asked=asked)}
    for far, at in found["tar"].items():
        value = measure(at["tar"], intervals.resample_tar, found["scores"], same, far, asked=asked)
        measures[f"tar@{far:g}"] = {**value, "far": at["far"], "threshold": at["threshold"]}
    return {
        **measures,
        "auc": {"value": found["auc"]},
        "eer": {"value": found["eer"]},
        "accuracy_std": found["accuracy_std"],
        "threshold": float(found["threshold_per_fold"].mean()),
        "pairs": found["pairs"],
        "genuine": found["genuine"],
        "roc": {key: [round(float(x), 6) for x in values] for key, values in found["roc"].items()},
        ITEMS: {**kept, **(items or {})},
    }


def identification(
    probe: ArrayLike,
    probe_labels: np.ndarray,
    gallery: ArrayLike,
    gallery_labels: np.ndarray,
    asked: Asked,
    items: Mapping[str, np.ndarray] | None = None,
    unmated: str = "error",
) -> dict:
    """One part's results of closed-set identification: rank-K by person, counts, and items. Arguments as identify."""
    found = identify(probe, probe_labels, gallery, gallery_labels, asked.ranks, unmated=unmated)
    kept = {"position": found["position"], "person": np.asarray(probe_labels)}
    measures = {
        f"rank-{k}": measure(rate, intervals.resample_mean, found["position"] <= k, groups=probe_labels, asked=asked)
        for k, rate in found["rates"].items()
    }
    return {**measures, **{k: found[k] for k in ("probes", "gallery", "people")}, ITEMS: {**kept, **(items or {})}}


def by_fold(items: Mapping[str, np.ndarray]) -> np.ndarray:
    """Right or wrong per pair, weighted so that the mean over pairs is the mean over folds."""
    _, fold = np.unique(items["fold"], return_inverse=True)
    size = np.bincount(fold)
    return items["correct"] * (len(fold) / len(size) / size[fold])
