"""Resampling by small matrices, looked up by the low-resolution image's side.

All arithmetic is float64, since a float32 product differs with the shape of the batch and the device (TF32, autocast)
and would round a pixel differently now and then; the pictures are so small that it costs little.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

CUBIC = -0.75  # the free parameter of the bicubic kernel; OpenCV's value (Pillow and torch antialias have -0.5)
# Values are put on a grid this fine before they are rounded, so that what is half way between two levels is half way
# on every device and in every batch, whatever its last bits are.
SNAP = 2.0**20


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor there, without waiting for the copy."""
    return torch.from_numpy(array).to(device, non_blocking=True)


def whole(x: Tensor) -> Tensor:
    """Whole grey levels; half way goes to the even one, as OpenCV does."""
    return (x * SNAP).round_().div_(SNAP).round_().clamp_(0, 255)


def resample(matrix: Tensor, x: Tensor) -> Tensor:
    """matrix (B, M, N) on both axes of x (B, N, N, C) -> (B, M, M, C)."""
    for _ in range(2):
        x = torch.bmm(matrix, x.flatten(2)).unflatten(2, (-1, x.shape[3])).transpose(1, 2)
    return x


def canvas_rows(canvas: int, size: int) -> slice | list[int]:
    """Rows of a table of `size` for a canvas that may be larger."""
    return slice(canvas) if canvas <= size else [min(row, size - 1) for row in range(canvas)]


@functools.lru_cache(maxsize=8)
def area_table(size: int, device: torch.device) -> Tensor:
    """(size + 1, size, size) float64: [side] holds the (side, size) area weights, then the last row again and again."""
    table = np.zeros((size + 1, size, size))
    pixel = np.arange(size)
    for side in range(1, size + 1):
        row = np.minimum(pixel, side - 1)[:, None]
        # in units of 1 / side of a pixel, so that every overlap is a whole number
        overlap = np.minimum((row + 1) * size, (pixel + 1) * side) - np.maximum(row * size, pixel * side)
        table[side] = np.maximum(overlap, 0) / size
    return torch.from_numpy(table).to(device)


@functools.lru_cache(maxsize=8)
def cubic_table(size: int, device: torch.device) -> Tensor:
    """(size + 1, size, size) float64: [side] holds the (size, side) bicubic weights, then columns of zeros."""
    table = np.zeros((size + 1, size, size))
    pixel = np.arange(size)
    for side in range(1, size + 1):
        centre = (pixel + 0.5) * side / size - 0.5
        first = np.floor(centre).astype(np.int64)
        for tap in range(-1, 3):
            weight = _cubic(np.abs(centre - (first + tap)))
            np.add.at(table[side], (pixel, np.clip(first + tap, 0, side - 1)), weight)
    return torch.from_numpy(table).to(device)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel (1981) at distances x >= 0."""
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = CUBIC * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def gaussian(sigma: np.ndarray, size: int, device: torch.device) -> Tensor:
    """(B, size, size): rows of Gaussian weights, renormalised at the border. sigma in pixels; 0 = the unit matrix."""
    pixel = np.arange(size)
    distance = (pixel[:, None] - pixel) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(distance == 0, 1.0, np.exp(-distance / (2 * sigma[:, None, None] ** 2)))
    return on_device(weight / weight.sum(2, keepdims=True), device)
