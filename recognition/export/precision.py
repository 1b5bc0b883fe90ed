"""Graphs in half precision and in 8-bit integers; what scores a picture and gates it stays in float32."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from recognition.export.calibration import Calibration
from recognition.export.half import to_half
from recognition.export.lighter import drop_unread

if TYPE_CHECKING:
    import onnx

PRECISIONS = ("fp32", "fp16", "int8")
METHODS = ("minmax", "entropy", "percentile")
QUANTISED = ("Conv", "MatMul", "Gemm")
READY = ("onnx.infer", "onnxruntime.quant")  # by which the quantiser knows a graph that needs no preparation


def in_network(node: onnx.NodeProto) -> bool:
    """True for an operator of the backbone; False for scorer, gate and what resizes a picture."""
    scopes = next((one.value for one in node.metadata_props if one.key == "pkg.torch.onnx.name_scopes"), "")
    return node.name.startswith("/model/backbone/") or "'model.backbone" in scopes


def to_fp16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and arithmetic of the network in float16; inputs, output, scorer and gate in float32.

    Sums over pixels overflow in float16 (65,504), which is why the scorer stays as it is.
    """
    to_half(graph, in_network)
    return graph


def to_int8(
    graph: onnx.ModelProto, calibration: Calibration, method: str = "minmax", symmetric: bool = False
) -> onnx.ModelProto:
    """Weights of convolutions and linear layers in int8 by output channel, what goes into them in 8 bits by tensor.

    Depth-wise convolutions stay in float32: few weights, and most of the loss. So do all operators without weights.

    calibration: pictures by which the range of every tensor is found. method: one of METHODS. symmetric: activations
    in int8 around 0, in place of uint8 from lowest to highest.
    """
    from onnx import load

    with _contained():
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    kinds = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    graph.metadata_props.add(key=READY[0], value=READY[1])
    with tempfile.TemporaryDirectory(prefix="lrface-int8-") as folder, _quiet():
        file = Path(folder) / "int8.onnx"
        quantize_static(
            graph,
            file,
            calibration.reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*QUANTISED],
            per_channel=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[node.name for node in graph.graph.node if not in_network(node) or _is_depthwise(node)],
            calibrate_method=kinds[method],
            extra_options={
                "ActivationSymmetric": symmetric,
                "MatMulConstBOnly": True,  # attention's products of two activations stay in float32
                "CalibStridedMinMax": 1,  # batch by batch: a histogram would hold all activations of all pictures
                **({"CalibPercentile": 99.99} if method == "percentile" else {}),
            },
        )
        made = load(str(file))
    del made.metadata_props[:]
    del made.graph.value_info[:]
    drop_unread(made.graph)
    return made


def _is_depthwise(node: onnx.NodeProto) -> bool:
    """Channels that are never summed keep ranges of their own, which one range for all of them does not serve."""
    return node.op_type == "Conv" and any(one.name == "group" and one.i > 1 for one in node.attribute)


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """onnxruntime's tools put a folder of theirs, with modules of common names, on the path of imports."""
    before = [*sys.path]
    try:
        yield
    finally:
        sys.path[:] = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # progress of histograms
            yield
    finally:
        logging.disable(before)
