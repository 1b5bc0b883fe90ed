"""Paints the parts of a synthetic face onto its canvas: relief, skin, eyes, brows, nose, mouth."""

from __future__ import annotations

from math import cos, hypot, sin, tan

import numpy as np

from recognition.data._face_canvas import (
    MIDDLE,
    Canvas,
    bell,
    between,
    channels,
    cut,
    limit,
    noise_tile,
    rgb,
    soft,
)
from recognition.data._face_parameters import Appearance, Identity

CHEEK_Y = 60.0  # where the face is widest


def half_width(person: Identity, y: np.ndarray) -> np.ndarray:
    """(H, 1): half the face's width at each height."""
    up = limit((CHEEK_Y - y) / 78)
    down = limit((y - CHEEK_Y) / (person.chin_y - CHEEK_Y))
    taper = np.maximum(1 - (1 - person.jaw_width) * down / 0.6, 0.3)
    end = 1 - down ** (1.6 * person.jaw_corner)
    return np.maximum(person.face_width * np.sqrt(1 - 0.75 * up**2) * taper * np.sqrt(end), 0.5)


def skin_colour(person: Identity, look: Appearance) -> np.ndarray:
    """(3, 1, 1)."""
    tones = (rgb(244, 212, 194), rgb(222, 176, 144), rgb(160, 110, 82), rgb(92, 62, 48))
    at = min(person.melanin * 3, 2.999)
    red = (person.redness - 0.3) * 0.12 + look.blush * 0.3
    return between(tones[int(at)], tones[int(at) + 1], at % 1) * channels(1 + 0.3 * red, 1 - red, 1 - red)


def hair_colour(person: Identity) -> np.ndarray:
    """(3, 1, 1)."""
    light = between(rgb(206, 172, 118), rgb(182, 98, 52), person.hair_red)
    dark = between(rgb(34, 28, 27), rgb(60, 32, 22), person.hair_red)
    return between(between(light, dark, person.hair_dark), rgb(172, 170, 168), person.hair_grey)


def mould(face: Canvas, person: Identity, look: Appearance, width: np.ndarray) -> None:
    """The relief that light falls on."""
    across = (face.x - MIDDLE) / width
    dome = np.sqrt(np.maximum(1 - across * across, 0.06))
    face.relief[:] = dome * (36 - 14 * limit((50 - face.y) / 70) ** 2)
    for side in (-1, 1):
        x = MIDDLE + side * person.eye_gap
        face.bulge(x + side, 9, person.eye_y - 1, 6, -person.eye_depth)
        face.bulge(x, 5.5, person.eye_y, 3.2, 2.2)  # the eyeball under the lids
        face.bulge(x, 11, person.eye_y - person.brow_rise, 4, person.brow_ridge)
        face.bulge(MIDDLE + side * 29, 10, 70, 7, person.cheekbone + 1.5 * max(look.smile, 0))
        wing = MIDDLE + person.nose_bend + side * (person.nose_width - 2.4)
        face.bulge(wing, 2.2, person.nose_y + 2.6, 2.4, 2.6)
    face.bulge(MIDDLE, 12, person.chin_y - 9, 6, person.chin_height)
    face.bulge(MIDDLE, 13, person.mouth_y, 8, 3.0)
    face.bulge(MIDDLE, 9, person.mouth_y + person.lip_lower + 4.5, 2.4, -1.6)
    nose = face.window(MIDDLE, 18, 60, 32)
    along = limit((nose.y - person.eye_y + 4) / (person.nose_y - person.eye_y + 4))
    end = np.where(nose.y > person.nose_y, bell(nose.y, person.nose_y, 5.0), 1)
    profile = (2.0 + (0.8 * person.nose_height - 2.0) * along**1.3) * end * soft(nose.y - person.eye_y + 8, 14)
    profile = profile + person.nose_hump * bell(nose.y, person.nose_y - 11, 4)
    breadth = person.nose_bridge + (person.nose_tip - person.nose_bridge) * along**2
    ridge = MIDDLE + person.nose_bend * along
    nose.relief += profile * np.exp(-0.5 * ((nose.x - ridge) / breadth) ** 2)


