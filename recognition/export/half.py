"""A graph in float16, but for what is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

WHOLE = ("Resize", "Range", "If", "Loop", "Scan")  # float32 by their definition, or with graphs inside
FLOAT, HALF = 1, 10  # onnx.TensorProto's


def to_half(graph: onnx.ModelProto, converted: Callable[[onnx.NodeProto], bool]) -> None:
    """Rewrite in place: weights, constants and arithmetic of the nodes that are `converted`; inputs and outputs stay.

    A weight that both kinds of nodes read is kept in both precisions.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(graph).graph
    floats = {one.name for one in (*inferred.value_info, *inferred.input, *inferred.output) if _is_float(one)}
    del inferred
    change = _Change(graph.graph, floats)
    nodes = [type(node).FromString(node.SerializeToString()) for node in graph.graph.node]
    for node in nodes:
        change.take(node, node.op_type not in WHOLE and converted(node))
    change.finish()
    del graph.graph.node[:], graph.graph.value_info[:]
    graph.graph.node.extend(change.nodes)


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type == FLOAT


class _Change:
    """Takes nodes in order. half: tensors that are float16 now. nodes: with the casts between the two kinds."""

    def __init__(self, graph: onnx.GraphProto, floats: set[str]) -> None:
        self.graph, self.floats, self.half = graph, floats, set[str]()
        self.weights = {one.name: one for one in graph.initializer if one.data_type == FLOAT}
        self.read_whole: set[str] = set()
        self.cast: dict[tuple[str, int], str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def take(self, node: onnx.NodeProto, converted: bool) -> None:
        for i, name in enumerate(node.input):
            if name in self.weights:
                node.input[i] = self._weight(name) if converted else name
                self.read_whole |= set() if converted else {name}
            elif name in self.half and not converted:
                node.input[i] = self._as(name, FLOAT)
            elif name in self.floats and name not in self.half and converted:
                node.input[i] = self._as(name, HALF)
        if converted:
            self._attributes(node)
            self.half.update(name for name in node.output if name in self.floats)
        self.nodes.append(node)

    def finish(self) -> None:
        """Outputs back in float32, and no weight that nobody reads."""
        from onnx import helper

        for value in self.graph.output:
            if value.name in self.half:
                inner = f"{value.name}_half"
                for node in self.nodes:
                    for names in (node.input, node.output):
                        for i, name in enumerate(names):
                            names[i] = inner if name == value.name else name
                self.nodes.append(helper.make_node("Cast", [inner], [value.name], name=f"{inner}_Cast", to=FLOAT))
        unread = [one for one in self.weights if one not in self.read_whole]
        kept = [one for one in self.graph.initializer if one.name not in set(unread)]
        copies = [type(one).FromString(one.SerializeToString()) for one in kept]
        del self.graph.initializer[:]
        self.graph.initializer.extend(copies)

    def _weight(self, name: str) -> str:
        from onnx import numpy_helper

        if (name, HALF) not in self.cast:
            self.cast[name, HALF] = f"{name}_half"
            self.graph.initializer.append(_halved(numpy_helper.to_array(self.weights[name]), f"{name}_half"))
        return self.cast[name, HALF]

    def _as(self, name: str, kind: int) -> str:
        from onnx import helper

        if (name, kind) not in self.cast:
            made = self.cast[name, kind] = f"{name}_{'half' if kind == HALF else 'whole'}"
            self.nodes.append(helper.make_node("Cast", [name], [made], name=f"{made}_Cast", to=kind))
        return self.cast[name, kind]

    def _attributes(self, node: onnx.NodeProto) -> None:
        from onnx import numpy_helper

        for one in node.attribute:
            if node.op_type == "Cast" and one.name == "to" and one.i == FLOAT:
                one.i = HALF
            if one.t.data_type == FLOAT:
                one.t.CopyFrom(_halved(numpy_helper.to_array(one.t), one.t.name))


def _halved(values: np.ndarray, name: str) -> onnx.TensorProto:
    from onnx import numpy_helper

    with np.errstate(over="ignore"):  # what is infinite then, the comparison with torch tells
        return numpy_helper.from_array(values.astype(np.float16), name)
