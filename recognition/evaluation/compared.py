"""Pairs, or probes against a gallery, at one or several low resolutions: what most protocols come down to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from recognition.data.pairs import PairSet
from recognition.evaluation import measures
from recognition.evaluation.identification import check_ranks, search_closed
from recognition.evaluation.protocol import ITEMS, Asked, Looked, Rules, View
from recognition.evaluation.thresholds import thresholds
from recognition.evaluation.verification import check_folds, pair_scores
from recognition.types import IMAGE_SIZE

BLOCK = 1 << 12  # pairs scored at once
MOST_FOR_THRESHOLDS = 20_000  # images whose pairs of strangers are all compared: 10 s of one core at 512 numbers
PAIR_RULES = Rules(
    gallery="the first image of a pair; a part A-B shows it at A pixels and the second, the probe, at B",
    folds="each fold is judged by the threshold that is best on the others; the mean over folds",
    tie="a pair passes where score >= threshold; of equally good thresholds the lowest; TAR at the lowest threshold "
    "whose FAR is at most the one asked for",
    resampled="pairs",
)
GALLERY_RULES = Rules(
    gallery="one image per person at A pixels of a part A-B, beside all distractors; the others are probes at B",
    tie="a stranger as alike as the best mate stands before it",
    resampled="people",
)

RESAMPLED = {
    "pairs": "pairs",
    "people": "people, of accuracy and TAR: a pair of one person counts as often as that person is drawn, one of two "
    "as often as the product of their draws; AUC and EER are told no interval",
}


@dataclass(frozen=True)
class Compared:
    """Images of which some stand on the gallery side and some on the probe side of each comparison."""

    images: Sequence[bytes]
    gallery: np.ndarray  # (P,) or (G,) int64, positions in images: seen at the first of two sides
    probe: np.ndarray  # (P,) or (Q,) int64: seen at the second
    sides: tuple[tuple[int, int], ...]  # pixels (gallery, probe), one comparison each
    pairs: PairSet | None = None  # None = identification
    folds: int | np.ndarray = 10
    gallery_labels: np.ndarray | None = None  # (G,), identification only
    probe_labels: np.ndarray | None = None  # (Q,)
    rules: Rules = field(default=PAIR_RULES)
    flip: str | None = None  # as of a View
    people: np.ndarray | None = None  # (N,) ids of all images, where known: thresholds come from all pairs of strangers
    resampled: str = "pairs"  # what the bootstrap of pairs draws: "pairs", or "people" where those are known

    def __post_init__(self) -> None:
        if self.pairs is not None:
            check_folds(*self.in_folds)
            check_resampled(self.resampled, self.people_of_pairs is not None)

    @property
    def in_folds(self) -> tuple[int | np.ndarray, np.ndarray]:
        """The folds of the pairs, and which pairs are genuine."""
        return self.folds, self.pairs.same

    @property
    def people_of_pairs(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Ids of who is on either side, (P,) each; None where nobody knows."""
        return None if self.people is None else (self.people[self.gallery], self.people[self.probe])

    def check(self, asked: Asked) -> None:
        """ValueError for a rank that the gallery has not."""
        if self.pairs is None:
            check_ranks(asked.ranks, len(self.gallery))

    @property
    def views(self) -> Mapping[str, View]:
        """A view for each resolution, of the images that are needed at it: each is embedded once and none in vain."""
        wanted: dict[int, list[np.ndarray]] = {}
        for gallery, probe in self.sides:
            wanted.setdefault(gallery, []).append(self.gallery)
            wanted.setdefault(probe, []).append(self.probe)
        return {str(s): View(np.unique(np.concatenate(rows)), s, self.flip) for s, rows in wanted.items()}

    def measure(self, looked: Mapping[str, Looked], asked: Asked) -> dict[str, dict]:
        """Verification or closed-set identification by side: {"112": ..., "112-14": ...}."""
        views, results = self.views, {}
        for gallery, probe in self.sides:
            stored, asked_for = (
                Side(looked[str(side)], np.searchsorted(views[str(side)].rows, rows))
                for side, rows in ((gallery, self.gallery), (probe, self.probe))
            )
            part = self._compare(stored, asked_for, asked)
            if self.people is not None:
                part["thresholds"] = self._thresholds(looked, gallery, probe, asked)
            results[side_name(gallery, probe)] = part
        return results

    def _thresholds(self, looked: Mapping[str, Looked], gallery: int, probe: int, asked: Asked) -> dict[str, dict]:
        """Of all pairs of strangers among the images, both at one resolution, or each in turn at both."""
        rows = {side: self.views[str(side)].rows for side in (gallery, probe)}
        if max(map(len, rows.values())) > MOST_FOR_THRESHOLDS:
            return {}
        options: dict[str, object] = {"resamples": asked.resamples, "seed": asked.seed}
        if gallery != probe:
            options |= {"gallery": looked[str(gallery)].embedding, "gallery_person": self.people[rows[gallery]]}
        found = measures.threshold_table(thresholds(looked[str(probe)].embedding, self.people[rows[probe]], **options))
        for row in found.values():
            if gallery != probe:  # an image may stand on both sides, and is no other image of its person
                row.pop("tar", None)
                row.pop("genuine")
        return found

    def _compare(self, gallery: Side, probe: Side, asked: Asked) -> dict:
        if self.pairs is None:
            items = {"probe": self.probe, **probe.seen("")}
            found = search_closed(
                probe.embedding, self.probe_labels, gallery.embedding, self.gallery_labels, asked.ranks
            )
            part = measures.closed_set(found, self.probe_labels, asked, items)
            return {**part, "gallery": len(gallery), ITEMS: {**part[ITEMS], "gallery": self.gallery}}
        items = {"first": self.gallery, "second": self.probe, **gallery.seen("_1"), **probe.seen("_2")}
        known = {"people": self.people_of_pairs, "resampled": self.resampled}
        return measures.verification(pair_scores_of(gallery, probe), self.pairs.same, asked, self.folds, items, **known)


