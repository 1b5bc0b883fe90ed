"""RFW, Racial Faces in the Wild (Wang et al., ICCV 2019): four groups of people, and the gaps between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from recognition.data.named import NamedImages
from recognition.data.pairs import PairSet, read_bin
from recognition.evaluation.compared import PAIR_RULES, RESAMPLED, Compared, check_resampled, side_name, sides
from recognition.evaluation.intervals import bounds, interval_of_share
from recognition.evaluation.listed import check_counts
from recognition.evaluation.measures import by_fold, resample_accuracy
from recognition.evaluation.protocol import ITEMS, Asked, Looked
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.protocols._joined import Joined, part_name
from recognition.evaluation.protocols._listed_pairs import failure_rule, listed_pairs
from recognition.evaluation.protocols._pair_list import PairList, read_pair_list
from recognition.evaluation.protocols._shared_threshold import error_rates

GROUPS = ("African", "Asian", "Caucasian", "Indian")
FOLDS, PAIRS = 10, 3000  # pairs of each kind in a group
BIAS = "bias"
LOWER = {"better": "lower"}
RULES = replace(
    PAIR_RULES,
    folds=f"ten contiguous ones per group; {PAIR_RULES.folds}; accuracy of the part bias: the mean over groups",
    resampled="pairs, within each group; fmr and fnmr at the threshold that all groups' impostors set together, found "
    "anew in each resample",
)

BY_PEOPLE = "within each group; fmr and fnmr of the groups are told no interval"


@PROTOCOLS.register("rfw")
def rfw(
    data: str,
    pictures: str = "",
    low_res: Sequence[int | Sequence[int]] = (112,),
    failures: str = "error",
    counts: str = "published",
    resampled: str = "pairs",
) -> Bias:
    """RFW: accuracy of African, Asian, Caucasian and Indian faces, 6,000 pairs each, and the gaps between them (bias).

    data: a folder with GROUP_test.bin of each group; or the release, with txts/GROUP/GROUP_pairs.txt and
    data/GROUP/m.xxx/m.xxx_0001.jpg, or both below a folder test. pictures: the folder of GROUP/m.xxx/m.xxx_0001.jpg,
    such as one that tools/align.py wrote; "" = the release's.
    low_res: resolutions, N or [gallery, probe] pixels. failures: "error", "miss" or "exclude": of pictures that are not
    there. counts: "published" or "any". resampled: what intervals draw: "pairs", or "people" of the release's lists.
    FileNotFoundError names the file that is missing.
    """
    wanted, folder = sides(low_res), Path(data)
    rules = RULES if resampled != "people" else replace(RULES, resampled=f"{RESAMPLED[resampled]}; {BY_PEOPLE}")
    bins = {group: folder / f"{group}_test.bin" for group in GROUPS}
    if any(path.is_file() for path in bins.values()):
        _all_there(bins.values(), data)
        found = {group: read_bin(path) for group, path in bins.items()}
        _check({group: (pairs, bins[group]) for group, pairs in found.items()}, counts)
        check_resampled(resampled, known=False)
        sets = {g: Compared(p.images, p.first, p.second, wanted, p, FOLDS) for g, p in found.items()}
        return Bias(sets, RULES)
    root = folder / "test" if (folder / "test" / "txts").is_dir() else folder
    lists = {group: root / "txts" / group / f"{group}_pairs.txt" for group in GROUPS}
    _all_there(lists.values(), data)
    images = NamedImages(pictures or root / "data")
    listed = {g: read_pair_list(path, "names", f"{g}/{{name}}/{{name}}_{{number:04d}}") for g, path in lists.items()}
    _check({group: (pairs, lists[group]) for group, pairs in listed.items()}, counts)
    sets = {group: listed_pairs(p, images, wanted, failures, resampled=resampled) for group, p in listed.items()}
    return Bias(sets, replace(rules, failures=failure_rule(failures)))


class Bias(Joined):
    """Groups side by side, with a part for what differs between them."""

    def measure(self, looked: Mapping[str, Looked], asked: Asked) -> dict[str, dict]:
        """Each group's verification, and by resolution the part bias.

        bias: accuracy (mean over groups), std (of the groups' accuracies, with groups - 1), gap (best less worst),
        skewed_error_ratio (largest error by smallest: Wang and Deng, CVPR 2020; absent where a group has no error), and
        fmr@F_GROUP and fnmr@F_GROUP at the threshold shared at FAR F.
        """
        results = super().measure(looked, asked)
        first = next(iter(self.sets.values()))
        for gallery, probe in first.sides:
            side = side_name(gallery, probe)
            groups = {name: results[part_name(name, side)][ITEMS] for name in self.sets}
            results[part_name(BIAS, side)] = bias(groups, asked, getattr(first, "resampled", "pairs"))
        return results


def bias(groups: Mapping[str, Mapping[str, np.ndarray]], asked: Asked, unit: str = "pairs") -> dict:
    """The part bias out of each group's items. unit: what is drawn, "pairs" or "people"."""
    accuracy = np.array([by_fold(items).mean() for items in groups.values()])
    sizes = [len(items["same"]) for items in groups.values()]
    if unit == "people":
        sizes = [len(np.unique(np.append(items["person_1"], items["person_2"]))) for items in groups.values()]
    resampled = np.zeros((len(groups), 0))
    if asked.resamples:
        seeds = np.random.SeedSequence(asked.seed).generate_state(len(groups))
        drawn = zip(groups.values(), seeds, strict=True)
        resampled = np.stack([resample_accuracy(v, unit, resamples=asked.resamples, seed=int(s)) for v, s in drawn])
    part = {
        "accuracy": _measure(accuracy.mean(), resampled.mean(0)),
        "std": {**_measure(accuracy.std(ddof=1), resampled.std(0, ddof=1)), **LOWER},
        "gap": {**_measure(np.ptp(accuracy), np.ptp(resampled, 0)), **LOWER},
    }
    if asked.resamples and accuracy.mean() in (0, 1):  # no resample differs, and yet one of the groups might
        right = bool(accuracy.mean())
        part["accuracy"]["lo"], part["accuracy"]["hi"] = bounds(float(right), resampled.mean(0), sum(sizes))
        part["gap"]["hi"] = 1 - interval_of_share(min(sizes), min(sizes))[0]
        part["std"]["lo"] = part["std"]["hi"] = None
    if accuracy.max() < 1:
        part["skewed_error_ratio"] = {**_measure(_skew(accuracy), _skew(resampled)), **LOWER, "unit": "ratio"}
    for far in asked.far:
        part |= _errors(groups, far, asked if unit == "pairs" else replace(asked, resamples=0))
    return {
        **part,
        "groups": len(groups),
        "pairs": sum(len(items["same"]) for items in groups.values()),
        **({"resampled": unit} if all("person_1" in items for items in groups.values()) else {}),
        ITEMS: _pooled(groups),
    }


def _errors(groups: Mapping[str, Mapping[str, np.ndarray]], far: float, asked: Asked) -> dict:
    genuine = {name: items["score"][items["same"]] for name, items in groups.items()}
    impostors = {name: items["score"][~items["same"]] for name, items in groups.items()}
    rates = error_rates(genuine, impostors, far, asked)
    limit = {"threshold": rates.limit} if np.isfinite(rates.limit) else {}
    return {
        f"{figure}@{far:g}_{name}": {**found, "far": rates.far, **limit}
        for figure, each in (("fmr", rates.fmr), ("fnmr", rates.fnmr))
        for name, found in each.items()
    }


def _pooled(groups: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """All groups' items, each fold of each group a fold: the mean over them is the mean over groups."""
    kept = {key: np.concatenate([items[key] for items in groups.values()]) for key in ("score", "same", "correct")}
    places = {key: np.concatenate([items[key] for items in groups.values()]) for key in ("first", "second")}
    folds = [np.unique(items["fold"], return_inverse=True)[1] + FOLDS * g for g, items in enumerate(groups.values())]
    of = np.repeat(np.arange(len(groups)), [len(items["same"]) for items in groups.values()])
    if all("person_1" in items for items in groups.values()):
        offset = np.cumsum([0, *(1 + max(i["person_1"].max(), i["person_2"].max()) for i in groups.values())])
        for key in ("person_1", "person_2"):
            kept[key] = np.concatenate([i[key] + o for i, o in zip(groups.values(), offset, strict=False)])
    return {**kept, **places, "fold": np.concatenate(folds), "group": of}


def _skew(accuracy: np.ndarray) -> np.ndarray:
    """Largest error by smallest; infinite where the smallest is none."""
    error = 1 - accuracy
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error.min(0) > 0, error.max(0) / error.min(0), np.inf)


def _measure(value: float, resampled: np.ndarray) -> dict:
    """Percentiles without interpolation, as a resample may be infinite; None then."""
    if not len(resampled):
        return {"value": float(value), "lo": None, "hi": None}
    lo, hi = (float(x) for x in np.quantile(resampled, (0.025, 0.975), method="nearest"))
    return {"value": float(value), "lo": lo if np.isfinite(lo) else None, "hi": hi if np.isfinite(hi) else None}


def _all_there(paths, data: str) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"there is no {missing[0]} ({len(missing)} of {len(GROUPS)} groups lack theirs): {data} must hold "
            "GROUP_test.bin, or txts/GROUP/GROUP_pairs.txt and data/GROUP of " + ", ".join(GROUPS)
        )


def _check(found: Mapping[str, tuple[PairSet | PairList, Path]], counts: str) -> None:
    check_counts(
        {
            f"{kind} pairs of {group}": (int((pairs.same == (kind == "genuine")).sum()), PAIRS, str(path))
            for group, (pairs, path) in found.items()
            for kind in ("genuine", "impostor")
        },
        counts,
    )
