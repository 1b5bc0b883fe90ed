"""Operators of an ONNX graph that hold weights, and those whose result is a constant; nothing is run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

LARGEST_FOLDED = 2**24  # numbers of a constant that is computed from others
Values = dict[str, np.ndarray]


@dataclass(slots=True)
class Layer:
    """One operator that holds weights. kind: conv, linear, norm, layer_norm, prelu, scale, or the operator's name.

    values: by torch's names: weight, bias, running_mean, running_var. after: number of the layer whose output it takes
    as it is, None where something lies between.
    """

    kind: str
    values: Values
    after: int | None = None
    eps: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} {list(self.values['weight'].shape)}"


def attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    for one in node.attribute:
        if one.name == name:
            return one.f if one.type == 1 else one.i
    return default


def _named(held: list[np.ndarray | None], *names: str) -> Values:
    return {name: value for name, value in zip(names, held, strict=False) if value is not None}


def _conv(node: onnx.NodeProto, held: list[np.ndarray | None], path: Path) -> Layer | None:
    return Layer("conv", _named(held[1:], "weight", "bias")) if held[1] is not None else None


def _gemm(node: onnx.NodeProto, held: list[np.ndarray | None], path: Path) -> Layer | None:
    if held[1] is None:
        return None
    weight = held[1] if attribute(node, "transB", 0) else held[1].T
    values = {"weight": weight * np.float32(attribute(node, "alpha", 1.0))}
    if len(held) > 2 and held[2] is not None:
        bias = held[2].reshape(-1) * np.float32(attribute(node, "beta", 1.0))
        values["bias"] = np.broadcast_to(bias, (len(weight),)) if bias.size == 1 else bias
    return Layer("linear", values)


def _matmul(node: onnx.NodeProto, held: list[np.ndarray | None], path: Path) -> Layer | None:
    return Layer("linear", {"weight": held[1].T}) if held[1] is not None and held[1].ndim == 2 else None


def _norm(node: onnx.NodeProto, held: list[np.ndarray | None], path: Path) -> Layer | None:
    values = _named(held[1:], "weight", "bias", "running_mean", "running_var")
    if len(values) != 4 or attribute(node, "training_mode", 0):
        raise ValueError(f"{path}: a batch norm takes its statistics from the batch; export a network in eval mode")
    return Layer("norm", values, eps=attribute(node, "epsilon", 1e-5))


def _layer_norm(node: onnx.NodeProto, held: list[np.ndarray | None], path: Path) -> Layer | None:
    return Layer("layer_norm", _named(held[1:], "weight", "bias"), eps=attribute(node, "epsilon", 1e-5))


def _prelu(node: onnx.NodeProto, held: list[np.ndarray | None], path: Path) -> Layer | None:
    return Layer("prelu", {"weight": held[1].reshape(-1)}) if held[1] is not None else None


LAYERS: dict[str, Callable[[object, list[np.ndarray | None], Path], Layer | None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _norm,
    "LayerNormalization": _layer_norm,
    "PRelu": _prelu,
}


def fold(node: onnx.NodeProto, held: list[np.ndarray]) -> np.ndarray | None:
    """What exporters leave to be computed from constants; None for any other operator, and for huge results."""
    first = held[0]
    axes = [list(one.ints) for one in node.attribute if one.name in ("axes", "perm")]
    try:
        if node.op_type in ("Identity", "Dropout", "Cast"):
            return first
        if node.op_type == "Transpose":
            return first.transpose(axes[0] if axes else None)
        if node.op_type in ("Reshape", "Squeeze"):
            return first.reshape(held[1]) if node.op_type == "Reshape" else first.squeeze()
        if node.op_type == "Unsqueeze":
            return np.expand_dims(first, tuple(axes[0] if axes else held[1].tolist()))
        if node.op_type == "Expand":
            shape = np.broadcast_shapes(first.shape, tuple(held[1].tolist()))
            return np.broadcast_to(first, shape) if math.prod(shape) <= LARGEST_FOLDED else None
        if node.op_type == "Gather":
            axis = int(attribute(node, "axis", 0))
            small = first.size // max(first.shape[axis], 1) * held[1].size <= LARGEST_FOLDED
            return np.take(first, held[1], axis=axis) if small else None
        if node.op_type in ("Add", "Mul", "Sub"):
            small = math.prod(np.broadcast_shapes(*(one.shape for one in held))) <= LARGEST_FOLDED
            return {"Add": np.add, "Mul": np.multiply, "Sub": np.subtract}[node.op_type](*held) if small else None
    except (ValueError, IndexError, TypeError):  # a damaged one; what needs it will tell
        return None
    return None
