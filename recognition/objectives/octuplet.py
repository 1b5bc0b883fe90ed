"""Triplets within and across resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from recognition.objectives import OBJECTIVES
from recognition.objectives._checks import check_choice, check_positive, needed
from recognition.objectives._pairs import DISTANCES, batch_hard, distances, masks, mean_of, unit
from recognition.types import Batch, ObjectiveContext

QUADRANTS = ("hr_hr", "hr_lr", "lr_hr", "lr_lr")  # whose anchors, then whose positives and negatives


@OBJECTIVES.register("octuplet")
class Octuplet(nn.Module):
    """Triplets in four quadrants, HR-HR, HR-LR, LR-HR, LR-LR: sum of max(0, d_pos - d_neg + margin) (arXiv 2207.06726).

    LR: what the network saw; HR: the same images before degradation, as a further view. An image that was not degraded
    stands in both, which config.degradation.share=1 rules out. In each quadrant every anchor takes its
    farthest positive and its nearest negative; the four are summed, and the mean is over the anchors. An image is never
    its own positive, not at the other resolution either, nor drawn a second time into the batch (by batch.key).
    margin: in units of the distance.
    distance: "euclidean", "squared" or "cosine" (1 - cosine).
    normalise: brings the embeddings to norm 1 first; without it, as published, the first two distances, and with them
        the margin, are on the scale of the embeddings' norms.
    quadrants: those that take part, anchors named first.
    legacy_anchors: anchors without a positive count as if theirs were at distance 0, as in the published program; else
        they are left out, and so, always, are anchors without a negative.
    The published program has no gradient through euclidean and squared distances, which it detaches; here all three
    have one.
    """

    fields = ("twin",)

    def __init__(
        self,
        margin: float = 0.5,
        distance: Literal["euclidean", "squared", "cosine"] = "euclidean",
        normalise: bool = False,
        quadrants: Sequence[str] = QUADRANTS,
        legacy_anchors: bool = False,
    ) -> None:
        super().__init__()
        check_positive("octuplet", "margin", margin)
        check_choice("octuplet", "distance", distance, DISTANCES)
        several = isinstance(quadrants, Sequence) and not isinstance(quadrants, str)
        for quadrant in quadrants if several else ():
            check_choice("octuplet", "quadrants", quadrant, QUADRANTS)
        if not several or not quadrants or len({*quadrants}) < len(quadrants):
            raise ValueError(
                f"objective 'octuplet': quadrants is {quadrants!r}; it is a list of some of {', '.join(QUADRANTS)}"
            )
        self.margin, self.distance, self.normalise = margin, distance, normalise
        self.quadrants, self.legacy_anchors = tuple(quadrants), legacy_anchors

    def views(self, batch: Batch) -> dict[str, Tensor]:
        """The images before degradation."""
        return {"twin": needed("octuplet", batch, "twin")}

    def forward(self, embedding: Tensor, label: Tensor, context: ObjectiveContext) -> Tensor:
        """embedding: (N, D), label: (N,), of the global batch. Returns ()."""
        with torch.autocast(embedding.device.type, enabled=False):
            rows = {"hr": context.views["twin"], "lr": embedding}
            if self.normalise:
                rows = {name: unit(of) for name, of in rows.items()}
            positive, negative = masks(label, context.gather(context.batch.key))
            counted = negative.any(1) if self.legacy_anchors else negative.any(1) & positive.any(1)
            lone = 0.0 if self.legacy_anchors else -torch.inf
            total = 0.0 * (rows["hr"].sum() + rows["lr"].sum())  # on both, whichever quadrants there are
            for quadrant in self.quadrants:
                anchors, others = quadrant.split("_")
                distance = distances(rows[anchors], rows[others], self.distance)
                total = total + mean_of(batch_hard(distance, positive, negative, self.margin, lone), counted)
            return total
