"""Pairs of pictures by name, some of which may not be there: what pairs.txt, XQLFW, RFW and FRUITS have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from recognition.data.named import NamedImages
from recognition.data.pairs import PairSet
from recognition.evaluation import measures
from recognition.evaluation.compared import PAIR_RULES, Compared, Side, pair_scores_of, stated
from recognition.evaluation.listed import MISSED, Listed, rule_of
from recognition.evaluation.protocol import Asked, Rules
from recognition.evaluation.protocols._pair_list import PairList, mixed, resolve

FOLDS = 10  # of a list that knows none


@dataclass(frozen=True)
class ListedPairs(Compared):
    """Compared pairs, of which some lack a picture: those get a score below every cosine, so that none passes.

    The fields of Compared are of the pairs whose pictures are both there.
    """

    same: np.ndarray = field(default_factory=lambda: np.empty(0, bool))  # (P,) of all pairs
    complete: np.ndarray = field(default_factory=lambda: np.empty(0, bool))  # (P,) both pictures are there
    fold: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # (P,)
    failed: int = 0  # pairs that lack a picture, whether they are among the P or were left out
    persons: tuple[np.ndarray, np.ndarray] | None = None  # (P,) each, ids of who is on either side

    @property
    def in_folds(self) -> tuple[np.ndarray, np.ndarray]:
        """Those of all pairs."""
        return self.fold, self.same

    @property
    def people_of_pairs(self) -> tuple[np.ndarray, np.ndarray] | None:
        """As the list names them."""
        return self.persons

    def _compare(self, gallery: Side, probe: Side, asked: Asked) -> dict:
        seen = {"first": self.gallery, "second": self.probe, **gallery.seen("_1"), **probe.seen("_2")}
        items = {name: self._spread(values) for name, values in seen.items()}
        scores = self._spread(pair_scores_of(gallery, probe), MISSED)
        part = measures.verification(scores, self.same, asked, self.fold, items, self.persons, self.resampled)
        return {**part, "failed": self.failed}

    def _spread(self, values: np.ndarray, missing: float | None = None) -> np.ndarray:
        """Values of the complete pairs among all; `missing` for the others.

        By default -1 for positions, and the lowest quality or gate that was seen: nothing is worse than no face.
        """
        if missing is None:
            missing = -1 if values.dtype.kind == "i" else values.min()
        spread = np.full(len(self.same), missing, values.dtype)
        spread[self.complete] = values
        return spread


def listed_pairs(
    pairs: PairList,
    images: NamedImages | str | Path,
    sides: Sequence[tuple[int, int]],
    failures: str = "error",
    rules: Rules = PAIR_RULES,
    resampled: str = "pairs",
) -> ListedPairs:
    """The listed pairs over a folder of pictures; a list without folds gets ten of mixed pairs, or as many as it can.

    failures: as Listed has it; "exclude" leaves pairs that lack a picture out. resampled: "pairs", or "people" of a
    list that names them. Errors: those of Listed; ValueError where a fold holds, or failures leave, pairs of one kind.
    """
    images = images if isinstance(images, NamedImages) else NamedImages(images)
    found = Listed(images, resolve(images, [*pairs.first, *pairs.second]), failures)
    first, second = np.split(found.rows, 2)
    complete = (first >= 0) & (second >= 0)
    kept = complete if failures == "exclude" else np.ones(len(pairs), bool)
    same = pairs.same[complete]
    counts = [int((pairs.same[kept] == kind).sum()) for kind in (True, False)]
    if min(counts) < 2:
        left = " that failures='exclude' leaves" if not kept.all() else ""
        raise ValueError(
            f"{pairs.file}: {counts[0]} genuine and {counts[1]} impostor pairs{left}: two of each kind are needed"
        )
    folds, fold = rules.folds, None if pairs.fold is None else pairs.fold[kept]
    if fold is None:
        count = min(FOLDS, *counts)
        folds = f"{count}, each with every {count}th genuine and every {count}th impostor pair; {folds}"
        fold = mixed(pairs.same[kept], count)
    present = PairSet(pairs.file.stem, images, first[complete], second[complete], same)
    return ListedPairs(
        images,
        present.first,
        present.second,
        tuple(sides),
        present,
        rules=stated(replace(rules, folds=folds, failures=failure_rule(failures)), resampled),
        resampled=resampled,
        same=pairs.same[kept],
        complete=complete[kept],
        fold=fold,
        failed=int((~complete).sum()),
        persons=None if pairs.people is None else (pairs.people[0][kept], pairs.people[1][kept]),
    )


def failure_rule(failures: str) -> str:
    """The phrase for Rules.failures of pairs."""
    return rule_of(
        failures,
        f"a pair that lacks a picture is never accepted, at no threshold, so that a genuine one counts as wrong and an "
        f"impostor as right: its score is {MISSED:g}",
        "pairs that lack a picture are left out of all figures, and counted as failed",
    )
