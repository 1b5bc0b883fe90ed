"""A recipe's augmentations one after the other, drawn by (seed, position, place in the list)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from recognition.data import _draws
from recognition.data._resample import on_device
from recognition.data.augmentations import AUGMENTATIONS, PRESETS
from recognition.registry import nearest

Uniform = Callable[[int], np.ndarray]  # the draw's number, from 0 -> (B,) float64 in [0, 1), one for each image
_WHETHER = 2**32  # no augmentation's own number: whether it is done at all


class Augmentation(Protocol):
    """One augmentation. Pictures are square, and what happens to one depends on its own draws only."""

    probability: float
    loses_resolution: bool  # True: the clean twins are spared

    def draw(self, uniform: Uniform, size: int) -> dict[str, np.ndarray]:
        """What happens to pictures of side `size`, arrays (B, ...) by name.

        "side", int64 (B,), tells of a loss of resolution to that side in pixels.
        """

    def apply(self, images: Tensor, drawn: Mapping[str, np.ndarray]) -> Tensor:
        """images: (B, H, H, 3) uint8 -> the same shape and dtype."""


class Augmented(NamedTuple):
    """A batch after its augmentations."""

    seen: Tensor  # (B, H, H, 3) uint8: what goes on
    clean: Tensor  # the same without those that lose resolution
    changed: np.ndarray  # (B,) bool: at least one was done to it
    side: np.ndarray  # (B,) int64: the smallest side in pixels that one reduced it to; H = none did


class Augmentations:
    """A list of augmentations, applied in order.

    chosen: dicts of name and arguments; a name alone stands for {"name": name}. The presets of PRESETS stand for their
        list and take no arguments. Draws depend on the place in the list, presets spelled out: what is added behind
        leaves those before as they were. ValueError for an unknown name, and for arguments that do not fit.
    """

    def __init__(self, chosen: Sequence[str | Mapping[str, object]]) -> None:
        self.members: list[Augmentation] = [_make(name, arguments) for name, arguments in _spelled_out(chosen)]

    def __len__(self) -> int:
        return len(self.members)

    @property
    def untouched(self) -> float:
        """Share of the images that none of them changes, in [0, 1]."""
        return math.prod(1 - member.probability for member in self.members)

    def apply(self, images: Tensor, positions: ArrayLike, *, seed: int, clean: bool = True) -> Augmented:
        """images: (B, H, H, 3) uint8 at the global positions (B,), not written to.

        clean: False saves the time that the clean pictures take; they are the images as they came then.
        """
        positions, size = np.asarray(positions), images.shape[1]
        changed, side = np.zeros(len(images), bool), np.full(len(images), size)
        seen = twin = images
        for place, member in enumerate(self.members):
            key = int(_draws.hashed(seed, _draws.AUGMENT, place))
            rows = np.flatnonzero(_draws.uniform(key, _WHETHER, positions) < member.probability)
            if not len(rows):
                continue
            drawn = member.draw(partial(_drawn, key, positions[rows]), size)
            here = on_device(rows, images.device)
            alike = twin is seen
            seen = seen.index_copy(0, here, member.apply(seen[here], drawn))
            if clean and not member.loses_resolution:
                twin = seen if alike else twin.index_copy(0, here, member.apply(twin[here], drawn))
            changed[rows] = True
            if "side" in drawn:
                side[rows] = np.minimum(side[rows], drawn["side"])
        return Augmented(seen, twin, changed, side)


def _drawn(key: int, positions: np.ndarray, number: int) -> np.ndarray:
    return _draws.uniform(key, number, positions)


def _spelled_out(chosen: Sequence[str | Mapping[str, object]]) -> list[tuple[str, dict[str, object]]]:
    found: list[tuple[str, dict[str, object]]] = []
    for given in chosen:
        section = {"name": given} if isinstance(given, str) else given
        if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
            raise ValueError(f"config.data.augment: {given!r} has no name; write a dict of name and arguments")
        name, arguments = section["name"], {key: value for key, value in section.items() if key != "name"}
        if name not in PRESETS:
            found.append((name, arguments))
        elif arguments:
            raise ValueError(
                f"config.data.augment: '{name}' stands for {', '.join(PRESETS[name])} as published and takes no "
                f"arguments, got {', '.join(arguments)}; write these with theirs instead"
            )
        else:
            found += [(member, {}) for member in PRESETS[name]]
    return found


def _make(name: str, arguments: dict[str, object]) -> Augmentation:
    known = [*AUGMENTATIONS.names(), *PRESETS]
    if name not in known:
        raise ValueError(f"config.data.augment: unknown augmentation '{name}'{nearest(name, known)}")
    try:
        return AUGMENTATIONS.create(name, **arguments)
    except ValueError as error:
        raise ValueError(f"config.data.augment: {error}") from None


def in_range(low: float, high: float, u: np.ndarray) -> np.ndarray:
    """Uniform draws in [0, 1) spread over low .. high."""
    return low + u * (high - low)


def per_image(values: np.ndarray, device: torch.device) -> Tensor:
    """(B,) -> (B, 1, 1, 1) on the device."""
    return on_device(values, device)[:, None, None, None]
