"""Verification pairs: InsightFace .bin files, read as data only, and pairs of records by key."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recognition.data.bin_format import unpack_bin
from recognition.data.landmarks import read_landmarks
from recognition.data.lazy import LazyImages
from recognition.data.records import Records
from recognition.pickled import PickleError, RefusedName


class PairFileError(ValueError):
    """A file of pairs that cannot be used: damaged, of another form, or asking to run something."""


@dataclass(frozen=True)
class PairSet:
    """Pairs of face images, genuine and impostor. Each image is held once, however many pairs it is in."""

    name: str
    images: Sequence[bytes]  # encoded
    first: np.ndarray  # (P,) int64, positions in images; the gallery side where the two sides differ
    second: np.ndarray  # (P,) int64; the probe side
    same: np.ndarray  # (P,) bool: one person
    fold: np.ndarray | None = None  # (P,) int64; None where the file knows none

    def __post_init__(self) -> None:
        sizes = {len(a) for a in (self.first, self.second, self.same, self.fold) if a is not None}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                f"pair set '{self.name}': first, second, same and fold must be of one length > 0, got {sorted(sizes)}"
            )
        positions = np.concatenate([self.first, self.second])
        if positions.min() < 0 or positions.max() >= len(self.images):
            raise ValueError(f"pair set '{self.name}' speaks of images outside 0 .. {len(self.images) - 1}")

    def __len__(self) -> int:
        return len(self.same)


class RecordImages(LazyImages):
    """Encoded images of some records, read when asked for. Several record sets follow one another."""

    def __init__(self, *parts: tuple[Records, np.ndarray]) -> None:
        """parts: a record set and the (n,) int64 numbers of its records."""
        self._records = [records for records, _ in parts]
        self._part = np.repeat(np.arange(len(parts)), [len(indices) for _, indices in parts])
        self._index = np.concatenate([np.asarray(indices, np.int64) for _, indices in parts])

    def __len__(self) -> int:
        return len(self._index)

    def image(self, i: int) -> bytes:
        """Image i, encoded."""
        return self._records[self._part[i]].read(int(self._index[i]))

    def labels(self) -> np.ndarray:
        """(N,) int64 class of every image; ValueError where images come from several record sets, with own classes."""
        if len(self._records) > 1:
            raise ValueError("classes of several record sets are not comparable")
        return self._records[0].labels[self._index]

    def landmarks(self) -> np.ndarray:
        """(N, 5, 2) float32 pixels, of every image. FileNotFoundError where a shard has none, and as read_landmarks."""
        of_part = [read_landmarks(records) for records in self._records]
        found = [of_part[part][index] for part, index in zip(self._part, self._index, strict=True)]
        return np.stack(found)

    def where(self, i: int) -> str:
        """File and key of image i, for messages."""
        return self._records[self._part[i]].where(int(self._index[i]))


def read_bin(path: str | Path) -> PairSet:
    """An InsightFace verification .bin: a pickle of (2P encoded images, P booleans); entries bytes or uint8 arrays.

    Nothing in the file is run: the few names that such files use stand for inert data holders, any other name is an
    error. FileNotFoundError for no file; PairFileError for a damaged one, one of another form, and one that asks for
    a name outside the list. The file knows no folds: verification cuts it in ten.
    """
    path = Path(path)
    data = path.read_bytes()
    try:
        entries, same = unpack_bin(data)
    except RefusedName as refused:
        raise PairFileError(
            f"{path} was refused: as a pickle it wants to run {refused}, which no set of face pairs needs; "
            "never open it with pickle.load, and get the file again from where you trust it"
        ) from None
    except PickleError as error:
        raise PairFileError(
            f"{path} ({len(data)} bytes) is truncated, damaged or no verification .bin: {error}; copy it again"
        ) from None
    except ValueError as error:
        raise PairFileError(f"{path}: {error}") from None
    if len(entries) != 2 * len(same) or not same:
        raise PairFileError(f"{path} holds {len(entries)} images for {len(same)} pairs; two for each are wanted")
    position: dict[bytes, int] = {}
    row_of = {id(image): position.setdefault(image, len(position)) for image in {id(e): e for e in entries}.values()}
    rows = np.array([row_of[id(image)] for image in entries], np.int64)  # one look at each, however often it is named
    return PairSet(path.stem, list(position), rows[0::2], rows[1::2], np.array(same, bool))


def write_bin(path: str | Path, pairs: PairSet) -> None:
    """Write the pairs as an InsightFace verification .bin, readable by its tools and by read_bin.

    The format has no folds: readers cut the pairs in ten blocks, so an order in which such a block holds one class only
    (all genuine pairs first) is of no use to them.
    """
    images = [bytes(pairs.images[i]) for i in range(len(pairs.images))]
    rows = np.stack([pairs.first, pairs.second], 1).ravel()
    with open(path, "wb") as file:
        pickle.dump(([images[i] for i in rows], [bool(s) for s in pairs.same]), file, protocol=4)


def read_pairs(records: Records, csv_path: str | Path) -> PairSet:
    """Pairs of records by key, from a table with the columns key_1, key_2, same (0 or 1) and, where known, fold.

    Records of several shards also need shard_1 and shard_2. Images are read when they are asked for.
    FileNotFoundError for no table; PairFileError, with the table's line, for a key that the records do not hold.
    """
    path = Path(csv_path)
    with open(path, newline="") as file:
        table = csv.DictReader(file)
        columns = table.fieldnames or []
        missing = [c for c in ("key_1", "key_2", "same") if c not in columns]
        if missing:
            raise PairFileError(f"{path} has no column {', '.join(missing)}; it has {', '.join(columns) or 'none'}")
        rows = [_read_row(row, records, f"{path}, line {table.line_num}") for row in table]
    if not rows:
        raise PairFileError(f"{path} holds no pairs")
    first, second, same = (np.array([row[k] for row in rows]) for k in range(3))
    fold = np.array([row[3] for row in rows], np.int64) if "fold" in columns else None
    indices, positions = np.unique(np.concatenate([first, second]), return_inverse=True)
    return PairSet(
        path.stem, RecordImages((records, indices)), positions[: len(rows)], positions[len(rows) :], same == 1, fold
    )


def draw_pairs(records: Records, count: int, seed: int = 0, *, folds: int = 10) -> PairSet:
    """Pairs drawn from records by a seed: half of them genuine, each fold with people of its own, no pair twice.

    count: pairs in all, a multiple of 2 * folds.
    ValueError where the records hold too few people or images for so many pairs.
    """
    if count < 1 or count % (2 * folds):
        raise ValueError(f"{count} pairs cannot be shared among {folds} folds of two halves: take a multiple")
    generator = np.random.default_rng(seed)
    people = generator.permutation(np.unique(records.labels))
    order = np.argsort(records.labels, kind="stable")
    begin, end = (np.searchsorted(records.labels[order], people, side) for side in ("left", "right"))
    first, second, same, fold = [], [], [], []
    for f in range(folds):
        images = [order[b:e] for b, e in zip(begin[f::folds], end[f::folds], strict=True)]
        for genuine in (True, False):
            drawn = _draw(images, genuine, count // (2 * folds), generator)
            first += [a for a, _ in drawn]
            second += [b for _, b in drawn]
            same += [genuine] * len(drawn)
            fold += [f] * len(drawn)
    indices, positions = np.unique(np.array(first + second, np.int64), return_inverse=True)
    half = len(first)
    return PairSet(
        "drawn",
        RecordImages((records, indices)),
        positions[:half],
        positions[half:],
        np.array(same),
        np.array(fold, np.int64),
    )


def _draw(images: list[np.ndarray], genuine: bool, count: int, generator: np.random.Generator) -> list[tuple[int, int]]:
    usable = [own for own in images if len(own) > 1] if genuine else [own for own in images if len(own)]
    drawn: dict[tuple[int, int], None] = {}
    for _ in range(100 * count):
        if len(drawn) == count or len(usable) < (1 if genuine else 2):
            break
        if genuine:
            pair = generator.choice(usable[generator.integers(len(usable))], 2, replace=False)
        else:
            pair = [generator.choice(usable[p]) for p in generator.choice(len(usable), 2, replace=False)]
        a, b = (int(i) for i in pair)
        if (b, a) not in drawn:
            drawn[a, b] = None
    if len(drawn) < count:
        kind = "genuine" if genuine else "impostor"
        raise ValueError(
            f"a fold of {len(images)} people gives {len(drawn)} {kind} pairs, {count} are wanted: ask for fewer pairs"
        )
    return list(drawn)


def _read_row(row: dict[str, str], records: Records, place: str) -> tuple[int, int, int, int]:
    try:
        first, second = (
            _find(records, int(row.get(f"shard_{side}") or 0), int(row[f"key_{side}"]), place) for side in (1, 2)
        )
        same, fold = int(row["same"]), int(row.get("fold") or 0)
    except PairFileError:
        raise
    except (TypeError, ValueError):
        raise PairFileError(f"{place}: {row} does not hold whole numbers") from None
    if same not in (0, 1):
        raise PairFileError(f"{place}: same is {same}; it must be 0 or 1")
    return first, second, same, fold


def _find(records: Records, shard: int, key: int, place: str) -> int:
    if not 0 <= shard < len(records.shards):
        raise PairFileError(f"{place}: shard {shard} is asked for, the records have {len(records.shards)}")
    try:
        return records.index_of(shard, key)
    except (KeyError, ValueError) as error:
        raise PairFileError(f"{place}: the records hold no image of key {key} in shard {shard}: {error}") from None
