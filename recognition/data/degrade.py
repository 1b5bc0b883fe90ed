"""Low resolution as a camera makes it: area down-sampling, blur, noise, JPEG, and bicubic up-sampling back.

One mechanism serves training and evaluation, on any device and batched. An image's result is the same alone and in any
batch, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from recognition.data import _draws
from recognition.data._jpeg import jpeg
from recognition.data._resample import SNAP, area_table, canvas_rows, cubic_table, gaussian, on_device, resample, whole
from recognition.data.chosen import Choice
from recognition.types import IMAGE_SIZE


@dataclass(frozen=True)
class Draw:
    """What happens to each image of a batch. All arrays have shape (B,) and live on the CPU."""

    side: np.ndarray  # int64, pixels of the low-resolution image; 0 = the image stays untouched
    sigma: np.ndarray  # float64, standard deviation of the blur in pixels of the low-resolution image; 0 = none
    noise: np.ndarray  # float64, standard deviation of the noise in grey levels; 0 = none
    quality: np.ndarray  # int64, JPEG quality 1 .. 100; 0 = no JPEG
    noise_seed: np.ndarray  # uint64, key of the noise's generator

    def __len__(self) -> int:
        return len(self.side)

    @property
    def level(self) -> np.ndarray:
        """(B,) float32 in [0, 1): 1 - side / 112; 0 = not degraded."""
        return np.where(self.side > 0, level_of(self.side), 0).astype(np.float32)


def level_of(side: int | np.ndarray) -> float | np.ndarray:
    """1 - side / 112, in [0, 1): what a batch's `level` says of images of this side in pixels."""
    return 1 - side / IMAGE_SIZE


@dataclass(frozen=True)
class Degradation:
    """Which images are degraded, and how much.

    share: of the images that are degraded, in [0, 1].
    sides: smallest and largest side of the low-resolution image in pixels, both included.
    blur: largest sigma of a Gaussian before down-sampling, in pixels of the low-resolution image; drawn from [0, blur].
    noise: largest sigma of Gaussian noise on the low-resolution image, in grey levels; drawn from [0, noise].
    jpeg: lowest and highest JPEG quality of the low-resolution image, 1 .. 100 (4:2:0, as cameras do); None = no JPEG.
    spread: "log": every factor of resolution is as likely as the next one (7 to 14 px as often as 14 to 28); "uniform":
        every side is equally likely, so that most images lose little.
    choose: Choice's rule, by which the share is chosen. global_batch, epoch_size: of the sample order, for it.
    """

    share: float = 0.6
    sides: tuple[int, int] = (7, 56)
    blur: float = 0.0
    noise: float = 0.0
    jpeg: tuple[int, int] | None = None
    spread: Literal["log", "uniform"] = "log"
    choose: Literal["independent", "half_batch", "legacy_epoch_head"] = "independent"
    global_batch: int = 0
    epoch_size: int = 0

    def __post_init__(self) -> None:
        def must(holds: bool, name: str, wanted: str) -> None:
            if not holds:
                raise ValueError(f"degradation: {name}={getattr(self, name)!r} must be {wanted}")

        must(0 <= self.share <= 1, "share", "in [0, 1]")
        must(_whole_pair(self.sides, 1, IMAGE_SIZE), "sides", f"(smallest, largest), whole pixels in 1 .. {IMAGE_SIZE}")
        must(0 <= self.blur < float("inf"), "blur", "a sigma in low-resolution pixels, 0 or more")
        must(0 <= self.noise < float("inf"), "noise", "a sigma in grey levels, 0 or more")
        must(
            self.jpeg is None or _whole_pair(self.jpeg, 1, 100),
            "jpeg",
            "None or (lowest, highest) quality, whole numbers within 1 .. 100",
        )
        must(self.spread in ("log", "uniform"), "spread", "'log' or 'uniform'")
        Choice(self.share, self.choose, self.global_batch, self.epoch_size)

    @property
    def choice(self) -> Choice:
        """Which images are degraded."""
        return Choice(self.share, self.choose, self.global_batch, self.epoch_size)

    def draw(self, seed: int, positions: ArrayLike) -> Draw:
        """What happens to the images at these global positions: a pure function of seed and position, one by one."""
        positions = np.asarray(positions)
        side, sigma, noise, quality = (
            _draws.uniform(seed, stream, positions) for stream in (_draws.SIDE, _draws.BLUR, _draws.NOISE, _draws.JPEG)
        )
        low, high = self.sides
        if self.spread == "log":
            side = np.floor(low * ((high + 1) / low) ** side)
        else:
            side = low + np.floor(side * (high + 1 - low))
        worst, best = self.jpeg or (0, 0)
        chosen = self.choice.rows(seed, positions)
        return Draw(
            side=np.where(chosen, np.minimum(side, high), 0).astype(np.int64),
            sigma=np.where(chosen, sigma * self.blur, 0.0),
            noise=np.where(chosen, noise * self.noise, 0.0),
            quality=np.where(chosen, worst + np.floor(quality * (best + 1 - worst)), 0).astype(np.int64),
            noise_seed=_draws.hashed(seed, _draws.NOISE_FIELD, positions),
        )