def paint_skin(face: Canvas, person: Identity, look: Appearance, skin: np.ndarray) -> None:
    """Tone and texture, flush, shadows under the eyes, folds, marks, beard."""
    texture = cut(noise_tile(), person.texture, face.relief.shape)
    np.multiply(1 + (0.010 + 0.022 * person.roughness) * texture, skin, out=face.colour)
    flush = 0.5 + person.redness
    for x, sx, y, sy, by in ((31, 9, 72, 8, 0.08), (81, 9, 72, 8, 0.08), (56, 5, person.nose_y, 5, 0.07)):
        part = face.window(x, 2.6 * sx, y, 2.6 * sy)
        part.colour[1:] *= 1 - (flush * by) * bell(part.y, y, sy) * bell(part.x, x, sx)
    smile = max(look.smile, 0)
    for side in (-1, 1):
        x = MIDDLE + side * person.eye_gap
        face.darken(x - side * 2, 6, person.eye_y + 6.5, 2.2, 0.30 * person.bags)
        face.darken(x - side * 5, 4.5, person.eye_y - 1, 5, 0.12)
        nostril = (MIDDLE + side * (person.nose_width + 2.5), person.nose_y + 3)
        corner = (MIDDLE + side * (person.mouth_width + 4.5), person.mouth_y - 3)
        _crease(face, nostril, corner, side * 1.2, 1.7, (0.05 + 0.22 * smile) * (0.25 + person.folds))
        inner = (MIDDLE + side * 3.2, person.eye_y - 12), (MIDDLE + side * 2.2, person.eye_y - 4)
        _crease(face, *inner, 0, 0.9, 0.25 * look.frown)
    for i in range(3):
        y = person.eye_y - 20 - 6.5 * i + 1.5 * (person.texture >> i & 3)
        amount = person.forehead_lines * (0.5 + 0.25 * max(look.brow_raise, 0))
        _crease(face, (MIDDLE - 19, y + 1.5), (MIDDLE + 19, y + 1.5), -2.5, 0.8, 0.4 * amount)
    face.darken(MIDDLE, 2.2, person.nose_y + 12, 4, 0.16 * person.philtrum)
    for mark in person.marks:
        reach = 2 + 2.5 * mark.size * mark.stretch
        part = face.window(mark.x, reach, mark.y, reach)
        x, y = part.x - mark.x, part.y - mark.y
        along = (x * cos(mark.angle) + y * sin(mark.angle)) * (1 / mark.size / mark.stretch)
        across = (y * cos(mark.angle) - x * sin(mark.angle)) * (1 / mark.size)
        part.colour *= 1 - (mark.depth * np.exp(-0.5 * (along**2 + across**2))) * channels(0.62, 0.75, 0.8)
    if person.beard + person.moustache > 0.02:
        _paint_beard(face, person, look)


def _crease(
    face: Canvas, start: tuple[float, float], end: tuple[float, float], bow: float, sigma: float, amount: float
) -> None:
    """A soft line between two points, bent sideways by `bow` in its middle."""
    if amount < 0.01:
        return
    (x0, y0), (x1, y1) = start, end
    dx, dy, length = x1 - x0, y1 - y0, hypot(x1 - x0, y1 - y0)
    reach = 3 * sigma + abs(bow)
    part = face.window((x0 + x1) / 2, abs(dx) / 2 + reach, (y0 + y1) / 2, abs(dy) / 2 + reach)
    x, y = part.x - x0, part.y - y0
    along = x * (dx / length**2) + y * (dy / length**2)
    across = x * (dy / length) - y * (dx / length)
    inside = limit(4 * along * (1 - along))
    part.colour *= 1 - amount * np.sqrt(inside) * bell(across - bow * inside, 0, sigma)


