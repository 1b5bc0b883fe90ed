"""A backbone against the graph that its weights were taken from: the same embeddings of the same pictures.

What all embeddings have in common, such as a large last bias, hides how they differ, so both are looked at: the
embeddings, and what differs between pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import nn

from recognition.export import LARGEST_DIFFERENCE, LOWEST_COSINE
from recognition.from_onnx.parts import Graph
from recognition.from_onnx.running import pictures
from recognition.model import FaceModel
from recognition.types import IMAGE_SIZE

UNIT = 1e-3  # how far the lengths of normalised embeddings may be from one another
SPREAD = 1e-3  # of their length, how far embeddings must be apart: nearer ones differ by float32's rounding, 1e-6, too
NOTHING = 1e-30


@dataclass(frozen=True, slots=True)
class Agreement:
    """cosine: the lowest. difference: the largest, of the largest magnitude.

    apart_cosine, apart_difference: the same of what differs between two pictures, and from the mean of all pictures.
    spread: the largest distance of two embeddings, of their length. factor: by which the graph's are longer.
    normalised: the graph's lengths are all the same, the backbone's are not.
    """

    cosine: float
    difference: float
    apart_cosine: float
    apart_difference: float
    spread: float
    factor: float
    normalised: bool

    @property
    def holds(self) -> bool:
        alike = self.cosine >= LOWEST_COSINE and self.apart_cosine >= LOWEST_COSINE
        near = self.difference <= LARGEST_DIFFERENCE and self.apart_difference <= LARGEST_DIFFERENCE
        return self.spread >= SPREAD and alike and near

    @property
    def fault(self) -> str:
        """Why it does not hold."""
        if self.spread < SPREAD:
            return (
                f"but different pictures get nearly the same embedding in both ({self.spread:.1e} of its length apart, "
                f"{SPREAD:g} wanted), so that nothing shows whether both compute the same"
            )
        return f"but gives other embeddings: {self}; what lies between the layers differs"

    def __str__(self) -> str:
        told = (
            f"against onnxruntime the lowest cosine is {self.cosine:.6f}, the largest difference {self.difference:.1e}"
            f", and {self.apart_cosine:.6f} and {self.apart_difference:.1e} of what differs between pictures"
        )
        if self.normalised:
            told += ", both scaled to length 1, as the graph does and the backbone does not"
        if self.factor != 1:
            told += (
                f"; the graph's embeddings are {self.factor:.6g} times as long, which is left out, as embeddings are "
                "compared by their direction"
            )
        return told


def compare(theirs: np.ndarray, graph: Graph, backbone: nn.Module, ends: list[float], path: Path) -> Agreement:
    """Embeddings of the same pictures, each fed as it is wanted.

    theirs: (N, D) of running.pictures, by onnxruntime. backbone: in eval mode, with the graph's weights.
    ends: what 0 and 255 become at its input. ValueError where the graph gives embeddings of another size.
    """
    with torch.no_grad():
        image = (pictures(graph) / 255 * (ends[1] - ends[0]) + ends[0]).float()
        ours = FaceModel(backbone).eval().embed(image).double().numpy()
    if theirs.shape != ours.shape:
        raise ValueError(f"{path}: gives embeddings {theirs.shape} where the backbone gives {ours.shape}")
    return agreement(theirs, ours)


def agreement(theirs: np.ndarray, ours: np.ndarray) -> Agreement:
    """Of (N, D) float64 embeddings of the same N pictures; NaN holds nothing."""
    lengths = np.linalg.norm(theirs, axis=1), np.linalg.norm(ours, axis=1)
    same = [bool(np.all(np.abs(one / max(one.mean(), NOTHING) - 1) < UNIT)) for one in lengths]
    normalised = same[0] and not same[1]
    cosine = ((theirs * ours).sum(axis=1) / np.maximum(lengths[0] * lengths[1], NOTHING)).min()
    if normalised:
        ours = ours / np.maximum(lengths[1], NOTHING)[:, None]
    factor = float((theirs * ours).sum() / max((ours * ours).sum(), NOTHING))
    if abs(factor - 1) > UNIT and 0 < factor < np.inf:
        ours = ours * factor
    else:
        factor = 1.0
    scale = max(float(lengths[0].mean()), NOTHING)
    pairs = [(theirs[one] - theirs[two], ours[one] - ours[two]) for one, two in combinations(range(len(ours)), 2)]
    apart = [max(np.linalg.norm(one), np.linalg.norm(two)) / scale for one, two in pairs]  # of either: none hides
    told = [_cosine(one, two) for (one, two), far in zip(pairs, apart, strict=True) if not far < SPREAD]
    centred = theirs - theirs.mean(axis=0), ours - ours.mean(axis=0)
    return Agreement(
        float(cosine),
        _difference(theirs, ours),
        float(np.min(told)) if told else 1.0,
        _difference(*centred),
        float(np.max(apart)),
        factor,
        normalised,
    )


def _cosine(one: np.ndarray, two: np.ndarray) -> float:
    return float((one * two).sum() / max(np.linalg.norm(one) * np.linalg.norm(two), NOTHING))


def _difference(theirs: np.ndarray, ours: np.ndarray) -> float:
    return float(np.abs(theirs - ours).max() / max(np.abs(theirs).max(), NOTHING))


def check_size(graph: Graph, backbone: nn.Module, path: Path) -> None:
    """ValueError where the graph takes other pictures than faces of 112 px, or those of the backbone."""
    sides = graph.shape[2:]
    if any(side not in (None, IMAGE_SIZE, backbone.input_size) for side in sides) or graph.shape[1] not in (None, 3):
        raise ValueError(
            f"{path}: takes pictures (3, {sides[0]}, {sides[1]}); those of this backbone are {backbone.input_size} px"
        )
