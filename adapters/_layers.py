"""The low-rank layer: a Linear or Conv2d that adopts another's weight and adds scaling * B A x to its output.

The bottleneck may carry several branches of `rank` channels each, which a gate g weighs per image:

    y = W x + scaling * B diag(w_1(g) * rank, ..., w_k(g) * rank) A x

With two branches w = (1 - g, g), which equals two gated low-rank pairs side by side (PETALface, arXiv 2412.07771) with
half as many matrix products. Without a gate every branch weighs 1 / k.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters._product import dropout, fits, low_rank
from recognition.gate import Gate, per_image

DropoutAt = Literal["input", "output"]
ScalingRule = Literal["standard", "rank_stabilized"]
Init = Literal["gaussian", "kaiming"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the low-rank adapters of one recipe have in common; the adapters' docstrings tell the meaning."""

    rank: int
    alpha: float | None = None
    scaling: float = 1.0
    scaling_rule: ScalingRule = "standard"
    dropout: float = 0.0
    dropout_at: DropoutAt = "input"
    init: Init = "gaussian"
    ranks: Mapping[str, int] | None = None
    lr_plus_ratio: float = 1.0
    head_rank: int = 0

    def __post_init__(self) -> None:
        """ValueError for an option outside its range, and for options that contradict one another."""
        check_options(self.rank, self.dropout, self.dropout_at)
        check_choice("scaling_rule", self.scaling_rule, ("standard", "rank_stabilized"))
        check_choice("init", self.init, ("gaussian", "kaiming"))
        if self.head_rank < 0:
            raise ValueError(f"adapter.head_rank is {self.head_rank}; it must be 0 (no update on the head) or more")
        for pattern, rank in (self.ranks or {}).items():
            if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
                raise ValueError(f"adapter.ranks['{pattern}'] is {rank!r}; it must be a whole number of at least 1")
        if self.alpha is not None and self.scaling != 1.0:
            raise ValueError(f"adapter.alpha is {self.alpha} and adapter.scaling is {self.scaling}; set one of the two")
        if self.alpha is None and self.scaling_rule != "standard":
            raise ValueError(
                f"adapter.scaling_rule is '{self.scaling_rule}', which divides adapter.alpha by a root of the rank; "
                f"set adapter.alpha (adapter.scaling={self.scaling} is taken as it is)"
            )
        if not (math.isfinite(self.lr_plus_ratio) and self.lr_plus_ratio > 0):
            raise ValueError(f"adapter.lr_plus_ratio is {self.lr_plus_ratio}; it must be above 0 (1 = one lr for all)")

    def factor(self, rank: int) -> float:
        """Factor of an update of this rank."""
        if self.alpha is None:
            return self.scaling
        return self.alpha / (math.sqrt(rank) if self.scaling_rule == "rank_stabilized" else rank)

    def parameter_groups(self, backbone: nn.Module) -> list[dict]:
        """LoRA+'s own group (arXiv 2402.12354): every trained B at lr_plus_ratio times the learning rate."""
        if self.lr_plus_ratio == 1:
            return []
        found = [p for name, p in backbone.named_parameters() if name.endswith(".lora_b") and p.requires_grad]
        return [{"params": found, "lr_scale": self.lr_plus_ratio}]


