"""One raw picture -> one aligned face as it is stored, or the reason why there is none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from recognition.data.alignment import TEMPLATE, align, moved, transform
from recognition.data.detection import CHOICES, Choice, Detector, choose
from recognition.data.encoded import LEAST_SIDE, stated_size
from recognition.data.points import Face
from recognition.types import IMAGE_SIZE

Status = Literal["aligned", "fallback", "failed"]
Fallback = Literal["none", "resize", "raised"]
FALLBACKS = ("none", "resize", "raised")
RAISED = 0.3  # of the picture's side, black above it: AdaFace's pad_high
MOST_PIXELS = 1 << 27  # 11,585 x 11,585: 400 MB a picture and thread; encoded.MOST_PIXELS is for faces, not for photos


class Failed(ValueError):
    """There is no aligned face; its text is the reason, which stands in the manifest."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides an aligned picture beside the picture and its points.

    fallback: what becomes of a picture without usable points. "none": it fails. "resize": the whole picture, resized.
        "raised": black of RAISED of its side above it, made square with black, and resized.
    choose: of several faces. square: > 0 makes the picture square with black borders and resizes it to so many pixels
        before anything else. pad: black border on each side before detection, as a share of that side.
    quality: of the JPEG, whose colours are kept at full resolution; 0: PNG, without loss.
    """

    fallback: Fallback = "none"
    choose: Choice = "largest"
    square: int = 0
    pad: float = 0.0
    quality: int = 98

    def __post_init__(self) -> None:
        if self.fallback not in FALLBACKS or self.choose not in CHOICES:
            raise ValueError(
                f"fallback '{self.fallback}' must be one of {', '.join(FALLBACKS)}, choose '{self.choose}'"
                f" one of {', '.join(CHOICES)}"
            )
        if not (0 <= self.quality <= 100 and 0 <= self.pad <= 2 and (self.square == 0 or 8 <= self.square <= 4096)):
            raise ValueError(
                f"quality {self.quality} must be 0 .. 100, pad {self.pad} 0 .. 2, square {self.square} 0 or 8 .. 4096"
            )


@dataclass(frozen=True, slots=True)
class Aligned:
    """What became of one picture. sha256: of its file, "" where that cannot be read. image: encoded, None if failed.

    points: float64 (5, 2) in pixels of the picture, to a thousandth. landmarks: float64 (5, 2) in the aligned one.
    """

    name: str
    status: Status
    reason: str = ""
    sha256: str = ""
    image: bytes | None = None
    points: np.ndarray | None = None
    score: float | None = None
    faces: int | None = None
    landmarks: np.ndarray | None = None


class Aligner:
    """Aligns pictures one by one; threads may share it. Its answer depends on nothing but the file and the settings.

    source: a detector, the known faces by name, or None: every picture is a fallback.
    """

    def __init__(self, source: Detector | Mapping[str, Face] | None, settings: Settings) -> None:
        if source is None and settings.fallback == "none":
            raise ValueError(
                "without a detector and without points no picture can be aligned: give one of them, or a fallback"
            )
        self.source, self.settings = source, settings

    def __call__(self, name: str, path: Path) -> Aligned:
        """The picture at a path. What is wrong with it is in the answer, never an exception."""
        try:
            encoded = path.read_bytes()
        except OSError as error:
            return Aligned(name, "failed", f"unreadable: {error.strerror or error}")
        digest = hashlib.sha256(encoded).hexdigest()
        try:
            picture = read_raw(encoded)
        except Failed as error:
            return Aligned(name, "failed", str(error), digest)
        del encoded
        prepared, into = prepare(picture, self.settings)
        points, score, faces = None, None, None
        try:
            points, score, faces = self._face(name, prepared, into)
            there = moved(points, into)
            image, landmarks = align(prepared, there), moved(there, transform(there))
        except (ValueError, cv2.error) as error:
            reason = str(error).strip()
            if self.settings.fallback == "none":
                return Aligned(name, "failed", reason, digest, None, points, score, faces)
            image = self._whole(prepared)
            return Aligned(name, "fallback", reason, digest, self._encode(image), points, score, faces, TEMPLATE)
        return Aligned(name, "aligned", "", digest, self._encode(image), points, score, faces, landmarks)

    def _face(self, name: str, prepared: np.ndarray, into: np.ndarray) -> tuple[np.ndarray, float | None, int | None]:
        """Points in the raw picture, score, number of faces. Failed where there is none."""
        if self.source is None:
            raise Failed("no detector")
        if isinstance(self.source, Mapping):
            if (face := self.source.get(name)) is None:
                raise Failed("points missing")
            return face.points, face.score, None
        found = self.source.faces(prepared)
        if not len(found.scores):
            raise Failed("no face")
        row = choose(found, self.settings.choose, *prepared.shape[:2])
        raw = (np.asarray(found.points[row], np.float64) - into[:, 2]) / into[0, 0]
        return np.round(raw, 3), round(float(found.scores[row]), 6), len(found.scores)

    def _whole(self, prepared: np.ndarray) -> np.ndarray:
        if self.settings.fallback == "raised":
            side = self.settings.square or max(prepared.shape[:2])
            prepared = squared(cv2.copyMakeBorder(prepared, int(RAISED * side), 0, 0, 0, cv2.BORDER_CONSTANT))[0]
        return cv2.resize(prepared, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_LINEAR)

    def _encode(self, image: np.ndarray) -> bytes:
        if not self.settings.quality:
            return cv2.imencode(".png", image)[1].tobytes()
        colours = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self.settings.quality, *colours])[1].tobytes()


def read_raw(encoded: bytes) -> np.ndarray:
    """A photo's pixels, uint8 (H, W, 3) BGR, turned as its EXIF says; other kinds as encoded.read_picture has them.

    Failed where it does not decode, or is smaller than LEAST_SIDE or larger than MOST_PIXELS.
    """
    if size := stated_size(encoded):
        _check_size(*size)
    try:
        picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    except cv2.error:
        picture = None
    if picture is None:
        raise Failed(f"undecodable: {len(encoded)} bytes that are no picture, or a truncated one")
    _check_size(*picture.shape[:2])
    return picture


def _check_size(height: int, width: int) -> None:
    if min(height, width) < LEAST_SIDE:
        raise Failed(f"too small: {height} x {width} pixels, a face takes {LEAST_SIDE} x {LEAST_SIDE}")
    if height * width > MOST_PIXELS:
        raise Failed(f"too large: {height} x {width} pixels, at most {MOST_PIXELS:,} are read")


def prepare(picture: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """The picture in which faces are looked for, and the transform (2, 3) that takes raw pixels to its own."""
    scale, left, top = 1.0, 0, 0
    if settings.square:
        picture, left, top = squared(picture)
        scale = settings.square / len(picture)
        if scale != 1:
            picture = cv2.resize(picture, (settings.square, settings.square), interpolation=cv2.INTER_LINEAR)
    height, width = picture.shape[:2]
    rows, columns = int(settings.pad * height), int(settings.pad * width)
    if rows or columns:
        picture = cv2.copyMakeBorder(picture, rows, rows, columns, columns, cv2.BORDER_CONSTANT)
    shift = ((left + 0.5) * scale - 0.5 + columns, (top + 0.5) * scale - 0.5 + rows)  # pixels count from their middles
    return picture, np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])


def squared(picture: np.ndarray) -> tuple[np.ndarray, int, int]:
    """The picture in the middle of a black square, and its left and upper border there in pixels."""
    height, width = picture.shape[:2]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    borders = (top, side - height - top, left, side - width - left)
    return cv2.copyMakeBorder(picture, *borders, cv2.BORDER_CONSTANT), left, top
