"""Landmarks beside a record file: x.landmarks.npz, five points for each image, bound to the records they were found in.

Three arrays: key, int64 (N,); landmarks, float32 (N, 5, 2), x and y in pixels of the 112 px picture in the order of
InsightFace (the eye that lies left in the picture, the other, nose, mouth left and right); fingerprint, a text.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from recognition.arrays import read_arrays
from recognition.data.opened import open_reader
from recognition.data.recordio import RecordReader
from recognition.data.records import Records
from recognition.files import write_atomically
from recognition.types import IMAGE_SIZE

MIRRORED = (1, 0, 2, 4, 3)  # the point that each becomes in the mirror: eyes and corners of the mouth change places
BYTES, ROOM = 48, 2**16  # of an image's key and points; for the rest
MEANT = "find the landmarks anew and write them with recognition.data.landmarks.write_landmarks"


def landmark_path(records: Path) -> Path:
    """The x.landmarks.npz that belongs to x.rec."""
    return records.with_suffix(".landmarks.npz")


def shard_fingerprint(reader: RecordReader) -> str:
    """sha256 over one record file's size and index; the pixels are not read, and the name may change."""
    digest = hashlib.sha256(str(reader.size).encode())
    reader.index.update(digest)
    return digest.hexdigest()


def write_landmarks(records: Path, keys: ArrayLike, landmarks: ArrayLike) -> Path:
    """Write the landmarks of the images with these keys beside x.rec; returns the path.

    keys: integers (N,). landmarks: (N, 5, 2) in pixels. ValueError for other shapes, NaN, and a key that stands there
    twice.
    """
    keys, landmarks = np.asarray(keys, np.int64), np.asarray(landmarks, np.float32)
    if landmarks.shape != (*keys.shape, 5, 2) or keys.ndim != 1 or not np.isfinite(landmarks).all():
        raise ValueError(f"landmarks must be finite, (N, 5, 2) for keys (N,), got {landmarks.shape} for {keys.shape}")
    if len(np.unique(keys)) < len(keys):
        raise ValueError(f"{len(keys) - len(np.unique(keys))} of {len(keys)} keys stand there more than once")
    content, order = io.BytesIO(), np.argsort(keys)
    reader = open_reader(records)
    np.savez(content, key=keys[order], landmarks=landmarks[order], fingerprint=np.array(shard_fingerprint(reader)))
    path = landmark_path(reader.path)
    write_atomically(path, content.getvalue())
    return path


def read_landmarks(records: Records) -> np.ndarray:
    """float32 (N, 5, 2): row i holds the landmarks of image i.

    FileNotFoundError where a shard has no such file; ValueError for one that cannot be read, was made for other
    records than lie there now, or lacks an image.
    """
    found = np.empty((len(records), 5, 2), np.float32)
    for number, shard in enumerate(records.shards):
        here = records.shard == number
        found[here] = _of_shard(shard, records.key[here])
    return found


def mirrored(landmarks: Tensor) -> Tensor:
    """Landmarks (B, 5, 2) of the pictures mirrored left to right, in the same order of points."""
    points = landmarks[:, MIRRORED]
    return torch.stack([IMAGE_SIZE - 1 - points[..., 0], points[..., 1]], dim=-1)


def _of_shard(shard: Path, keys: np.ndarray) -> np.ndarray:
    path = landmark_path(shard)
    if not path.is_file():
        raise FileNotFoundError(f"there are no landmarks at {path} for {shard}: {MEANT}")
    reader = open_reader(shard)
    try:
        arrays = read_arrays(path, ("key", "landmarks", "fingerprint"), most=BYTES * len(reader) + ROOM)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} holds no landmarks ({error}): {MEANT}") from None
    there, landmarks, fingerprint = arrays.values()
    if there.ndim != 1 or landmarks.shape != (len(there), 5, 2) or not (np.diff(there) > 0).all():
        raise ValueError(f"{path}: landmarks {landmarks.shape} for keys {there.shape} that should rise: {MEANT}")
    if str(fingerprint) != shard_fingerprint(reader):
        raise ValueError(f"{path} was made for other records than {shard} holds now: {MEANT}")
    at = np.searchsorted(there, keys).clip(max=max(len(there) - 1, 0))
    known = there[at] == keys if len(there) else np.zeros(len(keys), bool)
    if not known.all():
        raise ValueError(
            f"{path} lacks {int((~known).sum())} of {len(keys)} images, key {keys[known.argmin()]} first: {MEANT}"
        )
    return landmarks[at]
