"""What people hand in, as pictures that are read one by one: files, folders, records, bytes, arrays, tensors."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import ArrayLike

from recognition.data.alignment import align, moved, transform
from recognition.data.encoded import LEAST_SIDE, PictureError, read_picture, size_problem
from recognition.data.named import MANIFEST, NamedImages
from recognition.data.pairs import RecordImages
from recognition.data.records import Records
from recognition.types import IMAGE_SIZE

COLOURS = ("rgb", "bgr")
READERS = 4  # threads; OpenCV decodes outside Python's lock
SQUARE = 1.25  # longer by shorter side; a picture beyond is no aligned face
RECORDS = ".rec"
HANDED_OVER = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")  # by a shell: <(curl ...), or what is piped in
NO_FACE = "no face was found in it when the folder was aligned"
NOT_ALIGNED = "it failed when the folder was aligned"

Source = Path | bytes | np.ndarray | tuple[Sequence[bytes], int] | None


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture, not read yet."""

    name: str
    source: Source = None  # arrays are uint8 RGB; a pair is one of several encoded images; None where `problem` tells
    person: str = ""  # whose it is, where that is known
    problem: str = ""  # why there is nothing to read

    def encoded(self) -> bytes | None:
        """The file's bytes; None for an array. ValueError or OSError where there are none."""
        if self.problem:
            raise ValueError(self.problem)
        if isinstance(self.source, tuple):
            return self.source[0][self.source[1]]
        if isinstance(self.source, Path):
            mode = os.stat(self.source).st_mode
            if stat.S_ISDIR(mode):
                raise ValueError("it is a folder")
            handed_over = str(self.source).startswith(HANDED_OVER)
            if not stat.S_ISREG(mode) and not handed_over:  # a pipe that nobody writes to would be waited for for ever
                raise ValueError("it is no file, but a pipe, a socket or a device")
            return self.source.read_bytes()
        return self.source if isinstance(self.source, bytes) else None

    def stamp(self) -> tuple[int, int]:
        """Bytes and time of the last change in ns, by which a file that stayed as it was is known; -1 where it is no
        file.
        """
        if not isinstance(self.source, Path):
            return -1, -1
        found = os.stat(self.source)
        return found.st_size, found.st_mtime_ns

    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3) RGB, in its own size. ValueError or OSError where it cannot be read."""
        data = self.encoded()
        return self.source if data is None else cv2.cvtColor(read_picture(data, self.name), cv2.COLOR_BGR2RGB)


@dataclass(slots=True)
class Read:
    """Some pictures, read: those that could be, and what was wrong with the others."""

    rows: np.ndarray  # (B,) int64 among all pictures
    pixels: np.ndarray  # (B, 112, 112, 3) uint8 RGB
    landmarks: np.ndarray | None  # (B, 5, 2) float32 in pixels of those; None where no points were given
    problems: dict[int, str] = field(default_factory=dict)
    oblong: int = 0  # so many were no squares and were squeezed


def gather(images: object, colour: str = "rgb") -> list[Picture]:
    """The pictures in what was handed in, in order.

    images: a path; a folder (with all folders in it, or one that tools/align.py wrote); a .rec file; the bytes of an
        encoded picture; uint8 arrays (H, W, 3), (H, W) or (N, H, W, 3); uint8 tensors (B, 3, H, W) or (3, H, W); a PIL
        image; or a list of these, mixed. A path that cannot be read is a picture with a problem.
    colour: of arrays and tensors, "rgb" or "bgr" (OpenCV's). Files, bytes and PIL images tell it themselves.
    ValueError for another colour, something else than a picture, and where there is none.
    """
    if colour not in COLOURS:
        raise ValueError(f"colour is '{colour}'; it must be one of {', '.join(COLOURS)}")
    found: list[Picture] = []
    _add(found, images, colour == "bgr", among_others=False)
    if not found:
        raise ValueError("no pictures were given")
    return found


def read(
    pictures: Sequence[Picture], batch_size: int, points: ArrayLike | None = None, rows: np.ndarray | None = None
) -> Iterator[Read]:
    """Batches of pictures brought to 112 px; the next one is read while one is in use. Order is kept.

    points: (N, 5, 2) in pixels of each picture, by which it is aligned; None = they are aligned faces, and are only
        resized where they are of another size. rows: those to read; None = all.
    ValueError for points of another shape, and a batch of none; what is wrong with a picture is in Read.problems.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    where = None if points is None else np.asarray(points, np.float64)
    if where is not None and where.shape != (len(pictures), 5, 2):
        raise ValueError(f"points must be ({len(pictures)}, 5, 2), five for each picture; got {where.shape}")
    rows = np.arange(len(pictures)) if rows is None else np.asarray(rows, np.int64)
    batches = [rows[begin : begin + batch_size] for begin in range(0, len(rows), batch_size)]

    def one(row: int) -> tuple[np.ndarray, bool] | str:
        return _face(pictures[row], None if where is None else where[row])

    with ThreadPoolExecutor(READERS) as pool:
        ahead = pool.map(one, batches[0].tolist()) if batches else iter(())
        for number, batch in enumerate(batches):
            faces = list(ahead)
            if number + 1 < len(batches):
                ahead = pool.map(one, batches[number + 1].tolist())
            yield _batch(batch, faces, where)


def problem_of(error: Exception) -> str:
    """What is wrong with a picture, in words, without its name."""
    if isinstance(error, PictureError):
        return error.problem
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)


def person_of(name: str) -> str:
    """Whose picture a file in a folder of people is, by its name there: its first folder, else as person_of_file."""
    path = PurePosixPath(name)
    return path.parts[0] if len(path.parts) > 1 else person_of_file(name)


