"""RecordIO files (.rec with its .idx), byte for byte as MXNet reads and writes them; bytes: record_format."""

from __future__ import annotations

import mmap
import os
import zlib
from array import array
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np

from recognition.data.checksums import checksum_line, checksum_path, read_checksums
from recognition.data.record_format import (
    HEADER,
    HEADER_BYTES,
    LENGTH_BITS,
    LENGTH_MASK,
    MAGIC,
    MAGIC_BYTES,
    PART,
    Header,
    RecordError,
    pack,
    parse_index,
    parts,
    record_paths,
    split,
    unpack,
    whole,
)
from recognition.data.record_index import RecordIndex, as_array

__all__ = ["Header", "RecordError", "RecordReader", "RecordWriter", "pack", "record_paths", "unpack"]


class RecordReader:
    """A .rec file, memory-mapped, with the index beside it and, where there are any, checksums (x.crc).

    path: "x.rec" or the prefix "x". Without x.idx the file is scanned once, nothing is written, and `index_rebuilt` is
        True; keys are then the ids of the image headers where these are all there and all different (what the known
        writers use as keys), else the running number.
    strict: refuse an index that points outside the file; else such records are refused when they are read.
    index: what is known of the file already (recognition/data/opened.py), then x.idx is not read.
    keys, offsets: int64 (N,), in the order of the index; made of a compact index when they are first asked for.
    checksums: uint32 (N,), None where there is no x.crc. With them, what read() returns is what was written, at
        1.6 us for 4.4 KiB (decoding takes 125).
    Threads may share a reader; a process opens the map for itself at its first read, after a fork or an unpickling.
    RecordError where the index is malformed or does not belong to the file; records are checked as they are read.
    """

    def __init__(self, path: str | os.PathLike, strict: bool = True, index: RecordIndex | None = None) -> None:
        self.path, self.index_path = record_paths(path)
        self.checksum_path = checksum_path(self.path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no record file {self.path}")
        self.size = self.path.stat().st_size
        self._map: mmap.mmap | bytes = b""
        self._process = -1
        self.index_rebuilt = index is None and not self.index_path.is_file()
        if index is None:
            index = RecordIndex(self.path, *(self._scan() if self.index_rebuilt else parse_index(self.index_path)))
            self.index = index
            if strict:
                self._check_index()
            if (twice := np.flatnonzero(np.diff(self._sorted) == 0)).size:
                raise RecordError(f"{self.index_path}: key {self._sorted[twice[0]]} stands in the index more than once")
            if self.checksum_path.is_file():
                index.checksums = read_checksums(self.checksum_path, self.keys)
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def keys(self) -> np.ndarray:
        return as_array(self.index.keys)

    @cached_property
    def offsets(self) -> np.ndarray:
        return as_array(self.index.offsets)

    @property
    def checksums(self) -> np.ndarray | None:
        return self.index.checksums

    def __contains__(self, key: int) -> bool:
        return self._find(key) is not None

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, object]:
        derived = ("keys", "offsets", "_order", "_sorted")
        kept = {name: value for name, value in self.__dict__.items() if name not in derived}
        return kept | {"_map": b"", "_process": -1}

    def close(self) -> None:
        """Give the map back; a later read opens it again."""
        self._map, self._process = b"", -1  # unmapped with the last view of it

    def row(self, key: int) -> int:
        """Where `key` stands in `keys`. RecordError for a key that is not there."""
        row = self._find(key)
        if row is None:
            known = (
                f"it has {len(self)} keys from {self._sorted[0]} to {self._sorted[-1]}" if len(self) else "it is empty"
            )
            raise RecordError(f"{self.path} has no record with key {key}: {known}")
        return row

    def read(self, key: int) -> bytes:
        """One record, its parts joined; see unpack for image records. RecordError where it is truncated or corrupt."""
        return self.read_row(self.row(key))

    def read_row(self, row: int, check: bool = True) -> bytes:
        """The record of keys[row]. check: hold it against its checksum, where there is one."""
        data, at = self._data(), int(self.index.offsets[row])
        try:
            begin, end = whole(data, at, self.size) or (0, 0)
            if begin:
                record = data[begin:end]
            else:
                record = MAGIC_BYTES.join(data[begin:end] for begin, end in parts(data, at, self.size)[0])
        except RecordError as error:
            raise RecordError(f"{self.path}, key {self.index.keys[row]}, {error}") from None
        if check and self.checksums is not None and zlib.crc32(record) != self.checksums[row]:
            key, offset = self.place(row)
            raise RecordError(
                f"{self.path}, key {key}, offset {offset}: its {len(record)} bytes are not those that were written: "
                f"their checksum is {zlib.crc32(record):08x}, {self.checksum_path.name} says {self.checksums[row]:08x}"
            )
        return record

    def place(self, row: int) -> tuple[int, int]:
        """Key and offset of a row of the index."""
        return int(self.index.keys[row]), int(self.index.offsets[row])

    def outside(self, offsets: np.ndarray) -> np.ndarray:
        """True for offsets where no record of this file can begin: bool, same shape."""
        return (offsets % 4 != 0) | (offsets + 8 > self.size)

    def words(self) -> np.ndarray:
        """The file as uint32 (size // 4,), mapped, not copied."""
        return np.frombuffer(self._data(), dtype="<u4", count=self.size // 4)

    def _data(self) -> mmap.mmap | bytes:
        if self._process != os.getpid():
            if self.size:  # an empty file cannot be mapped
                with open(self.path, "rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                if len(self._map) < self.size:
                    raise RecordError(f"{self.path} had {self.size} bytes when it was opened, now {len(self._map)}")
            self._process = os.getpid()
        return self._map

    @cached_property
    def _order(self) -> np.ndarray | None:
        ascending = isinstance(self.index.keys, range) or bool((np.diff(self.keys) > 0).all())
        return None if ascending else np.argsort(self.keys, kind="stable")

    @cached_property
    def _sorted(self) -> np.ndarray:
        return self.keys if self._order is None else self.keys[self._order]

    def _find(self, key: int) -> int | None:
        if isinstance(self.index.keys, range):
            return key - self.index.keys.start if key in self.index.keys else None
        at = int(np.searchsorted(self._sorted, key))
        if at == len(self._sorted) or self._sorted[at] != key:
            return None
        return at if self._order is None else int(self._order[at])

    def _scan(self) -> tuple[np.ndarray, np.ndarray]:
        data, at = self._data(), 0
        offsets, ids, with_header = array("q"), array("Q"), True
        while at < self.size:
            offsets.append(at)
            try:
                spans, following = parts(data, at, self.size)
            except RecordError as error:
                count = len(offsets) - 1
                raise RecordError(f"{self.path}, after {count} whole records, {error}") from None
            record = spans[0][0]
            with_header = with_header and spans[0][1] - record >= HEADER_BYTES
            if with_header:
                ids.append(HEADER.unpack_from(data, record)[2])
            at = following
        keys = np.array(ids, dtype=np.uint64)
        if not with_header or len(np.unique(keys)) < len(keys) or (keys >= 10**18).any():
            keys = np.arange(len(offsets))
        return keys.astype(np.int64), np.array(offsets, dtype=np.int64)

    def _check_index(self) -> None:
        wrong = self.outside(self.offsets)
        if wrong.any():
            row = int(wrong.argmax())
            raise RecordError(
                f"{self.index_path}, key {self.keys[row]}: offset {self.offsets[row]} does not lie in {self.path.name} "
                f"({self.size} bytes) or is no multiple of 4: truncated, or the index of another file"
            )


class RecordWriter:
    """Writes x.rec and x.idx, the same bytes as MXNet's MXIndexedRecordIO; with checksum=True x.crc as well.

    path: the prefix "x" or "x.rec"; folders are made. The files appear when the writer is closed; until then they are
    x.rec.partial and so on, which an exception inside `with` removes.
    resume_at: what checkpoint() returned: go on behind that point in the partial files that suspend() or a kill left.
    """

    def __init__(
        self, path: str | os.PathLike, resume_at: tuple[int, ...] | None = None, checksum: bool = False
    ) -> None:
        self.path, self.index_path = record_paths(path)
        self.checksum_path = checksum_path(self.path)
        self._final = [self.path, self.index_path, *([self.checksum_path] if checksum else [])]
        self._partial = [Path(f"{final}.partial") for final in self._final]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._last_key, self._keys, self._unsorted_keys = -1, array("q"), None
        if resume_at is not None:
            self._take_up(resume_at)
        mode = "wb" if resume_at is None else "ab"
        self._files = [open(partial, mode) for partial in self._partial]  # noqa: SIM115 - closed by suspend()
        self._records, self._index = self._files[:2]
        self._at = self._records.tell()

    def __len__(self) -> int:
        return len(self._keys)

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def write(self, key: int, payload: bytes) -> None:
        """Append one record. ValueError for a key that is negative or there already, or 2**29 bytes and more."""
        if len(payload) > LENGTH_MASK:
            raise ValueError(f"{self.path}, key {key}: {len(payload)} bytes; a record holds at most {LENGTH_MASK}")
        self._claim(key)
        offset = self._at
        pieces = []
        for kind, part in split(payload):
            pieces += PART.pack(MAGIC, kind << LENGTH_BITS | len(part)), part, bytes(-len(part) % 4)
        record = b"".join(pieces)
        self._records.write(record)
        self._at += len(record)
        self._index.write(b"%d\t%d\n" % (key, offset))
        if len(self._files) > 2:
            self._files[2].write(checksum_line(key, zlib.crc32(payload)))

    def checkpoint(self) -> tuple[int, ...]:
        """Bring what was written to the disk. Returns the sizes of the files in bytes, for resume_at."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        return tuple(file.tell() for file in self._files)

    def suspend(self) -> None:
        """Close the partial files and leave them for resume_at."""
        for file in self._files:
            file.close()

    def close(self) -> None:
        """Give the files their names. Earlier ones go first: what belongs to another file never stands beside this."""
        if self._records.closed:
            return
        try:
            self.checkpoint()
            self.suspend()
            self.index_path.unlink(missing_ok=True)
            self.checksum_path.unlink(missing_ok=True)
            for partial, final in zip(self._partial, self._final, strict=True):
                os.replace(partial, final)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove what was written so far."""
        self.suspend()
        for partial in self._partial:
            partial.unlink(missing_ok=True)

    def _claim(self, key: int) -> None:
        if not 0 <= key < 10**18:
            raise ValueError(f"{self.path}: key {key} must lie between 0 and 10**18 - 1")
        if self._unsorted_keys is None and key <= self._last_key:
            self._unsorted_keys = set(self._keys)
        if self._unsorted_keys is not None:
            if key in self._unsorted_keys:
                raise ValueError(f"{self.path}: key {key} was written already")
            self._unsorted_keys.add(key)
        self._keys.append(key)
        self._last_key = key

    def _take_up(self, sizes: tuple[int, ...]) -> None:
        for partial, size in zip(self._partial, sizes, strict=True):
            there = partial.stat().st_size if partial.is_file() else 0
            if there < size:
                raise RecordError(f"{partial} has {there} bytes, {size} were written: begin again instead of resuming")
            if partial.is_file():
                os.truncate(partial, size)
        if sizes[1]:
            for key in parse_index(self._partial[1])[0].tolist():
                self._claim(key)
