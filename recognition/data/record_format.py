"""The RecordIO format: parts, image headers and index lines, as bytes.

A record is one part, or several where the payload holds the magic word at a multiple of four bytes:

    part    magic 0xced7230a, u32 little endian
            kind << 29 | length, u32; kind 0 = whole, 1 = first, 2 = middle, 3 = last
            length bytes, filled up with zeros to a multiple of 4

The magic words between the parts of one record are left out of the file. The index holds a line `key TAB offset` for
each record. An image record's payload begins with a header: u32 flag, f32 label, u64 id, u64 id2; flag > 0 counts the
float32 labels which then follow it.
"""

from __future__ import annotations

import mmap
import numbers
import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
WHOLE, FIRST, MIDDLE, LAST = range(4)
LENGTH_BITS = 29
LENGTH_MASK = (1 << LENGTH_BITS) - 1
HEADER_BYTES = 24

PART = struct.Struct("<II")
HEADER = struct.Struct("<IfQQ")
_TEXT = 1 << 26  # bytes of an index that are parsed at once: 64 MiB take 1 GiB
_INDEX_LINE = re.compile(rb"[0-9]{1,18}\t[0-9]{1,18}")  # 18 digits always fit into int64


class RecordError(ValueError):
    """A record file or its index is truncated or corrupt; the message names file, key and offset."""


class Header(NamedTuple):
    """What stands before an image. label: a float, or float32 (flag,) where flag > 0. id, id2: 0 .. 2**64 - 1."""

    flag: int = 0
    label: float | Sequence[float] | np.ndarray = 0.0
    id: int = 0
    id2: int = 0


def pack(header: Header, payload: bytes) -> bytes:
    """Header and encoded image as one record. The flag is set from the label: 0 for a number, else its length.

    ValueError where label or ids do not fit their fields.
    """
    label = header.label
    vector = b""
    flag = 0
    if not isinstance(label, numbers.Number):
        values = np.asarray(label, dtype="<f4").reshape(-1)
        vector, flag, label = values.tobytes(), values.size, 0.0
    try:
        return HEADER.pack(flag, label, header.id, header.id2) + vector + payload
    except (struct.error, OverflowError) as error:
        raise ValueError(
            f"label {header.label!r} must be a float32, id {header.id!r} and id2 {header.id2!r} whole numbers "
            f"from 0 to 2**64 - 1: {error}"
        ) from error


def unpack(record: bytes) -> tuple[Header, bytes]:
    """The header and the encoded image of a record. RecordError where the record is too short for its header."""
    if len(record) < HEADER_BYTES:
        raise RecordError(f"a record of {len(record)} bytes has no image header, which takes {HEADER_BYTES}")
    flag, label, identifier, second = HEADER.unpack_from(record)
    if flag == 0:
        return Header(0, label, identifier, second), record[HEADER_BYTES:]
    begin = HEADER_BYTES + 4 * flag
    if len(record) < begin:
        raise RecordError(f"a record of {len(record)} bytes cannot hold the {flag} labels that its header announces")
    values = np.frombuffer(record, dtype="<f4", count=flag, offset=HEADER_BYTES)
    return Header(flag, values, identifier, second), record[begin:]


def record_paths(path: str | os.PathLike) -> tuple[Path, Path]:
    """The .rec and the .idx that a path stands for: "x.rec" itself or the prefix "x"."""
    name = os.fspath(path).removesuffix(".rec")
    return Path(name + ".rec"), Path(name + ".idx")


