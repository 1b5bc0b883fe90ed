"""Goes through the operators of an ONNX graph in order and keeps the layers with their weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recognition.from_onnx.operators import LAYERS, Layer, Values, fold
from recognition.from_onnx.parts import Affine, Graph

if TYPE_CHECKING:
    import onnx

THROUGH = ("Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast")  # the same numbers
UNLEARNED = ("Resize", "Upsample", "Clip", "Where", "Pow", "Slice", "Pad", "Gather")  # their constants are settings


class Reader:
    """Takes nodes in order and keeps what they hold."""

    def __init__(self, path: Path, given: str, constants: Values) -> None:
        self.path, self.constants, self.graph = path, constants, Graph()
        self.affine = {given: Affine()}  # tensors that are still the picture
        self.of: dict[str, int] = {}  # tensors that are a layer's output as it is
        self.added: dict[str, float] = {}  # what was added to tensors, if it is one number
        self.eps = 0.0  # what was added below the last root: of a layer norm that is spelt out

    def take(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Constant":
            return
        held = [self.constants.get(name) for name in node.input]
        if held and all(one is not None or not name for one, name in zip(held, node.input, strict=True)):
            folded = fold(node, held)
            if folded is not None:
                self.constants[node.output[0]] = folded
            return
        if node.op_type in ("Expand", "Reshape") and held[0] is not None:  # to a shape that is computed
            self.constants[node.output[0]] = held[0]
            return
        data = next((name for name, one in zip(node.input, held, strict=True) if name and one is None), "")
        if node.op_type == "Sqrt":
            self.eps = self.added.get(data, 0.0)
        if node.op_type in THROUGH:
            self._pass(self.of, data, node)
            self._pass(self.affine, data, node)
        elif data in self.affine and node.op_type in ("Resize", "Upsample"):
            self._pass(self.affine, data, node)
        elif maker := LAYERS.get(node.op_type):
            if len(held) < 2:
                raise ValueError(f"{self.path}: a {node.op_type} in it has no weights; it is damaged")
            self._layer(maker(node, held, self.path), data, node)
        elif node.op_type in ("Add", "Sub", "Mul", "Div"):
            self._arithmetic(node, held, data)
        elif node.op_type not in UNLEARNED:
            big = [one for one in held if one is not None and one.size > 1 and one.dtype.kind == "f"]
            if big:
                self._layer(Layer(node.op_type, {"weight": big[0]}), data, node)

    def _pass(self, kept: dict, data: str, node: onnx.NodeProto) -> None:
        if data in kept:
            kept[node.output[0]] = kept[data]

    def _layer(self, layer: Layer | None, data: str, node: onnx.NodeProto) -> None:
        if layer is None:  # a product of two computed tensors, as in attention
            return
        if not self.graph.layers:
            if data not in self.affine:
                raise ValueError(
                    f"{self.path}: does more to the picture before its first layer than to scale, shift and resize it; "
                    "a backbone takes the picture itself"
                )
            self.graph.picture = self.affine[data]
        self.graph.stored |= {str(value.dtype) for value in layer.values.values() if value.dtype != np.float32}
        layer.values = {key: value.astype(np.float32, copy=False) for key, value in layer.values.items()}
        layer.after = self.of.get(data)
        self.graph.layers.append(layer)
        self.of[node.output[0]] = len(self.graph.layers) - 1

    def _arithmetic(self, node: onnx.NodeProto, held: list[np.ndarray | None], data: str) -> None:
        value, reverse = next((one for one in held if one is not None), None), held[0] is not None
        if value is None or value.dtype.kind != "f":
            return
        plain = float(value.flat[0]) if value.size and np.all(value == value.flat[0]) else None
        if data in self.affine:
            self._on_picture(node, plain, reverse, data)
        elif value.size == 1 and node.op_type == "Add" and plain is not None:
            self.added[node.output[0]] = plain
        elif value.size > 1:
            self._on_layer(node, value, reverse, data)

    def _on_picture(self, node: onnx.NodeProto, plain: float | None, reverse: bool, data: str) -> None:
        scale, shift = self.affine[data]
        if plain is None:
            raise ValueError(
                f"{self.path}: scales the colours of a picture apart, each by its own mean or deviation, which no card "
                "tells; wanted one for all"
            )
        if node.op_type == "Mul":
            found = Affine(scale * plain, shift * plain)
        elif node.op_type == "Add":
            found = Affine(scale, shift + plain)
        elif node.op_type == "Sub":
            found = Affine(-scale, plain - shift) if reverse else Affine(scale, shift - plain)
        elif reverse or not plain:
            raise ValueError(f"{self.path}: divides by the picture, or the picture by 0")
        else:
            found = Affine(scale / plain, shift / plain)
        self.affine[node.output[0]] = found

    def _on_layer(self, node: onnx.NodeProto, value: np.ndarray, reverse: bool, data: str) -> None:
        """A bias of the layer before, a scale, or a constant that is added to tokens or logits."""
        before = self.graph.layers[self.of[data]] if data in self.of else None
        if node.op_type in ("Mul", "Div"):
            scale = value if node.op_type == "Mul" else 1 / value
            self._layer(Layer("scale", {"weight": scale.reshape(-1)}, eps=self.eps), data, node)
            self.eps = 0.0
            return
        value = -value if node.op_type == "Sub" and not reverse else value
        wanted = None if before is None or "bias" in before.values else before.values["weight"].shape[0]
        if wanted == value.size and before.kind in ("linear", "conv", "scale"):
            before.values["bias"] = value.reshape(-1).astype(np.float32)
            self._pass(self.of, data, node)
        else:
            self.graph.loose.append(value.astype(np.float32))
