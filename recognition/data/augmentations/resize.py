from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from recognition.data._interpolate import INTERPOLATIONS
from recognition.data.augmentations import AUGMENTATIONS
from recognition.data.augmentations._checks import check_probability, check_range
from recognition.data.augmentations._shrink import shrink
from recognition.data.augmentations.sequence import Uniform, in_range


@AUGMENTATIONS.register("resize")
class Resize:
    """Reduced a little and enlarged again, both bilinear, without aliasing.

    probability: that it happens, in [0, 1].
    factor: smallest and largest share of the side that is left, uniform, in (0, 1]; the side is rounded.
    Source: arcface_torch (dali_aug): p 0.1, sides 56 to 89 of 112, DALI's bilinear kernel that widens with the
    reduction. DALI keeps the fraction of a pixel that is rounded away here, and repeats pixels beyond the border, where
    here the kernel is cut: 4 grey levels there.
    """

    loses_resolution = True

    def __init__(self, probability: float = 0.1, factor: Sequence[float] = (0.5, 89 / 112)) -> None:
        self.probability = check_probability("resize", probability)
        self.factor = check_range("resize", "factor", factor, 0.01, 1)

    def draw(self, uniform: Uniform, size: int) -> dict[str, np.ndarray]:
        """side in pixels, int64."""
        return {"side": np.maximum(np.rint(in_range(*self.factor, uniform(0)) * size), 1).astype(np.int64)}

    def apply(self, images: Tensor, drawn: Mapping[str, np.ndarray]) -> Tensor:
        """As Augmentation's."""
        way = np.full(len(images), INTERPOLATIONS.index("triangle"))
        return shrink(images, drawn["side"], way, way)
