"""To a smaller side and back."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from recognition.data._interpolate import resizing
from recognition.data._resample import on_device, resample, whole


def shrink(images: Tensor, side: np.ndarray, down: np.ndarray, up: np.ndarray) -> Tensor:
    """images: (B, H, H, 3) uint8 -> the same. side: (B,) pixels. down, up: (B,) numbers of INTERPOLATIONS."""
    size, canvas = np.full(len(side), images.shape[1]), int(side.max())
    matrix = on_device(resizing(down, size, side, images.shape[1], canvas), images.device)
    small = whole(resample(matrix, images.double()))
    matrix = on_device(resizing(up, side, size, canvas, images.shape[1]), images.device)
    return whole(resample(matrix, small)).to(images.dtype)
