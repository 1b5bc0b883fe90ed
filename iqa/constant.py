"""No quality at all: one score for every image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from iqa import SCORERS
from iqa._image import check_images
from recognition.types import Needs


@SCORERS.register("constant")
class Constant(nn.Module):
    """The same score for every image: a baseline, and a gate fixed by hand."""

    needs: Needs = "image"
    version = 1
    exportable = True

    def __init__(self, value: float = 0.5) -> None:
        super().__init__()
        self.value = float(value)
        self.range = (self.value, self.value)

    def forward(self, image: Tensor) -> Tensor:
        """image: (B, 3, H, W) RGB in [0, 1]. Returns (B,) float32."""
        check_images(image, "constant")
        return torch.full((image.shape[0],), self.value, dtype=torch.float32, device=image.device)

    def extra_repr(self) -> str:
        return f"value={self.value}"
