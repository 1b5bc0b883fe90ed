"""Pairs of pictures by name, some of which may not be there: what pairs.txt, XQLFW, RFW and FRUITS have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from recognition.data.named import NamedImages
from recognition.data.pairs import PairSet
from recognition.evaluation import measures
from recognition.evaluation.compared import PAIR_RULES, Compared, Side, pair_scores_of
from recognition.evaluation.listed import MISSED, Listed, rule_of
from recognition.evaluation.protocol import Asked, Rules
from recognition.evaluation.protocols._pair_list import PairList, mixed, resolve

EACH_TENTH = "ten, each with every tenth genuine and every tenth impostor pair; "


@dataclass(frozen=True)
class ListedPairs(Compared):
    """Compared pairs, of which some lack a picture: those get a score below every cosine, so that none passes.

    The fields of Compared are of the pairs whose pictures are both there.
    """

    same: np.ndarray = field(default_factory=lambda: np.empty(0, bool))  # (P,) of all pairs
    complete: np.ndarray = field(default_factory=lambda: np.empty(0, bool))  # (P,) both pictures are there
    fold: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # (P,)
    failed: int = 0  # pairs that lack a picture, whether they are among the P or were left out

    def _compare(self, gallery: Side, probe: Side, asked: Asked) -> dict:
        seen = {"first": self.gallery, "second": self.probe, **gallery.seen("_1"), **probe.seen("_2")}
        items = {name: self._spread(values) for name, values in seen.items()}
        scores = self._spread(pair_scores_of(gallery, probe), MISSED)
        return {**measures.verification(scores, self.same, asked, self.fold, items), "failed": self.failed}

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
) -> ListedPairs:
    """The listed pairs over a folder of pictures; a list without folds gets ten of mixed pairs.

    failures: as Listed has it; "exclude" leaves pairs that lack a picture out. Errors: those of Listed.
    """
    images = images if isinstance(images, NamedImages) else NamedImages(images)
    found = Listed(images, resolve(images, [*pairs.first, *pairs.second]), failures)
    first, second = np.split(found.rows, 2)
    complete = (first >= 0) & (second >= 0)
    kept = complete if failures == "exclude" else np.ones(len(pairs), bool)
    same = pairs.same[complete]
    folds = rules.folds
    if pairs.fold is None:
        folds = f"{EACH_TENTH}{folds}"
    fold = mixed(pairs.same, 10) if pairs.fold is None else pairs.fold
    present = PairSet(pairs.file.stem, images, first[complete], second[complete], same)
    return ListedPairs(
        images,
        present.first,
        present.second,
        tuple(sides),
        present,
        rules=replace(rules, folds=folds, failures=failure_rule(failures)),
        same=pairs.same[kept],
        complete=complete[kept],
        fold=fold[kept],
        failed=int((~complete).sum()),
    )


def failure_rule(failures: str) -> str:
    """The phrase for Rules.failures of pairs."""
    return rule_of(
        failures,
        f"a pair that lacks a picture is never accepted: its score is {MISSED:g}, below every cosine",
        "pairs that lack a picture are left out of all figures, and counted as failed",
    )
