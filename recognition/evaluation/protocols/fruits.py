"""FRUITS: errors at a low false match rate under a budget of milliseconds (Zhu et al., WebFace260M, CVPR 2021)."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recognition.data.named import NamedImages
from recognition.evaluation.compared import PAIR_RULES
from recognition.evaluation.intervals import interval
from recognition.evaluation.listed import check_counts
from recognition.evaluation.protocol import ITEMS, Asked, Looked, Rules, View
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.protocols._aligned import opened_text
from recognition.evaluation.protocols._listed_pairs import ListedPairs, listed_pairs
from recognition.evaluation.protocols._pair_list import PATTERN, read_pair_list, resolve
from recognition.evaluation.protocols._shared_threshold import error_rates
from recognition.types import IMAGE_SIZE

FMR = 1e-5
BUDGETS = (100, 500, 1000)  # ms
LOWER = {"better": "lower"}
QUANTILES = {"latency_median": 0.5, "latency_95": 0.95}


@PROTOCOLS.register("fruits")
def fruits(
    data: str,
    pairs: str = "",
    groups: str = "",
    pattern: str = PATTERN,
    form: str = "auto",
    detection_ms: float = 0.0,
    timed: int = 100,
    failures: str = "error",
    counts: str = "published",
) -> Fruits:
    """Pairs in the form of FRUITS: FNMR at FMR 1e-5, and whether a face takes less than 100, 500 and 1000 ms.

    data, pairs, pattern, form, failures, counts: as of the kind pairs_txt.
    groups: a table with the column path and a column for each attribute, such as gender; a pair counts for a value that
    both its pictures have, if both are there. detection_ms: what detection and alignment of one picture take, as they
    count in the published budgets and are not measured here. timed: so many pictures are embedded one by one for the
    latency.
    """
    if detection_ms < 0 or not np.isfinite(detection_ms) or timed < 1:
        raise ValueError(f"detection_ms is {detection_ms} and timed {timed}; they must be at least 0 and 1")
    file = Path(pairs or Path(data) / "pairs.txt")
    listed = read_pair_list(file, form, pattern)
    check_counts({what: (*counted, str(file)) for what, counted in listed.counts.items()}, counts)
    included = (
        f"with {detection_ms:g} ms for detection and alignment, as stated and not measured"
        if detection_ms
        else "without detection and alignment, which the published budgets include (detection_ms is 0)"
    )
    rules = replace(
        PAIR_RULES,
        tie=f"{PAIR_RULES.tie}; fnmr@F is 1 - tar@F; within a budget is the median picture, and with _95 the 95 % "
        f"quantile, {included}, on the device of this run and no other",
    )
    images = NamedImages(data)
    found = listed_pairs(listed, images, [(IMAGE_SIZE, IMAGE_SIZE)], failures, rules)
    return Fruits(found, _groups(Path(groups), images) if groups else {}, detection_ms, timed)


@dataclass(frozen=True)
class Fruits:
    """Listed pairs with error rates at a low FMR, and latency against budgets."""

    pairs: ListedPairs
    attributes: Mapping[str, np.ndarray]  # by ATTRIBUTE=VALUE: (N,) bool of images
    detection_ms: float
    timed: int

    @property
    def rules(self) -> Rules:
        """As the pairs state them."""
        return self.pairs.rules

    @property
    def images(self) -> Sequence[bytes]:
        """Those of the pairs."""
        return self.pairs.images

    @property
    def views(self) -> Mapping[str, View]:
        """That of the pairs, with some images timed."""
        return {key: replace(view, timed=self.timed) for key, view in self.pairs.views.items()}

    def measure(self, looked: Mapping[str, Looked], asked: Asked) -> dict[str, dict]:
        """Verification with fnmr@F, fnmr@F_ATTRIBUTE=VALUE, latency_median, latency_95 and within_MS (1 or 0)."""
        fars = tuple(dict.fromkeys((FMR, *asked.far)))
        ((name, part),) = self.pairs.measure(looked, replace(asked, far=fars)).items()
        rates = {}
        for far in fars:
            tar = part[f"tar@{far:g}"]
            lo, hi = (None if tar[end] is None else 1 - tar[end] for end in ("hi", "lo"))
            rest = {"fmr": tar["far"], "threshold": tar["threshold"]}
            rates[f"fnmr@{far:g}"] = {"value": 1 - tar["value"], "lo": lo, "hi": hi, **LOWER, **rest}
            rates |= self._by_attribute(part[ITEMS], far, asked)
        return {name: {**rates, **part, **self._latency(next(iter(looked.values())), asked)}}

    def _by_attribute(self, items: Mapping[str, np.ndarray], far: float, asked: Asked) -> dict:
        genuine = {name: items["score"][items["same"] & self._in(items, has)] for name, has in self.attributes.items()}
        found = error_rates(genuine, {"all": items["score"][~items["same"]]}, far, asked).fnmr
        return {f"fnmr@{far:g}_{name}": {**rate, "pairs": len(genuine[name])} for name, rate in found.items()}

    @staticmethod
    def _in(items: Mapping[str, np.ndarray], has: np.ndarray) -> np.ndarray:
        """(P,) bool: both pictures are there and have the attribute; a missed one is at -1."""
        there = (items["first"] >= 0) & (items["second"] >= 0)
        return there & has[items["first"]] & has[items["second"]]

    def _latency(self, looked: Looked, asked: Asked) -> dict:
        if looked.milliseconds is None or not len(looked.milliseconds):
            raise ValueError("the pictures were not timed one by one, which this protocol needs")
        taken = np.sort(looked.milliseconds) + self.detection_ms
        generator = np.random.default_rng(asked.seed)
        drawn = taken[generator.integers(len(taken), size=(asked.resamples, len(taken)))]
        found = {}
        for name, at in QUANTILES.items():
            lo, hi = interval(np.quantile(drawn, at, axis=1)) if asked.resamples else (None, None)
            found[name] = {"value": float(np.quantile(taken, at)), "lo": lo, "hi": hi, **LOWER, "unit": "ms"}
        within = {
            f"within_{budget}{ending}": int(found[name]["value"] <= budget)
            for budget in BUDGETS
            for name, ending in (("latency_median", ""), ("latency_95", "_95"))
        }
        return {**found, **within, "timed": len(taken)}


def _groups(path: Path, images: NamedImages) -> dict[str, np.ndarray]:
    """By ATTRIBUTE=VALUE, which images have it, (N,) bool. Pictures that the folder lacks are passed over."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no table of groups {path}")
    with opened_text(path) as file:
        table = csv.DictReader(file)
        attributes = [name for name in table.fieldnames or [] if name != "path"]
        if not attributes or len(attributes) == len(table.fieldnames or []):
            raise ValueError(f"{path} must have the column path and one for each attribute; it has {table.fieldnames}")
        rows = []
        for row in table:
            if None in row or None in row.values() or any("/" in row[name] for name in attributes):
                raise ValueError(
                    f"{path}, line {table.line_num}: wanted a value without a slash in each of {table.fieldnames}"
                )
            rows.append(row)
    where = images.rows(resolve(images, [row["path"] for row in rows]))
    found: dict[str, np.ndarray] = {}
    for row, position in zip(rows, where, strict=True):
        if position >= 0:
            for name in attributes:
                if row[name]:
                    has = found.setdefault(f"{name}={row[name]}", np.zeros(len(images), bool))
                    has[position] = True
    if not found:
        raise ValueError(f"{path} names no picture of {images.folder}")
    return dict(sorted(found.items()))
