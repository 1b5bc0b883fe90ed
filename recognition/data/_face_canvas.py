"""A canvas for soft-edged painting: colour planes and a relief on a grid finer than the picture."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

FINE = 1.35  # canvas pixels per picture pixel
LEFT, TOP, WIDTH, HEIGHT = -8, -20, 128, 146  # what the canvas covers, in picture pixels
MIDDLE = 56.0  # x of the face's axis of symmetry


@dataclass
class Canvas:
    """A rectangle of the face under construction; windows into it share memory."""

    colour: np.ndarray  # (3, H, W) float32, 0 .. 1; planes, for numpy is slow along an axis of three
    relief: np.ndarray  # (H, W) float32, pixels towards the viewer
    x: np.ndarray  # (1, W) float32, in picture pixels
    y: np.ndarray  # (H, 1) float32

    def window(self, x: float, half_width: float, y: float, half_height: float) -> Canvas:
        """The part around x, y."""
        rows = _span(y - half_height, y + half_height, TOP, self.y.shape[0])
        columns = _span(x - half_width, x + half_width, LEFT, self.x.shape[1])
        return Canvas(self.colour[:, rows, columns], self.relief[rows, columns], self.x[:, columns], self.y[rows])

    def paint(self, cover: np.ndarray, colour: np.ndarray) -> None:
        """Lay a colour, (3, 1, 1) or (3, H, W), over it where cover (H, W) in 0 .. 1 says."""
        change = colour - self.colour
        change *= cover
        self.colour += change

    def darken(self, x: float, sx: float, y: float, sy: float, amount: float) -> None:
        """A soft shadow of sigmas sx, sy; a negative amount lightens."""
        if abs(amount) > 0.004:
            part = self.window(x, 2.6 * sx, y, 2.6 * sy)
            part.colour *= 1 - amount * bell(part.y, y, sy) * bell(part.x, x, sx)

    def bulge(self, x: float, sx: float, y: float, sy: float, by: float) -> None:
        """A soft bump of sigmas sx, sy; a hollow where `by` is negative."""
        part = self.window(x, 3 * sx, y, 3 * sy)
        part.relief += by * bell(part.y, y, sy) * bell(part.x, x, sx)


def blank() -> Canvas:
    """A canvas of unset values."""
    x, y = grid()
    shape = (y.shape[0], x.shape[1])
    return Canvas(np.empty((3, *shape), np.float32), np.empty(shape, np.float32), x, y)


@functools.cache
def grid() -> tuple[np.ndarray, np.ndarray]:
    """(1, W) and (H, 1) float32: where the canvas' pixels lie."""
    x = LEFT + (np.arange(int(WIDTH * FINE), dtype=np.float32) + 0.5) / np.float32(FINE)
    y = TOP + (np.arange(int(HEIGHT * FINE), dtype=np.float32) + 0.5) / np.float32(FINE)
    return x[None], y[:, None]


def limit(x: np.ndarray, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """np.clip, at a third of its cost on small arrays."""
    return np.minimum(np.maximum(x, low), high)


def soft(distance: np.ndarray, width: float = 0.8) -> np.ndarray:
    """Coverage 0 .. 1 of a shape from the signed distance to its edge, positive inside."""
    return limit(distance * (1 / width) + 0.5)


def bell(x: np.ndarray, middle: float, sigma: float) -> np.ndarray:
    """Gaussian of height 1."""
    return np.exp((-0.5 / sigma**2) * (x - middle) ** 2)


def channels(red: float, green: float, blue: float) -> np.ndarray:
    """(3, 1, 1) float32."""
    return np.array([red, green, blue], np.float32)[:, None, None]


def rgb(red: float, green: float, blue: float) -> np.ndarray:
    """(3, 1, 1) float32 in 0 .. 1, from grey levels."""
    return channels(red, green, blue) / 255


def between(low: np.ndarray, high: np.ndarray, share: float) -> np.ndarray:
    """low at share 0, high at 1."""
    return low + np.float32(share) * (high - low)


def cut(tile: np.ndarray, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """A window of a noise tile, another one for another seed."""
    row, column = seed % 397, seed // 397 % 401
    return tile[row : row + shape[0], column : column + shape[1]]


@functools.cache
def noise_tile() -> np.ndarray:
    """(640, 640) float32: noise of several sizes, standard deviation 1."""
    noise = np.random.Generator(np.random.PCG64(0)).standard_normal((640, 640), np.float32)
    tile = sum(s * cv2.GaussianBlur(noise, (0, 0), s) for s in (0.6, 2.0, 7.0))
    return (tile / tile.std()).astype(np.float32)


@functools.cache
def grain_tile() -> np.ndarray:
    """(640, 640, 3) float32 normals; drawing new ones for each picture would take a tenth of its time."""
    return np.random.Generator(np.random.PCG64(2)).standard_normal((640, 640, 3), np.float32)


@functools.cache
def strand_noise() -> np.ndarray:
    """(4096,) float32: brightness of a lock of hair across its strands, standard deviation 1."""
    noise = np.random.Generator(np.random.PCG64(1)).standard_normal((1, 4096)).astype(np.float32)
    strands = noise + 3 * cv2.GaussianBlur(noise, (0, 0), 2.5) + 8 * cv2.GaussianBlur(noise, (0, 0), 12)
    return (strands / strands.std())[0]


def _span(low: float, high: float, start: int, length: int) -> slice:
    return slice(max(int((low - start) * FINE), 0), min(max(int((high - start) * FINE) + 1, 0), length))
