"""The pictures by which an int8 file finds the range of every activation: drawn over people, at several resolutions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recognition.data.augment import normalise
from recognition.data.decode import decode
from recognition.data.degrade import low_res
from recognition.data.records import Records
from recognition.types import IMAGE_SIZE

BATCH = 8
FEWEST = 16  # pictures, below which ranges would be those of single faces


@dataclass(frozen=True)
class Calibration:
    """images: (N, 3, 112, 112) float32 RGB in [-1, 1]. fingerprint: of their pixels. sides: pixels, in turn."""

    images: np.ndarray
    fingerprint: str
    sides: tuple[int, ...]

    def reader(self) -> _Reader:
        """What onnxruntime's quantiser asks for pictures."""
        return _Reader(self.images)


def draw(records: str | Path | Sequence[str], count: int, sides: Sequence[int], seed: int = 0) -> Calibration:
    """`count` pictures of as many people as there are, each brought to one of `sides` and back, in turn.

    sides: pixels; 112 leaves a picture as it is. The same records, count, sides and seed give the same pictures.
    ValueError for too few pictures, or records that hold fewer than are wanted.
    """
    found = Records(records, classes="offset")
    if count < FEWEST:
        raise ValueError(f"--images {count}: ranges of activations want {FEWEST} pictures at least")
    if len(found) < count:
        raise ValueError(f"--images {count}: {records} holds {len(found)}; ask for as many at most")
    chosen = _over_people(found.labels, count, seed)
    pixels = np.stack([decode(found.read(i), IMAGE_SIZE, found.where(i)) for i in chosen.tolist()])
    return of_pixels(torch.from_numpy(pixels), sides)


def of_pixels(images: Tensor, sides: Sequence[int]) -> Calibration:
    """images: (N, 112, 112, 3) uint8 RGB, each of which is brought to one of `sides` and back, in turn."""
    whole = images.clone()
    for place, side in enumerate(sides):
        if side != IMAGE_SIZE:
            whole[place :: len(sides)] = low_res(whole[place :: len(sides)], side)
    fingerprint = hashlib.sha256(whole.numpy()).hexdigest()
    return Calibration(normalise(whole).numpy(), fingerprint, tuple(sides))


def sides_of(config: Mapping) -> tuple[int, ...]:
    """Pixels at which a run's faces are seen: whole, as it degrades them in training, and as it is evaluated."""
    found = {IMAGE_SIZE}
    degradation, evaluation = config.get("degradation", {}), config.get("evaluation", {})
    if degradation.get("share"):
        low, high = degradation["sides"][0], degradation["sides"][-1]
        found |= {int(low), int(high), round((low * high) ** 0.5)}
    for entry in evaluation.get("low_res", ()):
        found |= {int(side) for side in (entry if isinstance(entry, list | tuple) else (entry,))}
    return tuple(sorted(found, reverse=True))


def _over_people(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A picture of everyone, in a drawn order, before a second one of anybody."""
    order = np.random.default_rng(seed).permutation(len(labels))
    by_person = order[np.argsort(labels[order], kind="stable")]
    people = labels[by_person]
    begin = np.flatnonzero(np.append(True, people[1:] != people[:-1]))
    turn = np.arange(len(people)) - np.repeat(begin, np.diff(np.append(begin, len(people))))
    place = np.empty(len(labels), np.int64)
    place[order] = np.arange(len(labels))
    return by_person[np.lexsort((place[by_person], turn))][:count]


class _Reader:
    """onnxruntime's CalibrationDataReader, which is looked at by its methods alone."""

    def __init__(self, images: np.ndarray) -> None:
        self._batches = [images[begin : begin + BATCH] for begin in range(0, len(images), BATCH)]
        self._range = range(len(self._batches))
        self._at = 0

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """The batches that get_next gives from now on."""
        self._range, self._at = range(start_index, end_index), 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch by input name, None after the last."""
        if self._at >= len(self._range):
            return None
        self._at += 1
        return {"input": self._batches[self._range[self._at - 1]]}
