"""One training set from one or many record files: image records only, counts and labels from the data."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from recognition.data.recordio import Header, RecordError, RecordReader, record_paths, unpack
from recognition.data.survey import BAD, IMAGE, KINDS, NOT_FINITE, PROBLEMS, survey

_SHARD = re.compile(r"(?P<set>.+)-(?P<shard>\d{5})-of-(?P<shards>\d{5})")


def find_shards(path: str | os.PathLike) -> list[Path]:
    """The .rec files a path stands for.

    path: "x.rec"; the prefix "x" of x.rec or of x-00000-of-00004.rec ...; or a folder that holds train.rec, shards of
        `train`, or one set only.
    FileNotFoundError where there are none, ValueError where a shard is missing or a folder holds several sets.
    """
    path = Path(path)
    if path.is_dir():
        return _shards_of_folder(path)
    single = record_paths(path)[0]
    if single.is_file():
        return [single]
    shards = [file for file in sorted(path.parent.glob("*.rec")) if set_of(file) == path]
    if not shards:
        raise FileNotFoundError(
            f"there is no record file {single}, nor shards {path.name}-00000-of-NNNNN.rec beside it"
        )
    return _complete(shards)


def _shards_of_folder(folder: Path) -> list[Path]:
    sets: dict[Path, list[Path]] = {}
    for file in sorted(folder.glob("*.rec")):
        sets.setdefault(set_of(file), []).append(file)
    if not sets:
        raise FileNotFoundError(f"there is no .rec file in {folder}; tools/make_records.py makes them from pictures")
    chosen = folder / "train" if folder / "train" in sets else next(iter(sets))
    if len(sets) > 1 and chosen.name != "train":
        names = ", ".join(str(name) for name in sets)
        raise ValueError(f"{folder} holds several record sets: name one of {names}")
    return _complete(sets[chosen])


def set_of(file: Path) -> Path:
    """The prefix that the shards of one set share; the file's own where it is no shard."""
    match = _SHARD.fullmatch(file.name.removesuffix(".rec"))
    return file.with_name(match["set"] if match else file.name.removesuffix(".rec"))


def _complete(shards: list[Path]) -> list[Path]:
    """ValueError unless the shards of one set are all there."""
    matches = [_SHARD.fullmatch(file.name.removesuffix(".rec")) for file in shards]
    numbered = [match for match in matches if match]
    if len(numbered) < len(shards):
        if len(shards) == 1:
            return shards
        raise ValueError(f"both one file and numbered shards: {', '.join(map(str, shards))}; remove the older ones")
    counts = {int(match["shards"]) for match in numbered}
    there = {int(match["shard"]) for match in numbered}
    if len(counts) > 1:
        raise ValueError(f"shards of different sets are mixed: {', '.join(map(str, shards))}; remove the older ones")
    if missing := sorted(set(range(counts.pop())) - there):
        raise ValueError(f"{set_of(shards[0])}: shard {missing[0]} is missing ({len(there)} are there)")
    return shards


