"""A model as torch writes it into an ONNX graph."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recognition.export.agreement import example
from recognition.model import FaceModel

if TYPE_CHECKING:
    import onnx

EXPORTERS = ("trace", "export")


class _OneInput(nn.Module):
    def __init__(self, model: FaceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.embed(image)


class _TwoInputs(_OneInput):
    def forward(self, image: Tensor, score: Tensor) -> Tensor:
        return self.model.embed(image, score)


def to_graph(model: FaceModel, two_inputs: bool, opset: int, exporter: str) -> onnx.ModelProto:
    """Both exporters gave equal figures for every backbone tried; tracing takes a tenth of the time.

    What tracing may fix by accident, a batch size or a branch, the comparison with torch finds.
    """
    import onnx

    wrapped = (_TwoInputs if two_inputs else _OneInput)(model).eval()
    names = ["input", "score"] if two_inputs else ["input"]
    common = {"opset_version": opset, "input_names": names, "output_names": ["embedding"], "verbose": False}
    pictures = example(model, 2, two_inputs)
    with torch.no_grad(), _quiet():
        try:
            if exporter == "export":
                batch = torch.export.Dim("batch", min=1)
                shapes = {name: {0: batch} for name in (("image", "score") if two_inputs else ("image",))}
                return torch.onnx.export(wrapped, pictures, dynamo=True, dynamic_shapes=shapes, **common).model_proto
            file = io.BytesIO()
            axes = {name: {0: "batch"} for name in (*names, "embedding")}
            torch.onnx.export(wrapped, pictures, file, dynamo=False, dynamic_axes=axes, **common)
            return onnx.load_from_string(file.getvalue())
        except (torch.onnx.OnnxExporterError, RuntimeError) as error:
            raise RuntimeError(
                f"torch cannot write this model by exporter '{exporter}' at operator set {opset}; try exporter "
                f"'{'trace' if exporter == 'export' else 'export'}', or two inputs if it is the scorer: {error}"
            ) from error


def neutral_names(graph: onnx.GraphProto, prefix: str = "node") -> None:
    """Number the nodes and drop what the exporter noted about this machine's source files.

    InsightFace's client takes nodes named Sub... and Mul... among the first eight for a preprocessing inside the graph.
    """
    graph.ClearField("metadata_props")
    for value in (*graph.value_info, *graph.input, *graph.output, *graph.initializer):
        value.ClearField("metadata_props")
    for number, node in enumerate(graph.node):
        node.name = f"{prefix}_{number}_{node.op_type}"
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    neutral_names(inner, node.name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own news: operators of packages that are absent, deprecations inside torch."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