def _paint_beard(face: Canvas, person: Identity, look: Appearance) -> None:
    part = face.window(MIDDLE, 60, 100, 34)
    x, y = np.abs(part.x - MIDDLE), part.y
    lower = person.mouth_y + person.lip_lower + 1.5
    cheeks = soft(y - (lower - 0.62 * (x - 14)), 7) * soft(y - 74, 12)
    beard = person.beard * np.maximum(cheeks * soft(x - 15, 5), soft(y - lower - 3, 4))
    lip = person.mouth_y - person.lip_upper
    moustache = person.moustache * soft(y - person.nose_y - 7, 4) * soft(lip - y + 0.6, 2) * soft(18 - x, 5)
    cover = np.maximum(beard, moustache) * (look.stubble * 1.3)
    bristle = cut(noise_tile(), person.texture // 7, cover.shape)
    part.paint(limit(cover * (1 + 0.25 * bristle), 0, 0.92), 0.75 * hair_colour(person))


def paint_eye(face: Canvas, person: Identity, look: Appearance, skin: np.ndarray, hair: np.ndarray, side: int) -> None:
    """side: -1 left, 1 right in the picture."""
    cx, width = MIDDLE + side * person.eye_gap, person.eye_width
    part = face.window(cx, width + 3, person.eye_y, 10)
    x = (part.x - cx) * side  # outwards
    y = part.y - person.eye_y + tan(person.eye_tilt) * x
    u = x / width
    arc, beyond = limit(1 - u * u), np.abs(u)
    upper = (-person.eye_upper * look.eye_open) * arc**0.8 * (1 + person.eye_peak * u)
    lower = person.eye_lower * (0.55 + 0.45 * look.eye_open - 0.15 * max(look.smile, 0)) * arc
    above = y - upper
    fold = bell(above + person.crease_gap * (0.5 + 0.5 * arc) + 0.6, 0, 0.75) * soft(1.12 - beyond, 0.3)
    part.colour *= 1 - (0.55 * person.crease) * fold
    cover = soft(np.minimum(above, lower - y)) * soft(1.02 - beyond, 0.12)
    part.paint(cover, between(rgb(232, 228, 224), skin, 0.18) * np.float32(0.94))
    _paint_iris(part, person, look, cx, person.eye_y - 0.35 * person.eye_upper + 0.9, cover)
    # the upper lid's shadow on the eyeball, then lashes along both lids, the upper ones towards the outer corner
    along = soft(1.10 - beyond, 0.15)
    part.colour *= 1 - 0.38 * cover * np.exp(np.minimum(-0.9 * above, 0)) - 0.22 * along * bell(y - lower, 0.2, 0.6)
    thick = 0.5 + 0.75 * person.lash * (0.7 + 0.5 * limit(u, -0.6))
    lashes = (0.35 + 0.65 * person.lash) * along * soft(thick - np.abs(above + 0.2), 0.9)
    part.paint(lashes, 0.35 * hair + np.float32(0.02))
    corner = bell(x, -0.97 * width, 1.1) * bell(y, 0.3, 0.8)
    part.paint(0.6 * corner, skin * channels(0.88, 0.58, 0.55))


def _paint_iris(part: Canvas, person: Identity, look: Appearance, cx: float, cy: float, cover: np.ndarray) -> None:
    dx, dy = part.x - (cx + look.gaze_x), part.y - (cy + look.gaze_y)
    radius = np.sqrt(dx * dx + dy * dy)
    brown = between(rgb(42, 24, 14), rgb(140, 92, 48), person.iris_light)
    blue = between(rgb(48, 76, 92), rgb(142, 172, 190), person.iris_light)
    iris = between(brown, blue, person.iris_hue)
    ring = 1 - 0.55 * soft(radius - (person.iris_size - 0.55), 1.2)  # its dark rim
    part.paint(cover * soft(person.iris_size - radius, 0.9), iris * ring)
    part.paint(cover * soft(0.43 * person.iris_size - radius, 0.8), rgb(10, 8, 8))
    glint = bell(dx, 1.1 if look.light_x > 0 else -1.1, 0.6) * bell(dy, -1.1, 0.6)
    part.paint(0.9 * cover * glint, rgb(252, 252, 252))


def paint_brow(face: Canvas, person: Identity, look: Appearance, hair: np.ndarray, side: int) -> None:
    """side: -1 left, 1 right in the picture."""
    cx = MIDDLE + side * person.eye_gap
    cy = person.eye_y - person.brow_rise - 0.9 * look.brow_raise + 1.0 * look.frown
    part = face.window(cx, 13, cy, 8)
    x = (part.x - cx) * side
    u = np.where(x < 0, x / person.brow_inner, x / person.brow_outer)
    peak = person.brow_peak
    bend = person.brow_arch * ((u - peak) ** 2 / (1 + abs(peak)) - 0.4) - person.brow_tilt * x - 0.8 * look.frown * u
    thick = person.brow_thick * (1 - 0.55 * limit(u)) * np.sqrt(limit(1 - u**4))
    rough = cut(noise_tile(), person.texture // 3 + 50 * side + 60, part.relief.shape)
    cover = soft(thick - np.abs(part.y - cy - bend) + 0.35 * rough, 1.3) * soft(1.02 - np.abs(u), 0.25)
    part.paint(limit(person.brow_density * cover * (1 + 0.15 * rough)), 0.62 * hair + np.float32(0.01))


def paint_nose(face: Canvas, person: Identity, skin: np.ndarray) -> None:
    """Nostrils, wings, and the tip's gleam."""
    x0, y0 = MIDDLE + person.nose_bend, person.nose_y
    part = face.window(x0, person.nose_width + 4, y0 + 3, 8)
    x, y = np.abs(part.x - x0), part.y - y0
    hole = ((x - 0.5 * person.nose_width) / 2.0) ** 2 + ((y - 4.6 + 0.12 * x) / 1.05) ** 2
    part.paint((0.25 + 0.5 * person.nostril) * np.exp(-0.5 * hole**1.5), 0.30 * skin)
    # the wing: an arc, open towards the face's middle
    radius = np.sqrt((x - person.nose_width + 2.6) ** 2 + ((y - 2.4) / 1.15) ** 2)
    part.colour *= 1 - 0.22 * bell(radius, 3.0, 0.7) * soft(x - person.nose_width + 2.2, 2.5)
    face.darken(x0, person.nose_width * 0.75, y0 + 6.5, 1.6, 0.12)
    face.darken(x0, 1.6, y0 - 2, 3, -0.03 - 0.08 * person.gloss)


def paint_mouth(face: Canvas, person: Identity, look: Appearance, skin: np.ndarray) -> tuple[float, float]:
    """Returns half the mouth's width, and its corners' y."""
    smile, opening = max(look.smile, 0), look.mouth_open
    width = person.mouth_width * (1 + 0.13 * look.smile - 0.10 * opening)
    curve = person.mouth_curve + 3.2 * look.smile
    part = face.window(MIDDLE, width + 2, person.mouth_y + 3, 16)
    u, y = (part.x - MIDDLE) * (1 / width), part.y - person.mouth_y
    arc, beyond = limit(1 - u * u), np.abs(u)
    seam = curve * (arc - 0.65)
    floor = seam + 8.5 * opening * arc  # the lower lip's upper edge
    bow = 1 - person.lip_bow * (0.30 * bell(u, 0, 0.13) - 0.12 * bell(beyond, 0.3, 0.13))
    thin = 1 - 0.22 * smile
    top = seam - (person.lip_upper * thin) * arc**0.75 * bow
    bottom = floor + (person.lip_lower * thin) * arc**0.62
    red = 0.25 + 0.6 * person.lip_red
    lip = skin * (1 - red * channels(0.16, 0.50, 0.44))
    ends = soft(1.0 - beyond, 0.10)
    part.paint(0.95 * soft(np.minimum(y - top, seam - y), 1.3) * ends, 0.86 * lip)
    part.paint(0.95 * soft(np.minimum(y - floor, bottom - y), 1.3) * ends, lip)
    part.colour += (0.10 * person.gloss) * bell(y - floor, 0.45 * person.lip_lower, 1.0) * bell(u, 0, 0.4)
    if opening > 0.02:
        hole = soft(np.minimum(y - seam, floor - y)) * ends
        part.paint(hole, rgb(52, 18, 20))
        teeth = hole * soft(0.5 * (seam + floor) - y, 0.8) * soft(0.8 - beyond, 0.15)
        part.paint(0.9 * teeth, rgb(228, 220, 208))
    else:
        part.paint(0.75 * bell(y - seam, 0, 0.65) * soft(1.04 - beyond, 0.12), 0.42 * lip)
    corner_y = person.mouth_y - 0.65 * curve
    for side in (-1, 1):
        face.darken(MIDDLE + side * width, 1.6, corner_y, 1.4, 0.2)
    face.darken(MIDDLE, 8, person.mouth_y + 9.5 * opening + person.lip_lower + 3.5, 1.8, 0.12)
    return width, corner_y
