"""Pictures that visitors hand in, as faces of 112 px: limits first, then the decoder that every other tool uses."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePath

import cv2
import numpy as np
import torch

from recognition.answers.pictures import Picture, gather, problem_of, read
from recognition.data.checksums import checksum_path
from recognition.data.degrade import low_res
from recognition.data.detection import Detector, choose
from recognition.data.encoded import stated_size
from recognition.data.named import MANIFEST
from recognition.data.record_format import record_paths
from recognition.data.records import find_shards
from recognition.data.synthetic import SyntheticFaces
from recognition.types import IMAGE_SIZE

MOST_BYTES = 16 * 2**20  # of one picture
MOST_TOGETHER = 48 * 2**20  # of all that are handed in at once
MOST_PICTURES = 100
LEAST_SIDE = 7  # px, to which pictures are reduced: the smallest side that recipes train with
SIDES = (112, 80, 56, 40, 28, 20, 14, 10, 7)  # of the curve
SAMPLES = SyntheticFaces(6, 2, first_identity=300_000)  # people that no recipe trains or evaluates with
RESIZED = "not 112 x 112 and resized as a whole: if it is not an aligned face, the answers mean nothing"
SQUEEZED = "far from square and squeezed to 112 x 112: it is no aligned face, and the answers mean nothing"


@dataclass(frozen=True, eq=False)
class Face:
    """A picture as the network sees it before it is reduced."""

    name: str
    pixels: np.ndarray  # (112, 112, 3) uint8 RGB
    note: str = ""  # what was done to it, where that is to be known

    @property
    def key(self) -> str:
        """Of the pixels, by which its embedding is kept."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Face) and (self.name, self.key) == (other.name, other.key)

    def __hash__(self) -> int:  # by which the page knows that another one was chosen
        return hash((self.name, self.key))


def sample(number: int) -> Face:
    """One of the painted faces that come with the demo: two pictures of each of six people. ValueError."""
    if not 0 <= number < len(SAMPLES):
        raise ValueError(f"there is no sample {number}; there are {len(SAMPLES)}")
    return Face(sample_name(number), SAMPLES[number][0])


def sample_name(number: int) -> str:
    """What it is called: person A, picture 1."""
    person, picture = divmod(number, SAMPLES.images_per_identity)
    return f"person {chr(ord('A') + person)}, picture {picture + 1}"


def handed_in(text: str) -> list[tuple[str, bytes]]:
    """Names and bytes of the files that the page sends: a JSON list of [name, base64].

    ValueError for another form, too many, and too large ones.
    """
    if len(text) > MOST_TOGETHER * 4 // 3 + 2**20:
        raise ValueError(f"more than {MOST_TOGETHER >> 20} MiB at once: hand in fewer pictures")
    try:
        given = json.loads(text)
        found = [(str(name), base64.b64decode(data, validate=True)) for name, data in given]
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise ValueError("the files did not arrive whole: hand them in again") from None
    if len(found) > MOST_PICTURES:
        raise ValueError(f"{len(found):,} pictures; the demo takes {MOST_PICTURES} at once")
    return [(PurePath(name.replace("\\", "/")).name[:200] or "picture", data) for name, data in found]


def picture_of(name: str, data: bytes) -> Picture:
    """A visitor's picture. Only what states its size at its head is taken: nothing is decoded before."""
    if len(data) > MOST_BYTES:
        return Picture(name, problem=_large(len(data)))
    size = stated_size(data)
    if size is None:
        return Picture(name, problem="no JPEG or PNG, or a damaged one; the demo takes these two")
    return Picture(name, data)  # the reader checks the size


def in_folder(where: str, root: Path) -> list[Picture]:
    """The pictures of a folder on this machine, which lies in `root`, in the order of names.

    Of the first MOST_PICTURES links out of the root and large files are problems; the others are not looked at.

    ValueError with a sentence for another place, none, a folder without pictures, and one of aligned pictures whose
    records lie elsewhere.
    """
    where, root = where.strip(), root.resolve()
    if not where or "\0" in where:
        raise ValueError("name a folder with pictures")
    try:
        folder = (root / Path(where).expanduser()).resolve()
        if not folder.is_relative_to(root):
            raise ValueError(f"{folder} lies outside {root}: start the demo with --root {folder}")
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}")
        _check_aligned(folder, root)
        found = gather(folder)
    except (OSError, RuntimeError, TypeError) as error:  # a name of 300 letters, ~nobody, a number for a picture's name
        raise ValueError(f"{where[:200]}: {problem_of(error)}") from None
    return [_inside(one, root) for one in found[:MOST_PICTURES]] + found[MOST_PICTURES:]


