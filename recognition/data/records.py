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

from recognition.data.bad_records import OPENING, BadRecord, check_limit, check_share
from recognition.data.classes import Images, drop_high_labels, refuse_equal_labels, shifts_of
from recognition.data.recordio import Header, RecordError, RecordReader, record_paths, unpack
from recognition.data.survey import BAD, KINDS, Survey, survey

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
    class_ids: int64 (num_classes,), the number of each class before hold_out.
    counts: records of each kind found: image, header, identity, empty.
    left_out: bad records in the order of files and indexes.
    RecordError naming file, key and offset for a truncated file, a corrupt record or a label that is no class number.
    Threads may share it; it may be forked or pickled. The files are mapped, never copied into memory.
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
        self._readers = [RecordReader(shard, strict=bad_record_limit is None) for shard in self.shards]
        self.counts = dict.fromkeys(KINDS[:BAD], 0)
        files = [Images.of(reader, self._survey(reader)) for reader in self._readers]
        sets = [set_of(shard.resolve()) for shard in self.shards]
        groups = sets if classes == "offset" else [None] * len(sets)
        if most_classes is not None:
            drop_high_labels(files, groups, most_classes)
        self._leave_out(files, bad_record_limit)
        if not classes:
            refuse_equal_labels(files, sets)
        shifts, num_classes = shifts_of(files, groups)
        self._keep([file.rows for file in files], [f.labels + shift for f, shift in zip(files, shifts, strict=True)])
        self.class_ids = np.arange(num_classes)
        if hold_out:
            self._filter(hold_out, held_out)
        self.num_images, self.num_classes = len(self.labels), len(self.class_ids)
        if not self.num_images:
            raise RecordError(f"{', '.join(map(str, self.shards))}: hold_out={hold_out} leaves no class")

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

    def as_bad(self, i: int, problem: str, position: int = OPENING, taken: int | None = None) -> BadRecord:
        """What to list where image i turned out to be bad at a position, and image `taken` came in its place."""
        shard, row = int(self.shard[i]), self._row[i]
        reader = self._readers[shard]
        instead = None if taken is None else (int(self.shard[taken]), int(self.key[taken]))
        return BadRecord(
            str(reader.path), shard, int(reader.keys[row]), int(reader.offsets[row]), problem, position, instead
        )

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
        for bad in self.left_out:
            digest.update(f"{bad.shard}\0{bad.key}\0".encode())
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

    def _survey(self, reader: RecordReader) -> Survey:
        found = survey(reader)
        for kind, count in enumerate(np.bincount(found.kind, minlength=BAD)[:BAD]):
            self.counts[KINDS[kind]] += int(count)
        return found

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