def _whole_pair(pair: object, low: int, high: int) -> bool:
    """Whether it is two whole numbers in ascending order within low .. high."""
    whole = isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(one, int | np.integer) for one in pair)
    return whole and low <= pair[0] <= pair[1] <= high


def low_res(images: Tensor, side: int) -> Tensor:
    """The evaluation protocol: side x side by area, and back by bicubic interpolation; both rounded to grey levels.

    images: (B, H, H, 3) uint8. Returns the same shape, uint8, within one grey level of OpenCV's INTER_AREA and then
    INTER_CUBIC. side = H changes nothing. ValueError where side is not in 1 .. H.
    """
    if side < 1:
        raise ValueError(f"low resolution of side {side}: it must be 1 .. {images.shape[1]} pixels")
    nothing = np.zeros(len(images))
    return apply(
        images,
        Draw(
            side=np.full(len(images), side, np.int64),
            sigma=nothing,
            noise=nothing,
            quality=nothing.astype(np.int64),
            noise_seed=nothing.astype(np.uint64),
        ),
    )


def apply(images: Tensor, draw: Draw) -> Tensor:
    """Degrade a batch on the device it lies on. Untouched images come back bit for bit; the input is not written to.

    images: (B, H, H, 3) uint8. Returns the same shape, uint8. An image's result depends on its own row of the draw
    only, not on the batch around it. ValueError for another shape or dtype, or a side larger than H.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
        raise ValueError(
            f"degradation takes square images (B, H, H, 3) of uint8, got {tuple(images.shape)} of {images.dtype}"
        )
    if len(draw) != len(images):
        raise ValueError(f"degradation of {len(images)} images with a draw for {len(draw)}")
    size = images.shape[1]
    if len(draw) and draw.side.max() > size:
        raise ValueError(
            f"a low resolution of {draw.side.max()} px is above the images' {size} px: lower the degradation's sides"
        )
    rows = np.flatnonzero(draw.side)
    if not len(rows):
        return images
    degraded = _degrade(images if len(rows) == len(images) else images[on_device(rows, images.device)], draw, rows)
    if len(rows) == len(images):
        return degraded
    return images.index_copy(0, on_device(rows, images.device), degraded)


def _degrade(images: Tensor, draw: Draw, rows: np.ndarray) -> Tensor:
    """images: those of `rows` of the draw, all to be degraded."""
    size, device = images.shape[1], images.device
    side, quality = draw.side[rows], draw.quality[rows]
    # JPEG works on pairs of 8 x 8 blocks; images of all sides share a canvas, edges repeated up to its border
    canvas = -(-int(side.max()) // 16) * 16 if quality.any() else int(side.max())
    index = on_device(side, device)
    down = area_table(size, device)[:, canvas_rows(canvas, size)][index]  # (B, canvas, size)
    if draw.sigma[rows].any():
        down = down @ gaussian(draw.sigma[rows] * size / side, size, device)
    picture = resample(down, images.double())
    # OpenCV sends what is half way up where the side halves exactly, to the even level elsewhere
    picture = whole(picture + on_device(np.where(2 * side == size, 1 / SNAP, 0.0), device)[:, None, None, None])
    if draw.noise[rows].any():
        picture = whole(picture + on_device(_noise(draw, rows, canvas), device))
    if quality.any():
        coded = jpeg(picture, side, quality)
        picture = torch.where(on_device(quality > 0, device)[:, None, None, None], coded, picture)
    width = min(canvas, size)  # columns beyond an image's side have no weight
    up = cubic_table(size, device)[:, :, :width][index]  # (B, size, width)
    return whole(resample(up, picture[:, :width, :width])).to(torch.uint8)


def _noise(draw: Draw, rows: np.ndarray, canvas: int) -> np.ndarray:
    """(B, canvas, canvas, 3) float64; each image's normals have its own side, so that the canvas changes none."""
    field = np.zeros((len(rows), canvas, canvas, 3))
    for i, row in enumerate(rows):
        if draw.noise[row]:
            side = int(draw.side[row])
            generator = np.random.Generator(np.random.Philox(key=draw.noise_seed[row]))
            normals = draw.noise[row] * generator.standard_normal((side, side, 3))
            field[i] = np.pad(normals, ((0, canvas - side), (0, canvas - side), (0, 0)), mode="edge")
    return field
