"""Paints, lights, turns, aligns and photographs a synthetic face.

The face is painted from the front on a canvas 1.35 times as fine as the picture, with soft edges (coverage from signed
distances, so nothing needs supersampling) and a relief for the light; the turn of the head is a warp with parallax,
followed by the alignment that real faces go through: the similarity that brings five points nearest to InsightFace's
template. Same figures in, same picture out; another processor's exponentials may move single grey levels.
"""

from __future__ import annotations

import functools
from math import cos, sin

import cv2
import numpy as np

from recognition.data import _face_features as features
from recognition.data._face_canvas import (
    FINE,
    LEFT,
    MIDDLE,
    TOP,
    Canvas,
    bell,
    blank,
    channels,
    cut,
    grain_tile,
    grid,
    limit,
    noise_tile,
    rgb,
    soft,
    strand_noise,
)
from recognition.data._face_parameters import Appearance, Identity
from recognition.types import IMAGE_SIZE

# InsightFace's template: eyes, nose tip, mouth corners as x + iy in a 112 px picture
TEMPLATE = np.array(
    [38.2946 + 51.6963j, 73.5318 + 51.5014j, 56.0252 + 71.7366j, 41.5493 + 92.3655j, 70.7299 + 92.2041j]
)
HAIR_CENTRE = 46.0  # y around which hair is combed
AXIS_Y, AXIS_DEPTH = 66.0, 24.0  # the axes that the head turns about
STEP = 4  # the turn is solved on every fourth pixel: it is smooth


def render_face(person: Identity, look: Appearance) -> np.ndarray:
    """(112, 112, 3) uint8 RGB."""
    face = blank()
    width = features.half_width(person, face.y)
    skin, hair = features.skin_colour(person, look), features.hair_colour(person)
    features.mould(face, person, look, width)
    features.paint_skin(face, person, look, skin)
    mouth_width, mouth_y = features.paint_mouth(face, person, look, skin)
    for side in (-1, 1):
        features.paint_eye(face, person, look, skin, hair, side)
        features.paint_brow(face, person, look, hair, side)
    features.paint_nose(face, person, skin)
    _light(face, person, look)
    head, cover = _surround(face, person, look, skin, hair, width)
    if look.accessory in ("glasses", "sunglasses"):
        _paint_glasses(head, look, person)
    elif look.accessory == "mask":
        _paint_mask(head, look, person, width)
    gaps = np.array([-person.eye_gap, person.eye_gap, person.nose_bend, -mouth_width, mouth_width])
    points = MIDDLE + gaps + 1j * np.array([person.eye_y, person.eye_y, person.nose_y, mouth_y, mouth_y])
    picture = _turn(cv2.merge([*head.colour, cover]), points, person, look)
    return _photograph(picture, look, skin)


def _light(face: Canvas, person: Identity, look: Appearance) -> None:
    """Lambert and a little gloss on the relief, and the nose's cast shadow; colours become lit ones in place."""
    relief = cv2.GaussianBlur(face.relief, (0, 0), 1.2)
    gx = cv2.Sobel(relief, cv2.CV_32F, 1, 0, ksize=3, scale=FINE / 8)
    gy = cv2.Sobel(relief, cv2.CV_32F, 0, 1, ksize=3, scale=FINE / 8)
    inverse = 1 / np.sqrt(1 + gx * gx + gy * gy)

    def facing(direction: np.ndarray) -> np.ndarray:
        lx, ly, lz = (direction / np.linalg.norm(direction)).tolist()
        return np.maximum((lz - lx * gx - ly * gy) * inverse, 0)

    light = np.array([look.light_x, look.light_y, 1.0])
    soften = 1 - look.ambient
    gleam = facing(light / np.linalg.norm(light) + [0, 0, 1])
    for _ in range(4):
        gleam *= gleam
    face.colour *= (1.25 * soften) * facing(light) + look.ambient * (0.78 + 0.22 * inverse)
    face.colour += (0.14 * person.gloss * soften) * gleam
    away = (person.nose_width + 0.5) * (-1 if look.light_x > 0 else 1)
    face.darken(MIDDLE + away, 3.2, person.nose_y - 3, 8, min(0.45 * abs(look.light_x), 0.4) * soften)
    face.darken(MIDDLE + 0.4 * away, 5, person.nose_y + 9, 3.5, 0.35 * max(-look.light_y, 0) * soften)


