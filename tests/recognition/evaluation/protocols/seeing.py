"""Pictures that are angles: what a protocol makes of them is known without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from recognition.data.pairs import PairSet, write_bin
from recognition.evaluation.protocol import Asked, Looked, Protocol

ASKED = Asked(far=(0.1,), resamples=200)


def picture(angle: float, salt: object = "") -> bytes:
    """What stands in for an encoded picture: its direction in degrees. salt keeps equal ones apart."""
    return f"{angle} {salt}".encode()


def direction(encoded: bytes) -> list[float]:
    angle = np.deg2rad(float(encoded.split()[0]))
    return [np.cos(angle), np.sin(angle)]


def see(protocol: Protocol, length: Callable[[int], float] = lambda i: 1.0, **extra: object) -> dict[str, Looked]:
    """What a model sees that takes a picture for its direction. length: of image i's embedding. extra: of Looked."""
    found = {}
    for key, view in protocol.views.items():
        rows = [np.multiply(length(int(i)), direction(protocol.images[int(i)])) for i in view.rows]
        found[key] = Looked(torch.tensor(np.array(rows), dtype=torch.float32), **extra)
    return found


def write_folder(folder: Path, pictures: Mapping[str, float]) -> None:
    for name, angle in pictures.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(angle, name))


def write_angles(path: Path, angles: Sequence[float], same: Sequence[bool]) -> None:
    """A .bin of pairs that are so many degrees apart."""
    images = [picture(angle, f"{path.stem} {n}") for n, each in enumerate(angles) for angle in (0, each)]
    rows = np.arange(len(angles))
    write_bin(path, PairSet(path.stem, images, 2 * rows, 2 * rows + 1, np.array(same)))


def lfw_lines(folds: int, pairs: int) -> list[str]:
    """A list in LFW's form: fold f has genuine pairs of the person f_g<n>, and impostor pairs of two people."""
    lines = [f"{folds}\t{pairs}"]
    for f in range(folds):
        lines += [f"f{f}_g{n}\t1\t2" for n in range(pairs)]
        lines += [f"f{f}_i{n}\t1\tf{f}_j{n}\t3" for n in range(pairs)]
    return lines


def write_lfw(folder: Path, angles: Sequence[float], folds: int, pairs: int, ending: str = ".jpg") -> np.ndarray:
    """pictures and pairs.txt of lfw_lines whose pairs are so many degrees apart; their same, (P,) bool."""
    lines = lfw_lines(folds, pairs)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    pictures, same = {}, []
    for line, angle in zip(lines[1:], angles, strict=True):
        fields = line.split("\t")
        other = (fields[0], fields[2]) if len(fields) == 3 else (fields[2], fields[3])
        pictures[f"{fields[0]}/{fields[0]}_{int(fields[1]):04d}{ending}"] = 0
        pictures[f"{other[0]}/{other[0]}_{int(other[1]):04d}{ending}"] = angle
        same.append(len(fields) == 3)
    write_folder(folder, pictures)
    return np.array(same)
