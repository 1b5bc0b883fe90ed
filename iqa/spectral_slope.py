"""How fast a picture's power falls with spatial frequency."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from iqa import SCORERS
from iqa._image import check_images, full_precision, luma
from recognition.types import Needs

SMALLEST_SIDE = 16  # pixels: eight frequencies for one line
NOISE = (
    0.25  # power per pixel, grey levels squared: rounding R, G, B to 8 bits leaves 0.037 at every frequency, JPEG more
)
PRIOR, STEEPNESS = 1e5, 6.0  # power per pixel of a picture without detail: PRIOR * frequency^-STEEPNESS


@SCORERS.register("spectral_slope")
class SpectralSlope(nn.Module):
    """Slope of the log power spectrum over log frequency; no weights, blind to noise, little moved by contrast.

    Rows and columns of the luma in 0..255, less their mean, under a Hann window; their power |DFT|^2 / length is
    averaged over all rows and columns, and a straight line is fitted to its logarithm over the logarithm of 1, 2 ...
    H / 2 cycles per picture, each weighted by 1 / frequency, so that octaves weigh the same. (Natural pictures' spectra
    are straight there: Field, J. Opt. Soc. Am. A 1987.) Two things are ours: 0.25 is taken off the power, to rid it of
    the white noise that storing as 8 bits leaves, which else flattened the slope of the smallest faces again (14 and 7
    pixels changed places); and 1e5 * frequency^-6 is added, so that a flat picture has a slope, -6, near the lower end.

    60 aligned faces (LFW) reduced to 112, 56, 28, 14 and 7 pixels and enlarged to 112 again: -2.73, -3.40, -5.01,
    -6.04, -6.26 in the mean; every face falls at every step. Cost, processor time of one thread on a busy machine:
    0.25 ms an image in a batch of 8, 0.5 ms alone.
    """

    needs: Needs = "image"
    version = 1
    exportable = True  # the DFT is two products with fixed matrices: ONNX's own DFT is not written reliably

    def __init__(self) -> None:
        super().__init__()
        self.range = (-6.4, -2.4)

    def forward(self, image: Tensor) -> Tensor:
        """image: (B, 3, H, W) RGB in [0, 1], 16 pixels or more. Returns (B,) float32."""
        check_images(image, "spectral_slope")
        height, width = image.shape[2:]
        if min(height, width) < SMALLEST_SIDE:
            raise ValueError(
                f"scorer 'spectral_slope' takes pictures of {SMALLEST_SIDE} pixels or more, got {height}x{width}"
            )
        count = min(height, width) // 2
        with full_precision(image):
            grey = luma(image)[:, 0]
            power = (line_power(grey, count) + line_power(grey.transpose(1, 2), count)) / 2.0
            frequency = torch.arange(1, count + 1, dtype=torch.float32, device=image.device)
            level = torch.log((power - NOISE).clamp(min=0.0) + PRIOR * frequency**-STEEPNESS)
            return _fitted_slope(level, frequency)


def line_power(grey: Tensor, count: int) -> Tensor:
    """(B, lines, N) -> (B, count): mean power per pixel of the lines at 1 .. count cycles per line."""
    size = grey.shape[2]
    place = torch.arange(size, device=grey.device)
    window = 0.5 - 0.5 * torch.cos((2.0 * math.pi / size) * (place + 0.5))
    window = window * math.sqrt(8.0 / 3.0)  # mean of its square 1
    # whole turns are taken off as integers: a large angle in float32 would lose digits
    turn = (2.0 * math.pi / size) * (place[:, None] * torch.arange(1, count + 1, device=grey.device)).remainder(size)
    windowed = (grey - grey.mean(dim=2, keepdim=True)) * window
    cosine, sine = windowed @ torch.cos(turn), windowed @ torch.sin(turn)
    return (cosine * cosine + sine * sine).mean(dim=1) / size


def _fitted_slope(level: Tensor, frequency: Tensor) -> Tensor:
    """(B, F), (F,) -> (B,): weighted least squares of level over log frequency."""
    weight, place = 1.0 / frequency, torch.log(frequency)
    place = place - (weight * place).sum() / weight.sum()
    return (level * (weight * place)).sum(dim=1) / (weight * place * place).sum()