def person_of_file(name: str) -> str:
    """anna_1.jpg is anna's, what stands before the last underscore; anna.jpg, too."""
    stem = PurePosixPath(name).stem
    return stem.rpartition("_")[0] or stem


def _batch(rows: np.ndarray, faces: list[tuple[np.ndarray, bool] | str], points: np.ndarray | None) -> Read:
    sound = [i for i, face in enumerate(faces) if not isinstance(face, str)]
    problems = {int(row): face for row, face in zip(rows, faces, strict=True) if isinstance(face, str)}
    kept = rows[sound]
    pixels = np.stack([faces[i][0] for i in sound]) if sound else np.empty((0, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    landmarks = None
    if points is not None:
        there = [moved(points[row], transform(points[row])) for row in kept]
        landmarks = np.array(there, np.float32).reshape(-1, 5, 2)
    return Read(kept, pixels, landmarks, problems, sum(faces[i][1] for i in sound))


def _face(picture: Picture, points: np.ndarray | None) -> tuple[np.ndarray, bool] | str:
    """uint8 (112, 112, 3) RGB and whether it was oblong; or what is wrong with it."""
    try:
        pixels = picture.pixels()
        height, width = pixels.shape[:2]
        if min(height, width) < LEAST_SIDE:
            return size_problem(height, width, LEAST_SIDE)
        if points is not None:
            return align(pixels, points), False
    except (OSError, ValueError) as error:
        return problem_of(error)
    if (height, width) != (IMAGE_SIZE, IMAGE_SIZE):  # as the loaders of training and evaluation do
        pixels = cv2.resize(pixels, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(pixels), max(height, width) > SQUARE * min(height, width)


def _add(found: list[Picture], given: object, bgr: bool, among_others: bool) -> None:
    if isinstance(given, str | Path):
        _add_path(found, Path(given), among_others)
    elif isinstance(given, bytes | bytearray | memoryview):
        found.append(Picture(_number(found), bytes(given)))
    elif isinstance(given, Picture):
        found.append(given)
    elif hasattr(given, "convert") and hasattr(given, "__array_interface__"):  # a PIL image, of any mode
        found.append(Picture(_number(found), np.asarray(given.convert("RGB"))))
    elif hasattr(given, "detach") and hasattr(given, "cpu"):
        _add_array(found, _channels_last(np.asarray(given.detach().cpu())), bgr)
    elif isinstance(given, np.ndarray):
        _add_array(found, given, bgr)
    elif isinstance(given, Iterable) and not isinstance(given, dict):
        for one in given:
            _add(found, one, bgr, among_others=True)
    else:
        raise ValueError(
            f"a {type(given).__name__} is no picture; wanted paths, folders, bytes, uint8 arrays (H, W, 3), uint8 "
            "tensors (B, 3, H, W), PIL images, or lists of these"
        )


def _add_path(found: list[Picture], path: Path, among_others: bool) -> None:
    if path.suffix == RECORDS and path.is_file():
        found += _records(path)
    elif path.is_dir():
        found += [_within(path, one) if among_others else one for one in _folder(path)]
    else:
        found.append(Picture(str(path), path, person_of_file(path.name)))


def _folder(path: Path) -> list[Picture]:
    images = NamedImages(path)
    aligned = (path / MANIFEST).is_file()
    there = [
        Picture(name, (images, i) if aligned else path / name, person_of(name)) for i, name in enumerate(images.names)
    ]
    failed = [Picture(name, None, person_of(name), _unaligned(reason)) for name, reason in images.failed.items()]
    return sorted(there + failed, key=lambda one: one.name)


def _unaligned(reason: str) -> str:
    if not reason:
        return NOT_ALIGNED
    return NO_FACE if reason == "no face" else f"{NOT_ALIGNED}: {reason}"


def _records(path: Path) -> list[Picture]:
    records = Records(path)
    images = RecordImages((records, np.arange(len(records))))
    people = records.class_ids[records.labels]
    return [
        Picture(f"{path.stem}:{key}", (images, i), str(person))
        for i, (key, person) in enumerate(zip(records.key.tolist(), people.tolist(), strict=True))
    ]


def _within(folder: Path, picture: Picture) -> Picture:
    return Picture(str(folder / picture.name), picture.source, picture.person, picture.problem)


def _add_array(found: list[Picture], pixels: np.ndarray, bgr: bool) -> None:
    if pixels.ndim == 4:
        for one in pixels:
            _add_array(found, one, bgr)
        return
    name = _number(found)
    problem = ""
    if pixels.dtype != np.uint8:
        problem = f"an array of {pixels.dtype}; wanted uint8, 0 to 255 (a picture in [0, 1] times 255, rounded)"
    elif pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or not pixels.size:
        problem = f"an array {pixels.shape}; wanted (H, W, 3), or (H, W) for grey"
    if problem:
        found.append(Picture(name, problem=problem))
        return
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, 2)
    found.append(Picture(name, np.ascontiguousarray(pixels[..., ::-1] if bgr else pixels)))  # OpenCV wants it so


def _channels_last(pixels: np.ndarray) -> np.ndarray:
    """Of a tensor. ValueError for one that is neither (B, 3, H, W) nor (3, H, W)."""
    if pixels.ndim not in (3, 4) or pixels.shape[-3] != 3:
        raise ValueError(f"a tensor of pictures is uint8 (B, 3, H, W) or (3, H, W), got {pixels.shape}")
    return np.moveaxis(pixels, -3, -1)


def _number(found: list[Picture]) -> str:
    return f"image {len(found)}"