class Records:
    """Image records of one or many files as one set, numbered 0 .. num_images - 1 in the order of paths and indexes.

    paths: one path or several, each as find_shards takes it.
    classes: "shared": equal labels mean the same person in all files. "offset": each set's labels are shifted by the
        class counts of the sets before it; shards of one set (x-00000-of-00004.rec ...) share theirs in any case.
    hold_out: n > 0 leaves out every class divisible by n, counted after the shift; held_out=True keeps only those. What
        remains is renumbered 0 .. num_classes - 1 without gaps.
    labels: int64 (N,). shard: int64 (N,), index into `shards`. key: int64 (N,). (shard, key) is a record's identity.
    class_ids: int64 (num_classes,), the number of each class before hold_out.
    counts: records of each kind found: image, header, identity, empty.
    RecordError naming file, key and offset for a truncated file, a corrupt record or a label that is no class number.
    Threads may share it; it may be forked or pickled. The files are mapped, never copied into memory.
    """

    def __init__(
        self,
        paths: str | os.PathLike | Sequence[str | os.PathLike],
        classes: Literal["offset", "shared"] = "offset",
        hold_out: int = 0,
        held_out: bool = False,
    ) -> None:
        if classes not in ("offset", "shared"):
            raise ValueError(f"classes is {classes!r}; it must be 'offset' or 'shared'")
        if hold_out < 0 or hold_out == 1 or (held_out and not hold_out):
            raise ValueError(f"hold_out={hold_out}, held_out={held_out}: hold_out must be 0 (off) or at least 2")
        if isinstance(paths, str | os.PathLike):
            paths = [paths]
        self.shards = [shard for path in paths for shard in find_shards(path)]
        if not self.shards:
            raise ValueError("no record files: the list of paths is empty")
        if len({shard.resolve() for shard in self.shards}) < len(self.shards):
            raise ValueError(f"a record file is named twice: {', '.join(map(str, self.shards))}")
        self._readers = [RecordReader(shard) for shard in self.shards]
        self.counts = dict.fromkeys(KINDS[:BAD], 0)
        rows, labels = zip(*(self._images_of(reader) for reader in self._readers), strict=True)
        shifts, num_classes = self._shifts(labels, classes)
        self._keep(rows, [label + shift for label, shift in zip(labels, shifts, strict=True)])
        self.class_ids = np.arange(num_classes)
        if hold_out:
            self._filter(hold_out, held_out)
        self.num_images, self.num_classes = len(self.labels), len(self.class_ids)
        if not self.num_images:
            raise RecordError(f"{', '.join(map(str, self.shards))}: no image records (found {self.counts})")

    def __len__(self) -> int:
        return self.num_images

    def read(self, i: int) -> bytes:
        """Encoded image i."""
        return self._read(i)[1]

    def header(self, i: int) -> Header:
        """Header of image i, as it stands in the file: its label is neither shifted nor renumbered."""
        return self._read(i)[0]

    def where(self, i: int) -> str:
        """File, key and offset of image i, for messages."""
        reader, row = self._readers[self.shard[i]], self._row[i]
        return f"{reader.path}, key {reader.keys[row]}, offset {reader.offsets[row]}"

    def index_of(self, shard: int, key: int) -> int:
        """The number i of a record. RecordError where the key is unknown, holds no image or was left out."""
        row = self._readers[shard].row(key)
        begin, end = self._begins[shard], self._begins[shard + 1]
        i = int(begin + np.searchsorted(self._row[begin:end], row))
        if i == end or self._row[i] != row:
            raise RecordError(f"{self.shards[shard]}, key {key}: no image record, or its class is left out by hold_out")
        return i

    def fingerprint(self) -> str:
        """sha256 over the files' names, sizes and indexes and over all labels; the pixels are not read."""
        digest = hashlib.sha256()
        for reader in self._readers:
            digest.update(f"{reader.path.name}\0{reader.size}\0".encode())
            digest.update(reader.keys)
            digest.update(reader.offsets)
        digest.update(self.shard)
        digest.update(self.labels)
        return digest.hexdigest()

    @cached_property
    def empty_classes(self) -> int:
        """How many of the num_classes classes have no image."""
        return self.num_classes - len(np.unique(self.labels))

    def _read(self, i: int) -> tuple[Header, bytes]:
        reader, row = self._readers[self.shard[i]], int(self._row[i])
        try:
            return unpack(reader.read_row(row))
        except RecordError as error:
            if str(error).startswith(str(reader.path)):
                raise
            raise RecordError(f"{self.where(i)}: {error}") from error

    def _images_of(self, reader: RecordReader) -> tuple[np.ndarray, np.ndarray]:
        found = survey(reader)
        bad = np.flatnonzero(found.problem)
        if bad.size:
            row = bad[0]
            value = f" ({found.label[row]:g})" if found.problem[row] >= NOT_FINITE else ""
            more = f"; {len(bad) - 1} more bad ones" if len(bad) > 1 else ""
            raise RecordError(
                f"{reader.path}, key {reader.keys[row]}, offset {reader.offsets[row]}: bad record, "
                f"{PROBLEMS[found.problem[row]]}{value}{more}; tools/inspect_records.py lists all of them"
            )
        for kind, count in enumerate(np.bincount(found.kind, minlength=BAD)):
            self.counts[KINDS[kind]] += int(count)
        rows = np.flatnonzero(found.kind == IMAGE)
        return rows, found.label[rows].astype(np.int64)

    def _shifts(self, labels: Sequence[np.ndarray], classes: str) -> tuple[list[int], int]:
        """What to add to each shard's labels, and the number of classes altogether."""
        sizes: dict[object, int] = {}
        groups = [None if classes == "shared" else set_of(shard.resolve()) for shard in self.shards]
        for group, label in zip(groups, labels, strict=True):
            sizes[group] = max(sizes.get(group, 0), int(label.max()) + 1 if len(label) else 0)
        begins = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
        return [begins[group] for group in groups], sum(sizes.values())

    def _keep(self, rows: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> None:
        sizes = [len(part) for part in rows]
        self._begins = np.cumsum([0, *sizes])
        self._row, self.labels = np.concatenate(rows), np.concatenate(labels)
        self.shard = np.repeat(np.arange(len(sizes)), sizes)
        self.key = np.concatenate([reader.keys[part] for reader, part in zip(self._readers, rows, strict=True)])

    def _filter(self, hold_out: int, held_out: bool) -> None:
        keep = (self.labels % hold_out == 0) == held_out
        ends = self._begins[1:]
        rows, labels = (np.split(values, ends[:-1]) for values in (self._row, self.labels))
        kept = np.split(keep, ends[:-1])
        self._keep(
            [part[mask] for part, mask in zip(rows, kept, strict=True)],
            [part[mask] for part, mask in zip(labels, kept, strict=True)],
        )
        self.class_ids, self.labels = np.unique(self.labels, return_inverse=True)
