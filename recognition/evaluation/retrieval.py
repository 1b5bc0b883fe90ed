"""Closed-set identification over listed pictures, in parts: what TinyFace and SCface come down to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from recognition.evaluation.identification import Search, check_ranks, search
from recognition.evaluation.listed import MISSED, Listed
from recognition.evaluation.measures import closed_set, quality_of
from recognition.evaluation.protocol import ITEMS, Asked, Looked, Rules, View
from recognition.evaluation.unit import unit_float32

VIEW = "112"
TIE = "a stranger as alike as the best mate stands before it; of a probe's own mates the best counts"
MISS = (
    "a probe without a face is never found; a gallery picture without one is not in the gallery, and stays among the "
    "mates that mAP divides by"
)
EXCLUDE = "probes without a face, and those whose mates all have none, leave the denominators"


@dataclass(frozen=True)
class Retrieval:
    """Probes against a gallery of single pictures; some of either may have failed."""

    rules: Rules
    probes: Listed
    probe_labels: np.ndarray  # (Q,) int64
    gallery: Listed
    gallery_labels: np.ndarray  # (G,) int64; DISTRACTOR for nobody who is asked for
    parts: Mapping[str, np.ndarray]  # by name, (Q,) bool: the part's probes
    failures: str = "error"
    precision: bool = False  # also mAP

    def __post_init__(self) -> None:
        counted = self._counted()
        for name, part in self.parts.items():
            if not (part & counted).any():
                raise ValueError(
                    f"no probe of part {name} is left: failures='{self.failures}', and of none of its pictures both a "
                    "face and a mate's were found"
                )

    def check(self, asked: Asked) -> None:
        """ValueError for a rank that the gallery has not."""
        check_ranks(asked.ranks, int((~self.gallery.failed).sum()))

    @property
    def images(self) -> Sequence[bytes]:
        """Those of the folder, of which there may be more."""
        return self.probes.images

    @property
    def views(self) -> Mapping[str, View]:
        """One view of all pictures that are there."""
        rows = np.unique(np.concatenate([self.probes.rows, self.gallery.rows]))
        return {VIEW: View(rows[rows >= 0])}

    def measure(self, looked: Mapping[str, Looked], asked: Asked) -> dict[str, dict]:
        """Rank-K, and mAP where the protocol has it, of each part, by person."""
        seen, view = looked[VIEW], self.views[VIEW].rows
        there = self.gallery.rows[~self.gallery.failed]
        labels = self.gallery_labels[~self.gallery.failed]
        self.check(asked)
        stored = unit_float32(seen.embedding, np.searchsorted(view, there))
        found = search_listed(seen, view, self.probes, self.probe_labels, stored, labels, self.precision)
        counted = self._counted()
        if self.failures == "miss" and found.precision is not None:
            found = replace(found, precision=found.precision * self._share_there(labels))
        items = {"probe": self.probes.rows, **quality_of(seen, positions(view, self.probes.rows))}
        results = {}
        for name, part in self.parts.items():
            chosen = np.flatnonzero(part & counted)
            results[name] = {
                **closed_set(found, self.probe_labels, asked, items, chosen),
                "gallery": len(there),
                "listed": int(part.sum()),
                "failed": int((part & self.probes.failed).sum()),
                "gallery_failed": int(self.gallery.failed.sum()),
            }
            results[name][ITEMS]["gallery"] = there
        return results

    def _counted(self) -> np.ndarray:
        """(Q,) bool: the probes that stand in the denominators."""
        if self.failures != "exclude":
            return np.ones(len(self.probe_labels), bool)
        return ~self.probes.failed & np.isin(self.probe_labels, self.gallery_labels[~self.gallery.failed])

    def _share_there(self, labels: np.ndarray) -> np.ndarray:
        """(Q,) of each probe's listed mates, the share that is among the gallery's labels (G,)."""
        people, probe = np.unique(self.probe_labels, return_inverse=True)
        there, listed = (
            np.bincount(np.searchsorted(people, of[np.isin(of, people)]), minlength=len(people))
            for of in (labels, self.gallery_labels)
        )
        return (there / np.maximum(listed, 1))[probe]


def search_listed(
    seen: Looked,
    view: np.ndarray,
    probes: Listed,
    labels: np.ndarray | None,
    gallery: Tensor,
    gallery_labels: np.ndarray,
    precision: bool = False,
) -> Search:
    """The search of all listed probes; those that failed find nothing: best -1, similarity MISSED, the last position.

    seen: of the images in `view`, which holds all probes that are there. The others: as `search` has them.
    """
    alive = np.flatnonzero(~probes.failed)
    rows = np.searchsorted(view, probes.rows[alive])
    asked = None if labels is None else labels[alive]
    found = search(seen.embedding, asked, gallery, gallery_labels, rows=rows, precision=precision)
    count = len(probes.rows)
    whole = Search(
        np.full(count, -1),
        np.full(count, MISSED, np.float32),
        np.full(count, len(gallery) + 1),
        np.full(count, MISSED, np.float32),
        np.zeros(count) if precision else None,
    )
    for name, values in vars(whole).items():
        if values is not None:
            values[alive] = getattr(found, name)
    return whole


def positions(view: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Where images, by their rows, stand in a view's rows, (n,); -1 for a failure, which has no row."""
    return np.where(rows < 0, -1, np.searchsorted(view, rows))
