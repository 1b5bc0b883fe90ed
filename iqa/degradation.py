"""How low a face's resolution is, told by a small network of our own."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iqa import SCORERS
from iqa._image import check_images, full_precision, luma
from iqa._model import read_fitted
from iqa.spectral_slope import line_power
from recognition.types import Needs

SIZE = 112  # pixels
SHIPPED = Path(__file__).with_suffix(".safetensors")
FILTERS = (8, 24, 32)
NODES = 48
FREQUENCIES = SIZE // 2  # cycles per picture: 1 .. 56
OCTAVES = (1, 2, 3, 4, 5, 6, 7, 9, 11, 14, 17, 21, 26, 32, 39, 47, 57)  # first frequency of each band, and the end
CONTRAST = 4.0 / 255.0  # a face's luma deviates by about 50 levels from its mean
LEAST = 0.01  # added to a response before its logarithm
LEAST_POWER, BAND_SCALE = 0.1, 0.3  # the power of white noise from rounding luma to grey levels is 0.08
MIDDLE = -2.0  # of the levels it learns from
WHERE_FROM = (
    "leave weights at None for the file that ships with the project, or fit one: "
    "python tools/fit_scorer.py degradation RECORDS OUT.safetensors"
)


class LevelNetwork(nn.Module):
    """Three convolutions of stride 2 on the luma and its power in 16 bands, then two linear layers.

    Of each filter the mean and largest response are taken, of each band the mean power of rows and columns. All of them
    pass a logarithm: a lower resolution divides what comes of detail by a factor. Without the bands, two epochs of
    20,000 faces erred by 0.369 octaves on LFW's test people, with them by 0.359 (0.332 and 0.304 on painted ones).
    """

    bands: Tensor  # (56, 16) weights of the frequencies in each
    expected: Tensor  # (16,) log power of a face, roughly

    def __init__(self) -> None:
        super().__init__()
        one, two, three = FILTERS
        self.detail = nn.Conv2d(1, one, 5, stride=2, padding=2)
        self.edges = nn.Conv2d(one, two, 3, stride=2, padding=1)
        self.parts = nn.Conv2d(two, three, 3, stride=2, padding=1)
        self.mix = nn.Linear(2 * three + len(OCTAVES) - 1, NODES)
        self.level = nn.Linear(NODES, 1)
        bands = torch.zeros(FREQUENCIES, len(OCTAVES) - 1)
        for band, (low, high) in enumerate(pairwise(OCTAVES)):
            bands[low - 1 : high - 1, band] = 1.0 / (high - low)
        frequency = torch.arange(1, FREQUENCIES + 1).float()
        self.register_buffer("bands", bands, persistent=False)
        self.register_buffer("expected", 9.0 - 2.0 * torch.log(frequency) @ bands, persistent=False)

    def forward(self, grey: Tensor) -> Tensor:
        """(B, 1, 112, 112) luma in [0, 255] -> (B,) float32, log2(effective side / 112)."""
        lines = grey[:, 0]
        power = (line_power(lines, FREQUENCIES) + line_power(lines.transpose(1, 2), FREQUENCIES)) / 2.0
        spectrum = BAND_SCALE * (torch.log(power @ self.bands + LEAST_POWER) - self.expected)
        x = (grey - grey.mean(dim=(1, 2, 3), keepdim=True)) * CONTRAST
        for layer in (self.detail, self.edges, self.parts):
            x = F.relu(layer(x))
        pooled = torch.log(torch.cat((x.mean(dim=(2, 3)), x.amax(dim=(2, 3))), dim=1) + LEAST)
        return self.level(F.relu(self.mix(torch.cat((pooled, spectrum), dim=1)))).squeeze(1) + MIDDLE


@SCORERS.register("degradation")
class DegradationLevel(nn.Module):
    """log2(effective side / 112) of a face, told from its pixels by a network of 12,841 weights that ships with us.

    0 = as sharp as stored faces are, -4 = like a face of 7 pixels: the unit of the scorer `oracle`. Blur, noise and
    JPEG lower it by as much as they hide from recognition, see recognition.degradation_fit.effective_level.

    weights: .safetensors by tools/fit_scorer.py; None = iqa/degradation.safetensors, which was fitted to painted
        faces and to LFW's (its metadata say to which, with what seed).

    Medians of people it never saw, reduced to 112, 56, 28, 14 and 7 pixels and enlarged to 112 again:
        120 painted faces  -0.05, -0.78, -2.15, -3.13, -4.15
        360 of LFW         -0.60, -1.05, -2.20, -3.18, -4.18
    LFW's own pictures are softer than a face of 112 pixels can be, and compressed; 7 to 28 pixels are told apart best.
    Rank correlation with the effective level on those 360, of 7 to 112 pixels with blur, noise and JPEG: 0.969, of
    sharpness 0.956, spectral_slope 0.949, BRISQUE 0.956; with half of them at less contrast 0.967, 0.935, 0.932, 0.931.
    Cost, processor time of one thread on a busy machine: 0.5 ms an image in a batch of 16.
    """

    needs: Needs = "image"
    exportable = True
    version = 1

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.range = (-4.0, 0.0)
        path = str(SHIPPED) if weights is None else weights
        tensors, _ = read_fitted(path, "degradation", WHERE_FROM)
        self.network = LevelNetwork()
        _check(tensors, self.network, path)
        self.network.load_state_dict(tensors)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """image: (B, 3, H, W) RGB in [0, 1], resized to 112 where it is of another size. Returns (B,) float32."""
        check_images(image, "degradation")
        with full_precision(image):
            grey = luma(image)
            if grey.shape[2:] != (SIZE, SIZE):
                grey = F.interpolate(grey, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
            return self.network(grey)


def _check(tensors: dict[str, Tensor], network: nn.Module, path: str) -> None:
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    got = {key: tuple(value.shape) for key, value in tensors.items()}
    wrong = sorted(key for key in {*wanted, *got} if wanted.get(key) != got.get(key))
    if wrong:
        listed = "; ".join(f"{key}: wanted {wanted.get(key, 'none')}, got {got.get(key, 'none')}" for key in wrong)
        raise ValueError(f"scorer 'degradation': {path} holds no weights of this network ({listed}); {WHERE_FROM}")
    if not all(torch.isfinite(value).all() for value in tensors.values()):
        raise ValueError(f"scorer 'degradation': {path} holds weights that are not finite; {WHERE_FROM}")