class Side:
    """What was seen of the images on one side of a comparison."""

    def __init__(self, looked: Looked, rows: np.ndarray) -> None:
        """rows: (n,) positions in the view, of the images on this side; one may come several times."""
        self._looked, self._rows = looked, rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def embedding(self) -> Tensor:
        """(n, D): a copy, of all images on this side."""
        return self.some(slice(None))

    def some(self, block: slice) -> Tensor:
        """The embeddings of a block of them."""
        return self._looked.embedding[self._rows[block]]

    def seen(self, ending: str) -> dict[str, np.ndarray]:
        """Quality and gate of each image, for the items."""
        return measures.quality_of(self._looked, self._rows, ending)


def pair_scores_of(gallery: Side, probe: Side) -> np.ndarray:
    """Cosines of image i of one side with image i of the other, (n,) float64, in blocks."""
    blocks = [slice(begin, begin + BLOCK) for begin in range(0, len(gallery), BLOCK)]
    return np.concatenate([pair_scores(gallery.some(block), probe.some(block)) for block in blocks])


def check_resampled(resampled: str, known: bool) -> None:
    """ValueError for another word than those of RESAMPLED, and for people where it is not known who they are."""
    if resampled not in RESAMPLED:
        raise ValueError(f"resampled is '{resampled}'; it must be one of {', '.join(RESAMPLED)}")
    if resampled == "people" and not known:
        raise ValueError("resampled is 'people', but these pairs do not say who is on them: only 'pairs' can be drawn")


def stated(rules: Rules, resampled: str) -> Rules:
    """The rules with what is drawn."""
    return replace(rules, resampled=RESAMPLED.get(resampled, resampled))


def side_name(gallery: int, probe: int) -> str:
    """112 for 112-against-112, 112-14 for a gallery at 112 and probes at 14 pixels."""
    return str(gallery) if gallery == probe else f"{gallery}-{probe}"


def sides(low_res: Sequence[object]) -> tuple[tuple[int, int], ...]:
    """Resolutions as a recipe lists them, N or [gallery, probe], as pairs, each once. ValueError in words."""
    found = []
    if isinstance(low_res, int):
        raise ValueError(f"low_res is {low_res}; it is a list of sides, such as [{low_res}]")
    for entry in low_res:
        both = tuple(entry) if isinstance(entry, list | tuple) else (entry, entry)
        if len(both) != 2 or not all(isinstance(n, int) and 1 <= n <= IMAGE_SIZE for n in both):
            raise ValueError(
                f"low_res holds {entry!r}; it must be a side in 1 .. {IMAGE_SIZE} pixels, or [gallery side, probe side]"
            )
        if both not in found:
            found.append(both)
    if not found:
        raise ValueError(f"low_res is empty; [{IMAGE_SIZE}] evaluates the images as they are")
    return tuple(found)