# ---------------------------------------------------------------------------------------------- around the face


def _surround(
    face: Canvas, person: Identity, look: Appearance, skin: np.ndarray, hair: np.ndarray, width: np.ndarray
) -> tuple[Canvas, np.ndarray]:
    """Neck, ears and hair around the lit face. Returns the head, and (H, W) its coverage."""
    x, y = np.abs(face.x - MIDDLE), face.y
    _, radius = _comb()
    side_light = 1 + (0.35 / 56 * look.light_x) * (face.x - MIDDLE)
    locks = hair * (_hair_texture(person, look) * side_light * (1 + look.hair_shade))
    wisps = cut(noise_tile(), person.texture // 5, face.relief.shape)
    length = max(person.hair_length + look.hair_grow, 46)
    falls = soft(length - y + 3 * wisps[:1], 6)
    cover = soft(person.face_width + person.hair_volume - radius + 0.5 * wisps, 1.5) * falls
    out = Canvas(0.55 * locks, face.relief, face.x, face.y)
    lit = (0.35 + 0.6 * look.ambient) * side_light * skin
    inside = soft(width - x, 1.6)
    front = cover.copy()
    _paint_neck_and_ears(out, person, lit, cover, width)
    out.paint(inside, face.colour)
    np.maximum(cover, inside, out=cover)
    # the hair in front: above the hairline, and at the temples
    sweep = (face.x - MIDDLE) * (person.hair_part + look.hair_sweep)
    line = person.hairline - look.hair_lift + person.hair_round * (x / person.face_width) ** 3 + sweep
    above = line + 0.9 * wisps - y
    temples = soft(x - width + 2.2 + 0.2 * wisps, 2.5) * soft(8 - above, 8)
    if length < 58:
        temples *= soft(58 - y, 5)
    front *= np.maximum(soft(above, 3.5), temples)
    out.colour *= 1 - 0.3 * soft(above + 3.5, 5) * inside  # its shadow on the forehead
    out.paint(front, locks)
    return out, cover


def _paint_neck_and_ears(out: Canvas, person: Identity, lit: np.ndarray, cover: np.ndarray, width: np.ndarray) -> None:
    part = out.window(MIDDLE, 40, 106, 22)
    rows = slice(cover.shape[0] - part.y.shape[0], None)
    columns = slice(int(np.searchsorted(out.x[0], part.x[0, 0])), None)
    neck = soft(27 + 0.35 * np.maximum(part.y - 112, 0) - np.abs(part.x - MIDDLE), 1.5) * soft(part.y - 84, 4)
    view = cover[rows, columns][:, : part.x.shape[1]]
    part.paint(neck, 0.72 * lit[..., columns][..., : part.x.shape[1]])
    np.maximum(view, neck, out=view)
    edge = float(width[int((features.CHEEK_Y - TOP) * FINE), 0]) + 1.5
    for side in (-1, 1):
        middle = MIDDLE + side * edge
        part = out.window(middle, 7, 60, person.ear_size + 3)
        x, y = part.x - middle, part.y - 60
        ear = soft(1 - np.sqrt((x / 4.2) ** 2 + (y / person.ear_size) ** 2), 0.25)
        bowl = bell(x, 0.5 * side, 1.6) * bell(y, -2, 0.45 * person.ear_size)
        columns = slice(int(np.searchsorted(out.x[0], part.x[0, 0])), None)
        rows = slice(int(np.searchsorted(out.y[:, 0], part.y[0, 0])), None)
        flesh = lit[..., columns][..., : part.x.shape[1]] * channels(1.0, 0.9, 0.88)
        part.paint(ear, flesh * (1 - 0.35 * bowl))
        view = cover[rows, columns][: part.y.shape[0], : part.x.shape[1]]
        np.maximum(view, ear, out=view)


def _hair_texture(person: Identity, look: Appearance) -> np.ndarray:
    """(H, W): brightness of the hair, strand by strand, with the sheen of a round head."""
    angle, radius = _comb()
    wave = person.hair_wave * _ripple()[person.texture % 8]
    across = radius * 3.0 + 2 * wave if person.hair_length > 74 else angle * 110 + 4 * wave
    strands = strand_noise()[(across + person.texture % 2000).astype(np.int32)]
    sheen = (0.30 * (1.2 - look.ambient)) * _sheen()
    return limit(0.82 + 0.15 * strands + sheen, 0.25, 1.8)


@functools.cache
def _comb() -> tuple[np.ndarray, np.ndarray]:
    """(H, W) each: the angle around the hair's centre in 0 .. 2 pi, and the distance of the arc a strand lies on."""
    x, y = grid()
    angle = np.arctan2(x - MIDDLE, HAIR_CENTRE - y) + np.float32(np.pi)
    radius = np.sqrt((np.minimum(y, HAIR_CENTRE) - HAIR_CENTRE) ** 2 * 0.62 + (x - MIDDLE) ** 2)
    return angle, radius


@functools.cache
def _ripple() -> list[np.ndarray]:
    return [np.sin(_comb()[1] / 5.0 + phase) for phase in range(8)]


@functools.cache
def _sheen() -> np.ndarray:
    return bell(_comb()[1], 44, 6)


def _paint_glasses(head: Canvas, look: Appearance, person: Identity) -> None:
    rng = np.random.Generator(np.random.PCG64(look.scene))
    wide, high, thick = (float(rng.uniform(*span)) for span in ((11.5, 14), (7.5, 10.5), (0.55, 1.3)))
    power = float(rng.choice([2.0, 3.0, 5.0]))
    frame = rgb(*rng.choice([[20, 20, 22], [70, 45, 28], [140, 140, 145], [120, 30, 30]]))
    part = head.window(MIDDLE, 56, person.eye_y + 2, 13)
    x, y = np.abs(part.x - MIDDLE), part.y - person.eye_y - 1.5
    rim = ((np.abs(x - person.eye_gap) / wide) ** power + np.abs(y / high) ** power) ** (1 / power) - 1
    rim *= min(wide, high)
    if look.accessory == "sunglasses":
        part.paint(0.93 * soft(-rim), rgb(24, 24, 30))
    else:
        glare = soft(np.sin(0.25 * (part.x + part.y)) - 0.7, 0.3)
        part.paint(0.16 * soft(-rim) * glare, rgb(240, 245, 250))
    bridge = np.minimum(thick - np.abs(y + 0.35 * high), person.eye_gap - wide - x + 0.5)
    temple = np.minimum(thick - np.abs(y + 0.4 * high), x - person.eye_gap - wide + 0.5)
    part.paint(soft(np.maximum(thick - np.abs(rim), np.maximum(bridge, temple))), frame)


def _paint_mask(head: Canvas, look: Appearance, person: Identity, width: np.ndarray) -> None:
    rng = np.random.Generator(np.random.PCG64(look.scene))
    cloth = rgb(*rng.choice([[150, 190, 215], [232, 232, 234], [40, 40, 46], [190, 120, 140]]))
    x = np.abs(head.x - MIDDLE)
    upper = person.nose_y - 9 + 0.004 * x**2.2
    cover = soft(head.y - upper, 1.2) * soft(width + 0.5 - x, 1.5)
    folds = 1 + 0.05 * np.sin((head.y - upper) * 0.55) - 0.25 * (x / 50) ** 2
    light = 0.5 + 0.5 * look.ambient + (0.2 / 50 * look.light_x) * (head.x - MIDDLE)
    head.paint(cover, cloth * (folds * light))


# ---------------------------------------------------------------------------------------------- the camera


def _depth(x: np.ndarray, y: np.ndarray, person: Identity) -> np.ndarray:
    """How far a point of the head stands out from the axis, smooth enough that a turn never folds the picture."""
    across, down = x - MIDDLE, y - AXIS_Y
    head = np.maximum(30 - 0.0105 * across**2 - 0.0035 * down**2, -12) - AXIS_DEPTH
    return head + 0.85 * person.nose_height * bell(across, 0, 8) * bell(y, person.nose_y, 9)


def _turn(layers: np.ndarray, points: np.ndarray, person: Identity, look: Appearance) -> np.ndarray:
    """Turn the head, then align it by its five points, x + iy. layers: (H, W, 4) canvas -> (112, 112, 4)."""
    turn_x, turn_y, squeeze_x, squeeze_y = sin(look.yaw), sin(look.pitch), cos(look.yaw), cos(look.pitch)
    depth = _depth(points.real, points.imag, person)
    have = squeeze_x * (points.real - MIDDLE) + turn_x * depth
    have = have + 1j * (squeeze_y * (points.imag - AXIS_Y) + turn_y * depth)
    # a similarity is z -> a z + b in complex numbers, fitted by least squares
    spread = have - have.mean()
    a = np.vdot(spread, TEMPLATE - TEMPLATE.mean()) / np.vdot(spread, spread)
    a *= look.zoom * np.exp(1j * look.roll)
    b = TEMPLATE.mean() - a * have.mean() + look.shift_x + 1j * look.shift_y
    # one cell of margin around the picture, so that enlarging the map needs no border
    pixel = STEP * np.arange(-1, IMAGE_SIZE // STEP + 1) + (STEP - 1) / 2
    seen = ((pixel[None, :] + 1j * pixel[:, None]) - b) / a
    x, y = seen.real / squeeze_x + MIDDLE, seen.imag / squeeze_y + AXIS_Y
    for _ in range(4):
        depth = _depth(x, y, person)
        x, y = (seen.real - turn_x * depth) / squeeze_x + MIDDLE, (seen.imag - turn_y * depth) / squeeze_y + AXIS_Y
    where = np.stack([(x - LEFT) * FINE - 0.5, (y - TOP) * FINE - 0.5], 2).astype(np.float32)
    where = cv2.resize(where, None, fx=STEP, fy=STEP, interpolation=cv2.INTER_CUBIC)[STEP:-STEP, STEP:-STEP]
    return cv2.remap(layers, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _photograph(picture: np.ndarray, look: Appearance, skin: np.ndarray) -> np.ndarray:
    """Background, a hand in front, white balance, exposure, lens and sensor. (112, 112, 4) -> (112, 112, 3) uint8."""
    rng = np.random.Generator(np.random.PCG64([look.scene, 1]))
    cells = rng.uniform(0.1, 0.9) + rng.uniform(0.03, 0.25) * rng.standard_normal((5, 5, 1))
    cells = cells + 0.07 * rng.standard_normal(3) + 0.04 * rng.standard_normal((5, 5, 3))
    cells = np.concatenate([limit(cells), np.ones((5, 5, 1))], 2).astype(np.float32)
    background = cv2.resize(cells, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_CUBIC)
    picture = background + picture[..., 3:] * (picture - background)
    if look.accessory == "hand":
        _cover_by_hand(picture, rng, skin.ravel() * np.float32(0.4 + 0.5 * look.ambient))
    picture = cv2.transform(picture, _colour_response(look))
    if look.blur > 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), look.blur)
    picture += np.float32(look.grain) * cut(grain_tile(), int(rng.integers(2**30)), picture.shape)
    return cv2.convertScaleAbs(limit(picture, 0, 255))


def _colour_response(look: Appearance) -> np.ndarray:
    """(3, 5): exposure and white balance, saturation, contrast around 0.45, and grey levels from 0 .. 1, in one map.

    The fifth column multiplies nothing but the constant; the fourth the coverage, which is not looked at.
    """
    balance = np.diag([1 + look.warmth, 1 + look.tint, 1 - look.warmth]) * look.exposure
    grey = np.full((3, 3), (1 - look.saturation) / 3) + look.saturation * np.eye(3)
    pivot = np.full((3, 1), 255 * 0.45 * (1 - look.contrast))
    return np.hstack([255 * look.contrast * grey @ balance, np.zeros((3, 1)), pivot])


def _cover_by_hand(picture: np.ndarray, rng: np.random.Generator, colour: np.ndarray) -> None:
    """Two or three fingers reaching in from the left or the right."""
    side, start = rng.choice([-1, 1]), rng.uniform(60, 100)
    x, y = np.arange(IMAGE_SIZE)[None], np.arange(IMAGE_SIZE)[:, None]
    for finger in range(rng.integers(2, 4)):
        tip_x, slope, middle = 56 + side * rng.uniform(8, 26), rng.uniform(-0.1, 0.35), start + 11.5 * finger
        across = (y - middle - slope * side * (x - tip_x)) / np.hypot(1, slope)
        radius = np.sqrt(across**2 + np.maximum(-side * (x - tip_x), 0) ** 2)
        shade = 0.55 + 0.5 * np.sqrt(np.maximum(1 - (radius / 6.4) ** 2, 0.12))
        picture[..., :3] += soft(6.0 - radius, 1.2)[..., None] * (colour * shade[..., None] - picture[..., :3])
