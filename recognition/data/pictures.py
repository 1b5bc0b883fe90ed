"""Pictures from outside, to become a record set: which there are, of which class, and as what bytes they are stored.

A plan hands out pictures by number, whatever they lie in: files, here and in lists, or stretches of tars and databases.
"""

from __future__ import annotations

import itertools
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from recognition.data.encoded import stated_size

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
MOST_PIXELS = 1 << 26  # 8192 x 8192, 200 MB decoded; a JPEG of 4 KiB can state sixteen times as many


class Plan(ABC):
    """Every picture with its class, before shuffling.

    labels: class of picture i. names: of the classes. notes: what was left aside, for the user. bad: name and reason of
    what should be a picture and cannot be handed out; it has no number.
    """

    def __init__(self, labels: Sequence[int], names: list[str]) -> None:
        self.labels, self.names = labels, names
        self.notes: list[str] = []
        self.bad: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, i: int) -> bytes:
        """Picture i, encoded. Threads may call it. OSError, ValueError where it cannot be read."""

    @abstractmethod
    def name(self, i: int) -> str:
        """Where picture i lies, for messages."""

    @abstractmethod
    def place(self, i: int) -> str:
        """What tells picture i from every other of the source, wherever that lies."""


class FilePlan(Plan):
    """Pictures that are files of their own; a picture's place is its path relative to root."""

    def __init__(self, root: Path, paths: list[Path], labels: Sequence[int], names: list[str]) -> None:
        super().__init__(labels, names)
        self.root, self.paths = root, paths

    def read(self, i: int) -> bytes:
        return self.paths[i].read_bytes()

    def name(self, i: int) -> str:
        return str(self.paths[i])

    def place(self, i: int) -> str:
        return os.path.relpath(self.paths[i], self.root)


def is_picture(path: Path) -> bool:
    """By the name. What macOS lays beside a picture (._x.jpg) has its name and is none."""
    return path.suffix.lower() in PICTURES and not path.name.startswith("._")


def plan_folder(source: Path) -> FilePlan:
    """A class for each sub-folder that holds pictures at any depth, in the order of the names."""
    paths: list[Path] = []
    labels: list[int] = []
    names: list[str] = []
    others, without = 0, []
    for identity in sorted(source.iterdir()):
        if not identity.is_dir():
            if is_picture(identity):
                raise ValueError(
                    f"{identity} lies in {source} itself: wanted {source}/<identity>/<picture>, a folder per identity"
                )
            continue
        files = [path for path in sorted(identity.rglob("*")) if path.is_file()]
        pictures = [path for path in files if is_picture(path)]
        others += len(files) - len(pictures)
        if not pictures:
            without.append(identity.name)
            continue
        if identity.name.lower() in SPLITS and _holds_identities(identity, pictures):
            raise ValueError(
                f"{identity} holds folders of pictures: it is a part of a set, not an identity. Name the part that you "
                f"want, {identity}, or move its folders up"
            )
        paths += pictures
        labels += [len(names)] * len(pictures)
        names.append(identity.name)
    if not paths:
        raise ValueError(
            f"no pictures in {source}: wanted {source}/<identity>/<picture> ({' '.join(sorted(PICTURES))})"
        )
    if len(names) == 1 and not without and _holds_identities(source / names[0], paths):
        raise ValueError(
            f"{source} holds one folder only, and that holds folders of pictures: they would all become one identity. "
            f"Name {source / names[0]}"
        )
    plan = FilePlan(source, paths, labels, names)
    if others:
        plan.notes.append(f"{others} files are no pictures by their names and were left aside")
    if without:
        plan.notes.append(f"{len(without)} folders hold no pictures and got no class: {', '.join(without[:10])}")
    return plan


def _holds_identities(folder: Path, pictures: Sequence[Path]) -> bool:
    """Whether all these pictures of a folder lie in folders of it, in two at least."""
    inside = {path.relative_to(folder).parts[0] for path in pictures if path.parent != folder}
    return len(inside) > 1 and all(path.parent != folder for path in pictures)


def numbered(labels: Sequence[str], source: object) -> tuple[list[int], list[str]]:
    """Class numbers from 0 on without gaps for labels as they stand in a source, and what each class is called there.

    Labels that are all whole numbers are numbered by value, others by name. ValueError for a negative number, and for
    a number that is written in two ways.
    """
    different = set(labels)
    if negative := sorted(label for label in different if label.startswith("-") and label[1:].isdecimal()):
        raise ValueError(f"{source}: label {negative[0]} is negative; labels are whole numbers from 0 on, or names")
    numeric = all(label.isdecimal() and label.isascii() and len(label) < 20 for label in different)
    names = sorted(different, key=(lambda label: (int(label), label)) if numeric else None)
    for one, following in itertools.pairwise(names) if numeric else ():
        if int(one) == int(following):
            raise ValueError(f"{source}: labels {one} and {following} are one number: write it in one way")
    number_of = {name: number for number, name in enumerate(names)}
    return [number_of[label] for label in labels], names


def encode(data: bytes, size: int, quality: int) -> tuple[bytes, bool]:
    """A picture as a colour JPEG of size x size, and whether its shape had to be stretched to a square.

    The picture's own bytes where they are that already. ValueError with the reason where it cannot be read.
    """
    if not data:
        raise ValueError("empty file")
    stated = stated_size(data)
    if stated is not None and stated[0] * stated[1] > MOST_PIXELS:
        raise ValueError(f"it states {stated[0]} x {stated[1]} pixels; more than {MOST_PIXELS:,} are not decoded")
    coded = np.frombuffer(data, np.uint8)
    stored = cv2.imdecode(coded, cv2.IMREAD_UNCHANGED)
    if stored is None:
        raise ValueError("not a picture, or a truncated one")
    whole_jpeg = data.startswith(b"\xff\xd8") and b"\xff\xd9" in data[-64:]
    turned = b"Exif\0\0" in data[:65536]  # decoders differ in whether they obey its orientation
    if whole_jpeg and not turned and stored.shape == (size, size, 3):
        return data, False
    picture = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError("not a picture, or a truncated one")
    height, width = picture.shape[:2]
    if (height, width) != (size, size):
        shrinks = min(height, width) >= size
        picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return jpeg.tobytes(), height != width


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Keep what libpng, libjpeg and OpenCV write to the error output by themselves out of it.

    They name no file and cannot be told to be silent in any other way. What Python writes to sys.stderr stays.
    """
    if sys.__stderr__ is None:  # closed by whoever called: 2 may be the number of any file
        yield
        return
    told, real, void = sys.stderr, os.dup(2), os.open(os.devnull, os.O_WRONLY)
    with open(real, "w", buffering=1, encoding="utf-8", errors="backslashreplace") as beside:
        try:
            told.flush()
            if _writes_to(told) == 2:
                sys.stderr = beside
            os.dup2(void, 2)
            yield
        finally:
            beside.flush()
            os.dup2(real, 2)
            os.close(void)
            sys.stderr = told


def _writes_to(stream: object) -> int:
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):  # a stream without a file, as tests put in
        return -1
