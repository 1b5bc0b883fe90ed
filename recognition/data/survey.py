"""What a record file holds: the headers of all its records at once, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recognition.data.record_format import HEADER_BYTES, LENGTH_BITS, LENGTH_MASK, MAGIC
from recognition.data.recordio import RecordError, RecordReader, unpack

IMAGE, HEADER, IDENTITY, EMPTY, BAD = range(5)
KINDS = ("image", "header", "identity", "empty", "bad")
PROBLEMS = (
    "",
    "its offset is no multiple of 4 or lies beyond the file's end",
    "its frame is corrupt",
    "the file is truncated within it",
    f"it is shorter than an image header ({HEADER_BYTES} bytes)",
    "its label vector is longer than the record",
    "its bytes are not those that were written, its checksum says",
    "its label is NaN or infinite",
    "its label is negative",
    "its label is no whole number",
    "its label is over 2**24, where float32 no longer tells classes apart",
    "its label is too high: no more classes than the set has images, unless config.data.most_classes allows more",
)
OUTSIDE, FRAME, CUT, SHORT, VECTOR, CHECKSUM, NOT_FINITE, NEGATIVE, FRACTION, TOO_LARGE, HIGH = range(1, len(PROBLEMS))

_CHUNK = 1 << 18  # records whose headers are gathered at once: 19 MB


@dataclass(slots=True)
class Survey:
    """What the headers of one file say, row by row of its index."""

    kind: np.ndarray  # (N,) uint8: IMAGE, HEADER, IDENTITY, EMPTY, BAD
    problem: np.ndarray  # (N,) uint8: index into PROBLEMS, 0 = none
    label: np.ndarray  # (N,) float32: the number, or the first value of a label vector
    flag: np.ndarray  # (N,) int64: length of the label vector, 0 where the label is a number
    image_bytes: np.ndarray  # (N,) int64: of the encoded image
    end: np.ndarray  # (N,) int64: where the record ends in the file, -1 where unknown

    def says(self, row: int) -> str:
        """What is wrong with a record; empty where nothing is."""
        return problem_text(int(self.problem[row]), float(self.label[row]))


def problem_text(code: int, label: float) -> str:
    """A problem in words, with the label where that is at fault."""
    return PROBLEMS[code] + (f" ({label:.9g})" if code >= NOT_FINITE else "")


def survey(reader: RecordReader) -> Survey:
    """Read all headers of a file. Finds every structural and label problem; raises nothing for them.

    Checksums are not looked at, but for the few records that have to be read whole: they are checked at each read.
    """
    count = len(reader)
    found = Survey(
        kind=np.full(count, IMAGE, np.uint8),
        problem=np.zeros(count, np.uint8),
        label=np.zeros(count, np.float32),
        flag=np.zeros(count, np.int64),
        image_bytes=np.zeros(count, np.int64),
        end=np.full(count, -1, np.int64),
    )
    for begin in range(0, count, _CHUNK):
        _survey_rows(reader, found, slice(begin, min(begin + _CHUNK, count)))
    found.kind[found.problem > 0] = BAD
    found.kind[(found.problem == 0) & (found.image_bytes == 0)] = EMPTY
    _find_identities(reader, found)
    images = np.flatnonzero(found.kind == IMAGE)
    found.problem[images] = _label_problems(found.label[images])
    found.kind[found.problem > 0] = BAD
    return found


def _survey_rows(reader: RecordReader, found: Survey, rows: slice) -> None:
    # Nine words reach from the frame's magic word to the first value of a label vector.
    offsets, words = reader.offsets[rows], reader.words()
    outside = reader.outside(offsets)
    if outside.all():
        found.problem[rows] = OUTSIDE
        return
    offsets = np.where(outside, 0, offsets)
    head = words[np.minimum(offsets[:, None] // 4 + np.arange(9), len(words) - 1)]
    part, length = head[:, 1] >> LENGTH_BITS, (head[:, 1] & LENGTH_MASK).astype(np.int64)
    flag = head[:, 2].astype(np.int64)
    label = np.where(flag > 0, head[:, 8], head[:, 3]).view(np.float32)
    image_bytes = length - HEADER_BYTES - 4 * flag
    end = offsets + 8 + length + -length % 4

    problem = np.zeros(len(offsets), np.uint8)
    problem[image_bytes < 0] = VECTOR
    problem[(length > 0) & (length < HEADER_BYTES)] = SHORT
    problem[end > reader.size] = CUT
    problem[(head[:, 0] != MAGIC) | (part != 0)] = FRAME
    nothing = (length == 0) & ((problem == VECTOR) | (problem == 0))
    problem[nothing], image_bytes[nothing], flag[nothing], label[nothing] = 0, 0, 0, 0.0
    problem[outside] = OUTSIDE
    several = (head[:, 0] == MAGIC) & (part == 1) & ~outside  # rare: a payload that holds the magic word
    for row in np.flatnonzero(several):
        problem[row], flag[row], label[row], image_bytes[row] = _read_header(reader, rows.start + int(row))
        end[row] = -1
    found.problem[rows], found.label[rows], found.flag[rows] = problem, label, flag
    found.image_bytes[rows] = np.where(problem > 0, 0, image_bytes)
    found.end[rows] = np.where(np.isin(problem, (OUTSIDE, FRAME, CUT)), -1, end)


def _read_header(reader: RecordReader, row: int) -> tuple[int, int, float, int]:
    try:
        record = reader.read_row(row, check=False)
    except RecordError:
        return FRAME, 0, 0.0, 0
    try:
        header, image = unpack(record)
    except RecordError:
        return (SHORT if len(record) < HEADER_BYTES else VECTOR), 0, 0.0, 0
    return 0, header.flag, float(header.label if header.flag == 0 else header.label[0]), len(image)


def _find_identities(reader: RecordReader, found: Survey) -> None:
    """InsightFace's layout: key 0 holds no image but [first identity key, end), those hold [first image key, end)."""
    if 0 not in reader:
        return
    row = reader.row(0)
    if found.kind[row] != EMPTY or found.flag[row] != 2:
        return
    try:
        first, end = unpack(reader.read_row(row))[0].label
    except RecordError:  # its frame was sound
        found.kind[row], found.problem[row] = BAD, CHECKSUM
        return
    if 0 < first <= end:
        found.kind[row] = HEADER
        found.kind[(found.kind == EMPTY) & (reader.keys >= first) & (reader.keys < end)] = IDENTITY


def _label_problems(label: np.ndarray) -> np.ndarray:
    problem = np.zeros(len(label), np.uint8)
    problem[label > 2**24] = TOO_LARGE
    problem[label != np.floor(label)] = FRACTION
    problem[label < 0] = NEGATIVE
    problem[~np.isfinite(label)] = NOT_FINITE
    return problem
