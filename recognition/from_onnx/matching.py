"""The layers of an ONNX graph as the tensors of a backbone, layer by layer in the order in which both compute them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from recognition.from_onnx.operators import Layer
from recognition.from_onnx.parts import Graph

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
LEAVES = (nn.Conv2d, nn.Linear, nn.LayerNorm, nn.PReLU, *NORMS)
KINDS: dict[type, tuple[str, ...]] = {
    nn.Conv2d: ("conv",),
    nn.Linear: ("linear",),
    nn.LayerNorm: ("layer_norm", "scale"),  # operator sets before 17 spell it out
    nn.PReLU: ("prelu",),
}
UNSEEN = "mask_token"  # of a network in training only
TABLE = "relative_position_bias_table"


class Differs(Exception):
    """The graph is not this backbone's. share: of its layers, how much agreed before."""

    def __init__(self, share: float, words: str) -> None:
        super().__init__(words)
        self.share = share


@dataclass(slots=True)
class Plan:
    """A backbone's layers in the order of its forward, its parameters outside of layers, and its shapes by key."""

    steps: list[tuple[str, nn.Module]]
    outside: dict[str, nn.Parameter]
    unseen: dict[str, nn.Parameter]


def plan(backbone: nn.Module) -> Plan:
    """Of a backbone on the meta device. Differs where it holds layers that no graph is read for."""
    names = {module: name for name, module in backbone.named_modules()}
    steps: list[tuple[str, nn.Module]] = []
    inside = {}
    hooks = []
    for module, name in names.items():
        if isinstance(module, LEAVES):
            inside |= {f"{name}.{key}": None for key, _ in module.named_parameters(recurse=False)}
            hooks.append(module.register_forward_hook(lambda one, *_: steps.append((names[one], one))))
    size = backbone.input_size
    with torch.no_grad():
        backbone.eval()(torch.empty(2, 3, size, size, device="meta"))
    for hook in hooks:
        hook.remove()
    rest = {key: value for key, value in backbone.named_parameters() if key not in inside}
    unseen = {key: rest.pop(key) for key in list(rest) if key.rpartition(".")[2] == UNSEEN}
    if len({name for name, _ in steps}) != sum(isinstance(module, LEAVES) for module in names):
        raise Differs(0, "some of its layers are used twice, or not at all")
    return Plan(steps, rest, unseen)


def share(backbone: nn.Module, graph: Graph) -> float:
    """Of the shapes of convolutions and projections, how many are in both, in [0, 1]: a cheap first look."""
    ours = Counter(tuple(one.weight.shape) for one in backbone.modules() if isinstance(one, nn.Conv2d | nn.Linear))
    theirs = Counter(one.values["weight"].shape for one in graph.layers if one.kind in ("conv", "linear"))
    return (ours & theirs).total() / max((ours | theirs).total(), 1)


