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
    people: tuple[np.ndarray, np.ndarray] | None = None,
    resampled: str = "pairs",
) -> dict:
    """One part's results from scores of pairs: accuracy, tar@F, auc, eer, their thresholds, the ROC, and items.

    scores, same, folds: as verify_scores takes them. items: more arrays per pair to keep. people: (P,) each, ids of who
    is on either side, where known; they are kept as person_1 and person_2, and the part's "resampled" says what was
    drawn. resampled: "people" draws them, by intervals.resample_tar_by_group; auc and eer are told no interval then.
    """
    found = verify_scores(scores, same, folds, far=asked.far)
    kept = {"correct": found["correct"], "score": found["scores"], "same": same, "fold": found["fold"]}
    kept |= {} if people is None else {"person_1": people[0], "person_2": people[1]}
    tars = _tars(found["tar"], found["scores"], same, asked, people if resampled == "people" else None)
    auc, eer = {"value": found["auc"]}, {"value": found["eer"]}
    if asked.resamples and resampled == "pairs":
        auc = delong.auc(found["scores"], same)
        trials = min(found["genuine"], found["impostors"])
        eer = measure(found["eer"], intervals.resample_eer, found["scores"], same, asked=asked, trials=trials)
    return {
        "accuracy": accuracy_of(found["accuracy"], kept, asked, resampled),
        **tars,
        "auc": auc,
        "eer": {**eer, "better": "lower"},
        "accuracy_std": found["accuracy_std"],
        "threshold": float(found["threshold_per_fold"].mean()),
        "pairs": found["pairs"],
        "genuine": found["genuine"],
        **({} if people is None else {"resampled": resampled}),
        "roc": {key: [round(float(x), 6) for x in values] for key, values in found["roc"].items()},
        ITEMS: {**kept, **(items or {})},
    }


def _tars(
    at: Mapping[float, Mapping[str, float]],
    scores: np.ndarray,
    same: np.ndarray,
    asked: Asked,
    people: tuple[np.ndarray, np.ndarray] | None,
) -> dict[str, dict]:
    """{"tar@0.001": {"value", "lo", "hi", "far", ...}}: what verify_scores says, with intervals by pair or people."""
    trials = int(same.sum()) if people is None else len(np.unique(people[0][same]))
    by_people: dict[float, np.ndarray] = {}
    if people is not None and asked.resamples and at:
        options = {"resamples": asked.resamples, "seed": asked.seed}
        by_people = dict(
            zip(at, intervals.resample_tar_by_group(scores, same, *people, list(at), **options), strict=True)
        )
    found = {}
    for far, one in at.items():
        if people is None:
            tar = measure(one["tar"], intervals.resample_tar, scores, same, far, asked=asked, trials=trials)
        else:
            ends = intervals.bounds(one["tar"], by_people[far], trials) if by_people else (None, None)
            tar = {"value": one["tar"], "lo": ends[0], "hi": ends[1]}
        told = ("far", "threshold", "nearest", "nearest_far")
        found[f"tar@{far:g}"] = {**tar, **{name: one[name] for name in told}}
    return found


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
    return items["correct"] * fold_weights(items["fold"])


def fold_weights(fold: np.ndarray) -> np.ndarray:
    """(P,) what a pair of each fold weighs where all folds weigh the same; 1 in the mean."""
    _, fold = np.unique(fold, return_inverse=True)
    size = np.bincount(fold)
    return len(fold) / len(size) / size[fold]


def resample_accuracy(
    items: Mapping[str, np.ndarray], resampled: str = "pairs", *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Accuracies (resamples,) of items with correct and fold; by "people" also with person_1 and person_2."""
    options = {"resamples": resamples, "seed": seed}
    if resampled != "people":
        return intervals.resample_mean(by_fold(items), **options)
    people = (items["person_1"], items["person_2"])
    return intervals.resample_mean_by_group(items["correct"], *people, weights=fold_weights(items["fold"]), **options)


def accuracy_of(value: float, items: Mapping[str, np.ndarray], asked: Asked, resampled: str = "pairs") -> dict:
    """An accuracy with its interval; items as of resample_accuracy."""
    trials = len(items["correct"])
    if resampled == "people":
        trials = len(np.unique(np.concatenate([items["person_1"], items["person_2"]])))
    return measure(value, resample_accuracy, items, resampled, asked=asked, trials=trials)
