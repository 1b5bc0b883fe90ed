"""Pictures on disk, to become a record set: which there are, of which class, and as what bytes they are stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


@dataclass(slots=True)
class Plan:
    """Every picture with its class, in class order, before shuffling."""

    paths: list[Path]
    labels: list[int]
    names: list[str]  # of the classes
    notes: list[str] = field(default_factory=list)  # what was left aside, for the user


def plan_folder(source: Path) -> Plan:
    """A class for each sub-folder that holds pictures at any depth, in the order of the names."""
    plan = Plan([], [], [])
    others, without = 0, []
    for identity in sorted(source.iterdir()):
        if not identity.is_dir():
            if identity.suffix.lower() in PICTURES:
                raise ValueError(
                    f"{identity} lies in {source} itself: wanted {source}/<identity>/<picture>, a folder per identity"
                )
            continue
        files = [path for path in sorted(identity.rglob("*")) if path.is_file()]
        pictures = [path for path in files if path.suffix.lower() in PICTURES]
        others += len(files) - len(pictures)
        if not pictures:
            without.append(identity.name)
            continue
        plan.paths += pictures
        plan.labels += [len(plan.names)] * len(pictures)
        plan.names.append(identity.name)
    if not plan.paths:
        raise ValueError(
            f"no pictures in {source}: wanted {source}/<identity>/<picture> ({' '.join(sorted(PICTURES))})"
        )
    if others:
        plan.notes.append(f"{others} files are no pictures by their names and were left aside")
    if without:
        plan.notes.append(f"{len(without)} folders hold no pictures and got no class: {', '.join(without[:10])}")
    return plan


def plan_list(source: Path, root: Path) -> Plan:
    """A class for each different label: whole numbers in numerical order, otherwise by name."""
    pairs = []
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.strip().split("\t") if "\t" in line.strip() else line.strip().rsplit(None, 1)
        if len(fields) != 2 or not all(fields):
            raise ValueError(f"{source}, line {number}: found {line[:80]!r}, wanted `picture TAB label`")
        pairs.append((root / fields[0].strip(), fields[1].strip()))
    if not pairs:
        raise ValueError(f"{source} names no pictures: wanted lines `picture TAB label`")
    labels = {label for _, label in pairs}
    if negative := sorted(label for label in labels if label.startswith("-") and label[1:].isdecimal()):
        raise ValueError(f"{source}: label {negative[0]} is negative; labels are whole numbers from 0 on, or names")
    numeric = all(label.isdecimal() for label in labels)
    names = sorted(labels, key=(lambda label: (int(label), label)) if numeric else None)
    number_of = {name: number for number, name in enumerate(names)}
    pairs.sort(key=lambda pair: number_of[pair[1]])
    return Plan([path for path, _ in pairs], [number_of[label] for _, label in pairs], names)


def encode(path: Path, size: int, quality: int) -> tuple[bytes, bool]:
    """A picture as a colour JPEG of size x size, and whether its shape had to be stretched to a square.

    The file's own bytes where they are that already. ValueError with the reason where it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    if not data:
        raise ValueError("empty file")
    coded = np.frombuffer(data, np.uint8)
    stored = cv2.imdecode(coded, cv2.IMREAD_UNCHANGED)
    if stored is None:
        raise ValueError("not a picture, or a truncated one")
    whole_jpeg = data.startswith(b"\xff\xd8") and b"\xff\xd9" in data[-64:]
    turned = b"Exif\0\0" in data[:65536]  # decoders differ in whether they obey its orientation
    if whole_jpeg and not turned and stored.shape == (size, size, 3):
        return data, False
    picture = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    height, width = picture.shape[:2]
    if (height, width) != (size, size):
        shrinks = min(height, width) >= size
        picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return jpeg.tobytes(), height != width