class LowRank:
    """What the adapted layers share; stands in front of nn.Linear or nn.Conv2d, whose weight shapes it reads.

    lora_a: (rank * branches, in, ...) drawn on the CPU, so that a seed means the same everywhere: from N(0, 1/rank^2),
        or as Kaiming's uniform draw with slope sqrt(5), U(-1, 1) / sqrt(fan_in).
    lora_b: (out, rank * branches, ...) zeros: the first output is the base's, bit for bit.
    """

    multiplies_only = True  # with the adopted weight, so that training may keep it rounded (recognition/frozen.py)

    def _start(
        self,
        base: nn.Linear | nn.Conv2d,
        rank: int,
        scaling: float,
        dropout: float,
        dropout_at: DropoutAt,
        gate: Gate | None,
        branches: int | None,
        init: Init,
    ) -> None:
        self.weight, self.bias = base.weight, base.bias  # adopted: the base's keys stay as they were
        self.training = base.training
        self.rank, self.scaling, self.gate = rank, scaling, gate
        self.dropout, self.dropout_at = dropout, dropout_at
        self.column, self.columns = 0, 0  # of a gate with a value for each gated layer; set by adapt()
        self.branches = branches or (1 if gate is None else 2)
        width, (out, *inner) = rank * self.branches, base.weight.shape
        if init == "gaussian":
            drawn = torch.randn(width, *inner) / rank
        else:
            drawn = (torch.rand(width, *inner) * 2 - 1) / math.sqrt(math.prod(inner))
        self.lora_a = nn.Parameter(drawn.to(base.weight))
        self.lora_b = nn.Parameter(base.weight.new_zeros(out, width, *[1] * (len(inner) - 1)))

    def forward(self, x: Tensor) -> Tensor:
        mix = None if self.gate is None else self._mix(self.gate.require())
        factor = self.scaling / self.branches
        drops = self.training and self.dropout > 0
        if self.channel_axis == -1 and not drops and fits(x, self.weight, self.bias, mix):
            return low_rank(x, self.weight, self.bias, self.lora_a, self.lora_b, mix, factor)
        z = self._down(dropout(x, self.dropout, self.training) if self.dropout_at == "input" else x)
        if mix is None:
            return super().forward(x) + self._up(z if factor == 1 else z * factor)
        return super().forward(x) + self._up(per_image(z, mix, self.channel_axis))

    def _mix(self, value: Tensor) -> Tensor:
        """Weight of every bottleneck channel, (batch, branches * rank), for gates (batch,) or (batch, columns)."""
        if value.dim() == 2 and value.shape[1] == self.columns:
            value = value[:, self.column]
        if value.dim() != 1:
            each = (
                f" Or one for each of the {self.columns} gated layers, (batch, {self.columns})" if self.columns else ""
            )
            raise ValueError(
                f"a gated LoRA layer takes one gate per image, (batch,); got {tuple(value.shape)}: "
                f"set a quality gate that returns one value.{each}"
            )
        weight = soft_bins(value, self.branches) * self.scaling
        return weight.unsqueeze(2).expand(-1, -1, self.rank).flatten(1)

    def _up(self, z: Tensor) -> Tensor:
        if self.dropout_at != "output" or not self.training or self.dropout == 0:
            return self._project(z, self.lora_b)
        # PETALface draws a mask of its own for each branch's output.
        pairs = zip(z.chunk(self.branches, self.channel_axis), self.lora_b.chunk(self.branches, 1), strict=True)
        return sum(dropout(self._project(part, b), self.dropout, True) for part, b in pairs)

    def exact_weight(self, gate_value: float | None) -> Tensor:
        """Base weight plus update, float64 and without a gradient. gate_value: for gated layers."""
        up, down = self.lora_b.detach().double().flatten(1), self.lora_a.detach().double().flatten(1)
        if self.gate is not None:
            mix = self._mix(torch.tensor([gate_value], dtype=torch.float64, device=up.device))
        else:
            mix = self.scaling / self.branches
        return self.weight.detach().double() + ((up * mix) @ down).view_as(self.weight)

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, rank={self.rank}, scaling={self.scaling:g}, branches={self.branches}, "
            f"gated={self.gate is not None}"
        )


class LoRALinear(LowRank, nn.Linear):
    """A Linear with a low-rank update. x: (..., in) -> (..., out); with a gate x is (batch * k, ..., in)."""

    channel_axis = -1

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        scaling: float = 1.0,
        dropout: float = 0.0,
        dropout_at: DropoutAt = "input",
        gate: Gate | None = None,
        branches: int | None = None,
        init: Init = "gaussian",
    ) -> None:
        """branches: None for one without and two with a gate."""
        nn.Linear.__init__(self, base.in_features, base.out_features, base.bias is not None, device="meta")
        self._start(base, rank, scaling, dropout, dropout_at, gate, branches, init)

    def _down(self, x: Tensor) -> Tensor:
        return F.linear(x, self.lora_a)

    def _project(self, z: Tensor, up: Tensor) -> Tensor:
        return F.linear(z, up)

    def merged(self, gate_value: float | None = None) -> nn.Linear:
        """A plain Linear with the update in its weight."""
        return dressed(self, self.exact_weight(gate_value))


