"""Pictures and weight files for the scorers' tests. The files are made here: small ones that behave as real ones do."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from iqa import SCORERS
from iqa._scene_statistics import SceneStatistics
from iqa.brisque import grey_levels, scale

LADDER = (112, 56, 28, 14, 7)  # pixels, best first


def pictures(n: int, seed: int = 0) -> np.ndarray:
    """Detail at every scale, as faces have: uint8 (n, 112, 112, 3)."""
    rng = np.random.default_rng(seed)
    total = np.full((n, 112, 112, 3), 127.0, np.float32)
    for side, height in ((4, 40.0), (7, 25.0), (14, 16.0), (28, 12.0), (56, 9.0), (112, 6.0)):
        for picture in total:
            grid = rng.normal(0, height, (side, side, 3)).astype(np.float32)
            picture += cv2.resize(grid, (112, 112), interpolation=cv2.INTER_CUBIC)
    return total.clip(0, 255).astype(np.uint8)


def reduced(images: np.ndarray, side: int) -> np.ndarray:
    """Down to `side` pixels by area and back by bicubic interpolation."""
    if side == images.shape[1]:
        return images
    full = images.shape[1:3]
    small = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack([cv2.resize(image, full, interpolation=cv2.INTER_CUBIC) for image in small])


def as_input(images: np.ndarray) -> Tensor:
    """uint8 (n, H, W, 3) -> float32 (n, 3, H, W) in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def make(name: str, folder: Path) -> nn.Module:
    """A scorer of that name, with generated files where it needs some."""
    if name == "cnniqa":
        return SCORERS.create(name, weights=str(cnniqa_file(folder, "koniq")))
    if name == "brisque":
        weights, ranges = brisque_files(folder, "opencv")
        return SCORERS.create(name, weights=str(weights), ranges=str(ranges))
    return SCORERS.create(name)


def cnniqa_file(folder: Path, form: str) -> Path:
    """A CNNIQA whose figure is its strongest response to an edge; form live has it fall with that response."""
    channels = 3 if form == "koniq" else 1
    arrays = {
        "conv1.weight": np.zeros((50, channels, 7, 7), np.float32),
        "conv1.bias": np.zeros(50, np.float32),
        "fc1.weight": np.zeros((800, 100), np.float32),
        "fc1.bias": np.zeros(800, np.float32),
        "fc2.weight": np.eye(800, dtype=np.float32),
        "fc2.bias": np.zeros(800, np.float32),
        "fc3.weight": np.full((1, 800), 1.0 if form == "koniq" else -1.0, np.float32),
        "fc3.bias": np.zeros(1, np.float32),
    }
    arrays["conv1.weight"][0, :, 3, 3], arrays["conv1.weight"][0, :, 3, 2] = 1.0, -1.0
    arrays["fc1.weight"][0, 0], arrays["fc1.weight"][0, 50] = 1.0, -1.0  # maximum minus minimum
    path = folder / f"cnniqa_{form}.npz"
    np.savez(path, **arrays)
    return path


def brisque_files(folder: Path, form: str) -> tuple[Path, Path]:
    """A machine whose vectors are sharp pictures, with negative coefficients, and blurred ones, with positive."""
    statistics = SceneStatistics(form)
    rungs = [statistics(grey_levels(as_input(reduced(pictures(2, seed=9), side)))) for side in LADDER]
    everything = torch.cat(rungs)
    ranges = torch.stack((everything.amin(0), everything.amax(0) + 1e-6))
    vectors = [scale(rung, ranges).numpy() for rung in rungs]
    coefficients = [np.full(len(rung), 5.0 * (i - 2)) for i, rung in enumerate(rungs)]
    return write_brisque(folder, np.concatenate(vectors), np.concatenate(coefficients), 0.02, -50.0, ranges.numpy())


def write_brisque(
    folder: Path, vectors: np.ndarray, coefficients: np.ndarray, gamma: float, rho: float, ranges: np.ndarray
) -> tuple[Path, Path]:
    """The two files in OpenCV's form."""
    rows = "\n".join(f"      - [ {_listed(vector)} ]" for vector in vectors)
    machine = folder / "machine.yml"
    machine.write_text(
        f"""%YAML:1.0
---
opencv_ml_svm:
   format: 3
   svmType: EPS_SVR
   kernel:
      type: RBF
      gamma: {gamma!r}
   var_count: 36
   sv_total: {len(vectors)}
   support_vectors:
{rows}
   decision_functions:
      -
         sv_count: {len(vectors)}
         rho: {rho!r}
         alpha: [ {_listed(coefficients)} ]
"""
    )
    bounds = folder / "ranges.yml"
    storage = cv2.FileStorage(str(bounds), cv2.FILE_STORAGE_WRITE)
    storage.write("range", ranges.astype(np.float32))
    storage.release()
    return machine, bounds


def _listed(values: np.ndarray) -> str:
    return ", ".join(repr(float(value)) for value in values)
