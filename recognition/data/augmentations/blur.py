from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from recognition.data._resample import on_device, whole
from recognition.data.augmentations import AUGMENTATIONS
from recognition.data.augmentations._checks import check_probability
from recognition.data.augmentations.sequence import Uniform

MOST = 31  # pixels


@AUGMENTATIONS.register("blur")
class Blur:
    """A Gaussian in a small window, OpenCV's sigma for it: 0.3 ((window - 1) / 2 - 1) + 0.8.

    probability: that it happens, in [0, 1].
    windows: sides in pixels, odd, 1 .. 31, equally likely.
    It loses resolution, but has no side: `level` does not speak of it. Source: arcface_torch (dali_aug), p 0.2.
    """

    loses_resolution = True

    def __init__(self, probability: float = 0.2, windows: Sequence[int] = (3, 5)) -> None:
        self.probability = check_probability("blur", probability)
        odd = isinstance(windows, Sequence) and not isinstance(windows, str) and len(windows)
        if not odd or any(not isinstance(w, int) or not (0 < w <= MOST and w % 2) for w in windows):
            raise ValueError(
                f"augmentation 'blur': windows is {windows!r}; it must be a list of odd sides in 1 .. {MOST}"
            )
        self.windows = tuple(windows)

    def draw(self, uniform: Uniform, size: int) -> dict[str, np.ndarray]:
        """window in pixels, int64."""
        return {"window": np.array(self.windows)[(uniform(0) * len(self.windows)).astype(np.int64)]}

    def apply(self, images: Tensor, drawn: Mapping[str, np.ndarray]) -> Tensor:
        """As Augmentation's; borders are mirrored, as OpenCV's and DALI's."""
        window, reach = drawn["window"], int(drawn["window"].max()) // 2
        sigma = (0.3 * ((window - 1) / 2 - 1) + 0.8)[:, None]
        offset = np.arange(-reach, reach + 1)
        weight = np.exp(-(offset**2) / (2 * sigma**2)) * (abs(offset) <= window[:, None] // 2)
        taps = on_device(weight / weight.sum(1, keepdims=True), images.device)[:, :, None, None, None]
        x, size = images.double(), images.shape[1]
        pixel = torch.arange(-reach, size + reach, device=images.device)
        pixel = (size - 1) - ((size - 1) - pixel.abs()).abs()  # 2 1 0 1 2 ... 2 1 0 1 2
        for axis in (1, 2):
            wide = x.index_select(axis, pixel)
            x = sum(taps[:, n] * wide.narrow(axis, n, size) for n in range(2 * reach + 1))
        return whole(x).to(images.dtype)
