from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from recognition.data._resample import on_device
from recognition.data.augmentations import AUGMENTATIONS
from recognition.data.augmentations._checks import check_probability, check_range
from recognition.data.augmentations.sequence import Uniform, in_range

TRIES = 10  # rectangles drawn until one fits into the picture, as torchvision's RandomResizedCrop


@AUGMENTATIONS.register("crop")
class Crop:
    """A random rectangle stays where it is, what is around it becomes black.

    probability: that it happens, in [0, 1].
    area: smallest and largest share of the picture's area, uniform, in (0, 1].
    ratio: smallest and largest width by height, log-uniform. Of ten rectangles drawn the first that fits is taken; the
        whole picture where none does.
    Source: AdaFace's program (Kim et al. 2022, 2204.00964), whose crop is not enlarged but put back in its place.
    """

    loses_resolution = False

    def __init__(
        self, probability: float = 0.2, area: Sequence[float] = (0.2, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3)
    ) -> None:
        self.probability = check_probability("crop", probability)
        self.area = check_range("crop", "area", area, 1e-3, 1)
        self.ratio = check_range("crop", "ratio", ratio, 0.1, 10)

    def draw(self, uniform: Uniform, size: int) -> dict[str, np.ndarray]:
        """top, left (inside), bottom, right (outside) in pixels, int64."""
        low, high = (math.log(x) for x in self.ratio)
        height = np.zeros(len(uniform(0)), np.int64)
        width = height.copy()
        for number in range(TRIES):
            area = in_range(*self.area, uniform(2 + 2 * number)) * size * size
            ratio = np.exp(in_range(low, high, uniform(3 + 2 * number)))
            w, h = (np.rint(np.sqrt(area * x)).astype(np.int64) for x in (ratio, 1 / ratio))
            fits = (height == 0) & (w > 0) & (w <= size) & (h > 0) & (h <= size)
            height, width = np.where(fits, h, height), np.where(fits, w, width)
        height, width = (np.where(x == 0, size, x) for x in (height, width))
        top, left = ((uniform(n) * (size - x + 1)).astype(np.int64) for n, x in ((0, height), (1, width)))
        return {"top": top, "left": left, "bottom": top + height, "right": left + width}

    def apply(self, images: Tensor, drawn: Mapping[str, np.ndarray]) -> Tensor:
        """As Augmentation's."""
        pixel = torch.arange(images.shape[1], device=images.device)
        top, left, bottom, right = (
            on_device(drawn[name], images.device)[:, None] for name in ("top", "left", "bottom", "right")
        )
        rows, columns = (pixel >= top) & (pixel < bottom), (pixel >= left) & (pixel < right)
        return images * (rows[:, :, None] & columns[:, None, :])[..., None]
