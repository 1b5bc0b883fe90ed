"""Baseline JPEG as a function of pixels, batched on any device: what a picture looks like once coded and decoded."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from recognition.data._resample import SNAP, on_device, resample, whole

# Rec. ITU-T T.81, tables K.1 and K.2, natural order
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
TO_YCBCR = (  # JFIF 1.02
    (0.299, 0.587, 0.114),
    (-0.299 / 1.772, -0.587 / 1.772, 0.5),
    (0.5, -0.587 / 1.402, -0.114 / 1.402),
)


def jpeg(picture: Tensor, side: np.ndarray, quality: np.ndarray) -> Tensor:
    """Code and decode.

    picture: (B, S, S, 3) float64, whole grey levels, S a multiple of 16. side: (B,) the image's side on it, its
    edges repeated beyond. quality: (B,) 1 .. 100; 0 where the result will not be used. Returns the same shape.
    4:2:0: chroma is the mean of 2 x 2 pixels, and decoded by a triangle filter (libjpeg's "fancy up-sampling"). Differs
    from libjpeg's integer arithmetic by single levels, and where a coefficient falls on the other side of a step.
    """
    device, last = picture.device, (side[:, None] - 1) // 2  # of the chroma samples inside the image
    colours = torch.tensor(TO_YCBCR, dtype=picture.dtype)
    colours, back = colours.to(device), torch.linalg.inv(colours).to(device)
    shift = torch.tensor([0.0, 128.0, 128.0], dtype=picture.dtype, device=device)
    channels = whole(picture @ colours.T + shift).permute(0, 3, 1, 2)
    bias = torch.tensor([0.25, 0.5], dtype=picture.dtype, device=device).repeat(picture.shape[1] // 4)
    chroma = (avg_pool2d(channels[:, 1:], 2) + bias).floor()
    # libjpeg repeats the last row of chroma after averaging, columns before
    chroma = chroma.take_along_dim(on_device(np.minimum(np.arange(chroma.shape[2]), last), device)[:, None, :, None], 2)
    scale = np.where(quality < 50, 5000 // np.maximum(quality, 1), 200 - 2 * quality)[:, None, None]
    steps = [on_device(np.clip((np.array(t) * scale + 50) // 100, 1, 255), device) for t in (LUMINANCE, CHROMINANCE)]
    luma, chroma = _code_blocks(channels[:, :1], steps[0]), _code_blocks(chroma, steps[1])
    up = _triangle(last[:, 0], picture.shape[1], device)
    chroma = whole(resample(up, chroma.permute(0, 2, 3, 1)))
    decoded = torch.cat([luma.permute(0, 2, 3, 1), chroma], 3) - shift
    return whole(decoded @ back.T)


def _code_blocks(x: Tensor, steps: Tensor) -> Tensor:
    """x: (B, C, S, S) in 0 .. 255. steps: (B, 8, 8) quantiser steps. Returns what a decoder sees, whole grey levels."""
    basis = _dct_basis().to(x.device)
    blocks = (x - 128).unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # (B, C, rows, columns, 8, 8)
    steps = steps[:, None, None, None]
    levels = (basis @ blocks @ basis.T / steps * SNAP).round().div(SNAP).round()
    decoded = basis.T @ (levels * steps) @ basis
    return whole(decoded.transpose(3, 4).flatten(4, 5).flatten(2, 3) + 128)


@functools.cache
def _dct_basis() -> Tensor:
    """(8, 8) float64, orthonormal DCT-II: basis @ block @ basis.T are JPEG's coefficients."""
    k, n = np.mgrid[0:8, 0:8]
    basis = np.cos((2 * n + 1) * k * np.pi / 16) / 2
    basis[0] /= np.sqrt(2)
    return torch.from_numpy(basis)


def _triangle(last: np.ndarray, canvas: int, device: torch.device) -> Tensor:
    """(B, canvas, canvas / 2): each pixel takes 3/4 of its chroma sample and 1/4 of the next nearest one.

    last: (B,) the last chroma sample inside the image; those beyond are not looked at.
    """
    pixel = np.arange(canvas)
    nearest, second = pixel // 2, pixel // 2 + np.where(pixel % 2, 1, -1)
    matrix = np.zeros((len(last), canvas, canvas // 2))
    for i, end in enumerate(last):
        np.add.at(matrix[i], (pixel, np.clip(nearest, 0, end)), 0.75)
        np.add.at(matrix[i], (pixel, np.clip(second, 0, end)), 0.25)
    return on_device(matrix, device)
