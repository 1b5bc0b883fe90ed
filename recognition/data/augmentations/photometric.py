from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from recognition.data._resample import whole
from recognition.data.augmentations import AUGMENTATIONS
from recognition.data.augmentations._checks import check_probability, check_range
from recognition.data.augmentations._luma import luma
from recognition.data.augmentations.sequence import Uniform, in_range, per_image

_ORDERS = np.array([*permutations(range(3))])  # of brightness, contrast, saturation


@AUGMENTATIONS.register("photometric")
class Photometric:
    """Brightness, contrast and saturation each times a random factor, in random order.

        base + factor * (x - base), between 0 and 255; base: 0; the picture's mean luma; the pixel's luma

    probability: that it happens, in [0, 1].
    brightness, contrast, saturation: smallest and largest factor, uniform, 0 or more; (1, 1) leaves it as it is.
    Source: AdaFace's program (Kim et al. 2022, 2204.00964), which takes torchvision's ColorJitter(.5, .5, .5): Pillow's
    arithmetic, but that values are rounded where Pillow cuts them off (one grey level).
    """

    loses_resolution = False

    def __init__(
        self,
        probability: float = 0.2,
        brightness: Sequence[float] = (0.5, 1.5),
        contrast: Sequence[float] = (0.5, 1.5),
        saturation: Sequence[float] = (0.5, 1.5),
    ) -> None:
        self.probability = check_probability("photometric", probability)
        self.factors = [
            check_range("photometric", name, given, 0, 10)
            for name, given in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation))
        ]

    def draw(self, uniform: Uniform, size: int) -> dict[str, np.ndarray]:
        """factor (B, 3) float64 of brightness, contrast and saturation; order (B, 3) int64, of them."""
        factor = np.stack([in_range(*given, uniform(n)) for n, given in enumerate(self.factors)], axis=1)
        return {"factor": factor, "order": _ORDERS[(uniform(3) * len(_ORDERS)).astype(np.int64)]}

    def apply(self, images: Tensor, drawn: Mapping[str, np.ndarray]) -> Tensor:
        """As Augmentation's."""
        x, rows, device = images.double(), np.arange(len(images)), images.device
        for turn in drawn["order"].T:
            factor = per_image(drawn["factor"][rows, turn], device)
            grey = luma(x)
            mean = (grey.mean((1, 2, 3), keepdim=True) + 0.5).floor()
            base = torch.where(per_image(turn == 2, device), grey, torch.where(per_image(turn == 1, device), mean, 0.0))
            x = whole(base + factor * (x - base))
        return x.to(images.dtype)
