"""A backbone against the graph that its weights were taken from, in onnxruntime, on noise and on smooth pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recognition.export import LARGEST_DIFFERENCE, LOWEST_COSINE
from recognition.from_onnx.parts import Graph
from recognition.model import FaceModel
from recognition.types import IMAGE_SIZE

if TYPE_CHECKING:
    import onnx

NOISE, SMOOTH = 2, (4, 7, 14, 28)  # pictures; sides from which smooth ones are drawn out
UNIT = 1e-3  # how far the length of a normalised embedding may be from 1


@dataclass(frozen=True, slots=True)
class Agreement:
    """cosine: the lowest. difference: the largest, of the largest magnitude. normalised: the graph's lengths are 1."""

    cosine: float
    difference: float
    normalised: bool

    @property
    def holds(self) -> bool:
        return self.cosine >= LOWEST_COSINE and self.difference <= LARGEST_DIFFERENCE

    def __str__(self) -> str:
        scaled = ", both scaled to length 1, as the graph does and the backbone does not" if self.normalised else ""
        return (
            f"against onnxruntime the lowest cosine is {self.cosine:.6f}, the largest difference {self.difference:.1e}"
            f"{scaled}"
        )


def compare(model: onnx.ModelProto, graph: Graph, backbone: nn.Module, ends: list[float], path: Path) -> Agreement:
    """Embeddings of the same pictures, each fed as it is wanted.

    backbone: in eval mode, with the graph's weights. ends: what 0 and 255 become at its input.
    ValueError where onnxruntime refuses the graph, or takes other pictures than faces of 112 px.
    """
    sides = graph.shape[2:]
    if any(side not in (None, IMAGE_SIZE, backbone.input_size) for side in sides) or graph.shape[1] not in (None, 3):
        raise ValueError(
            f"{path}: takes pictures (3, {sides[0]}, {sides[1]}); those of this backbone are {backbone.input_size} px"
        )
    side = sides[0] or IMAGE_SIZE
    pixels = _pictures(side)
    mean, deviation = graph.normalisation
    theirs = _run(model, ((pixels - mean) / deviation).numpy().astype(np.float32), graph.shape[0], path)
    with torch.no_grad():
        image = (pixels / 255 * (ends[1] - ends[0]) + ends[0]).float()
        ours = FaceModel(backbone).eval().embed(image).double().numpy()
    if theirs.shape != ours.shape:
        raise ValueError(f"{path}: gives embeddings {theirs.shape} where the backbone gives {ours.shape}")
    lengths = np.linalg.norm(theirs, axis=1), np.linalg.norm(ours, axis=1)
    normalised = bool(np.all(np.abs(lengths[0] - 1) < UNIT))
    cosines = (theirs * ours).sum(axis=1) / np.maximum(lengths[0] * lengths[1], 1e-30)
    if normalised:
        ours = ours / lengths[1][:, None]
    difference = np.abs(theirs - ours).max() / max(np.abs(theirs).max(), 1e-30)
    return Agreement(float(cosines.min()), float(difference), normalised)  # NaN holds nothing


def _pictures(side: int) -> torch.Tensor:
    """(6, 3, side, side) float64 grey levels in [0, 255]."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(NOISE, 3, side, side, generator=generator)
    coarse = [torch.rand(1, 3, one, one, generator=generator) for one in SMOOTH]
    smooth = [F.interpolate(one, size=(side, side), mode="bilinear", align_corners=False) for one in coarse]
    return (torch.cat([noise, *smooth]) * 255).round().double()


def _run(model: onnx.ModelProto, pictures: np.ndarray, batch: int | None, path: Path) -> np.ndarray:
    """(B, D) float64, by onnxruntime on the CPU, in batches of the size that the graph takes."""
    import onnxruntime

    faults = onnxruntime.capi.onnxruntime_pybind11_state
    refusals = tuple(
        getattr(faults, name)
        for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it refuses is raised
    rows = batch or len(pictures)
    try:
        content = model.SerializeToString()  # with its weights: no file is opened for them
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        parts = []
        for begin in range(0, len(pictures), rows):
            part = pictures[begin : begin + rows]
            whole = np.concatenate([part, part[:1].repeat(rows - len(part), 0)])
            parts.append(session.run(None, {name: whole})[0][: len(part)])
    except refusals as error:
        raise ValueError(f"{path}: onnxruntime cannot run it ({str(error)[:300]})") from None
    except ValueError as error:  # protobuf's, of a graph beyond 2 GiB
        raise ValueError(f"{path}: cannot be given to onnxruntime ({str(error)[:200]})") from None
    return np.concatenate(parts).astype(np.float64)
