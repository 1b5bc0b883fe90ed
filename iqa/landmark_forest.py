"""Quality from the places of eyes, nose and mouth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from iqa import SCORERS
from iqa._forest import fit_forest, read_forest
from iqa._image import find_file
from recognition.types import Needs

SIDE = 112.0  # pixels of the aligned picture
# arcface_torch's alignment template: eyes, nose, corners of the mouth, in pixels of the 112 px picture
TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
FEATURES = (
    "eye_distance", "roll", "nose_across", "nose_down", "face_length", "mouth_width", "mouth_roll", "mouth_across",
    "eye_asymmetry", "mouth_asymmetry", "off_template", "margin",
)  # fmt: skip
SMALLEST = 1e-3  # pixels; eyes on one spot give large, finite features
WHERE_FROM = "fit one to landmarks and quality figures of your own with iqa.landmark_forest.fit"


@SCORERS.register("landmark_forest")
class LandmarkForest(nn.Module):
    """A random forest on the geometry of five landmarks (after arXiv 2507.15961); no pixels; needs a fitted file.

    The paper's features and data are not published: these twelve are our own (landmark_features), and so are the fits.
    What landmarks tell is pose and bad alignment, and of resolution only what it does to the detector that placed them.
    file: an .npz written by `fit`. The score is in the units of the quality figures that it was fitted to; range is the
        lowest and highest leaf.
    Cost, processor time of one thread on a busy machine, 50 trees of depth 8: 0.03 ms a face in a batch of 64, 0.7 ms
    alone.
    """

    needs: Needs = "landmarks"
    version = 1
    exportable = False
    export_obstacle = "an exported model is given a picture, and no landmarks with it"

    def __init__(self, file: str | None = None) -> None:
        super().__init__()
        self.file = str(find_file(file, "landmark_forest", "file", WHERE_FROM))
        self.forest = read_forest(Path(self.file), FEATURES, "landmark_forest")
        self.range = (float(self.forest.value.min()), float(self.forest.value.max()))

    def forward(self, landmarks: Tensor) -> Tensor:
        """landmarks: (B, 5, 2) floating, x and y in pixels of the 112 px picture. Returns (B,) float32.

        The order is that of InsightFace: the eye that lies left in the picture, the other, nose, mouth left and right.
        ValueError for other shapes, NaN, and coordinates that are shares of the picture instead of pixels.
        """
        return self.forest(landmark_features(landmarks))

    def extra_repr(self) -> str:
        return f"file={self.file}"


def landmark_features(landmarks: Tensor) -> Tensor:
    """(B, 5, 2) pixels -> (B, 12) float32, FEATURES in their order; lengths in eye distances if not said otherwise.

    eye_distance, in sides of the picture; roll: sine of the angle of the line of the eyes; nose_across, nose_down: the
    nose from the middle of the eyes, along their line and at right angles to it; face_length: the middle of the mouth
    at right angles to the eyes; mouth_width; mouth_roll: sine of the angle between mouth and eyes; mouth_across: the
    middle of the mouth from that of the eyes, along their line; eye_asymmetry, mouth_asymmetry: difference over sum of
    the two corners' distances from the nose; off_template: root mean square distance in pixels from arcface_torch's
    template after the best shift, turn and scaling, over 112; margin: of the outermost point from the picture's edge,
    in sides, negative outside.
    """
    _check(landmarks)
    points = landmarks.float()
    left, right, nose, *mouth = points.unbind(dim=1)
    line = right - left
    distance = _length(line)
    along = line / distance[:, None]
    down = torch.stack((-along[:, 1], along[:, 0]), dim=1)
    middle, lips, smile = (left + right) / 2.0, (mouth[0] + mouth[1]) / 2.0, mouth[1] - mouth[0]
    width = _length(smile)
    edge = torch.minimum(points, SIDE - points).amin(dim=(1, 2))
    columns = (
        distance / SIDE,
        along[:, 1],
        _dot(nose - middle, along) / distance,
        _dot(nose - middle, down) / distance,
        _dot(lips - middle, down) / distance,
        width / distance,
        _dot(smile, down) / width,
        _dot(lips - middle, along) / distance,
        _asymmetry(_length(left - nose), _length(right - nose)),
        _asymmetry(_length(mouth[0] - nose), _length(mouth[1] - nose)),
        _off_template(points) / SIDE,
        edge / SIDE,
    )
    return torch.stack(columns, dim=1)


def fit(
    landmarks: np.ndarray,
    quality: np.ndarray,
    path: str | Path,
    trees: int = 50,
    depth: int = 8,
    smallest_leaf: int = 5,
    seed: int = 0,
) -> None:
    """Fit the forest to landmarks (N, 5, 2) in pixels and quality (N,), higher = better, and write it as .npz.

    ImportError with the command that installs scikit-learn; ValueError for other shapes and for NaN.
    """
    if np.shape(quality) != np.shape(landmarks)[:1] or not np.isfinite(quality).all():
        raise ValueError(
            f"quality must be finite, one for each of the landmarks {np.shape(landmarks)}, got {np.shape(quality)}"
        )
    rows = landmark_features(torch.from_numpy(np.asarray(landmarks, np.float32))).numpy()
    fit_forest(rows, np.asarray(quality), path, FEATURES, trees, depth, smallest_leaf, seed)


def _off_template(points: Tensor) -> Tensor:
    """(B, 5, 2) -> (B,): root mean square distance from the template after the least-squares similarity.

    In complex numbers the best a and b of |a p + b - t|^2 are closed: a = sum(conj(p) t) / sum|p|^2, both centred.
    """
    template = torch.tensor(TEMPLATE, dtype=torch.float32, device=points.device)
    wanted, got = template - template.mean(dim=0), points - points.mean(dim=1, keepdim=True)
    real = (got * wanted).sum(dim=(1, 2))
    imaginary = (got[:, :, 0] * wanted[:, 1] - got[:, :, 1] * wanted[:, 0]).sum(dim=1)
    power = (got * got).sum(dim=(1, 2)).clamp(min=SMALLEST**2)
    rest = (wanted * wanted).sum() - (real * real + imaginary * imaginary) / power
    return (rest.clamp(min=0.0) / len(TEMPLATE)).sqrt()


def _length(vector: Tensor) -> Tensor:
    return (vector * vector).sum(dim=1).sqrt().clamp(min=SMALLEST)


def _dot(one: Tensor, two: Tensor) -> Tensor:
    return (one * two).sum(dim=1)


def _asymmetry(one: Tensor, two: Tensor) -> Tensor:
    return (one - two) / (one + two)


def _check(landmarks: Tensor) -> None:
    if landmarks.dim() != 3 or landmarks.shape[1:] != (5, 2) or not landmarks.is_floating_point():
        raise ValueError(
            "scorer 'landmark_forest' takes landmarks (B, 5, 2), floating, in pixels of the 112 px picture, "
            f"got {tuple(landmarks.shape)} {landmarks.dtype}"
        )
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or landmarks.numel() == 0:
        return
    if not torch.isfinite(landmarks).all():
        raise ValueError("scorer 'landmark_forest': landmarks hold NaN or infinity; leave out faces that have none")
    if landmarks.abs().amax() <= 2.0:
        raise ValueError(
            f"scorer 'landmark_forest': the largest coordinate is {float(landmarks.abs().amax()):.3g}: landmarks "
            "are in pixels of the 112 px picture; multiply shares of it by 112"
        )
