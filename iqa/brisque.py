"""A quality figure from natural-scene statistics, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from iqa import SCORERS
from iqa._image import check_images, find_file, luma
from iqa._scene_statistics import SceneStatistics
from recognition.types import Needs

if TYPE_CHECKING:
    import cv2

WORST = 100.0  # OpenCV's bounds of the figure are 0 and 100
SMALLEST_SIDE = 16  # pixels; the second scale is half of it and its window takes 7
TIE = 1e-3  # grey levels: luma lies on multiples of 1e-3, one in a thousand exactly between two levels
WHERE_FROM = (
    "opencv_contrib holds both in modules/quality/samples: brisque_model_live.yml (the support vector machine, for "
    "'weights') and brisque_range_live.yml (for 'ranges'); the scorers 'sharpness' and 'constant' need no file"
)


@SCORERS.register("brisque")
class BRISQUE(nn.Module):
    """BRISQUE (Mittal et al., IEEE TIP 2012): 36 scene statistics and a support vector machine; needs its two files.

    weights: OpenCV's brisque_model_live.yml (an RBF support vector regression). ranges: brisque_range_live.yml, the
        (2, 36) minimum and maximum that scale the statistics to [-1, 1].
    form: whose statistics, see SceneStatistics: "opencv", on which OpenCV's machine was trained, or "pyiqa".
    The machine's figure falls with quality and is held within 0 to 100, as OpenCV does; the score is its negative. A
    flat picture, which has no statistics, gets a finite score. Over 40 aligned faces reduced to 112, 56, 28 and 14
    pixels and enlarged to 112 again the mean score is -29, -41, -58, -71.
    """

    needs: Needs = "image"
    version = 1
    exportable = True

    def __init__(
        self, weights: str | None = None, ranges: str | None = None, form: Literal["opencv", "pyiqa"] = "opencv"
    ) -> None:
        super().__init__()
        if form not in ("opencv", "pyiqa"):
            raise ValueError(f"scorer 'brisque': unknown form '{form}'; take 'opencv' or 'pyiqa'")
        self.form = form
        self.range = (-WORST, 0.0)
        self.statistics = SceneStatistics(form)
        machine = _read_machine(find_file(weights, "brisque", "weights", WHERE_FROM))
        bounds = _read_ranges(find_file(ranges, "brisque", "ranges", WHERE_FROM))
        self.gamma, self.rho = machine[2], machine[3]
        self.register_buffer("vectors", machine[0])
        self.register_buffer("coefficients", machine[1])
        self.register_buffer("ranges", bounds)

    def forward(self, image: Tensor) -> Tensor:
        """image: (B, 3, H, W) RGB in [0, 1], 16 pixels or more. Returns (B,) float32 in [-100, 0]."""
        check_images(image, "brisque")
        if min(image.shape[2:]) < SMALLEST_SIDE:
            raise ValueError(
                f"scorer 'brisque' takes pictures of {SMALLEST_SIDE} pixels or more, "
                f"got {image.shape[2]}x{image.shape[3]}"
            )
        return -self._figure(scale(self.statistics(grey_levels(image)), self.ranges))

    def _figure(self, scaled: Tensor) -> Tensor:
        """(B, 36) -> (B,) float32 in [0, 100]."""
        # float64: the coefficients are up to 1024 with either sign and nearly cancel
        rows, vectors = scaled.double(), self.vectors.double()
        distance = (rows * rows).sum(1, keepdim=True) + (vectors * vectors).sum(1) - 2 * rows @ vectors.T
        figure = torch.exp(-self.gamma * distance) @ self.coefficients - self.rho
        return figure.clamp(0.0, WORST).float()

    def extra_repr(self) -> str:
        return f"form={self.form}"


def grey_levels(image: Tensor) -> Tensor:
    """(B, 3, H, W) RGB in [0, 1] -> (B, 1, H, W) whole grey levels in 0..255."""
    return torch.round(luma(image) + TIE / 2)


def scale(statistics: Tensor, ranges: Tensor) -> Tensor:
    """(B, 36) to [-1, 1], and beyond it where a picture lies outside. ranges: (2, 36) minimum and maximum."""
    return 2.0 * (statistics - ranges[0]) / (ranges[1] - ranges[0]) - 1.0


def _read_machine(path: Path) -> tuple[Tensor, Tensor, float, float]:
    """Support vectors (N, 36), coefficients (N,), gamma and rho of OpenCV's SVM file."""
    storage = _open(path)  # the nodes live in it
    node = storage.getNode("opencv_ml_svm")
    function = node.getNode("decision_functions")
    vectors = node.getNode("support_vectors")
    if node.empty() or function.empty() or function.size() != 1 or vectors.empty():
        raise ValueError(f"scorer 'brisque': {path} holds no support vector regression (opencv_ml_svm); {WHERE_FROM}")
    kernel = node.getNode("kernel")
    if kernel.getNode("type").string() != "RBF":
        raise ValueError(f"scorer 'brisque': {path} has a kernel other than RBF; {WHERE_FROM}")
    rows = np.array([_floats(vectors.at(i)) for i in range(vectors.size())])
    function = function.at(0)
    coefficients = np.array(_floats(function.getNode("alpha")))
    if rows.ndim != 2 or rows.shape[1] != 36 or coefficients.shape != rows.shape[:1]:
        raise ValueError(
            f"scorer 'brisque': {path} holds vectors {rows.shape} with {coefficients.size} coefficients, "
            f"wanted (N, 36) with N; {WHERE_FROM}"
        )
    order = function.getNode("index")
    if not order.empty():
        rows = rows[np.array(_floats(order), dtype=np.int64)]
    gamma, rho = kernel.getNode("gamma").real(), function.getNode("rho").real()
    return torch.from_numpy(rows).float(), torch.from_numpy(coefficients), gamma, rho


def _read_ranges(path: Path) -> Tensor:
    storage = _open(path)
    bounds = storage.getNode("range").mat()
    if bounds is None or bounds.shape != (2, 36) or not (bounds[1] > bounds[0]).all():
        raise ValueError(f"scorer 'brisque': {path} holds no 'range' of (2, 36), minimum below maximum; {WHERE_FROM}")
    return torch.from_numpy(bounds.astype(np.float32))


def _open(path: Path) -> cv2.FileStorage:
    import cv2  # its import changes LD_LIBRARY_PATH

    storage = cv2.FileStorage()
    try:
        opened = storage.open(str(path), cv2.FILE_STORAGE_READ)
    except cv2.error as error:
        raise ValueError(f"scorer 'brisque': OpenCV cannot read {path} ({error}); {WHERE_FROM}") from None
    if not opened:
        raise ValueError(f"scorer 'brisque': OpenCV cannot read {path}; {WHERE_FROM}")
    return storage


def _floats(node: cv2.FileNode) -> list[float]:
    return [node.at(i).real() for i in range(node.size())]
