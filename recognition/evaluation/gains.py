"""What one model gains over another on the same items: paired differences, by the unit that was drawn."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from recognition.evaluation import delong, intervals
from recognition.evaluation.measures import by_fold
from recognition.evaluation.openset import resample_tpir
from recognition.evaluation.protocol import ITEMS

# arrays that two results of the same items have alike
PAIRS = ("same", "fold", "first", "second", "person_1", "person_2", "template_1", "template_2")
PROBES = ("person", "probe", "gallery", "unmated_person", "unmated_probe")
Gain = dict[str, float | str | None]


def compare(
    before: Mapping[str, Mapping[str, dict]],
    after: Mapping[str, Mapping[str, dict]],
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, Gain]]]:
    """after - before, paired on the same items: {set: {part: {measure: {"value", "lo", "hi", "p", "unit"}}}}.

    Covers the measures that both results hold and that gains() can pair. ValueError where a set's items differ.
    """
    found: dict[str, dict[str, dict]] = {}
    for name in (n for n in before if n in after):
        for part in (p for p in before[name] if p in after[name]):
            old, new = before[name][part], after[name][part]
            if why := unlike(old, new):
                raise ValueError(f"{name}/{part}: the two results are not of the same items ({why})")
            found.setdefault(name, {})[part] = gains(old, new, resamples, seed)
    return found


def unlike(old: Mapping, new: Mapping) -> str:
    """Why two parts cannot be paired, in words; "" where they can."""
    before, after = old.get(ITEMS, {}), new.get(ITEMS, {})
    if not before or not after:
        return "one of them was kept without its items"
    for key in PAIRS + PROBES:
        if key in before and key in after:
            sizes = len(before[key]), len(after[key])
            if sizes[0] != sizes[1]:
                return f"'{key}' differs: {sizes[0]} items against {sizes[1]}"
            if not np.array_equal(before[key], after[key]):
                return f"'{key}' differs"
    for key in ("score", "position"):
        if (key in before) != (key in after) or np.shape(before.get(key)) != np.shape(after.get(key)):
            return f"'{key}' is {np.shape(before.get(key))} against {np.shape(after.get(key))}"
    return ""


def gains(old: Mapping, new: Mapping, resamples: int = 1000, seed: int = 0, only: str = "") -> dict[str, Gain]:
    """Differences of two parts on the same items: {measure: {"value", "lo", "hi", "p", "unit"}}.

    accuracy, tar@F, fnmr@F, auc, eer (up to LARGE pairs), rank-K, map and tpirK@F where both parts have them and the
    items for them; others cannot be paired. unit is what was drawn: "pair", "person" (both of a pair, where items say
    who they are) or "template". p is two-sided: of the paired bootstrap, and so at least 2 / (resamples + 1); DeLong's
    for auc.
    only: a measure, or the beginning of several. The items must be alike: see unlike().
    """
    found = {}
    for key in (k for k in old if k in new and k.startswith(only)):
        way = next((way for pattern, way in WAYS.items() if re.fullmatch(pattern, key)), None)
        if way is None or None in (value_of(old[key]), value_of(new[key])):
            continue
        gain = way(key, old, new, {"resamples": resamples, "seed": seed})
        if gain is not None:
            found[key] = gain
    return found


def holm(p: Sequence[float]) -> list[float]:
    """p-values that allow for how many were looked at (Holm 1979), in the order given: each below 0.05 may be told."""
    adjusted, highest = [0.0] * len(p), 0.0
    for place, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = highest
    return adjusted


def value_of(measure: object) -> float | None:
    """The value of a measure; None for one that has none, and for what is no measure."""
    return measure.get("value") if isinstance(measure, Mapping) else None


Bootstrap = dict[str, int]


def _gain(key: str, old: Mapping, new: Mapping, resampled: np.ndarray, unit: str) -> Gain:
    lo, hi = intervals.interval(resampled)
    tail = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    p = min(1.0, 2 * (1 + tail) / (1 + len(resampled)))
    return {"value": new[key]["value"] - old[key]["value"], "lo": lo, "hi": hi, "p": p, "unit": unit}


def _of_mean(
    key: str, old: Mapping, new: Mapping, gain: np.ndarray, groups: np.ndarray | None, bootstrap: Bootstrap
) -> Gain | None:
    """None where the figure is not the mean of its items, as for a mean over parts."""
    if abs(gain.mean() - (new[key]["value"] - old[key]["value"])) > 1e-6:
        return None
    resampled = intervals.resample_mean(gain, groups=groups, **bootstrap)
    return _gain(key, old, new, resampled, "pair" if groups is None else "person")


def _accuracy(key: str, old: Mapping, new: Mapping, bootstrap: Bootstrap) -> Gain | None:
    before, after = old[ITEMS], new[ITEMS]
    if not {"correct", "fold"} <= before.keys() & after.keys():
        return None
    return _of_mean(key, old, new, by_fold(after) - by_fold(before), None, bootstrap)


def _tar(key: str, old: Mapping, new: Mapping, bootstrap: Bootstrap) -> Gain | None:
    before, after = old[ITEMS], new[ITEMS]
    if not {"score", "same"} <= before.keys() & after.keys():
        return None
    far, scores = float(key.rpartition("@")[2]), (before["score"], after["score"])
    for unit in ("person", "template"):
        if {f"{unit}_1", f"{unit}_2"} <= before.keys():
            both = before["same"], before[f"{unit}_1"], before[f"{unit}_2"], far
            drawn = [intervals.resample_tar_by_group(model, *both, **bootstrap) for model in scores]
            return _gain(key, old, new, drawn[1] - drawn[0], unit)
    return _gain(key, old, new, intervals.difference_of_tar(*scores, before["same"], far, **bootstrap), "pair")


def _fnmr(key: str, old: Mapping, new: Mapping, bootstrap: Bootstrap) -> Gain | None:
    gain = _tar(key, old, new, bootstrap)
    return None if gain is None else {**gain, "lo": -gain["hi"], "hi": -gain["lo"]}  # type: ignore[operator]


def _eer(key: str, old: Mapping, new: Mapping, bootstrap: Bootstrap) -> Gain | None:
    before, after = old[ITEMS], new[ITEMS]
    if not {"score", "same"} <= before.keys() & after.keys() or len(before["same"]) > intervals.LARGE:
        return None
    drawn = [intervals.resample_eer(one["score"], one["same"], paired=True, **bootstrap) for one in (before, after)]
    return _gain(key, old, new, drawn[1] - drawn[0], "pair")


def _auc(key: str, old: Mapping, new: Mapping, bootstrap: Bootstrap) -> Gain | None:
    before, after = old[ITEMS], new[ITEMS]
    if not {"score", "same"} <= before.keys() & after.keys():
        return None
    return {**delong.difference(before["score"], after["score"], before["same"]), "unit": "pair"}


def _rank(key: str, old: Mapping, new: Mapping, bootstrap: Bootstrap) -> Gain | None:
    k = int(key.removeprefix("rank-"))
    return _by_person(key, old, new, bootstrap, "position", lambda position: position <= k)


def _mean_precision(key: str, old: Mapping, new: Mapping, bootstrap: Bootstrap) -> Gain | None:
    return _by_person(key, old, new, bootstrap, "precision", lambda precision: precision)


def _by_person(
    key: str, old: Mapping, new: Mapping, bootstrap: Bootstrap, item: str, take: Callable[[np.ndarray], np.ndarray]
) -> Gain | None:
    before, after = old[ITEMS], new[ITEMS]
    if not {item, "person"} <= before.keys() & after.keys():
        return None
    gain = take(after[item]).astype(np.float64) - take(before[item])
    return _of_mean(key, old, new, gain, before["person"], bootstrap)


def _tpir(key: str, old: Mapping, new: Mapping, bootstrap: Bootstrap) -> Gain | None:
    both = old[ITEMS], new[ITEMS]
    wanted = {"position", "mate_similarity", "person", "unmated_similarity", "unmated_person"}
    if not all(wanted <= one.keys() for one in both):
        return None
    rank, fpir = key.removeprefix("tpir").split("@")
    drawn = [
        resample_tpir(
            np.where(one["position"] <= int(rank), one["mate_similarity"], -np.inf)[None],
            one["unmated_similarity"],
            [float(fpir)],
            (one["person"], one["unmated_person"]),
            **bootstrap,
        )[:, 0, 0]
        for one in both
    ]
    return _gain(key, old, new, drawn[1] - drawn[0], "person")


NUMBER = r"[0-9.]+(e-?[0-9]+)?"
WAYS = {
    r"accuracy": _accuracy,
    rf"tar@{NUMBER}": _tar,
    rf"fnmr@{NUMBER}": _fnmr,
    r"auc": _auc,
    r"eer": _eer,
    r"rank-[0-9]+": _rank,
    r"map": _mean_precision,
    rf"tpir[0-9]+@{NUMBER}": _tpir,
}
