"""The index of a large record file in a form that is mapped, not read: x.idx.cache, made at the first opening.

It lies beside x.rec or, where that folder cannot be written to, in the user's cache folder (XDG_CACHE_HOME, else
~/.cache). It is believed only while it is whole (a checksum of every byte) and x.rec, x.idx and x.crc are the files
that it was made of: by size, time of change, and samples of their bytes. Otherwise the index is read anew and the cache
replaced. It may be removed at any time. Like the index itself it is trusted with where records are: whoever can write
into that folder can as well change the records.

    magic 8 bytes, u32 bytes of the header, u32 crc32 of the header, the header (JSON and blanks);
    then the arrays of ARRAYS that the header counts, little endian, each filled up to a multiple of 64 bytes
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import mmap
import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recognition.data.checksums import checksum_path
from recognition.data.record_format import RecordError, record_paths
from recognition.data.record_index import BLOCK_BITS, ImageRows, Offsets, RecordIndex, Stored
from recognition.files import replacing, write_atomically

LEAST_BYTES = 8 << 20  # of x.idx: half a million records, whose headers are read in half a second
SETTLED = 2_000_000_000  # ns: files younger than that may change again without another time of change
SAMPLES, SAMPLE = 16, 4096  # pieces of a file that are compared, and their bytes
MAGIC = b"LRFIDX1\n"
HEAD = struct.Struct("<8sII")
MOST_HEADER = 1 << 16
ANSWERS = 16  # fingerprints that are remembered
KINDS = 4  # image, header, identity, empty
ARRAYS = {
    "keys": "<i8",
    "offsets": "<i8",
    "base": "<i8",
    "low": "<u4",
    "checksums": "<u4",
    "rows": "<u4",
    "labels": "<i4",
    "bad": "<i8",
    "problem": "|u1",
    "value": "<f4",
}

Sources = dict[str, list[int] | None]  # by ending: size, time of change in ns, checksum of samples; None = no such file

_log = logging.getLogger(__name__)


class _Unusable(Exception):
    """Why a cache is not believed."""


def places(records: Path) -> list[Path]:
    """Where the cache of x.rec may lie, the first one that can be written to holding it."""
    beside = records.with_suffix(".idx.cache")
    home = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if not os.path.isabs(home):  # "~" of a user without a home, as a container may have
        return [beside]
    name = hashlib.sha256(os.fsencode(records.resolve())).hexdigest()[:32]
    return [beside, Path(home) / "lrface" / f"{name}.idx.cache"]


def sources_of(records: Path) -> Sources | None:
    """The files that a cache of x.rec depends on; None where they are too few bytes, or no index, to have one."""
    index = record_paths(records)[1]
    try:
        if index.stat().st_size < LEAST_BYTES:
            return None
        found: Sources = {"rec": _state(records), "idx": _state(index), "crc": None}
    except OSError:
        return None
    with contextlib.suppress(FileNotFoundError):
        found["crc"] = _state(checksum_path(records))
    return found


def load(records: Path, sources: Sources) -> RecordIndex | None:
    """What the cache holds, mapped; None where there is none that can be believed."""
    for place in places(records):
        try:
            return _read(records, place, sources)
        except FileNotFoundError:
            continue
        except (_Unusable, OSError, ValueError) as why:  # ValueError: of mmap, for an empty file
            _log.info("%s is made anew: %s", place, why)
    return None


def store(index: RecordIndex, sources: Sources) -> RecordIndex:
    """Write the cache, and return it mapped; where it can be written nowhere, the index itself, as small as can be."""
    index = index.small()
    if sources_of(index.path) != sources or not _settled(sources):
        _log.info("%s changed a moment ago: its index is not cached", index.path)
        return index
    for place in places(index.path):
        try:
            with replacing(place) as beside, open(beside, "wb") as file:
                file.writelines(_pieces(index, sources))
            return _read(index.path, place, sources)
        except (_Unusable, OSError, ValueError) as why:
            _log.info("%s cannot be written: %s", place, why)
    _log.warning(
        "%s: its index can be cached neither beside it nor in the cache folder: every opening reads all headers",
        index.path,
    )
    return index


@contextlib.contextmanager
def one_at_a_time(records: Path, sources: Sources) -> Iterator[None]:
    """Inside, the index is looked for again and then read: by one process of a machine, while the others wait.

    All processes of a run open a set at the same moment, and reading an index takes gigabytes. The lock is one of
    x.idx: it leaves no file, and ends with its process. Those that waited go on together, whether there is a cache now
    or not. Nobody waits where the index will not be cached, or the file system has no such locks.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            if _settled(sources):
                file = held.enter_context(open(record_paths(records)[1], "rb"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    _log.info("%s is being read by another process: waiting for its cache", file.name)
                    fcntl.flock(file, fcntl.LOCK_SH)
        yield


def reopen(records: Path, place: Path, stamp: str) -> RecordIndex:
    """The cache that another process mapped. RecordError where it is gone or was replaced by another one."""
    try:
        index = _read(records, place, None)
    except (_Unusable, OSError, ValueError) as why:
        raise RecordError(f"{place} was there when {records} was opened, and is not now ({why}): open it anew") from why
    if index.stored.stamp != stamp:
        raise RecordError(f"{records} changed since it was opened: open it anew")
    return index


def recall(cache: Path, asked: str) -> str:
    """What was remembered beside a cache under this name; empty where nothing was."""
    with contextlib.suppress(OSError):
        for line in _remembered(cache).read_bytes()[:MOST_HEADER].splitlines():
            if len(parts := line.split(b" ")) == 3 and parts[0] == asked.encode() and _check(*parts[:2]) == parts[2]:
                return parts[1].decode()
    return ""


def remember(cache: Path, asked: str, answer: str) -> None:
    """Keep an answer, both in hexadecimal digits, for recall; beside it the latest ANSWERS - 1 others."""
    line = [asked.encode(), answer.encode()]
    try:
        others = _remembered(cache).read_bytes().splitlines()[-ANSWERS + 1 :]
    except OSError:
        others = []
    with contextlib.suppress(OSError):  # it is computed again then
        write_atomically(_remembered(cache), b"\n".join([*others, b" ".join([*line, _check(*line)])]) + b"\n")


def _remembered(cache: Path) -> Path:
    return Path(f"{cache}.fingerprints")


def _check(asked: bytes, answer: bytes) -> bytes:
    return b"%08x" % zlib.crc32(asked + answer)


def _state(path: Path) -> list[int]:
    with open(path, "rb") as file:
        state, checksum = os.fstat(file.fileno()), 0
        for at in np.linspace(0, max(state.st_size - SAMPLE, 0), SAMPLES).astype(np.int64).tolist():
            checksum = zlib.crc32(os.pread(file.fileno(), SAMPLE, at), checksum)
    return [state.st_size, state.st_mtime_ns, checksum]


def _settled(sources: Sources) -> bool:
    return all(abs(time.time_ns() - state[1]) > SETTLED for state in sources.values() if state is not None)


def _pieces(index: RecordIndex, sources: Sources) -> list[bytes | memoryview]:
    images = index.images
    packed = isinstance(index.offsets, Offsets)
    arrays = {
        "keys": index.keys,
        "offsets": None if packed else index.offsets,
        "base": index.offsets.base if packed else None,
        "low": index.offsets.low if packed else None,
        "checksums": index.checksums,
        "rows": images.rows,
        "labels": images.labels,
        "bad": images.bad,
        "problem": images.problem,
        "value": images.value,
    }
    counts, body, checksum = {}, [], 0
    for name, dtype in ARRAYS.items():
        values = arrays[name]
        if isinstance(values, range):
            counts[name] = [values.start, values.stop]
        elif values is not None:
            counts[name] = len(values)
            content = memoryview(np.ascontiguousarray(values, dtype)).cast("B") if len(values) else b""
            for piece in (content, bytes(-len(content) % 64)):
                checksum = zlib.crc32(piece, checksum)
                body.append(piece)
    header = {"sources": sources, "arrays": counts, "counts": images.counts[:KINDS], "crc32": checksum}
    text = json.dumps(header).encode()
    text += b" " * (-(HEAD.size + len(text)) % 64)
    return [HEAD.pack(MAGIC, len(text), zlib.crc32(text)), text, *body]


def _read(records: Path, place: Path, sources: Sources | None) -> RecordIndex:
    with open(place, "rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    text, begin = _header(content)
    try:
        header = json.loads(text)
        if sources is not None and header["sources"] != sources:
            raise _Unusable("the records or their index are other files now")
        with memoryview(content) as view:
            if zlib.crc32(view[begin:]) != header["crc32"]:
                raise _Unusable("its bytes are not those that were written")
        index = _index(records, _arrays(content, begin, header["arrays"]), header["counts"])
    except (KeyError, TypeError, AttributeError) as error:
        raise _Unusable(f"its header is none ({error!r})") from None
    content.madvise(mmap.MADV_DONTNEED)  # the checksum touched all pages: they stay in the system's cache only
    index.stored = Stored(place, hashlib.sha256(text).hexdigest())
    return index


def _arrays(content: mmap.mmap, at: int, counts: dict[str, int | list[int]]) -> dict[str, np.ndarray | range]:
    found: dict[str, np.ndarray | range] = {}
    for name, dtype in ARRAYS.items():
        match counts.get(name):
            case None:
                continue
            case [int(start), int(stop)]:
                found[name] = range(start, stop)
            case int(count) if 0 <= count <= len(content):
                found[name] = values = np.frombuffer(content, dtype, count, at) if count else np.empty(0, dtype)
                at += values.nbytes + -values.nbytes % 64
            case other:
                raise _Unusable(f"its header counts {other!r} of {name}")
    if at != len(content):
        raise _Unusable(f"it has {len(content)} bytes, its header tells of {at}")
    return found


def _header(content: mmap.mmap) -> tuple[bytes, int]:
    """The header, and where the arrays begin."""
    if len(content) < HEAD.size:
        raise _Unusable(f"it has {len(content)} bytes")
    magic, length, checksum = HEAD.unpack_from(content)
    text = content[HEAD.size : HEAD.size + min(length, MOST_HEADER)]
    if magic != MAGIC or zlib.crc32(text) != checksum:
        raise _Unusable("its header is damaged, or of another version")
    return text, HEAD.size + len(text)


def _index(records: Path, arrays: dict[str, np.ndarray | range], counts: list[int]) -> RecordIndex:
    """Its parts put together, whose sizes and ranges agree: what is wrong here was never written by _pieces."""
    keys, rows, labels, bad = arrays["keys"], arrays["rows"], arrays["labels"], arrays["bad"]
    packed = "base" in arrays
    offsets = Offsets(arrays["base"], arrays["low"]) if packed else arrays["offsets"]
    checksums, least = arrays.get("checksums"), offsets.base if packed else offsets
    sound = (
        len(keys) == len(offsets)
        and (not packed or len(offsets.base) == -(-len(offsets) >> BLOCK_BITS))
        and (checksums is None or len(checksums) == len(keys))
        and least.min(initial=0) >= 0
        and len(rows) == len(labels)
        and labels.min(initial=0) >= 0
        and _within(rows, len(keys))
        and _within(bad, len(keys))
        and len(bad) == len(arrays["problem"]) == len(arrays["value"])
        and len(counts) == KINDS
    )
    if not sound:
        raise _Unusable("its parts do not belong together")
    images = ImageRows(rows, labels, bad, arrays["problem"], arrays["value"], tuple(counts))
    return RecordIndex(records, keys, offsets, checksums, images)


def _within(rows: np.ndarray | range, count: int) -> bool:
    if isinstance(rows, range):
        return 0 <= rows.start <= rows.stop <= count
    return not len(rows) or bool(rows.min() >= 0 and rows.max() < count)
