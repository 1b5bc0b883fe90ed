"""Pictures with five points, aligned when they are embedded; and the text lists that name them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np

from recognition.data.alignment import align, likeness, transform
from recognition.data.encoded import PictureError, read_picture
from recognition.data.lazy import LazyImages
from recognition.data.named import MANIFEST, NamedImages

LINES = 1 << 13  # of a list, held as text at once
SURE = 0.5  # likeness to the template from which on points certainly are a face's
NEAR = 4.0  # pixels between the outermost points, below which they may be none


class AlignedImages(LazyImages):
    """Pictures (n) of a folder, each brought to 112 px by its five points when it is asked for; encoded as BMP."""

    def __init__(self, images: NamedImages, rows: np.ndarray, points: np.ndarray) -> None:
        """rows: (n,) positions in images. points: (n, 5, 2) in pixels; NaN = the picture as it is, cut already."""
        self.images, self.rows, self.points = images, rows, points

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, i: int) -> bytes:
        """Image i, encoded."""
        stored = self.images[int(self.rows[i])]
        if np.isnan(self.points[i, 0, 0]):
            return stored
        try:
            face = align(read_picture(stored, self.where(i)), self.points[i])
        except PictureError as error:
            raise ValueError(f"{self.where(i)}: {error.problem}") from None  # its advice is for records
        except ValueError as error:
            raise ValueError(f"{self.where(i)}: {error}") from None
        return cv2.imencode(".bmp", face)[1].tobytes()  # nothing is lost, and it costs a twentieth of PNG

    def where(self, i: int) -> str:
        """The picture's path, for messages."""
        return self.images.where(int(self.rows[i]))


def is_aligned(folder: str | Path) -> bool:
    """Whether tools/align.py wrote this folder, so that its pictures want no points any more."""
    return (Path(folder) / MANIFEST).is_file()


def no_face(points: np.ndarray) -> np.ndarray:
    """(n,) bool: whether points (n, 5, 2) cannot be a face's - all in one place, or those of one in the mirror."""
    there = np.isfinite(points).all((1, 2))
    flat = np.where(there[:, None, None], points, 0)
    wrong = ~there
    for i in np.flatnonzero(there & ((likeness(flat) < SURE) | (np.ptp(flat, 1).max(1) < NEAR))):
        try:
            transform(points[i])
        except ValueError:
            wrong[i] = True
    return wrong


def read_named(path: Path, numbers: int) -> tuple[list[str], np.ndarray]:
    """Lines of a name and so many numbers, parted by spaces: names, and float64 (n, numbers).

    FileNotFoundError without the file; ValueError names the file and line that are wrong.
    """
    names: list[str] = []
    values = []
    for lines in _lines(path):
        fields = [line.split() for line in lines]
        try:
            values.append(np.array([row[1:] for row in fields], np.float64).reshape(len(fields), numbers))
        except ValueError:
            raise _complaint(path, len(names), lines, f"a name and {numbers} numbers", numbers) from None
        names += [row[0] for row in fields]
    if not names:
        raise ValueError(f"{path} is empty")
    return names, np.concatenate(values)


def read_numbers(path: Path, columns: int) -> np.ndarray:
    """Whole numbers, so many a line, parted by spaces: int32 (n, columns). Errors as read_named."""
    wanted(path)
    try:
        return np.loadtxt(path, np.int32, comments=None, ndmin=2).reshape(-1, columns)
    except ValueError:
        pass
    before = 0
    for lines in _lines(path):
        try:
            np.array([line.split() for line in lines], np.int32).reshape(len(lines), columns)
        except (ValueError, OverflowError):
            raise _complaint(path, before, lines, f"{columns} whole numbers", columns, int) from None
        before += len(lines)
    raise ValueError(f"{path} does not hold {columns} whole numbers in each line")


def wanted(path: Path) -> Path:
    """The path. FileNotFoundError where there is no such file."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return path


@contextlib.contextmanager
def opened_text(path: Path) -> Iterator[TextIO]:
    """A list as text. FileNotFoundError where there is none; ValueError names one that is not in UTF-8."""
    try:
        with wanted(path).open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason}): save it as UTF-8") from None


def check_scores(path: Path, scores: np.ndarray, first: int = 1) -> None:
    """ValueError with the line of the first detector score (n,) that is not finite and above 0, as a weight has to be.

    first: the line of the first of them.
    """
    wrong = np.flatnonzero(~(np.isfinite(scores) & (scores > 0)))
    if len(wrong):
        raise ValueError(
            f"{path}, line {first + wrong[0]}: the detector score is {scores[wrong[0]]:g}; it weighs a picture in its "
            "template, and must be finite and above 0"
        )


def _lines(path: Path) -> Iterator[list[str]]:
    with opened_text(path) as file:
        while lines := list(islice(file, LINES)):
            yield lines


def _complaint(path: Path, before: int, lines: list[str], what: str, numbers: int, kind: type = float) -> ValueError:
    """What is wrong with the first of these lines that is wrong."""
    at = next(i for i, line in enumerate(lines) if not _sound(line.split(), numbers, kind))
    return ValueError(f"{path}, line {before + at + 1}: wanted {what}, got '{lines[at].strip()[:80]}'")


def _sound(fields: list[str], numbers: int, kind: type) -> bool:
    """Whether a line holds so many of these numbers; the first field of others than whole ones is a name."""
    try:
        return len([kind(text) for text in (fields if kind is int else fields[1:])]) == numbers
    except ValueError:
        return False
