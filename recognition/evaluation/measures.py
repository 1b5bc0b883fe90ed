"""Figures with their intervals, in the one form that results have: what protocols make of scores and positions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from recognition.evaluation import delong, intervals
from recognition.evaluation.identification import Search, rank_rates
from recognition.evaluation.protocol import ITEMS, Asked, Looked
from recognition.evaluation.verification import verify_scores


def measure(value: float, resample, *arguments, asked: Asked, trials: int = 0, **options) -> dict:
    """{"value", "lo", "hi"}: lo and hi from resample(*arguments, resamples, seed, **options), None without resamples.

    resample: such as intervals.resample_mean; gives (resamples,) values. trials: what the value is a share of, as
    intervals.bounds takes it, for the interval of a share of 0 or 1; 0 = the value is no such share.
    """
    if not asked.resamples:
        return {"value": value, "lo": None, "hi": None}
    drawn = resample(*arguments, resamples=asked.resamples, seed=asked.seed, **options)
    lo, hi = intervals.bounds(value, drawn, trials) if trials else intervals.interval(drawn)
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
    counted = {"asked": asked, "trials": found["pairs"]}
    measures = {"accuracy": measure(found["accuracy"], intervals.resample_mean, by_fold(kept), **counted)}
    for far, at in found["tar"].items():
        counted["trials"] = found["genuine"]
        value = measure(at["tar"], intervals.resample_tar, found["scores"], same, far, **counted)
        measures[f"tar@{far:g}"] = {**value, "far": at["far"], "threshold": at["threshold"]}
    return {
        **measures,
        "auc": delong.auc(found["scores"], same) if asked.resamples else {"value": found["auc"]},
        "eer": {**measure(found["eer"], intervals.resample_eer, found["scores"], same, asked=asked), "better": "lower"},
        "accuracy_std": found["accuracy_std"],
        "threshold": float(found["threshold_per_fold"].mean()),
        "pairs": found["pairs"],
        "genuine": found["genuine"],
        "roc": {key: [round(float(x), 6) for x in values] for key, values in found["roc"].items()},
        ITEMS: {**kept, **(items or {})},
    }


def closed_set(
    found: Search, person: np.ndarray, asked: Asked, items: Mapping[str, np.ndarray], chosen: np.ndarray | None = None
) -> dict:
    """One part's results of a search: rank-K, map where precision was computed, probes, people and items; by person.

    person: (Q,) ids. items: more arrays per probe to keep. chosen: positions of the probes that count; None = all.
    """
    chosen = np.arange(len(person)) if chosen is None else chosen
    kept = {"position": found.position, "person": person, "best": found.best, "similarity": found.similarity}
    kept |= {"mate_similarity": found.mate_similarity, **items}
    if found.precision is not None:
        kept["precision"] = found.precision
    kept = {name: values[chosen] for name, values in kept.items()}
    people = len(np.unique(kept["person"]))

    def mean(value: float, values: np.ndarray) -> dict:
        return measure(value, intervals.resample_mean, values, groups=kept["person"], asked=asked, trials=people)

    position = kept["position"]
    measures = {f"rank-{k}": mean(rate, position <= k) for k, rate in rank_rates(position, asked.ranks).items()}
    if found.precision is not None:
        measures["map"] = mean(float(kept["precision"].mean()), kept["precision"])
    return {**measures, "probes": len(chosen), "people": people, ITEMS: kept}


def quality_of(looked: Looked, at: np.ndarray, ending: str = "") -> dict[str, np.ndarray]:
    """Quality and gate of images for the items; a scorer of several scores has no one quality.

    at: (n,) positions among the images looked at; -1 for a failure, whose values are NaN. ending: of the items' names.
    """
    single = looked.score is not None and looked.score.ndim == 1
    known = {"gate": looked.gate, "quality": looked.score if single else None}
    return {
        f"{name}{ending}": np.where(at < 0, np.float32(np.nan), values[at])
        for name, values in known.items()
        if values is not None
    }


def threshold_table(found: Mapping[str, object]) -> dict[str, dict]:
    """What thresholds.thresholds() found, as results hold it.

    {"0.001": {"threshold": {"value", "lo", "hi"}, "far", "tar": {"value", "lo", "hi"}, "impostors", "genuine"}}, with a
    "reason" in place of rates where there are too few impostors for one.
    """
    table = {}
    for key, at in found.items():
        if key.startswith("threshold@"):
            row = {"threshold": {end: at[end] for end in ("value", "lo", "hi")}}
            row |= {name: at[name] for name in ("far", "reason") if name in at}
            if at.get("tar") is not None:
                row["tar"] = {"value": at["tar"], "lo": at["tar_lo"], "hi": at["tar_hi"]}
            table[key.removeprefix("threshold@")] = {**row, **{n: found[n] for n in ("impostors", "genuine")}}
    return table


def by_fold(items: Mapping[str, np.ndarray]) -> np.ndarray:
    """Right or wrong per pair, weighted so that the mean over pairs is the mean over folds."""
    _, fold = np.unique(items["fold"], return_inverse=True)
    size = np.bincount(fold)
    return items["correct"] * (len(fold) / len(size) / size[fold])
