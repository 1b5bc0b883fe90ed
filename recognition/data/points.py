"""Lists of five points by picture, from whatever found them: text, CSV or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recognition.data.alignment import ORDER, likeness
from recognition.data.gathered import read_list

NUMBERS = 10  # x1 y1 ... x5 y5
LEAST_LIKENESS = 0.75  # median over a list: lower, the numbers stand in another order (full profiles alone have 0.6)
ENOUGH = 10  # pictures, before the list's order is judged
WANTED = "a picture's name, x1 y1 ... x5 y5 and perhaps a score"


@dataclass(frozen=True, slots=True)
class Face:
    """points: float64 (5, 2) in pixels of the picture. score: the detector's, None where the list has none."""

    points: np.ndarray
    score: float | None


def read_points(path: str | Path) -> dict[str, Face]:
    """The face of each picture a list names. By the file's ending:

    .jsonl   lines {"name": ..., "points": [[x, y], ...] or ten numbers, "score": ...}; a line whose points are null, or
             which has no name, names no face: a manifest.jsonl of tools/align.py is such a list;
    .csv     name,x1,y1,...,x5,y5[,score]; a first line of words is passed over;
    others   the same ten or eleven numbers after the name, with blanks between (IJB's ..._name_5pts_score.txt).
    Points in the order ORDER. A leading ./ of names does not count. NaN is kept: such a picture fails by itself.
    FileNotFoundError; ValueError naming the line where it is malformed or a name stands there twice, and where most
    faces of ten and more are none in this order (x1 ... x5 before y1 ... y5, or other corners first).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no list of points {path}")
    kind = path.suffix.lower()
    read = {".jsonl": _json_lines, ".csv": _csv_lines}.get(kind, _text_lines)
    found: dict[str, Face] = {}
    for number, name, values in read(path):
        name = name.removeprefix("./")
        if name in found:
            raise ValueError(f"{path}, line {number}: {name} stands there twice; keep one face of each picture")
        score = values[NUMBERS] if len(values) > NUMBERS and math.isfinite(values[NUMBERS]) else None
        found[name] = Face(np.array(values[:NUMBERS], np.float64).reshape(5, 2), score)
    if not found:
        raise ValueError(f"{path} names no face; wanted in each line {WANTED}")
    _check_order(path, found)
    return found


def _check_order(path: Path, found: dict[str, Face]) -> None:
    faces = np.stack([face.points for face in found.values()])
    faces = faces[np.isfinite(faces).all((1, 2))]
    if len(faces) >= ENOUGH and (middle := float(np.median(likeness(faces)))) < LEAST_LIKENESS:
        raise ValueError(
            f"{path}: half of its {len(faces)} faces are no faces in this order (likeness {middle:.2f}, wanted "
            f"{LEAST_LIKENESS}); wanted x1 y1 x2 y2 ..., not x1 x2 ... y1 y2 ..., and the points as {ORDER}"
        )


def _text_lines(path: Path) -> Iterator[tuple[int, str, list[float]]]:
    for number, line in enumerate(read_list(path).splitlines(), start=1):
        words = line.rsplit(None, NUMBERS + 1)
        if not words:
            continue
        if len(words) == NUMBERS + 2 and not _is_number(words[1]):  # ten numbers, and a name with a blank in it
            words = line.rsplit(None, NUMBERS)
        yield number, words[0].strip(), _numbers(path, number, words[1:])


def _csv_lines(path: Path) -> Iterator[tuple[int, str, list[float]]]:
    with io.StringIO(read_list(path), newline="") as file:
        rows = csv.reader(file)
        for row in rows:
            words = [word.strip() for word in row]
            while words and not words[-1]:
                words.pop()
            heading = rows.line_num == 1 and not any(map(_is_number, words[1:]))
            if words and not heading:
                yield rows.line_num, words[0], _numbers(path, rows.line_num, words[1:])


def _json_lines(path: Path) -> Iterator[tuple[int, str, list[float]]]:
    for number, line in enumerate(read_list(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, points, score = entry.get("name"), entry.get("points"), entry.get("score")
            if name is None or points is None:
                continue
            values = np.asarray(points, np.float64).reshape(-1).tolist()
            values += [] if score is None else [float(score)]
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f'{path}, line {number}: {error}; wanted {{"name": ..., "points": ...}}') from None
        yield number, str(name), _numbers(path, number, values)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _numbers(path: Path, number: int, words: list[str] | list[float]) -> list[float]:
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}; wanted {WANTED}") from None
    if len(values) not in (NUMBERS, NUMBERS + 1):
        raise ValueError(f"{path}, line {number}: {len(values)} numbers; wanted {WANTED}")
    return values
