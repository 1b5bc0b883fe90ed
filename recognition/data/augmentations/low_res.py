from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from recognition.data._interpolate import INTERPOLATIONS
from recognition.data.augmentations import AUGMENTATIONS
from recognition.data.augmentations._checks import check_probability, check_range
from recognition.data.augmentations._shrink import shrink
from recognition.data.augmentations.sequence import Uniform, in_range

WAYS = ("nearest", "bilinear", "area", "bicubic", "lanczos")


@AUGMENTATIONS.register("low_res")
class LowRes:
    """Reduced and enlarged again, each by one of OpenCV's five interpolations.

    probability: that it happens, in [0, 1].
    factor: smallest and largest share of the side that is left, uniform, in (0, 1]; the side is rounded down.
    Only area looks at every pixel: the others alias. `level` is that of the smaller side where the picture is degraded
    afterwards. Source: AdaFace's program (Kim et al. 2022, 2204.00964), whose nearest moves the face by up to two
    pixels; here it stays.
    """

    loses_resolution = True

    def __init__(self, probability: float = 0.2, factor: Sequence[float] = (0.2, 1.0)) -> None:
        self.probability = check_probability("low_res", probability)
        self.factor = check_range("low_res", "factor", factor, 0.01, 1)

    def draw(self, uniform: Uniform, size: int) -> dict[str, np.ndarray]:
        """side in pixels; down and up, numbers of INTERPOLATIONS; int64."""
        known = np.array([INTERPOLATIONS.index(way) for way in WAYS])
        down, up = (known[(uniform(n) * len(known)).astype(np.int64)] for n in (1, 2))
        side = np.maximum((in_range(*self.factor, uniform(0)) * size).astype(np.int64), 1)
        return {"side": side, "down": down, "up": up}

    def apply(self, images: Tensor, drawn: Mapping[str, np.ndarray]) -> Tensor:
        """As Augmentation's."""
        return shrink(images, drawn["side"], drawn["down"], drawn["up"])
