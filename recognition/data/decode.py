"""What all loaders share: the decoder that is the reference, and the way from decoded pixels to a Batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from recognition.data.augment import finish
from recognition.data.augmentations.sequence import Augmentations
from recognition.data.degrade import Degradation
from recognition.data.encoded import read_picture
from recognition.data.landmarks import mirrored
from recognition.data.records import Records
from recognition.registry import nearest
from recognition.types import Batch

FIELDS = ("twin", "level")  # optional fields of Batch that loaders fill when asked to
PER_IMAGE = ("landmarks", "score")  # and those that they take from what is known of each record


def decode(
    encoded: bytes, image_size: int, where: str, least_side: int = 1, out: np.ndarray | None = None
) -> np.ndarray:
    """Encoded image -> uint8 (image_size, image_size, 3) RGB; bilinear resize where the stored size differs.

    Other arguments, channels and PictureError as read_picture. out: contiguous, of that shape, where the pixels go.
    """
    image = read_picture(encoded, where, least_side)
    if image.shape[:2] != (image_size, image_size):
        image = cv2.resize(image, (image_size, image_size), interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, out)


def check_fields(fields: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple; ValueError for one that loaders do not fill."""
    for field in fields:
        if field not in FIELDS:
            raise ValueError(f"loaders fill no batch field '{field}'{nearest(field, FIELDS)}")
    return tuple(fields)


def check_per_image(per_image: Mapping[str, np.ndarray], records: Records) -> dict[str, np.ndarray]:
    """The arrays by field; ValueError for another field, or other than one row for each record."""
    for field, rows in per_image.items():
        if field not in PER_IMAGE:
            raise ValueError(f"loaders take no '{field}' for each image{nearest(field, PER_IMAGE)}")
        if len(rows) != len(records):
            raise ValueError(f"{len(rows)} rows of '{field}' for {len(records)} records: each needs its own")
    return dict(per_image)


def as_batch(
    images: Tensor,
    positions: np.ndarray,
    indices: np.ndarray,
    records: Records,
    *,
    degradation: Degradation | None,
    flip: bool,
    seed: int,
    device: torch.device,
    fields: Sequence[str],
    per_image: Mapping[str, np.ndarray],
    augmentations: Augmentations | None = None,
) -> Batch:
    """Decoded images, uint8 (B, H, W, 3) RGB on any device, with labels and keys of their records, ready on `device`.

    positions: (B,) in the sample order. indices: (B,) record numbers. fields: of FIELDS, those to fill.
    per_image: by field of PER_IMAGE, a float32 row for each record: landmarks are mirrored with their image; scores are
        of the stored pictures, so that `unscored` names the rows that were augmented or degraded.
    augmentations: done before degradation, landmarks stay where they are; None = none.
    """
    done = finish(
        images,
        positions,
        seed=seed,
        flip=flip,
        degradation=degradation,
        device=device,
        fields=fields,
        augmentations=augmentations,
    )
    known = {f: torch.from_numpy(rows[indices]).to(device, non_blocking=True) for f, rows in per_image.items()}
    if (landmarks := known.get("landmarks")) is not None:
        known["landmarks"] = torch.where(done.flipped[:, None, None], mirrored(landmarks), landmarks)
    if "score" in known:
        known["unscored"] = torch.from_numpy(done.changed).to(device, non_blocking=True)
    return Batch(
        image=done.image,
        label=torch.from_numpy(records.labels_of(indices)).to(device, non_blocking=True),
        key=torch.from_numpy(records.identities(indices)).to(device, non_blocking=True),
        twin=done.twin,
        level=done.level if "level" in fields else None,
        **known,
    )
