"""Layers that an exporter wrote as several operators, put back as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recognition.from_onnx.operators import Values

if TYPE_CHECKING:
    import onnx


def join_prelu(model: onnx.ModelProto, constants: Values) -> None:
    """Sums a x + (1 - a) max(x, 0), as recognition.export writes a PReLU, become PRelu(x, a) in place."""
    from onnx import helper

    makes = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        parts = [makes.get(name) for name in node.input] if node.op_type == "Add" else []
        if len(parts) != 2 or any(one is None or one.op_type != "Mul" or len(one.input) != 2 for one in parts):
            continue
        (x, slope), (above, rest) = (one.input for one in parts)
        relu = makes.get(above)
        if relu is None or relu.op_type != "Relu" or relu.input[0] != x:
            continue
        held = [constants.get(name) for name in (slope, rest)]
        if any(one is None or one.dtype != np.float32 for one in held) or held[0].shape != held[1].shape:
            continue
        if np.array_equal(1 - held[0], held[1]):
            node.CopyFrom(helper.make_node("PRelu", [x, slope], [node.output[0]], name=node.name))
