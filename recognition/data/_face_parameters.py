"""What a synthetic face is made of: some sixty numbers for the identity, some thirty for one picture of it.

Lengths are in pixels of the aligned 112 px face, x to the right, y down; angles in radians; the rest in 0 .. 1.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields
from typing import Literal, TypeVar

import numpy as np

Made = TypeVar("Made", "Identity", "Appearance")


def _about(mean: float, spread: float, low: float = -np.inf, high: float = np.inf) -> float:
    """A field drawn from a normal distribution cut at two standard deviations, then clipped to low .. high."""
    return field(metadata={"draw": (mean, spread, low, high)})


@dataclass(frozen=True)
class Mark:
    """A mole, scar or freckle."""

    x: float
    y: float
    size: float  # sigma
    stretch: float  # length over width; a scar is long
    angle: float
    depth: float  # -1 .. 1: dark above 0, light below


@dataclass(frozen=True)
class Identity:
    """One person."""

    # head
    face_width: float = _about(48.0, 2.2)  # half the width at the cheekbones
    jaw_width: float = _about(0.84, 0.06)  # of the face's width, at the mouth
    jaw_corner: float = _about(3.0, 0.7, 1.8)  # how late the jaw turns in towards the chin
    chin_y: float = _about(118.0, 3.0)
    chin_height: float = _about(3.0, 1.5, 0)
    cheekbone: float = _about(2.0, 1.2)
    brow_ridge: float = _about(2.0, 1.2)
    ear_size: float = _about(9.5, 1.5)
    # eyes
    eye_gap: float = _about(17.6, 0.9)  # from the middle of the face to an eye's middle
    eye_y: float = _about(51.6, 0.8)
    eye_width: float = _about(8.0, 0.75)  # half of it
    eye_upper: float = _about(3.7, 0.65)  # height of the lids' arcs above and below the eye's axis
    eye_lower: float = _about(2.1, 0.45)
    eye_tilt: float = _about(0.05, 0.08)  # outer corner upwards
    eye_peak: float = _about(0.0, 0.25)  # where the upper lid is highest, outwards
    eye_depth: float = _about(5.0, 1.6)
    iris_size: float = _about(3.5, 0.25)
    iris_hue: float = _about(0.3, 0.4, 0, 1)  # brown to blue
    iris_light: float = _about(0.45, 0.25, 0.05, 1)
    lash: float = _about(0.55, 0.2, 0.1, 1)
    crease: float = _about(0.35, 0.25, 0, 1)
    crease_gap: float = _about(2.6, 0.7, 1)
    bags: float = _about(0.25, 0.2, 0, 1)
    # brows
    brow_rise: float = _about(9.6, 1.3)  # above the eye
    brow_inner: float = _about(8.5, 1.4)  # length inwards and outwards of the eye's middle
    brow_outer: float = _about(11.0, 1.4)
    brow_thick: float = _about(1.5, 0.45, 0.5)
    brow_arch: float = _about(2.0, 0.9)
    brow_peak: float = _about(0.3, 0.25)
    brow_tilt: float = _about(0.04, 0.08)
    brow_density: float = _about(0.7, 0.15, 0.2, 1)
    # nose
    nose_y: float = _about(72.0, 1.3)  # its tip
    nose_width: float = _about(7.4, 0.9)  # half of it, at the wings
    nose_bridge: float = _about(3.6, 0.7)
    nose_height: float = _about(13.0, 2.5)
    nose_tip: float = _about(4.8, 0.7)
    nose_hump: float = _about(0.0, 1.2)
    nose_bend: float = _about(0.0, 0.7)
    nostril: float = _about(0.55, 0.15, 0.1, 1)
    # mouth
    mouth_y: float = _about(92.3, 1.2)
    mouth_width: float = _about(14.6, 1.3)  # half of it
    lip_upper: float = _about(2.7, 0.7, 0.8)
    lip_lower: float = _about(3.9, 0.8, 1.2)
    lip_bow: float = _about(0.6, 0.3, 0)
    lip_red: float = _about(0.45, 0.2, 0, 1)
    mouth_curve: float = _about(0.2, 0.6)
    philtrum: float = _about(0.5, 0.3, 0, 1)
    # skin
    melanin: float = _about(0.35, 0.14, 0.02, 1)
    redness: float = _about(0.3, 0.12, 0, 1)
    gloss: float = _about(0.3, 0.12, 0, 1)
    roughness: float = _about(0.4, 0.2, 0, 1)
    folds: float = _about(0.3, 0.25, 0, 1)  # from the nose to the mouth's corners
    forehead_lines: float = _about(0.15, 0.2, 0, 1)
    beard: float = _about(0.0, 0.35, 0, 1)
    moustache: float = _about(0.0, 0.35, 0, 1)
    # hair
    hair_dark: float = _about(0.78, 0.13, 0.1, 0.97)
    hair_red: float = _about(0.35, 0.18, 0, 1)
    hair_grey: float = _about(-0.1, 0.2, 0, 1)
    hairline: float = _about(17.0, 3.0)  # y in the middle of the forehead
    hair_round: float = _about(16.0, 5.0, 2)  # how far the hairline comes down at the temples
    hair_part: float = _about(0.0, 0.06)  # slope of a fringe
    hair_volume: float = _about(5.0, 1.5, 0.5)
    hair_length: float = _about(66.0, 16.0, 40, 140)  # y down to which it falls beside the face
    hair_wave: float = _about(0.5, 0.4, 0)
    marks: tuple[Mark, ...] = ()
    texture: int = 0  # seed of skin texture and strands


@dataclass(frozen=True)
class Appearance:
    """One picture of a person."""

    yaw: float = _about(0.0, 0.20)
    pitch: float = _about(0.0, 0.11)
    roll: float = _about(0.0, 0.03)  # what alignment leaves
    shift_x: float = _about(0.0, 0.7)
    shift_y: float = _about(0.0, 0.7)
    zoom: float = _about(1.0, 0.015)
    light_x: float = _about(0.0, 0.5)
    light_y: float = _about(-0.35, 0.35)
    ambient: float = _about(0.52, 0.14, 0.25, 0.9)
    exposure: float = _about(0.96, 0.18, 0.55)
    warmth: float = _about(0.0, 0.11)
    tint: float = _about(0.0, 0.045)
    contrast: float = _about(1.0, 0.12)
    saturation: float = _about(0.95, 0.3, 0.1)
    blur: float = _about(0.35, 0.2, 0.0)  # sigma
    grain: float = _about(2.0, 1.0, 0.0)  # sigma in grey levels
    smile: float = _about(0.3, 0.45, -0.5, 1)
    mouth_open: float = _about(-0.1, 0.3, 0, 1)
    eye_open: float = _about(0.95, 0.15, 0.25, 1.2)
    gaze_x: float = _about(0.0, 1.0)
    gaze_y: float = _about(0.0, 0.4)
    brow_raise: float = _about(0.0, 1.0)
    frown: float = _about(-0.2, 0.4, 0, 1)
    hair_lift: float = _about(0.0, 4.0)  # of the hairline: people have their hair cut, and comb it
    hair_sweep: float = _about(0.0, 0.15)
    hair_grow: float = _about(0.0, 24.0)
    hair_shade: float = _about(0.0, 0.22)
    blush: float = _about(0.0, 0.1)
    stubble: float = _about(0.5, 0.5, 0, 1)  # how much of the beard is there
    accessory: Literal["none", "glasses", "sunglasses", "mask", "hand"] = "none"
    scene: int = 0  # seed of background, grain, and an accessory's look


def draw_fields(kind: type[Made], rng: np.random.Generator, **rest) -> Made:
    """All numeric fields of `kind` from their distributions, each independent of the others."""
    names, mean, spread, low, high = _distributions(kind)
    drawn = mean + spread * np.clip(rng.standard_normal(len(names)), -2, 2)
    return kind(**dict(zip(names, np.clip(drawn, low, high).tolist(), strict=True)), **rest)


@functools.cache
def _distributions(kind: type) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    drawn = [f for f in fields(kind) if "draw" in f.metadata]
    return tuple(f.name for f in drawn), *np.array([f.metadata["draw"] for f in drawn]).T


def draw_marks(rng: np.random.Generator) -> tuple[Mark, ...]:
    """Moles on most faces, freckles on a fifth of them, a scar on a fifth."""
    marks = []
    for _ in range(rng.poisson(1.6)):
        x, y = rng.uniform(18, 94), rng.uniform(25, 108)
        marks.append(Mark(x, y, rng.uniform(0.6, 1.3), rng.uniform(1, 1.3), 0.0, rng.uniform(0.4, 0.9)))
    if rng.random() < 0.2:
        x, y, angle = rng.uniform(20, 92), rng.uniform(25, 105), rng.uniform(0, np.pi)
        marks.append(Mark(x, y, rng.uniform(0.5, 0.8), rng.uniform(5, 10), angle, -rng.uniform(0.2, 0.5)))
    if rng.random() < 0.2:
        for _ in range(rng.integers(15, 45)):
            x, y = 56 + 16 * rng.standard_normal(), 68 + 6 * rng.standard_normal()
            marks.append(Mark(x, y, rng.uniform(0.4, 0.7), 1.0, 0.0, rng.uniform(0.12, 0.35)))
    return tuple(marks)
