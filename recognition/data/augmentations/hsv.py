from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from recognition.data._resample import on_device, whole
from recognition.data.augmentations import AUGMENTATIONS
from recognition.data.augmentations._checks import check_probability, check_range
from recognition.data.augmentations._luma import LUMA
from recognition.data.augmentations.sequence import Uniform, in_range

# I and Q of NTSC's colour space, whose plane hue turns in; Y is luma
TO_YIQ = np.array([LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)])


@AUGMENTATIONS.register("hsv")
class Hsv:
    """Hue turned and saturation raised, in the plane of colours of equal luma.

    probability: that it happens, in [0, 1].
    hue: smallest and largest angle in degrees, uniform, within -180 .. 180. saturation: factors, uniform, 0 or more.
    A linear map of R, G, B that keeps grey grey, as DALI's hsv; hue and saturation of a colour cone (HSV) are others.
    Source: arcface_torch (dali_aug): p 0.2, hue 0 .. 20 degrees, saturation 1 .. 1.2.
    """

    loses_resolution = False

    def __init__(
        self, probability: float = 0.2, hue: Sequence[float] = (0.0, 20.0), saturation: Sequence[float] = (1.0, 1.2)
    ) -> None:
        self.probability = check_probability("hsv", probability)
        self.hue = check_range("hsv", "hue", hue, -180, 180)
        self.saturation = check_range("hsv", "saturation", saturation, 0, 10)

    def draw(self, uniform: Uniform, size: int) -> dict[str, np.ndarray]:
        """hue in radians, saturation; float64."""
        return {
            "hue": np.deg2rad(in_range(*self.hue, uniform(0))),
            "saturation": in_range(*self.saturation, uniform(1)),
        }

    def apply(self, images: Tensor, drawn: Mapping[str, np.ndarray]) -> Tensor:
        """As Augmentation's."""
        turn = np.zeros((len(images), 3, 3))
        cos, sin = (f(drawn["hue"]) * drawn["saturation"] for f in (np.cos, np.sin))
        turn[:, 0, 0] = 1
        turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = cos, sin, -sin, cos
        matrix = on_device(np.linalg.inv(TO_YIQ) @ turn @ TO_YIQ, images.device)
        x = images.double().flatten(1, 2) @ matrix.transpose(1, 2)
        return whole(x).to(images.dtype).view_as(images)
