"""What opening a record file finds, small enough in memory for sets of many millions: where records are, which are
images, and their labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

BLOCK_BITS = 16  # rows that share a base offset: 65,536 records may take 16 GiB
CHUNK = 1 << 18  # rows that are made int64 at once


class Digest(Protocol):
    """What hashlib's objects can."""

    def update(self, data: np.ndarray) -> None: ...


@dataclass(slots=True)
class Offsets:
    """Offsets of records at 4 bytes each: base[row >> BLOCK_BITS] + 4 * low[row]."""

    base: np.ndarray  # int64
    low: np.ndarray  # uint32 (N,)

    @classmethod
    def of(cls, offsets: np.ndarray) -> Offsets | None:
        """None where they cannot be told so: no multiples of 4, or a block that reaches over 16 GiB."""
        if not len(offsets):
            return None
        begins = np.arange(0, len(offsets), 1 << BLOCK_BITS)
        base = np.minimum.reduceat(offsets, begins)
        low = np.empty(len(offsets), np.uint32)
        for begin, least in zip(begins.tolist(), base, strict=True):
            beyond = offsets[begin : begin + (1 << BLOCK_BITS)] - least
            if (beyond & 3).any() or beyond.max() >= 1 << 34:
                return None
            low[begin : begin + len(beyond)] = beyond >> 2
        return cls(base, low)

    def __len__(self) -> int:
        return len(self.low)

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray | np.int64:
        numbers = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        return self.base[numbers >> BLOCK_BITS] + 4 * self.low[rows].astype(np.int64)


@dataclass(slots=True)
class ImageRows:
    """The rows of an index that are images, and the bad ones."""

    rows: np.ndarray | range  # ascending
    labels: np.ndarray  # (N,), as they stand in the file
    bad: np.ndarray  # int64 (M,)
    problem: np.ndarray  # uint8 (M,): index into survey.PROBLEMS
    value: np.ndarray  # float32 (M,): labels
    counts: tuple[int, ...]  # of the rows of each of survey.KINDS, bad ones apart


@dataclass(slots=True)
class Stored:
    """Where a RecordIndex lies in a file that is mapped (index_cache)."""

    path: Path
    stamp: str  # sha256 of its header


@dataclass(slots=True)
class RecordIndex:
    """Keys and offsets in the order of the index, checksums where there are some, and the images once surveyed.

    Where it is `stored`, its arrays are a file's pages, and it is pickled by that file's name.
    """

    path: Path  # the .rec
    keys: np.ndarray | range
    offsets: np.ndarray | Offsets
    checksums: np.ndarray | None = None  # uint32
    images: ImageRows | None = None
    stored: Stored | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.keys)

    def __reduce__(self) -> tuple:
        if self.stored is None:
            return RecordIndex, (self.path, self.keys, self.offsets, self.checksums, self.images)
        from recognition.data.index_cache import reopen  # it imports this module

        return reopen, (self.path, self.stored.path, self.stored.stamp)

    def small(self) -> RecordIndex:
        """The same in as little memory as it can be told exactly."""
        images = self.images
        if images is not None:
            images = ImageRows(
                _as_range(images.rows, np.uint32),
                images.labels.astype(np.int32, copy=False),
                images.bad,
                images.problem,
                images.value,
                images.counts,
            )
        offsets = self.offsets if isinstance(self.offsets, Offsets) else Offsets.of(self.offsets)
        return RecordIndex(
            self.path,
            _as_range(self.keys, np.int64),
            self.offsets if offsets is None else offsets,
            self.checksums,
            images,
        )

    def update(self, digest: Digest) -> None:
        """Let a digest depend on all keys and then on all offsets, as int64."""
        for values in (self.keys, self.offsets):
            for chunk in chunks(values):
                digest.update(chunk)


def as_array(values: np.ndarray | range | Offsets) -> np.ndarray:
    """All of them, int64 (N,); what is an array of int64 already is not copied."""
    if isinstance(values, range):
        return np.arange(values.start, values.stop)
    return np.asarray(values[:], np.int64)


def take(values: np.ndarray | range, numbers: np.ndarray) -> np.ndarray:
    """values[numbers], int64."""
    if isinstance(values, range):
        assert not len(numbers) or (numbers.min() >= 0 and numbers.max() < len(values))
        return numbers + np.int64(values.start)
    return values[numbers].astype(np.int64)


def chunks(values: np.ndarray | range | Offsets) -> Iterator[np.ndarray]:
    """All of them in order, contiguous int64, CHUNK at once."""
    for begin in range(0, len(values), CHUNK):
        yield np.ascontiguousarray(as_array(values[begin : begin + CHUNK]))


def _as_range(values: np.ndarray | range, dtype: type[np.generic]) -> np.ndarray | range:
    if isinstance(values, range):
        return values
    first = int(values[0]) if len(values) else 0
    counted = range(first, first + len(values))
    if all(map(np.array_equal, chunks(values), chunks(counted))):
        return counted
    return values if values.max(initial=0) > np.iinfo(dtype).max else values.astype(dtype, copy=False)
