"""From decoded pixels to what the network sees: augment, degrade, flip, normalise; the same for every loader."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from recognition.data import _draws, realistic
from recognition.data.augmentations.sequence import Augmentations
from recognition.data.degrade import Degradation, apply, level_of


class Finished(NamedTuple):
    """A batch ready for the network, all on one device."""

    image: Tensor  # (B, 3, H, W) float32 RGB in [-1, 1], in channels_last, which the network computes in
    level: Tensor  # (B,) float32 in [0, 1): 1 - side / 112 of the smallest side it was reduced to; 0 = not reduced
    twin: Tensor | None  # as image, flipped and coloured alike but of full resolution; None unless asked for
    flipped: Tensor  # (B,) bool: mirrored left to right (landmarks have to follow)
    changed: np.ndarray  # (R,) int64: rows that were augmented or degraded, some perhaps by blur, noise or JPEG alone


def flips(seed: int, positions: ArrayLike) -> np.ndarray:
    """(B,) bool, half of them True: a pure function of seed and global position."""
    return _draws.uniform(seed, _draws.FLIP, positions) < 0.5


def normalise(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) contiguous float32, x / 127.5 - 1."""
    fresh = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return fresh.div_(127.5).sub_(1)


def _mirrored_levels(pixels: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """x / 127.5 - 1 of (B, H, W, 3) uint8, rows mirrored where mirror, (B,) bool, says so: one pass over memory."""
    found = np.empty(pixels.shape, np.float32)
    levels = _levels()
    pairs = _pair_levels() if pixels.shape[2] % 2 == 0 else None
    for picture, turned, out in zip(pixels, mirror.tolist(), found, strict=True):
        picture = cv2.flip(picture, 1) if turned else np.ascontiguousarray(picture)
        if pairs is None:
            cv2.LUT(picture, levels, out)
        else:
            rows = len(picture)
            cv2.LUT(picture.reshape(rows, -1).view(np.uint16), pairs, out.reshape(rows, -1).view(np.float64))
    return found


@functools.cache
def _levels() -> np.ndarray:
    return (np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1)).reshape(1, 256)


@functools.cache
def _pair_levels() -> np.ndarray | None:
    """The levels of two values at a time, as one float64 each, in two thirds of the time; None before OpenCV 5."""
    values = np.arange(1 << 16, dtype=np.uint16)
    pairs = _levels()[0][values.view(np.uint8)].view(np.float64).reshape(1, -1)
    try:
        found = cv2.LUT(values.reshape(256, 256), pairs)
    except cv2.error:
        return None
    return pairs if found.tobytes() == pairs.tobytes() else None


def finish(
    images: Tensor,
    positions: ArrayLike,
    *,
    seed: int,
    flip: bool,
    degradation: Degradation | None,
    device: torch.device | str,
    fields: Sequence[str] = (),
    augmentations: Augmentations | None = None,
) -> Finished:
    """Augment, degrade, flip and normalise on `device`.

    images: (B, H, W, 3) uint8 RGB on any device. positions: (B,) global positions in the sample order, from which all
    is drawn. fields: names of optional fields of Batch; of those only "twin" costs anything here: it went through the
    augmentations that lose no resolution.
    """
    positions = np.asarray(positions)
    if len(positions) != len(images):
        raise ValueError(f"{len(images)} images with {len(positions)} positions: each image needs its own")
    clean = images.to(device, non_blocking=True)
    seen, level, changed = clean, np.zeros(len(images), np.float32), np.zeros(len(images), bool)
    if augmentations:
        done = augmentations.apply(clean, positions, seed=seed, clean="twin" in fields)
        seen, clean, changed = done.seen, done.clean, done.changed
        level = np.where(done.side < images.shape[1], level_of(done.side), 0).astype(np.float32)
    if degradation is not None:
        draw = degradation.draw(seed, positions)
        seen = realistic.apply(seen, draw) if isinstance(draw, realistic.RealisticDraw) else apply(seen, draw)
        level, changed = np.maximum(level, draw.level), changed | (draw.side > 0)
    mirror = flips(seed, positions) if flip else np.zeros(len(images), bool)
    flipped = torch.from_numpy(mirror).to(device, non_blocking=True)

    def ready(x: Tensor) -> Tensor:
        if x.device.type == "cpu":
            return torch.from_numpy(_mirrored_levels(x.numpy(), mirror)).permute(0, 3, 1, 2)
        turned = torch.where(flipped[:, None, None, None], x.flip(2), x) if flip else x
        return turned.to(torch.float32).div_(127.5).sub_(1).permute(0, 3, 1, 2)

    return Finished(
        image=ready(seen),
        level=torch.from_numpy(level).to(device, non_blocking=True),
        twin=ready(clean) if "twin" in fields else None,
        flipped=flipped,
        changed=np.flatnonzero(changed),
    )
