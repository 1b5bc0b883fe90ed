"""What one model gains over another on the same items: paired differences, by the unit that was drawn."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath

import numpy as np

from recognition.evaluation import delong, intervals
from recognition.evaluation.measures import by_fold, fold_weights
from recognition.evaluation.openset import resample_tpir
from recognition.evaluation.protocol import ITEMS
from recognition.evaluation.protocols import PROTOCOLS

# arrays that two results of the same items have alike
PAIRS = ("same", "fold", "first", "second", "person_1", "person_2", "template_1", "template_2")
UNITS = ("person", "template")  # that pairs may share
PROBES = ("person", "probe", "gallery", "unmated_person", "unmated_probe")
POSITIONS = ("first", "second", "probe", "gallery", "unmated_probe")  # of these: positions among a folder's pictures
ASIDE = ("low_res", "counts")  # settings that may differ: parts tell resolutions, and a check of counts counts nothing
PLACES = ("data", "records", "bin", "path", "pictures", "images", "distractors")  # where pictures lie
MOVED = " (the folders may hold other pictures, which moves the positions of those after them)"
About = Mapping[str, Mapping]
Gain = dict[str, float | str | None]


def compare(
    before: Mapping[str, Mapping[str, dict]],
    after: Mapping[str, Mapping[str, dict]],
    resamples: int = 1000,
    seed: int = 0,
    abouts: tuple[About, About] = ({}, {}),
) -> dict[str, dict[str, dict[str, Gain]]]:
    """after - before, paired on the same items: {set: {part: {measure: {"value", "lo", "hi", "p", "unit"}}}}.

    Covers the measures that both results hold and that gains() can pair. abouts: as load_about gives them, by set.
    ValueError where a set's data or items differ.
    """
    found: dict[str, dict[str, dict]] = {}
    for name in (n for n in before if n in after):
        for part in (p for p in before[name] if p in after[name]):
            old, new = before[name][part], after[name][part]
            if why := unlike_data(*(about.get(name, {}) for about in abouts)) or unlike(old, new):
                raise ValueError(f"{name}/{part}: the two results are not of the same items ({why})")
            found.setdefault(name, {})[part] = gains(old, new, resamples, seed)
    return found


def unlike(old: Mapping, new: Mapping) -> str:
    """Why two parts cannot be paired by their items, in words; "" where they can."""
    before, after = old.get(ITEMS, {}), new.get(ITEMS, {})
    if not before and not after:
        return "neither was kept with items, pair by pair or probe by probe"
    if not before or not after:
        return "one of them was kept without its items"
    for key in PAIRS + PROBES:
        if key in before and key in after:
            sizes = len(before[key]), len(after[key])
            if sizes[0] != sizes[1]:
                return f"'{key}' differs: {sizes[0]} items against {sizes[1]}"
            if not np.array_equal(before[key], after[key]):
                return f"'{key}' differs" + (MOVED if key in POSITIONS else "")
    for key in ("score", "position"):
        if (key in before) != (key in after) or np.shape(before.get(key)) != np.shape(after.get(key)):
            return f"'{key}' is {np.shape(before.get(key))} against {np.shape(after.get(key))}"
    return ""


def unlike_data(before: Mapping, after: Mapping) -> str:
    """Why two results of a set were not made of the same data in the same way, in words; "" where nothing says so.

    before, after: what results.about tells of the set. Paths count by their last part, so that data may lie elsewhere;
    what one of them does not tell is not compared. Where the pictures are the same, their folder may have another name.
    """
    kinds = before.get("protocol"), after.get("protocol")
    if all(kinds) and kinds[0] != kinds[1]:
        return f"one was evaluated by the protocol '{kinds[0]}', the other by '{kinds[1]}'"
    if "settings" in before and "settings" in after:
        default = PROTOCOLS.defaults(kinds[0]) if kinds[0] in PROTOCOLS.names() else {}
        both = [
            {key: _named(value) for key, value in {**default, **one["settings"]}.items()} for one in (before, after)
        ]
        images = [one.get("images") for one in (before, after)]
        aside = (*ASIDE, *PLACES) if all(images) and images[0] == images[1] else ASIDE
        for key in (key for key in dict.fromkeys([*both[0], *both[1]]) if key not in aside):
            if both[0].get(key) != both[1].get(key):
                return f"the set's {key} is {both[0].get(key)!r} against {both[1].get(key)!r}"
    flips = [one.get("rules", {}).get("flip") for one in (before, after)]
    if all(flips) and flips[0] != flips[1]:
        return f"mirrored faces: '{flips[0]}' against '{flips[1]}'"
    images = [one.get("images") for one in (before, after)]
    if all(images) and images[0] != images[1]:
        counts = [one["count"] for one in images]
        told = f"{counts[0]} against {counts[1]}" if counts[0] != counts[1] else "their fingerprints differ"
        return f"the pictures are others: {told}"
    return ""


def _named(value: object) -> object:
    """A setting with paths by their last part."""
    if isinstance(value, list | tuple):
        return [_named(one) for one in value] if len(value) != 1 else _named(value[0])  # one file stands for its list
    return PurePath(value).name if isinstance(value, str) else value


def gains(old: Mapping, new: Mapping, resamples: int = 1000, seed: int = 0, only: str = "") -> dict[str, Gain]:
    """Differences of two parts on the same items: {measure: {"value", "lo", "hi", "p", "unit"}}.

    accuracy, tar@F, fnmr@F, auc, eer (up to LARGE pairs), rank-K, map and tpirK@F where both parts have them and the
    items for them; of others untold() tells why not. unit is what was drawn: "pair", "person" (both of a pair, where
    items say who they are) or "template". p is two-sided: of the paired bootstrap, and so at least 2 / (resamples + 1);
    DeLong's for auc, which is told, as eer is, where pairs are independent only.
    only: a measure, or the beginning of several. The items must be alike: see unlike().
    """
    found = {}
    for key in (k for k in old if k in new and k.startswith(only)):
        gain = None if untold(key, old, new) else _way(key)[0](key, old, new, {"resamples": resamples, "seed": seed})
        if gain is not None:
            found[key] = gain
    return found


def untold(key: str, old: Mapping, new: Mapping) -> str:
    """Why gains() cannot tell the difference of a measure of two parts, in words; "" where it can or has to try."""
    if key not in old or key not in new:
        return "one of the two has no such figure"
    if None in (value_of(old[key]), value_of(new[key])):
        return "one of the two has no value"
    if key.startswith("threshold@"):
        return "a threshold is each model's own, and no better for being higher"
    way, items = _way(key)
    if way is None:
        return "no paired difference is known for this figure"
    lacking = [item for item in items if item not in old.get(ITEMS, {}) or item not in new.get(ITEMS, {})]
    if lacking:
        return f"the results hold no {' and '.join(lacking)} item by item"
    if way in (_auc, _eer) and _shared(old):
        return "its pairs share people or templates, and its difference is only known for pairs of their own"
    if way is _eer and len(old[ITEMS]["same"]) > intervals.LARGE:
        return f"there are more than {intervals.LARGE:,} pairs"
    return ""


def _way(key: str) -> tuple[Callable | None, tuple[str, ...]]:
    return next((way for pattern, way in WAYS.items() if re.fullmatch(pattern, key)), (None, ()))


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
    if old.get("resampled") != "people":
        return _of_mean(key, old, new, by_fold(after) - by_fold(before), None, bootstrap)
    gain, people = after["correct"].astype(np.float64) - before["correct"], (before["person_1"], before["person_2"])
    drawn = intervals.resample_mean_by_group(gain, *people, weights=fold_weights(before["fold"]), **bootstrap)
    return _gain(key, old, new, drawn, "person")


def _tar(key: str, old: Mapping, new: Mapping, bootstrap: Bootstrap) -> Gain | None:
    before, after = old[ITEMS], new[ITEMS]
    far, scores = float(key.rpartition("@")[2]), (before["score"], after["score"])
    if unit := _shared(old):
        both = before["same"], before[f"{unit}_1"], before[f"{unit}_2"], far
        drawn = [intervals.resample_tar_by_group(model, *both, **bootstrap) for model in scores]
        return _gain(key, old, new, drawn[1] - drawn[0], unit)
    return _gain(key, old, new, intervals.difference_of_tar(*scores, before["same"], far, **bootstrap), "pair")


def _shared(part: Mapping) -> str:
    """The unit that is drawn of pairs that share it; "" where pairs are, as the part's "resampled" may say."""
    if part.get("resampled") == "pairs":
        return ""
    return next((unit for unit in UNITS if {f"{unit}_1", f"{unit}_2"} <= part[ITEMS].keys()), "")


