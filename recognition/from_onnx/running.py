"""An ONNX graph run by onnxruntime on noise and on smooth pictures: what a backbone is held against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from recognition.from_onnx.parts import Graph
from recognition.types import IMAGE_SIZE

NOISE, SMOOTH = 2, (4, 7, 14, 28)  # pictures; sides from which smooth ones are drawn out


def pictures(graph: Graph) -> torch.Tensor:
    """(6, 3, side, side) float64 grey levels in [0, 255], of the side that the graph takes."""
    side = graph.shape[2] or IMAGE_SIZE
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(NOISE, 3, side, side, generator=generator)
    coarse = [torch.rand(1, 3, one, one, generator=generator) for one in SMOOTH]
    smooth = [F.interpolate(one, size=(side, side), mode="bilinear", align_corners=False) for one in coarse]
    return (torch.cat([noise, *smooth]) * 255).round().double()


def embeddings(content: bytes, graph: Graph, path: Path) -> np.ndarray:
    """(6, D) float64 of the pictures, by onnxruntime on the CPU, in batches of the size that the graph takes.

    content: the file with its weights in it, so that none is opened for them. ValueError where onnxruntime refuses it.
    """
    import onnxruntime

    faults = onnxruntime.capi.onnxruntime_pybind11_state
    refusals = tuple(
        getattr(faults, name)
        for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it refuses is raised
    mean, deviation = graph.normalisation
    given = ((pictures(graph) - mean) / deviation).numpy().astype(np.float32)
    rows, parts = graph.shape[0] or len(given), []
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for begin in range(0, len(given), rows):
            part = given[begin : begin + rows]
            whole = np.concatenate([part, part[:1].repeat(rows - len(part), 0)])
            parts.append(session.run(None, {name: whole})[0][: len(part)])
    except refusals as error:
        raise ValueError(f"{path}: onnxruntime cannot run it ({str(error)[:300]})") from None
    return np.concatenate(parts).astype(np.float64)
