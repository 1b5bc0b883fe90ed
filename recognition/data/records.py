"""One training set from one or many record files: image records only, counts and labels from the data."""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal

import numpy as np

from recognition.data.bad_records import OPENING, BadRecord, check_limit, check_share
from recognition.data.classes import Images, drop_high_labels, refuse_equal_labels, shifts_of, used
from recognition.data.index_cache import recall, remember
from recognition.data.opened import open_records
from recognition.data.record_index import as_array, chunks, take
from recognition.data.recordio import Header, RecordError, unpack
from recognition.data.shards import find_shards, set_of
from recognition.data.survey import BAD, KINDS


class Records:
    """Image records of one or many files as one set, numbered 0 .. num_images - 1 in the order of paths and indexes.

    paths: one path or several, each as find_shards takes it. Shards of one set (x-00000-of-00004.rec ...) share their
        classes in any case.
    classes: whether equal labels mean the same person in several sets. "shared": they do. "offset": they do not, and
        each set's labels are shifted by the class counts of the sets before it. "": as "shared", but equal labels in
        two sets are an error.
    hold_out: n > 0 leaves out every class divisible by n, counted after the shift; held_out=True keeps only those. What
        remains is renumbered 0 .. num_classes - 1 without gaps.
    most_classes: labels at or above it make a record bad. 0: as many as there are images of the set (of all, where
        their classes are shared), which no set without empty classes exceeds. None: any label.
    bad_record_limit: None: a bad record is an error. Otherwise bad records are left out, and more than this share of
        all images is an error. Faults of whole files are errors in any case: an index that cannot be read, a missing
        shard, a file without an image.
    labels: int64 (N,). shard: int64 (N,), index into `shards`. key: int64 (N,). (shard, key) is a record's identity.
        Each is made when it is first asked for, and takes 8 bytes a record; labels_of and identities do without.
    class_ids: int64 (num_classes,), the number of each class before hold_out.
    counts: records of each kind found: image, header, identity, empty.
    left_out: bad records in the order of files and indexes.
    RecordError naming file, key and offset for a truncated file, a corrupt record or a label that is no class number.
    Threads may share it; it may be forked or pickled. The files are mapped, never copied into memory; so is, from the
    second opening on, what a large index says (recognition/data/index_cache.py).
    """

    def __init__(
        self,
        paths: str | os.PathLike | Sequence[str | os.PathLike],
        classes: Literal["", "offset", "shared"] = "",
        hold_out: int = 0,
        held_out: bool = False,
        *,
        most_classes: int | None = None,
        bad_record_limit: float | None = None,
    ) -> None:
        if classes not in ("", "offset", "shared"):
            raise ValueError(f"classes is {classes!r}; it must be 'offset', 'shared' or empty")
        if hold_out < 0 or hold_out == 1 or (held_out and not hold_out):
            raise ValueError(f"hold_out={hold_out}, held_out={held_out}: hold_out must be 0 (off) or at least 2")
        if bad_record_limit is not None:
            check_limit(bad_record_limit)
        if isinstance(paths, str | os.PathLike):
            paths = [paths]
        self.shards = [shard for path in paths for shard in find_shards(path)]
        if not self.shards:
            raise ValueError("no record files: the list of paths is empty")
        if len({shard.resolve() for shard in self.shards}) < len(self.shards):
            raise ValueError(f"a record file is named twice: {', '.join(map(str, self.shards))}")
        self._readers = [open_records(shard, strict=bad_record_limit is None) for shard in self.shards]
        found = zip(*(reader.index.images.counts for reader in self._readers), strict=True)
        self.counts = dict(zip(KINDS[:BAD], map(sum, found), strict=True))
        files = [Images.of(reader) for reader in self._readers]
        sets = [set_of(shard.resolve()) for shard in self.shards]
        groups = sets if classes == "offset" else [None] * len(sets)
        if most_classes is not None:
            drop_high_labels(files, groups, most_classes)
        self._leave_out(files, bad_record_limit)
        if not classes:
            refuse_equal_labels(files, sets)
        self._shifts, num_classes = shifts_of(files, groups)
        self._asked = [classes, hold_out, held_out, most_classes, bad_record_limit is None, self._shifts]
        self.class_ids = np.arange(num_classes)
        if hold_out:
            self._hold_out(files, hold_out, held_out)
        self._keep(files)
        self.num_classes = len(self.class_ids)
        if not self.num_images:
            raise RecordError(f"{', '.join(map(str, self.shards))}: hold_out={hold_out} leaves no class")

    def __len__(self) -> int:
        return self.num_images

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in ("labels", "shard", "key")}

    def close(self) -> None:
        """Give the maps of the files back; a later read opens them again."""
        for reader in self._readers:
            reader.close()

    def read(self, i: int) -> bytes:
        """Encoded image i."""
        return self._read(i)[1]

    def header(self, i: int) -> Header:
        """Header of image i, as it stands in the file: its label is neither shifted nor renumbered."""
        return self._read(i)[0]

    def where(self, i: int) -> str:
        """File, key and offset of image i, for messages."""
        shard, row = self._place(i)
        key, offset = self._readers[shard].place(row)
        return f"{self._readers[shard].path}, key {key}, offset {offset}"

    def as_bad(self, i: int, problem: str, position: int = OPENING, taken: int | None = None) -> BadRecord:
        """What to list where image i turned out to be bad at a position, and image `taken` came in its place."""
        shard, row = self._place(i)
        reader = self._readers[shard]
        instead = None if taken is None else tuple(self.identities(np.array([taken]))[0].tolist())
        return BadRecord(str(reader.path), shard, *reader.place(row), problem, position, instead)

    def index_of(self, shard: int, key: int) -> int:
        """The number i of a record. RecordError where the key is unknown, holds no image or was left out."""
        row, rows = self._readers[shard].row(key), self._rows[shard]
        # a Python int would have all uint32 rows copied
        at = row - rows.start if isinstance(rows, range) else int(np.searchsorted(rows, rows.dtype.type(row)))
        if not 0 <= at < len(rows) or rows[at] != row:
            raise RecordError(f"{self.shards[shard]}, key {key}: no image record, or its class is left out by hold_out")
        return self._begins[shard] + at

    def labels_of(self, indices: np.ndarray) -> np.ndarray:
        """Labels of images by number: int64, (n,) as the numbers."""
        found = np.empty(len(indices), np.int64)
        for shard, here, inside in self._by_shard(indices):
            found[here] = self._labels[shard][inside]
            found[here] += self._shifts[shard]
        return found

    def identities(self, indices: np.ndarray) -> np.ndarray:
        """Shard and key of images by number: int64 (n, 2)."""
        found = np.empty((len(indices), 2), np.int64)
        for shard, here, inside in self._by_shard(indices):
            found[here, 0] = shard
            found[here, 1] = take(self._readers[shard].index.keys, take(self._rows[shard], inside))
        return found

    @cached_property
    def labels(self) -> np.ndarray:
        labels = np.empty(self.num_images, np.int64)
        for begin, part, added in zip(self._begins, self._labels, self._shifts, strict=False):
            np.add(part, added, out=labels[begin : begin + len(part)])
        return labels

    @cached_property
    def shard(self) -> np.ndarray:
        return np.repeat(np.arange(len(self._rows)), [len(rows) for rows in self._rows])

    @cached_property
    def key(self) -> np.ndarray:
        keys = (take(reader.index.keys, as_array(rows)) for reader, rows in zip(self._readers, self._rows, strict=True))
        return np.concatenate(list(keys))

    def fingerprint(self) -> str:
        """sha256 over the files' names, sizes and indexes and over all labels; the pixels are not read.

        Remembered beside the first file's cache, where all files have one: 40 million records take more than a second.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        stored = [reader.index.stored for reader in self._readers]
        if None in stored:
            return self._digest()
        names = [[reader.path.name, its.stamp] for reader, its in zip(self._readers, stored, strict=True)]
        asked = hashlib.sha256(json.dumps([names, self._asked]).encode()).hexdigest()
        if not (found := recall(stored[0].path, asked)):
            found = self._digest()
            remember(stored[0].path, asked, found)
        return found

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for reader in self._readers:
            digest.update(f"{reader.path.name}\0{reader.size}\0".encode())
            reader.index.update(digest)
        for shard, rows in enumerate(self._rows):
            for chunk in chunks(range(len(rows))):
                digest.update(np.full(len(chunk), shard))
        for labels, added in zip(self._labels, self._shifts, strict=True):
            for chunk in chunks(labels):
                digest.update(chunk + np.int64(added))
        for bad in self.left_out:
            digest.update(f"{bad.shard}\0{bad.key}\0".encode())
        return digest.hexdigest()

    @cached_property
    def empty_classes(self) -> int:
        """How many of the num_classes classes have no image."""
        there = np.zeros(self.num_classes, bool)
        for labels, added in zip(self._labels, self._shifts, strict=True):
            seen = used([labels])
            there[added : added + len(seen)] |= seen
        return self.num_classes - int(there.sum())

    def _place(self, i: int) -> tuple[int, int]:
        """Shard and row of image i."""
        if not 0 <= i < self.num_images:
            raise IndexError(f"image {i} of {self.num_images}")
        shard = bisect.bisect_right(self._begins, i) - 1
        return shard, int(self._rows[shard][i - self._begins[shard]])

    def _by_shard(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray | slice, np.ndarray]]:
        """Of images by number: each shard, where in `indices` those of it are, and their numbers within it."""
        indices = np.asarray(indices)
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.num_images:
            raise IndexError(f"images {indices.min()} .. {indices.max()} of {self.num_images}")
        if len(self._rows) == 1:
            yield 0, slice(None), indices
            return
        shards = np.searchsorted(self._begins, indices, side="right") - 1
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            yield shard, here, indices[here] - self._begins[shard]

    def _read(self, i: int) -> tuple[Header, bytes]:
        shard, row = self._place(i)
        reader = self._readers[shard]
        try:
            return unpack(reader.read_row(row))
        except RecordError as error:
            if str(error).startswith(str(reader.path)):
                raise
            raise RecordError(f"{self.where(i)}: {error}") from error

    def _leave_out(self, files: Sequence[Images], limit: float | None) -> None:
        """Set left_out. RecordError for a bad record where limit is None, ValueError where too many are bad."""
        bad, images = sum(len(file.bad) for file in files), sum(len(file.rows) for file in files)
        found = (record for shard, file in enumerate(files) for record in file.bad_records(shard))
        if bad and limit is None:
            first = next(found)
            more = f"; {bad - 1} more bad ones" if bad > 1 else ""
            raise RecordError(
                f"{first.file}, key {first.key}, offset {first.offset}: bad record, {first.problem}{more}; "
                "tools/inspect_records.py lists all of them"
            )
        if bad:
            check_share(bad, images + bad, limit, "`python tools/inspect_records.py PATH`", next(found))
        self.left_out = [record for shard, file in enumerate(files) for record in file.bad_records(shard)]
        self.counts["image"] = images
        for file in files:
            if not len(file.rows):
                raise RecordError(
                    f"{file.reader.path}: no image records ({len(file.reader)} records, {len(file.bad)} of them bad); "
                    "copy the file again, or make the set anew with fewer shards"
                )

    def _keep(self, files: Sequence[Images]) -> None:
        self._rows, self._labels = [file.rows for file in files], [file.labels for file in files]
        self._begins = np.cumsum([0, *map(len, self._rows)]).tolist()
        self.num_images = self._begins[-1]

    def _hold_out(self, files: Sequence[Images], hold_out: int, held_out: bool) -> None:
        for file, shift in zip(files, self._shifts, strict=True):
            file.choose(((file.labels + shift) % hold_out == 0) == held_out)
            file.labels += shift
        there = used(file.labels for file in files)
        self.class_ids = np.flatnonzero(there)
        number = (np.cumsum(there) - 1).astype(np.int32)
        for file in files:
            file.labels = number[file.labels]
        self._shifts = [0] * len(files)
