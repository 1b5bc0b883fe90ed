"""Writes the file, and keeps it only where onnxruntime gives what torch gives."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from recognition.export.agreement import SHAPES, compare, example
from recognition.export.calibration import Calibration
from recognition.export.card import MANIFEST, describe, manifest
from recognition.export.checks import check, check_place, look_at_gates
from recognition.export.graph import EXPORTERS, neutral_names, to_graph
from recognition.export.lighter import lighten
from recognition.export.precision import PRECISIONS, to_fp16, to_int8
from recognition.model import FaceModel

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, and how near it is to torch over all compared batches."""

    path: Path
    manifest: Path | None  # InsightFace's; None for two inputs, which its client does not feed
    size: int  # bytes
    cosine: float  # the lowest between an embedding of onnxruntime and the one of torch
    difference: float  # the largest, relative to the largest magnitude in the embeddings
    precision: str = "fp32"


def export_onnx(
    model: FaceModel,
    path: str | Path,
    *,
    two_inputs: bool = False,
    opset: int = 18,
    exporter: Literal["trace", "export"] = "trace",
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    calibration: Calibration | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ExportReport:
    """Write `path`: "input" (B, 3, 112, 112) float32 RGB in [-1, 1] -> "embedding" (B, D), not normalised; any B.

    A model with gated layers scores the image inside the graph; with two_inputs the raw quality is a second input
    "score", (B,) or (B, k) float32, and only the quality gate stays inside. A model of another input size resizes
    inside. The file is kept only if onnxruntime agrees with torch at batches 1, 2 and 7, as near as its precision
    allows: agreement.LIMITS. Beside a file of one input stands InsightFace's manifest.json.

    model: in eval mode, on any device. exporter: "trace" follows one example through the model, "export" goes through
    torch.export, ten times slower, for a model whose code branches. precision: of weights and arithmetic in the
    network; inputs, embedding, scorer and gate are float32 in all. calibration: for int8, pictures by which the ranges
    of activations are found; embeddings are compared on them. metadata: entries added to the file's own.
    Raises ValueError for a choice that the model does not allow, RuntimeError for a model in training mode, for a
    graph that cannot be exported and for one that disagrees: then nothing is written.
    """
    path = Path(path)
    if exporter not in EXPORTERS:
        raise ValueError(f"unknown exporter '{exporter}'; take one of {', '.join(EXPORTERS)}")
    _check_precision(precision, calibration, two_inputs)
    check(model, two_inputs)
    check_place(path, two_inputs)
    graph = to_graph(model, two_inputs, opset, exporter)
    lighten(graph, [example(model, batch, two_inputs) for batch in SHAPES])
    graph = _in_precision(graph, precision, calibration)
    neutral_names(graph.graph)
    told = describe(model, two_inputs) | _of_precision(precision, calibration) | dict(metadata or {})
    for key, value in told.items():
        graph.metadata_props.add(key=key, value=value)
    content = graph.SerializeToString()
    del graph
    path.parent.mkdir(parents=True, exist_ok=True)
    if not two_inputs:
        look_at_gates(model)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        unchecked = Path(folder) / path.name
        unchecked.write_bytes(content)
        cosine, difference = compare(
            model, unchecked, two_inputs, precision, None if calibration is None else calibration.images
        )
        beside = None
        if not two_inputs:
            beside = path.parent / MANIFEST
            (Path(folder) / MANIFEST).write_text(manifest(path, content, model.backbone.embedding_size))
        os.replace(unchecked, path)
        if beside is not None:
            os.replace(Path(folder) / MANIFEST, beside)
    return ExportReport(path, beside, len(content), cosine, difference, precision)


def _check_precision(precision: str, calibration: Calibration | None, two_inputs: bool) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision '{precision}'; take one of {', '.join(PRECISIONS)}")
    if precision != "int8" and calibration is not None:
        raise ValueError(f"precision {precision} needs no calibration: pictures to calibrate by are for int8")
    if precision == "int8" and calibration is None:
        raise ValueError(
            "int8 finds the ranges of its numbers on faces like those it will see: name records of such "
            "(--calibrate RECORDS)"
        )
    if precision == "int8" and two_inputs:
        raise ValueError("int8 is calibrated by pictures alone: export it with one input, or take fp16 or fp32")


def _in_precision(graph: onnx.ModelProto, precision: str, calibration: Calibration | None) -> onnx.ModelProto:
    if precision == "fp16":
        return to_fp16(graph)
    return graph if calibration is None else to_int8(graph, calibration)


def _of_precision(precision: str, calibration: Calibration | None) -> dict[str, str]:
    told = {"precision": precision}
    if calibration is not None:
        told |= {
            "calibration_images": str(len(calibration.images)),
            "calibration_sides": json.dumps(calibration.sides),
            "calibration_sha256": calibration.fingerprint,
        }
    return told
