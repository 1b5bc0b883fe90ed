"""Alignment: five points of a face to the places that all ArcFace-like models were trained with, 112 px.

A similarity transform (turn, scale, shift; no mirror, no shear) by least squares: Umeyama, Least-squares estimation of
transformation parameters between two point patterns, TPAMI 13(4), 1991, equations 39 to 42; the points' places are
InsightFace's (SphereFace's 96 px wide template, moved right by 8).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike

from recognition.types import IMAGE_SIZE

TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
ORDER = "the eye that lies left in the picture, the other, nose, mouth left and right"
LEAST_SPREAD = 0.5  # pixels, root mean square from their centre: closer together, points are none (a 5 px face has 2)
MIRROR = 1 / 3  # of the larger singular value: from here on the mirror image fits at least four times as well
MOST_SIDE = 2**15 - 1  # pixels: what OpenCV's warp takes


def align(image: np.ndarray, points: ArrayLike, size: int = IMAGE_SIZE) -> np.ndarray:
    """The face cut out of a picture and brought upright: uint8 (size, size, 3), or (size, size) of a grey picture.

    image: uint8 (H, W, 3), colours in any order, or (H, W). points: (5, 2), x and y in pixels, in the order ORDER.
    size: a multiple of 112 (models that want another side resize). Bilinear; black where the picture ends.
    ValueError as `transform`, for an image of another kind, and where all points lie outside it.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
        raise ValueError(f"a picture is uint8 (H, W, 3) or (H, W), got {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    if max(height, width) > MOST_SIDE:
        raise ValueError(f"{height} x {width} pixels; at most {MOST_SIDE} on a side can be aligned: make it smaller")
    matrix = transform(points, size)
    x, y = np.asarray(points, np.float64).T
    if not ((x >= 0) & (x < width) & (y >= 0) & (y < height)).any():
        raise ValueError(
            f"all five points lie outside the picture ({height} x {width} pixels), the first at {x[0]:g}, "
            f"{y[0]:g}: points of another picture, or of another size of it?"
        )
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=0.0)


def transform(points: ArrayLike, size: int = IMAGE_SIZE) -> np.ndarray:
    """float64 (2, 3): takes a picture's pixels to those of the aligned one, `size` on a side.

    ValueError for points that are not (5, 2), not finite, all in one place, or in mirrored order; and another size.
    """
    if size < IMAGE_SIZE or size % IMAGE_SIZE:
        raise ValueError(f"size is {size}; faces are aligned to {IMAGE_SIZE} px or a multiple, models resize")
    points = np.asarray(points, np.float64)
    if points.shape != (5, 2):
        raise ValueError(f"a face has five points, (5, 2), got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("points degenerate: some are not finite")
    wanted = TEMPLATE * (size / IMAGE_SIZE)
    there, centre = points - points.mean(0), wanted.mean(0)
    spread = (there**2).sum(1).mean()
    if spread < LEAST_SPREAD**2:
        raise ValueError(f"points degenerate: all five within a pixel of {points[0, 0]:g}, {points[0, 1]:g}")
    left, values, right = np.linalg.svd((wanted - centre).T @ there / 5)
    signs = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    if signs[1] < 0 and values[1] > MIRROR * values[0]:
        raise ValueError(f"points degenerate: they are those of a face in the mirror; their order must be {ORDER}")
    linear = (left * signs) @ right * (values @ signs / spread)
    return np.column_stack([linear, centre - linear @ points.mean(0)])


def moved(points: ArrayLike, matrix: np.ndarray) -> np.ndarray:
    """Points (N, 2) where a transform (2, 3) takes them, float64."""
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def likeness(points: ArrayLike) -> np.ndarray:
    """How much of the points' spread the transform explains, float64 (N,) for (N, 5, 2): 1 = they are the template.

    Faces from the front have 0.95 and more, in full profile 0.6; points in another order hardly any.
    """
    there = np.asarray(points, np.float64)
    there = there - there.mean(1, keepdims=True)
    wanted = TEMPLATE - TEMPLATE.mean(0)
    z = there[..., 0] + 1j * there[..., 1]
    to = wanted[:, 0] + 1j * wanted[:, 1]
    spread = (np.abs(z) ** 2).sum(1) * (np.abs(to) ** 2).sum()
    return np.abs(z @ to.conj()) ** 2 / np.where(spread > 0, spread, 1)