class LoRAConv2d(LowRank, nn.Conv2d):
    """A Conv2d with a low-rank update: A convolves as the base does, to the bottleneck's channels, and B is 1 x 1.

    x: (batch, in, H, W). The base has one group.
    """

    channel_axis = 1

    def __init__(
        self,
        base: nn.Conv2d,
        rank: int,
        scaling: float = 1.0,
        dropout: float = 0.0,
        dropout_at: DropoutAt = "input",
        gate: Gate | None = None,
        branches: int | None = None,
        init: Init = "gaussian",
    ) -> None:
        """branches: None for one without and two with a gate."""
        nn.Conv2d.__init__(self, **geometry(base))
        self._start(base, rank, scaling, dropout, dropout_at, gate, branches, init)

    def _down(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.lora_a, None)  # the base's stride, padding and dilation

    def _project(self, z: Tensor, up: Tensor) -> Tensor:
        return F.conv2d(z, up)

    def merged(self, gate_value: float | None = None) -> nn.Conv2d:
        """A plain Conv2d with the update in its weight."""
        return dressed(self, self.exact_weight(gate_value))


def soft_bins(gate: Tensor, bins: int) -> Tensor:
    """Weights (batch, bins) of gates (batch,): piecewise linear, one bin at work at each of 0, 1/(bins-1), ..., 1.

    They sum to one for every real gate; outside [0, 1] the outermost two go on linearly, one of them below zero. Two
    bins weigh 1 - gate and gate, one bin 1.
    """
    place, edges = gate * (bins - 1), [torch.ones_like(gate)]
    for j in range(bins - 1):  # how far the gate has gone from bin j to the next one
        rise = (place - j).clamp(min=0) if j > 0 else place
        edges.append(rise.clamp(max=1) if j < bins - 2 else rise)
    edges.append(torch.zeros_like(gate))
    return torch.stack([edge - following for edge, following in pairwise(edges)], 1)


def check_options(rank: int, dropout: float, dropout_at: str) -> None:
    """ValueError for an option outside its range."""
    if rank < 1:
        raise ValueError(f"adapter.rank is {rank}; it must be at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"adapter.dropout is {dropout}; it must lie in [0, 1)")
    check_choice("dropout_at", dropout_at, ("input", "output"))


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """ValueError for a value that is none of the choices."""
    if value not in choices:
        raise ValueError(f"adapter.{option} is '{value}'; it must be {' or '.join(map(repr, choices))}")


def adapt(
    backbone: nn.Module,
    ranks: Mapping[str, int],
    settings: Settings,
    gate: Gate | None = None,
    branches: int | None = None,
    kinds: tuple[type[LoRALinear], type[LoRAConv2d]] = (LoRALinear, LoRAConv2d),
) -> None:
    """Put a low-rank layer in the place of each named Linear and Conv2d.

    ranks: of each layer, by its name. branches: None for one without and two with a gate. kinds: for the two layers.
    """
    for name, rank in ranks.items():
        base = backbone.get_submodule(name)
        kind = kinds[0] if isinstance(base, nn.Linear) else kinds[1]
        s = settings
        layer = kind(base, rank, s.factor(rank), s.dropout, s.dropout_at, gate, branches, s.init)
        replace(backbone, name, layer)
    for column, name in enumerate(names := gated_layers(backbone)):
        layer = backbone.get_submodule(name)
        layer.column, layer.columns = column, len(names)


def gated_layers(backbone: nn.Module) -> list[str]:
    """Names of the layers that read the gate, in the backbone's order: layer i reads column i of a gate of columns."""
    return [name for name, layer in backbone.named_modules() if isinstance(layer, LowRank) and layer.gate is not None]


def replace(backbone: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` where the qualified name points."""
    parent, _, last = name.rpartition(".")
    setattr(backbone.get_submodule(parent), last, layer)


def geometry(conv: nn.Conv2d) -> dict:
    """Arguments for a Conv2d of the same shape on the meta device, for a weight adopted later."""
    assert conv.groups == 1, "grouped convolutions are refused where targets are looked up"
    return {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "bias": conv.bias is not None,
        "padding_mode": conv.padding_mode,
        "device": "meta",
    }


def dressed(layer: nn.Linear | nn.Conv2d, weight: Tensor) -> nn.Linear | nn.Conv2d:
    """A plain layer of the adapted layer's shape, bias and mode, with this weight rounded to the layer's dtype."""
    if isinstance(layer, nn.Linear):
        plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    else:
        plain = nn.Conv2d(**geometry(layer))
    plain.weight = nn.Parameter(weight.to(layer.weight), requires_grad=layer.weight.requires_grad)
    plain.bias = layer.bias
    return plain.train(layer.training)
