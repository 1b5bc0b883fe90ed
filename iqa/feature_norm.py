"""How long the recognition model's embedding is."""

from __future__ import annotations

import torch
from torch import Tensor

from iqa import SCORERS
from iqa._model import ModelScorer


@SCORERS.register("feature_norm")
class FeatureNorm(ModelScorer):
    """Norm of the base's embedding before normalisation (as AdaFace and MagFace use it); costs a forward of the base.

    log=True returns its logarithm, for bases whose norms spread over orders of magnitude.
    Scale and direction are the base's own affair: find midpoint and slope on faces. mobilefacenet_y1 over 60 aligned
    faces reduced to 112, 56, 28, 14 and 7 pixels and enlarged again: 11.2, 11.2, 10.2, 6.0, 4.6. A small Swin trained
    on synthetic faces goes the other way: 10.8 at 112 pixels, 14.9 at 7.
    """

    name = "feature_norm"

    def __init__(self, log: bool = False) -> None:
        super().__init__()
        self.log = log
        self.range = (1.0, 2.7) if log else (3.0, 14.0)

    def _rate(self, embedding: Tensor) -> Tensor:
        norm = embedding.norm(dim=1)
        return torch.log(norm.clamp(min=1e-6)) if self.log else norm

    def extra_repr(self) -> str:
        return f"log={self.log}"