def fit(planned: Plan, graph: Graph) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by the backbone's keys, and notes on what was done to them.

    A convolution or projection that an exporter folded its batch norm into keeps the folded numbers; its norm becomes
    one that only adds what the fold left as a bias. Differs where layers do not agree.
    """
    matcher = _Matcher(graph, len(planned.steps))
    for name, module in planned.steps:
        matcher.take(name, module)
    if matcher.at < len(graph.layers):
        raise Differs(matcher.share, f"after its last layer the graph has a {graph.layers[matcher.at]}")
    tensors = matcher.tensors | _outside(planned, graph)
    notes = []
    if matcher.folded:
        notes.append(f"{matcher.folded} batch norms were folded into the layer before them and add its bias only")
    for (theirs, ours), count in matcher.other_eps.items():
        notes.append(f"{count} layer norms add {theirs:.3g} to the variance (eps) where the backbone's add {ours:.3g}")
    if planned.unseen:
        tensors |= {key: torch.zeros(value.shape) for key, value in planned.unseen.items()}
        notes.append(f"{', '.join(planned.unseen)} is of training alone, so no graph holds it: it is 0")
    return tensors, notes


class _Matcher:
    def __init__(self, graph: Graph, steps: int) -> None:
        self.layers, self.steps = graph.layers, steps
        self.at, self.step, self.folded = 0, 0, 0
        self.tensors: dict[str, Tensor] = {}
        self.bias: np.ndarray | None = None  # of the layer before, which ours has not: a folded norm's
        self.foldable = False  # the layer before may hold the norm's numbers
        self.other_eps: Counter[tuple[float, float]] = Counter()  # of layer norms: the graph's, ours

    @property
    def share(self) -> float:
        return self.at / max(len(self.layers), self.steps)

    def take(self, name: str, module: nn.Module) -> None:
        self.step += 1
        layer = self.layers[self.at] if self.at < len(self.layers) else None
        if isinstance(module, NORMS):
            self._norm(name, module, layer)
            return
        if self.bias is not None:
            raise Differs(self.share, f"the layer before {name} has a bias, and ours has none")
        kinds = next(kinds for kind, kinds in KINDS.items() if isinstance(module, kind))
        self._same(name, module, layer, kinds)
        self._keep(name, "weight", layer.values["weight"], module.weight)
        if isinstance(module, nn.LayerNorm) and layer.eps and not math.isclose(layer.eps, module.eps, rel_tol=1e-3):
            self.other_eps[layer.eps, module.eps] += 1
        bias = layer.values.get("bias")
        if getattr(module, "bias", None) is not None:
            self._keep(name, "bias", np.zeros(module.bias.shape, np.float32) if bias is None else bias, module.bias)
        elif bias is not None:
            self.bias = bias
        self.foldable = isinstance(module, nn.Conv2d | nn.Linear)
        self.at += 1

    def _same(self, name: str, module: nn.Module, layer: Layer | None, kinds: tuple[str, ...]) -> None:
        wanted = f"a {kinds[0]} {list(module.weight.shape)} ({name})"
        if layer is None:
            raise Differs(self.share, f"its {len(self.layers)} layers end where {wanted} comes")
        if layer.kind not in kinds or layer.values["weight"].shape != module.weight.shape:
            raise Differs(self.share, f"its layer {self.at + 1} is a {layer} where {wanted} comes")

    def _norm(self, name: str, module: nn.Module, layer: Layer | None) -> None:
        direct = layer is not None and layer.after == self.at - 1
        if layer is not None and layer.kind == "norm" and (direct or not self.foldable):
            self._same(name, module, layer, ("norm",))
            values = dict(layer.values)
            if self.bias is not None:
                values["running_mean"] = values["running_mean"] - self.bias
            values["running_var"] = values["running_var"] + np.float32(layer.eps - module.eps)
            self.at += 1
        elif self.foldable:
            ones = np.ones(module.weight.shape, np.float32)
            values = {"weight": ones, "bias": 0 * ones, "running_mean": 0 * ones}
            values["running_var"] = ones - np.float32(module.eps)
            if self.bias is not None:
                values["bias"] = self.bias
            self.folded += 1
        else:
            self._same(name, module, layer, ("norm",))
            raise Differs(self.share, f"its layer {self.at + 1} is no batch norm ({name})")
        for key, value in values.items():
            self._keep(name, key, value, module.weight)
        self.bias, self.foldable = None, False

    def _keep(self, name: str, key: str, value: np.ndarray, like: Tensor) -> None:
        if value.shape != like.shape:
            raise Differs(self.share, f"{name}.{key} is {list(value.shape)} where {list(like.shape)} comes")
        self.tensors[f"{name}.{key}" if name else key] = torch.from_numpy(np.array(value, np.float32, order="C"))


def _outside(planned: Plan, graph: Graph) -> Mapping[str, Tensor]:
    """Position embeddings, which a graph adds to its tokens, and Swin's tables, which it adds to logits, laid out."""
    if len(planned.outside) != len(graph.loose):
        raise Differs(
            1.0, f"it adds {len(graph.loose)} constants to what its layers give; ours adds {len(planned.outside)}"
        )
    found = {}
    for (key, parameter), value in zip(planned.outside.items(), graph.loose, strict=True):
        if key.rpartition(".")[2] == TABLE:
            found[key] = _table(key, parameter.shape, value)
        elif value.size == parameter.numel():
            found[key] = torch.from_numpy(np.array(value).reshape(parameter.shape))
        else:
            raise Differs(1.0, f"{key} {list(parameter.shape)} is {list(value.shape)} in the graph")
    return found


def _table(key: str, shape: torch.Size, value: np.ndarray) -> Tensor:
    """The table of (2 w - 1) ** 2 relative positions by heads, from the biases of all pairs of tokens in a window.

    value: (..., windows * heads, N, N) with N = w ** 2; the first window has no mask.
    """
    rows, heads = shape
    window = (int(rows**0.5) + 1) // 2
    if value.shape[-2:] != (window**2, window**2) or value.size < heads * window**4:
        raise Differs(1.0, f"{key} {list(shape)} is {list(value.shape)} in the graph")
    first = value.reshape(-1, window**2, window**2)[:heads]
    row, column = np.divmod(np.arange(window**2), window)
    place = (row[:, None] - row + window - 1) * (2 * window - 1) + column[:, None] - column + window - 1
    table = np.zeros(shape, np.float32)
    table[place.reshape(-1)] = first.reshape(heads, -1).T
    return torch.from_numpy(table)