def _fnmr(key: str, old: Mapping, new: Mapping, bootstrap: Bootstrap) -> Gain | None:
    gain = _tar(key, old, new, bootstrap)
    return None if gain is None else {**gain, "lo": -gain["hi"], "hi": -gain["lo"]}  # type: ignore[operator]


def _eer(key: str, old: Mapping, new: Mapping, bootstrap: Bootstrap) -> Gain | None:
    before, after = old[ITEMS], new[ITEMS]
    drawn = [intervals.resample_eer(one["score"], one["same"], paired=True, **bootstrap) for one in (before, after)]
    return _gain(key, old, new, drawn[1] - drawn[0], "pair")


def _auc(key: str, old: Mapping, new: Mapping, bootstrap: Bootstrap) -> Gain | None:
    before, after = old[ITEMS], new[ITEMS]
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
    gain = take(after[item]).astype(np.float64) - take(before[item])
    return _of_mean(key, old, new, gain, before["person"], bootstrap)


def _tpir(key: str, old: Mapping, new: Mapping, bootstrap: Bootstrap) -> Gain | None:
    both = old[ITEMS], new[ITEMS]
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
SCORED = ("score", "same")
WATCHED = ("position", "mate_similarity", "person", "unmated_similarity", "unmated_person")
WAYS = {  # by measure: how its difference is told, and the items that it takes
    r"accuracy": (_accuracy, ("correct", "fold")),
    rf"tar@{NUMBER}": (_tar, SCORED),
    rf"fnmr@{NUMBER}": (_fnmr, SCORED),
    r"auc": (_auc, SCORED),
    r"eer": (_eer, SCORED),
    r"rank-[0-9]+": (_rank, ("position", "person")),
    r"map": (_mean_precision, ("precision", "person")),
    rf"tpir[0-9]+@{NUMBER}": (_tpir, WATCHED),
}
