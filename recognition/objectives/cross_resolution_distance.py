"""An image at two resolutions has one embedding."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from recognition.objectives import OBJECTIVES
from recognition.objectives._checks import check_choice, needed
from recognition.objectives._pairs import unit
from recognition.types import Batch, ObjectiveContext


@OBJECTIVES.register("cross_resolution_distance")
class CrossResolutionDistance(nn.Module):
    """Siamese cross-resolution training: mean of 1 - cos(z, twin's z), the same image before degradation (2107.03769).

    Knoche et al. 2021, siamese training. An image that was not degraded gives 0, exactly, and is counted by the mean:
    with half of the batch degraded the value is half of that of the degraded ones.
    distance: "cosine" = 1 - cosine, or "squared": of the euclidean distance of unit embeddings, twice as much.
    stop_gradient: the twin's embedding stands still in this term, so that the low resolution goes to the high one and
        the two do not meet half-way, at the high one's expense; else, as in the paper, both move.
    """

    fields = ("twin",)

    def __init__(self, distance: Literal["cosine", "squared"] = "cosine", stop_gradient: bool = True) -> None:
        super().__init__()
        check_choice("cross_resolution_distance", "distance", distance, ("cosine", "squared"))
        self.factor = 0.5 if distance == "cosine" else 1.0
        self.stop_gradient = stop_gradient

    def views(self, batch: Batch) -> dict[str, Tensor]:
        """The images before degradation."""
        return {"twin": needed("cross_resolution_distance", batch, "twin")}

    def forward(self, embedding: Tensor, label: Tensor, context: ObjectiveContext) -> Tensor:
        """embedding: (N, D) of the global batch. Returns ()."""
        with torch.autocast(embedding.device.type, enabled=False):
            twin = unit(context.views["twin"])
            if self.stop_gradient:
                twin = twin.detach()
            # |a - b|^2 / 2 is 1 - cosine for unit rows, and unlike it exact where they are near
            return self.factor * (unit(embedding) - twin).square().sum(1).mean()
