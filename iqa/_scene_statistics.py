"""BRISQUE's 36 natural-scene statistics (Mittal, Moorthy and Bovik, IEEE TIP 2012), batched.

Two programs in use compute them differently, and each has a support vector machine trained on its own figures:

          border of the local mean   neighbour over the border   second scale
  opencv  edge repeated              none: product 0             4-tap bicubic (a = -0.75), edge repeated
  pyiqa   zeros                      wraps round                 8-tap bicubic with anti-aliasing (MATLAB's), mirrored
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOW, SIGMA = 7, 7.0 / 6.0  # Gaussian of the local mean and deviation, pixels
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (-1, 1))  # right, below, and the two diagonals
SHAPES = (0.2, 10.0, 0.001)  # exponents tried for the generalised Gaussian: first, last, step
NOISE = 1e-4  # grey levels: a flat area rounds to 5e-5, one grey level in the window's corner makes 1.6e-4
SMALLEST = 1e-12  # divisor where a picture is flat and has no deviation


class SceneStatistics(nn.Module):
    """(B, 1, H, W) luma in 0..255, rounded, -> (B, 36) float32.

    Per scale 18: shape and variance of the normalised luma, then shape, mean, left and right variance of its products
    with four neighbours. A flat picture, which has no statistics, gives finite figures.
    """

    def __init__(self, form: Literal["opencv", "pyiqa"]) -> None:
        super().__init__()
        self.form = form
        offset = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
        bell = torch.exp(-(offset**2) / (2 * SIGMA**2))
        self.register_buffer("window", (bell / bell.sum()).float(), persistent=False)
        taps = _cubic_taps(-0.5, 2.0, 8) if form == "pyiqa" else _cubic_taps(-0.75, 1.0, 4)
        self.register_buffer("taps", taps, persistent=False)
        first, last, step = SHAPES
        shape = torch.arange(first, last + step / 2, step, dtype=torch.float64)
        one, two, three = (torch.lgamma(n / shape) for n in (1.0, 2.0, 3.0))
        self.register_buffer("shape", shape.float(), persistent=False)
        self.register_buffer("spread", torch.exp(one + three - 2 * two).float(), persistent=False)
        self.register_buffer("peak", torch.exp(2 * two - one - three).float(), persistent=False)
        self.register_buffer("shift", torch.exp(two - 0.5 * (one + three)).float(), persistent=False)

    def forward(self, grey: Tensor) -> Tensor:
        fine = self._one_scale(grey)
        return torch.cat((fine, self._one_scale(self._halve(grey))), dim=1)

    def _one_scale(self, grey: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, 18)."""
        mean = self._blur(grey)
        variance = self._blur(grey * grey) - mean * mean
        variance = variance.clamp(min=0.0) if self.form == "opencv" else variance.abs() + torch.finfo(grey.dtype).eps
        deviation = grey - mean
        deviation = torch.where(deviation.abs() < NOISE, 0.0, deviation)
        normal = deviation / (variance.sqrt() + 1.0)
        products = [normal * self._neighbour(normal, down, right) for down, right in NEIGHBOURS]
        if self.form == "pyiqa":
            shape, spread = self._symmetric(normal)
            fits = self._asymmetric(torch.cat(products, dim=1))
        else:
            fits = self._asymmetric(torch.cat((normal, *products), dim=1))
            shape, spread = fits[:, :1, 0], fits[:, :1, 2:].mean(dim=2)
            fits = fits[:, 1:]
        return torch.cat((shape, spread, fits.flatten(1)), dim=1)

    def _symmetric(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shape and variance of a generalised Gaussian, by moments. (B, 1, H, W) -> two (B, 1)."""
        square, size = (x * x).mean(dim=(2, 3)), x.abs().mean(dim=(2, 3))
        ratio = square / (size * size).clamp(min=SMALLEST)
        return self.shape[(ratio[:, :, None] - self.spread).abs().argmin(dim=2)], square

    def _asymmetric(self, x: Tensor) -> Tensor:
        """Shape, mean, left and right variance of an asymmetric one, by moments. (B, C, H, W) -> (B, C, 4)."""
        left, right = (_mean_square(part) for part in (x.clamp(max=0.0), x.clamp(min=0.0)))
        square, size = (x * x).mean(dim=(2, 3)), x.abs().mean(dim=(2, 3))
        skew = left.sqrt() / right.sqrt().clamp(min=SMALLEST)
        ratio = size * size / square.clamp(min=SMALLEST)
        ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
        index = (ratio[:, :, None] - self.peak).abs().argmin(dim=2)
        return torch.stack((self.shape[index], (right.sqrt() - left.sqrt()) * self.shift[index], left, right), dim=2)

    def _blur(self, grey: Tensor) -> Tensor:
        mode = "constant" if self.form == "pyiqa" else "replicate"
        framed = F.pad(grey, (WINDOW // 2,) * 4, mode=mode)
        return _weigh(_weigh(framed, self.window, 2), self.window, 3)

    def _neighbour(self, x: Tensor, down: int, right: int) -> Tensor:
        if self.form == "pyiqa":
            return torch.roll(x, (down, right), dims=(2, 3))
        height, width = x.shape[2], x.shape[3]
        framed = F.pad(x, (1, 1, 1, 1))
        return framed[:, :, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    def _halve(self, grey: Tensor) -> Tensor:
        for dim in (2, 3):
            grey = _weigh(self._frame(grey, dim), self.taps, dim, step=2)
        return grey

    def _frame(self, grey: Tensor, dim: int) -> Tensor:
        """Prolonged along `dim` so that every output pixel, which stands between two input pixels, has all its taps."""
        length, reach = grey.shape[dim], self.taps.numel() // 2
        halves = (length + 1) // 2 if self.form == "pyiqa" else length // 2
        place = torch.arange(1 - reach, 2 * halves - 1 + reach, device=grey.device)
        if self.form == "pyiqa":  # mirrored with the edge: -1 -> 0, -2 -> 1
            place = torch.where(place < 0, -1 - place, place)
            place = torch.where(place >= length, 2 * length - 1 - place, place)
        return grey.index_select(dim, place.clamp(0, length - 1))


def _weigh(framed: Tensor, weights: Tensor, dim: int, step: int = 1) -> Tensor:
    """Weighted sum of neighbours along one axis, every `step` pixels.

    Sums and not conv2d: a card convolves float32 in TF32, whose 10 bits leave nothing of a variance of grey levels.
    """
    count = weights.numel()
    size = framed.shape[dim] - count + 1
    index = [slice(None)] * dim
    return sum(weights[k] * framed[(*index, slice(k, k + size, step))] for k in range(count))


def _mean_square(part: Tensor) -> Tensor:
    """Mean of squares over the entries that are not 0. (B, C, H, W) -> (B, C)."""
    count = (part != 0).sum(dim=(2, 3)).clamp(min=1)
    return (part * part).sum(dim=(2, 3)) / count


def _cubic_taps(a: float, stretch: float, count: int) -> Tensor:
    """Keys' cubic kernel, `stretch` times as wide, at the `count` pixels round a point halfway between two."""
    x = (torch.arange(count, dtype=torch.float64) - (count - 1) / 2).abs() / stretch
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    taps = torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))
    return (taps / taps.sum()).float()
