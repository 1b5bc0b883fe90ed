"""Blur by two-dimensional kernels of many kinds, one for each image of a batch, by FFT in float64."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from recognition.data._resample import on_device

KERNELS = ("isotropic", "anisotropic", "generalised", "motion", "sinc")
_ISOTROPIC, _ANISOTROPIC, _GENERALISED, _MOTION, _SINC = range(len(KERNELS))
NARROWEST = 0.2  # anisotropic, generalised: the least ratio of the short axis to the long one
SHAPES = (0.5, 4.0)  # generalised: its exponent; below 1 peaked with long tails, above 1 flat
HALF = math.sqrt(2 * math.log(2))  # a Gaussian of sigma has half its amplitude left at the frequency HALF / sigma
_SIZES = (16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 336, 512)  # that an FFT is fast at


def blur(
    picture: Tensor,
    side: np.ndarray,
    *,
    kind: np.ndarray,
    sigma: np.ndarray,
    angle: np.ndarray,
    ratio: np.ndarray,
    shape: np.ndarray,
) -> Tensor:
    """Each image blurred by its kernel, its edges repeated beyond it.

    picture: (B, C, C, 3) float64. side: (B,) the image's side on it. All else (B,): kind, numbers of KERNELS; sigma,
    above 0, the kernel's standard deviation in pixels along its longer axis; angle of that axis in radians; ratio of
    the shorter axis to it; shape: of `generalised`. Kernels are cut at 3 sigma, sinc at 7, and at the image's side.
    Returns the same shape, of which what lies beyond `side` is undefined.
    """
    sigma = np.where(kind == _SINC, np.maximum(sigma, HALF / np.pi), sigma)  # no grid holds higher frequencies
    radius = np.minimum(np.ceil(np.where(kind == _SINC, 7, 3) * sigma), side).astype(np.int64)
    size = np.array([next((s for s in _SIZES if s >= need), int(need)) for need in side + 2 * radius])
    out = picture.clone()
    for n in np.unique(size).tolist():
        here = np.flatnonzero(size == n)
        rows = on_device(here, picture.device)
        offset = np.arange(n)
        offset = np.where(offset < side[here, None] + (n - side[here, None] + 1) // 2, offset, offset - n)
        source = on_device(np.clip(offset, 0, side[here, None] - 1), picture.device)  # wraps round to the left border
        x = pixels(picture[rows], source).permute(0, 3, 1, 2)
        arguments = [on_device(values[here], picture.device) for values in (kind, sigma, angle, ratio, shape, radius)]
        transfer = torch.fft.rfft2(_kernel(n, *arguments))[:, None]
        x = torch.fft.irfft2(torch.fft.rfft2(x.contiguous()) * transfer, s=(n, n))
        width = min(n, picture.shape[1])
        out[rows, :width, :width] = x[:, :, :width, :width].permute(0, 2, 3, 1)
    return out


def pixels(picture: Tensor, where: Tensor) -> Tensor:
    """(B, C, C, 3) and (B, n) rows, which are the columns too -> (B, n, n, 3)."""
    each = torch.arange(len(picture), device=picture.device)[:, None, None]
    return picture[each, where[:, :, None], where[:, None, :]]


def _kernel(n: int, kind: Tensor, sigma: Tensor, angle: Tensor, ratio: Tensor, shape: Tensor, radius: Tensor) -> Tensor:
    """(B, n, n), each summing to 1, its centre at [0, 0] and what lies left of and above it wrapped round."""
    d = torch.arange(n, dtype=torch.float64, device=sigma.device)
    d = torch.where(d > n // 2, d - n, d)
    kind, sigma, angle, ratio, shape, radius = (x[:, None, None] for x in (kind, sigma, angle, ratio, shape, radius))
    cos, sin = angle.cos(), angle.sin()
    along, across = d * cos + d[:, None] * sin, d[:, None] * cos - d * sin
    ratio = torch.where((kind == _ANISOTROPIC) | (kind == _GENERALISED), ratio, torch.ones_like(ratio))
    far = (along / sigma) ** 2 + (across / (sigma * ratio)) ** 2
    weight = (-far / 2).exp()
    if (kind == _GENERALISED).any():
        # the factor gives it the standard deviation sigma: E[r^2] = 2^(1/b) gamma(2/b) / gamma(1/b) in two dimensions
        spread = 2 ** (1 / shape) * ((2 / shape).lgamma() - (1 / shape).lgamma()).exp() / 2
        weight = torch.where(kind == _GENERALISED, (-((far * spread) ** shape) / 2).exp(), weight)
    if (kind == _MOTION).any():
        # a line of 2 sqrt(3) sigma, one pixel thick, both ends falling to 0 over a pixel
        beyond = (along.abs() - (sigma * math.sqrt(3) - 0.5).clamp(min=0)).clamp(min=0)
        weight = torch.where(kind == _MOTION, (1 - (beyond**2 + across**2).sqrt()).clamp(min=0), weight)
    if (kind == _SINC).any():
        r = HALF / sigma * (d**2 + d[:, None] ** 2).sqrt()
        jinc = torch.where(r > 0, torch.special.bessel_j1(r) / r.clamp(min=1e-9), 0.5)
        weight = torch.where(kind == _SINC, jinc, weight)
    weight = weight * ((d.abs() <= radius) & (d[:, None].abs() <= radius))
    return weight / weight.sum((1, 2), keepdim=True)