def parse_index(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Keys and offsets, both int64 (N,), of an index file. RecordError naming the first malformed line."""
    wanted, tables = "`key TAB offset`", []
    try:
        with open(path, "rb") as file:
            while text := file.read(_TEXT):
                text += file.readline()
                tables.append(parse_table(plain_lines(text) if len(text) < _TEXT else text, path, wanted))
    except RecordError:  # in a piece of it that is counted from its own first line, or that ends in empty lines
        tables = [parse_table(plain_lines(path.read_bytes()), path, wanted)]
    keys, offsets = (np.concatenate([table[:, column] for table in tables] or [[]]) for column in (0, 1))
    return keys.astype(np.int64, copy=False), offsets.astype(np.int64, copy=False)


def plain_lines(text: bytes) -> bytes:
    """The lines of a text, each ended by a single newline, nothing after the last one."""
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    text = text.rstrip()
    return text + b"\n" if text else b""


def parse_table(text: bytes, path: Path, wanted: str) -> np.ndarray:
    """Lines of two whole numbers with a TAB between, int64 (N, 2). RecordError naming the first malformed line.

    path, wanted: what the message says is at fault, and what its lines should be.
    """
    if not text:
        return np.empty((0, 2), np.int64)
    characters = np.frombuffer(text, dtype=np.uint8)
    others = np.flatnonzero((characters - ord("0")) > 9)  # uint8 wraps round: whatever is no digit
    widths = np.diff(others, prepend=-1) - 1
    separators = characters[others]
    sound = (
        len(others) % 2 == 0
        and (separators[0::2] == ord("\t")).all()
        and (separators[1::2] == ord("\n")).all()
        and widths.min() > 0
        and widths.max() <= 18
    )
    if not sound:
        lines = text.split(b"\n")
        number = next(n for n, line in enumerate(lines) if not _INDEX_LINE.fullmatch(line))
        raise RecordError(f"{path}, line {number + 1}: found {lines[number][:60]!r}, wanted {wanted}")
    return np.fromstring(text, dtype=np.int64, sep=" ").reshape(-1, 2)  # this form of fromstring is not deprecated


def split(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """The parts of a payload as (kind, bytes), cut at the magic words that stand at a multiple of four bytes."""
    begin, at = 0, payload.find(MAGIC_BYTES)
    while at >= 0:
        if at % 4:
            at = payload.find(MAGIC_BYTES, at + 1)
            continue
        yield (MIDDLE if begin else FIRST), payload[begin:at]
        begin = at + 4
        at = payload.find(MAGIC_BYTES, begin)
    yield (LAST if begin else WHOLE), payload[begin:]


def whole(data: bytes | mmap.mmap, offset: int, size: int) -> tuple[int, int] | None:
    """Begin and end of the bytes of a sound record of one part, as nearly all are; None for what `parts` must tell."""
    if not 0 <= offset <= size - PART.size:
        return None
    magic, length = PART.unpack_from(data, offset)
    end = offset + PART.size + length
    return (offset + PART.size, end) if magic == MAGIC and length <= LENGTH_MASK and end + -end % 4 <= size else None


def parts(data: bytes | mmap.mmap, offset: int, size: int) -> tuple[list[tuple[int, int]], int]:
    """The record at `offset` of a file of `size` bytes: (begin, end) of each part's bytes, and where the next begins.

    RecordError, its message beginning with the offset, where the record is truncated or corrupt.
    """
    spans: list[tuple[int, int]] = []
    at = offset
    while True:
        if at + 8 > size:
            raise RecordError(f"offset {at}: the file ends at {size}, within a record: it is truncated")
        magic, word = PART.unpack_from(data, at)
        if magic != MAGIC:
            raise RecordError(f"offset {at}: found 0x{magic:08x} where the magic word 0x{MAGIC:08x} must stand")
        kind, length = word >> LENGTH_BITS, word & LENGTH_MASK
        if kind not in ((MIDDLE, LAST) if spans else (WHOLE, FIRST)):
            raise RecordError(
                f"offset {at}: found a part of kind {kind} {'within' if spans else 'at the beginning of'} a record"
            )
        if length % 4 and kind in (FIRST, MIDDLE):
            raise RecordError(f"offset {at}: a part of {length} bytes goes on; it must be a multiple of 4")
        end = at + 8 + length
        following = end + -end % 4
        if following > size:
            raise RecordError(f"offset {at}: {length} bytes must follow, but the file ends at {size}: it is truncated")
        spans.append((at + 8, end))
        at = following
        if kind in (WHOLE, LAST):
            return spans, at
