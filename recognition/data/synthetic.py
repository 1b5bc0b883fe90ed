"""Faces that nobody has: procedurally painted people, for demos and tests that need no real data.

A person is a point in a space of some sixty measures, plus moles, scars and freckles; a picture of it varies pose,
light, expression, occlusion, background and camera. All is a pure function of (seed, identity, image).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from recognition.data._face_parameters import Appearance, Identity, draw_fields, draw_marks
from recognition.data._face_render import render_face
from recognition.types import IMAGE_SIZE

__all__ = ["Appearance", "Identity", "SyntheticFaces", "appearance", "contact_sheet", "identity", "render"]

ACCESSORIES = (("glasses", 0.10), ("sunglasses", 0.02), ("mask", 0.03), ("hand", 0.03))  # shares of the pictures


def identity(seed: int, number: int) -> Identity:
    """Person `number` of the population `seed`."""
    rng = _generator(seed, number, 0)
    return draw_fields(Identity, rng, marks=draw_marks(rng), texture=int(rng.integers(2**31)))


def appearance(seed: int, number: int, image: int) -> Appearance:
    """The circumstances of one picture of person `number`."""
    rng = _generator(seed, number, 1 + image)
    chance, accessory = rng.random(), "none"
    for name, share in ACCESSORIES:
        if 0 <= chance < share:
            accessory = name
        chance -= share
    return draw_fields(Appearance, rng, accessory=accessory, scene=int(rng.integers(2**31)))


def render(person: Identity, look: Appearance) -> np.ndarray:
    """(112, 112, 3) uint8 RGB, aligned to InsightFace's five-point template."""
    return render_face(person, look)


class SyntheticFaces:
    """A set of pictures, painted when looked at: item i is image i % images_per_identity of one person.

    num_identities, images_per_identity: how many people, and pictures of each; 1 or more. first_identity: number of the
    first person: sets over disjoint ranges of numbers have no person in common. seed: of the population.
    """

    VERSION = 1  # of the renderer: raised when the same numbers give other pictures

    def __init__(
        self, num_identities: int, images_per_identity: int, seed: int = 0, *, first_identity: int = 0
    ) -> None:
        if num_identities < 1 or images_per_identity < 1 or first_identity < 0 or seed < 0:
            raise ValueError(
                f"synthetic faces: got {num_identities} identities from number {first_identity}, {images_per_identity} "
                f"images each, seed {seed}; wanted at least one of each, and numbers from 0 up"
            )
        self.num_identities = num_identities
        self.images_per_identity = images_per_identity
        self.seed = seed
        self.first_identity = first_identity

    def __len__(self) -> int:
        return self.num_identities * self.images_per_identity

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64, 0 .. num_identities - 1."""
        return np.repeat(np.arange(self.num_identities), self.images_per_identity)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """(112, 112, 3) uint8 RGB, and its label."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        label, image = divmod(index % len(self), self.images_per_identity)
        number = self.first_identity + label
        return render(identity(self.seed, number), appearance(self.seed, number, image)), label

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        return (self[i] for i in range(len(self)))


def contact_sheet(images: Sequence[np.ndarray], columns: int, *, side: int = IMAGE_SIZE, gap: int = 4) -> np.ndarray:
    """Pictures on a white sheet, row by row.

    images: (H, W, 3) uint8 each, of any size; each is brought to `side` pixels, without smoothing where it is smaller,
    so that a low resolution shows its pixels. Returns (rows, columns, 3) uint8. ValueError without images or columns.
    """
    if not len(images) or columns < 1:
        raise ValueError(f"a contact sheet of {len(images)} images in {columns} columns: it takes one of each at least")
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (side + gap) + gap, columns * (side + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        if image.shape[:2] != (side, side):
            way = cv2.INTER_AREA if image.shape[0] > side else cv2.INTER_NEAREST
            image = cv2.resize(image, (side, side), interpolation=way)
        y, x = (gap + (side + gap) * k for k in divmod(i, columns))
        sheet[y : y + side, x : x + side] = image
    return sheet


def _generator(seed: int, number: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, number, stream]))
