from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from recognition.data.augmentations import AUGMENTATIONS
from recognition.data.augmentations._checks import check_probability
from recognition.data.augmentations._luma import luma
from recognition.data.augmentations.sequence import Uniform


@AUGMENTATIONS.register("gray")
class Gray:
    """All colour goes: 0.299 R + 0.587 G + 0.114 B in each channel.

    probability: that it happens, in [0, 1]. Source: arcface_torch (dali_aug), p 0.1.
    """

    loses_resolution = False

    def __init__(self, probability: float = 0.1) -> None:
        self.probability = check_probability("gray", probability)

    def draw(self, uniform: Uniform, size: int) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}

    def apply(self, images: Tensor, drawn: Mapping[str, np.ndarray]) -> Tensor:
        """As Augmentation's."""
        return luma(images.double()).to(images.dtype).expand_as(images)
