"""Resampling from any side to any other by a drawn interpolation, as matrices made for each batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recognition.data._resample import CUBIC

# What OpenCV calls so; nearest is its INTER_NEAREST_EXACT: INTER_NEAREST takes the corner of what a pixel covers, which
# moves a face that is reduced from 112 px to 7 by 7 px. triangle: bilinear whose kernel widens with the reduction, as
# DALI's and Pillow's.
INTERPOLATIONS = ("nearest", "bilinear", "area", "bicubic", "lanczos", "triangle")


def resizing(kind: np.ndarray, old: np.ndarray, new: np.ndarray, old_canvas: int, new_canvas: int) -> np.ndarray:
    """(B, new_canvas, old_canvas) float64: [b] turns old[b] samples into new[b] by the interpolation kind[b].

    kind: (B,) numbers of INTERPOLATIONS. old, new: (B,) sides in pixels. Rows beyond `new` repeat the last one, columns
    beyond `old` are zero. As OpenCV's resize, whose INTER_AREA is bilinear-like where it enlarges.
    """
    matrix = np.zeros((len(kind), new_canvas, old_canvas))
    for number, name in enumerate(INTERPOLATIONS):
        here = np.flatnonzero(kind == number)
        if len(here):
            sides = old[here, None].astype(np.float64), new[here, None].astype(np.float64)
            pixel = np.minimum(np.arange(new_canvas), new[here, None] - 1)
            matrix[here] = _WAYS[name](pixel, *sides, old_canvas)
    return matrix


def _nearest(pixel: np.ndarray, old: np.ndarray, new: np.ndarray, canvas: int) -> np.ndarray:
    first = np.minimum(np.floor((pixel + 0.5) * old / new), old - 1)
    return _gathered([(first, np.ones_like(first))], old, canvas)


def _bilinear(pixel: np.ndarray, old: np.ndarray, new: np.ndarray, canvas: int) -> np.ndarray:
    return _by_taps(pixel, old, new, canvas, 1, lambda x: np.maximum(1 - np.abs(x), 0))


def _bicubic(pixel: np.ndarray, old: np.ndarray, new: np.ndarray, canvas: int) -> np.ndarray:
    return _by_taps(pixel, old, new, canvas, 2, _keys)


def _lanczos(pixel: np.ndarray, old: np.ndarray, new: np.ndarray, canvas: int) -> np.ndarray:
    return _by_taps(pixel, old, new, canvas, 4, lambda x: np.sinc(x) * np.sinc(x / 4))


def _area(pixel: np.ndarray, old: np.ndarray, new: np.ndarray, canvas: int) -> np.ndarray:
    """The mean of what a pixel covers; bilinear with a pixel's own borders where the picture is enlarged."""
    scale = old / new
    begin = (pixel * scale)[..., None]
    source = np.arange(canvas)
    overlap = np.minimum(begin + scale[..., None], source + 1) - np.maximum(begin, source)
    mean = np.maximum(overlap, 0) * (source < old[..., None]) / scale[..., None]
    first = np.floor(pixel * scale)
    share = pixel + 1 - (first + 1) / scale
    share = np.where(share <= 0, 0, share - np.floor(share))
    larger = _gathered([(first, 1 - share), (first + 1, share)], old, canvas)
    return np.where((old >= new)[..., None], mean, larger)


def _triangle(pixel: np.ndarray, old: np.ndarray, new: np.ndarray, canvas: int) -> np.ndarray:
    scale = np.maximum(old / new, 1)[..., None]
    centre = ((pixel + 0.5) * old / new - 0.5)[..., None]
    source = np.arange(canvas)
    weight = np.maximum(1 - np.abs(source - centre) / scale, 0) * (source < old[..., None])
    return weight / weight.sum(2, keepdims=True)


_WAYS = {
    "nearest": _nearest,
    "bilinear": _bilinear,
    "area": _area,
    "bicubic": _bicubic,
    "lanczos": _lanczos,
    "triangle": _triangle,
}


def _by_taps(
    pixel: np.ndarray,
    old: np.ndarray,
    new: np.ndarray,
    canvas: int,
    reach: int,
    kernel: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """A kernel of `reach` samples to each side, of the width of the old ones, whether reduced or enlarged."""
    centre = (pixel + 0.5) * old / new - 0.5
    first = np.floor(centre)
    taps = [(first + tap, kernel(centre - (first + tap))) for tap in range(1 - reach, reach + 1)]
    total = sum(weight for _, weight in taps)
    return _gathered([(where, weight / total) for where, weight in taps], old, canvas)


def _gathered(taps: list[tuple[np.ndarray, np.ndarray]], old: np.ndarray, canvas: int) -> np.ndarray:
    """Weights (B, M) at samples (B, M), those outside falling on the border's -> (B, M, canvas)."""
    rows, pixels = taps[0][0].shape
    matrix = np.zeros((rows, pixels, canvas))
    row, pixel = np.ogrid[:rows, :pixels]
    for where, weight in taps:
        np.add.at(matrix, (row, pixel, np.clip(where, 0, old - 1).astype(np.int64)), weight)
    return matrix


def _keys(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel (1981), OpenCV's parameter."""
    x = np.abs(x)
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = CUBIC * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
