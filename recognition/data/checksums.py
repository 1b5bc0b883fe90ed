"""Checksums beside a record file: x.crc, a line `key TAB crc32` (8 hexadecimal digits) for each record.

The crc32 (zlib's) is of the record's payload as a reader returns it: image header, labels and encoded image. One
changed bit of it never goes unnoticed; without checksums, 97 of 100 flipped bits of a JPEG still decode as a picture.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from recognition.data.record_format import RecordError, parse_table, plain_lines
from recognition.files import replacing

DIGITS = 8
LINE = DIGITS + 3  # bytes of the shortest line: a digit, TAB, checksum, newline
WANTED = "`key TAB crc32 in hexadecimal`"
_VALUES = np.full(256, 255, np.uint8)  # of the characters that are hexadecimal digits
for _value, _character in enumerate("0123456789abcdef"):
    _VALUES[ord(_character)] = _value
_PLACES = 1 << np.arange(4 * (DIGITS - 1), -1, -4, dtype=np.uint32)
_CHUNK = 1 << 18  # lines whose digits are gathered at once: 40 MB


def checksum_path(records: Path) -> Path:
    """The x.crc that belongs to x.rec."""
    return records.with_suffix(".crc")


def checksum_line(key: int, checksum: int) -> bytes:
    """One line of the file."""
    return b"%d\t%08x\n" % (key, checksum)


def write_checksums(path: Path, pairs: Iterable[tuple[int, int]]) -> None:
    """Write (key, crc32) pairs; the file appears when all of them are on the disk."""
    with replacing(path) as beside, open(beside, "wb") as file:
        file.writelines(checksum_line(key, checksum) for key, checksum in pairs)


def read_checksums(path: Path, keys: np.ndarray) -> np.ndarray:
    """The checksum of each of these keys, uint32 (N,); the file may name more keys.

    RecordError for a malformed line, a key that stands there twice, and a key that does not stand there.
    """
    there, checksums = _parse(path)
    order = np.argsort(there, kind="stable")
    ordered = there[order]
    if (twice := np.flatnonzero(np.diff(ordered) == 0)).size:
        raise RecordError(f"{path}: key {ordered[twice[0]]} stands in it more than once")
    at = np.searchsorted(ordered, keys)
    known = at < len(ordered)
    known[known] = ordered[at[known]] == keys[known]
    if not known.all():
        raise RecordError(
            f"{path} has no checksum for key {keys[known.argmin()]} ({len(there)} lines for {len(keys)} records): it "
            "is truncated or another file's; get it again, or remove it to go on without checksums"
        )
    return checksums[order[at]]


def _parse(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Keys, int64 (N,), and checksums, uint32 (N,)."""
    text = plain_lines(path.read_bytes())
    characters = np.frombuffer(text, np.uint8).copy()
    ends = np.flatnonzero(characters == ord("\n"))
    if np.diff(ends, prepend=-1).min(initial=LINE) < LINE:
        raise RecordError(f"{path}: a line of it is shorter than {WANTED}; it is damaged")
    checksums = np.empty(len(ends), np.uint32)
    for begin in range(0, len(ends), _CHUNK):
        digits = ends[begin : begin + _CHUNK, None] + np.arange(-DIGITS, 0)
        values = _VALUES[characters[digits]]
        if (wrong := (values > 15).any(1)).any():
            line = begin + int(wrong.argmax())
            raise RecordError(f"{path}, line {line + 1}: found no checksum of {DIGITS} digits, wanted {WANTED}")
        checksums[begin : begin + _CHUNK] = values @ _PLACES
        characters[digits] = ord("0")  # what remains are lines of two whole numbers
    table = parse_table(characters.tobytes(), path, WANTED)
    if table[:, 1].any():
        raise RecordError(f"{path}, line {int(table[:, 1].argmax()) + 1}: more than {DIGITS} digits, wanted {WANTED}")
    return table[:, 0], checksums
