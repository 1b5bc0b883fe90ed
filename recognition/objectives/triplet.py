"""Triplets mined in the batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from recognition.objectives import OBJECTIVES
from recognition.objectives._checks import check_choice, check_positive
from recognition.objectives._pairs import batch_hard, distances, masks, mean_of, unit
from recognition.types import ObjectiveContext


@OBJECTIVES.register("triplet")
class Triplet(nn.Module):
    """Triplets mined in the batch: mean of max(0, d(a, p) - d(a, n) + margin) (Schroff et al. 2015, FaceNet).

    The embeddings are brought to norm 1. A batch needs several images of a person: sample identities, not images.
    margin: in units of the distance; squared distances of unit embeddings lie in 0 .. 4.
    mining: "batch_hard" (Hermans et al. 2017, eq. 5): each anchor once, with its farthest positive and its nearest
        negative; mean over the anchors that have both. "semi_hard" (FaceNet, section 3.2): each pair of anchor and
        positive with the nearest of those negatives that are farther than the positive; a pair none of whose negatives
        is farther takes the farthest there is; mean over all pairs whose anchor has a negative. One beyond the margin
        gives 0 by itself.
    distance: "squared" as in FaceNet, or "euclidean" as in Hermans et al.
    FaceNet sums over the triplets; a mean does not change with the size of the batch.
    """

    def __init__(
        self,
        margin: float = 0.2,
        mining: Literal["batch_hard", "semi_hard"] = "batch_hard",
        distance: Literal["squared", "euclidean"] = "squared",
    ) -> None:
        super().__init__()
        check_positive("triplet", "margin", margin)
        check_choice("triplet", "mining", mining, ("batch_hard", "semi_hard"))
        check_choice("triplet", "distance", distance, ("squared", "euclidean"))
        self.margin, self.mining, self.distance = margin, mining, distance

    def forward(self, embedding: Tensor, label: Tensor, context: ObjectiveContext) -> Tensor:
        """embedding: (N, D), label: (N,), of the global batch. Returns ()."""
        with torch.autocast(embedding.device.type, enabled=False):
            rows = unit(embedding)
            distance = distances(rows, rows, self.distance)
            positive, negative = masks(label)
            if self.mining == "semi_hard":
                return _semi_hard(distance, positive, negative, self.margin)
            hinge = batch_hard(distance, positive, negative, self.margin)
            return mean_of(hinge, positive.any(1) & negative.any(1))


def _semi_hard(distance: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Mean over pairs. Every row's negatives are sorted once, so that no (N, N, N) is needed."""
    ascending = distance.masked_fill(~negative, torch.inf).sort(dim=1).values
    number = negative.sum(1, keepdim=True)
    farther = torch.searchsorted(ascending.detach(), distance.detach(), right=True)
    nearest = ascending.gather(1, torch.minimum(farther, number - 1).clamp_min(0))
    return mean_of((distance - nearest + margin).relu(), positive & (number > 0))