def read_faces(pictures: list[Picture], detector: Detector | None = None) -> tuple[list[Face], dict[int, str]]:
    """Those that could be read, and by position what is wrong with the others.

    detector: aligns what is not 112 x 112 already. Without one other sizes are resized as in every tool, and the
    face's note says so.
    """
    faces: list[Face] = []
    problems: dict[int, str] = {}
    for position, picture in enumerate(pictures):
        found = _face(picture, detector)
        if isinstance(found, str):
            problems[position] = found
        else:
            faces.append(found)
    return faces, problems


def reduced(face: Face, side: int) -> np.ndarray:
    """(112, 112, 3) uint8 RGB: brought to side x side and back, as evaluations do it. 112 changes nothing."""
    if side == IMAGE_SIZE:
        return face.pixels
    return low_res(torch.from_numpy(face.pixels)[None], side)[0].numpy()


def as_link(pixels: np.ndarray, exact: bool = False) -> str:
    """A picture inside a page: a data: link to a JPEG, or to a PNG. pixels: (H, W, 3) uint8 RGB."""
    ending, kind, how = (".png", "png", []) if exact else (".jpg", "jpeg", [cv2.IMWRITE_JPEG_QUALITY, 92])
    encoded = cv2.imencode(ending, pixels[..., ::-1], how)[1]
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"


def _inside(picture: Picture, root: Path) -> Picture:
    """A link out of the root is not followed."""
    if not isinstance(picture.source, Path):
        return picture
    try:
        if not picture.source.resolve().is_relative_to(root):
            return Picture(picture.name, problem=f"a link to outside {root}")
        size = picture.stamp()[0]
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead back to themselves
        return Picture(picture.name, problem=problem_of(error))
    return Picture(picture.name, problem=_large(size)) if size > MOST_BYTES else picture


def _check_aligned(folder: Path, root: Path) -> None:
    """ValueError where the manifest of an aligned folder, or a file of the records that it names, lies outside."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return
    _check_inside(manifest, root)
    try:
        with manifest.open(encoding="utf-8") as lines:
            named = json.loads(lines.readline())["records"]
    except (ValueError, KeyError, TypeError):
        return  # who reads it says what is wrong
    if isinstance(named, str):
        _check_inside(folder / named, root)
        for shard in find_shards(folder / named):
            for file in (*record_paths(shard), checksum_path(shard)):
                _check_inside(file, root)


def _check_inside(file: Path, root: Path) -> None:
    if not file.resolve().is_relative_to(root):
        raise ValueError(f"{file} lies outside {root}: start the demo with a --root above it")


def _large(size: int) -> str:
    return f"{size >> 20} MiB; the demo takes pictures of {MOST_BYTES >> 20} MiB"


def _face(picture: Picture, detector: Detector | None) -> Face | str:
    points, note = None, ""
    try:
        encoded = picture.encoded()
        pixels = (picture if encoded is None else picture_of(picture.name, encoded)).pixels()
        height, width = pixels.shape[:2]
        if (height, width) != (IMAGE_SIZE, IMAGE_SIZE):
            note = RESIZED
            if detector is not None:
                found = detector.faces(np.ascontiguousarray(pixels[..., ::-1]))
                if not len(found.scores):
                    return "no face was found in it"
                points = found.points[choose(found, "largest", height, width)][None]
                more = f", the largest of {len(found.scores)} faces" if len(found.scores) > 1 else ""
                note = f"aligned by five points{more}"
    except (ValueError, OSError, cv2.error) as error:
        return problem_of(error)
    one = next(read([Picture(picture.name, pixels)], 1, points))
    if one.problems:
        return one.problems[0]
    return Face(picture.name, one.pixels[0], SQUEEZED if one.oblong else note)
