"""One position of the sample order: the record that stands there, or the one that replaces it where it is bad."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from recognition.data import _draws
from recognition.data.bad_records import BadRecord
from recognition.data.decode import decode
from recognition.data.encoded import LEAST_SIDE, PictureError
from recognition.data.records import Records
from recognition.types import IMAGE_SIZE

ATTEMPTS = 100  # replacements that may be bad themselves before the set is given up

T = TypeVar("T")


def replacement(seed: int, position: int, attempt: int, num_images: int) -> int:
    """Record number that takes a bad one's place: a pure function of its arguments, any record alike."""
    stream = _draws.REPLACEMENT | attempt << 32
    return int(_draws.hashed(seed, stream, np.array([position]))[0] % np.uint64(num_images))


def fetch(
    records: Records, index: int, position: int, *, seed: int, skip: bool, load: Callable[[int], T]
) -> tuple[T, int, list[BadRecord]]:
    """What `load` makes of record `index`, or of its replacement; whose number that is; and the bad records met.

    load: takes a record number; its ValueError says that the record is bad, any other exception is no record's fault.
    skip: False raises that ValueError. ValueError where ATTEMPTS replacements in a row are bad.
    """
    problems: dict[int, str] = {}
    taken = index
    for attempt in range(ATTEMPTS):
        if taken not in problems:
            try:
                loaded = load(taken)
            except ValueError as error:
                if not skip:
                    raise
                problems[taken] = _problem(error, records.where(taken))
            else:
                return loaded, taken, [records.as_bad(i, what, position, taken) for i, what in problems.items()]
        taken = replacement(seed, position, attempt, len(records))
    raise ValueError(
        f"{records.where(index)}: bad, and so are {len(problems) - 1} others that were to replace it; "
        "`python tools/inspect_records.py PATH --decode` lists all; the set cannot be trained on"
    )


def problem_of(records: Records, index: int) -> str:
    """What is wrong with a record; empty where it can be trained on."""
    try:
        decode(records.read(index), IMAGE_SIZE, records.where(index), LEAST_SIDE)
    except ValueError as error:
        return _problem(error, records.where(index))
    return ""


def fetch_pixels(
    records: Records,
    indices: np.ndarray,
    positions: np.ndarray,
    image_size: int,
    *,
    seed: int,
    skip: bool,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, list[BadRecord]]:
    """Pixels of one step by OpenCV, uint8 (B, image_size, image_size, 3) RGB; record numbers (B,); bad records met.

    indices, positions: int64 (B,). out: where the pixels go. ValueError as fetch.
    """
    images = np.empty((len(indices), image_size, image_size, 3), np.uint8) if out is None else out
    taken, met = indices.copy(), []

    def load(index: int) -> np.ndarray:
        return decode(records.read(index), image_size, records.where(index), LEAST_SIDE)

    for row, (index, position) in enumerate(zip(indices.tolist(), positions.tolist(), strict=True)):
        try:
            decode(records.read(index), image_size, "", LEAST_SIDE, images[row])
        except ValueError:  # told, or replaced, by reading it again
            images[row], taken[row], bad = fetch(records, index, position, seed=seed, skip=skip, load=load)
            met += bad
    return images, taken, met


def _problem(error: ValueError, where: str) -> str:
    return error.problem if isinstance(error, PictureError) else str(error).removeprefix(f"{where}: ")
