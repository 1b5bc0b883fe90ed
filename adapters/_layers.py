"""The low-rank layer: a Linear or Conv2d that adopts another's weight and adds scaling * B A x to its output.

With a gate the bottleneck carries two branches of `rank` channels each, weighted per image:

    y = W x + scaling * B diag([1 - g] * rank + [g] * rank) A x

which equals two gated low-rank pairs side by side (PETALface, arXiv 2412.07771) at half the time and memory.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recognition.gate import Gate, per_image

DropoutAt = Literal["input", "output"]


class _LowRank:
    """What the adapted layers share; stands in front of nn.Linear or nn.Conv2d, whose weight shapes it reads.

    lora_a: (rank * branches, in, ...) drawn from N(0, 1/rank^2), on the CPU, so that a seed means the same everywhere.
    lora_b: (out, rank * branches, ...) zeros: the first output is the base's, bit for bit.
    """

    def _start(self, base: nn.Linear | nn.Conv2d, rank: int, scaling: float, gate: Gate | None) -> None:
        self.weight, self.bias = base.weight, base.bias  # adopted: the base's keys stay as they were
        self.training = base.training
        self.rank, self.scaling, self.gate = rank, scaling, gate
        width, (out, *inner) = rank * self.branches, base.weight.shape
        self.lora_a = nn.Parameter((torch.randn(width, *inner) / rank).to(base.weight))
        self.lora_b = nn.Parameter(base.weight.new_zeros(out, width, *[1] * (len(inner) - 1)))

    @property
    def branches(self) -> int:
        return 1 if self.gate is None else 2

    def forward(self, x: Tensor) -> Tensor:
        inner = F.dropout(x, self.dropout, self.training) if self.dropout_at == "input" else x
        z = self._down(inner)
        if self.gate is None:
            return super().forward(x) + self._up(z if self.scaling == 1 else z * self.scaling)
        return super().forward(x) + self._up(per_image(z, self._mix(self.gate.require()), self.channel_axis))

    def _mix(self, value: Tensor) -> Tensor:
        """Weight of every bottleneck channel, (batch, 2 * rank), for gates (batch,)."""
        if value.dim() != 1:
            raise ValueError(
                f"a dual LoRA layer takes one gate per image, (batch,); got {tuple(value.shape)}: "
                "set a quality gate that returns one value"
            )
        low, high = ((1 - value) * self.scaling).unsqueeze(1), (value * self.scaling).unsqueeze(1)
        return torch.cat([low.expand(-1, self.rank), high.expand(-1, self.rank)], 1)

    def _up(self, z: Tensor) -> Tensor:
        if self.dropout_at != "output" or not self.training or self.dropout == 0:
            return self._project(z, self.lora_b)
        # PETALface draws a mask of its own for each branch's output.
        pairs = zip(z.chunk(self.branches, self.channel_axis), self.lora_b.chunk(self.branches, 1), strict=True)
        return sum(F.dropout(self._project(part, b), self.dropout, True) for part, b in pairs)

    def merged_weight(self, gate_value: float | None) -> Tensor:
        """Base weight plus update, computed in float64 and rounded once. gate_value: for gated layers."""
        up, down = self.lora_b.detach().double().flatten(1), self.lora_a.detach().double().flatten(1)
        if self.gate is not None:
            mix = self._mix(torch.tensor([gate_value], dtype=torch.float64, device=up.device))
        else:
            mix = up.new_tensor([[self.scaling]])
        update = ((up * mix) @ down).view_as(self.weight)
        return (self.weight.detach().double() + update).to(self.weight)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}, scaling={self.scaling:g}, gated={self.gate is not None}"


class LoRALinear(_LowRank, nn.Linear):
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
    ) -> None:
        nn.Linear.__init__(self, base.in_features, base.out_features, base.bias is not None, device="meta")
        self.dropout, self.dropout_at = dropout, dropout_at
        self._start(base, rank, scaling, gate)

    def _down(self, x: Tensor) -> Tensor:
        return F.linear(x, self.lora_a)

    def _project(self, z: Tensor, up: Tensor) -> Tensor:
        return F.linear(z, up)

    def merged(self, gate_value: float | None = None) -> nn.Linear:
        """A plain Linear with the update in its weight."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        return _dressed(plain, self, gate_value)


class LoRAConv2d(_LowRank, nn.Conv2d):
    """A Conv2d with a low-rank update: A convolves as the base does, to `rank` channels, and B is 1 x 1.

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
    ) -> None:
        assert base.groups == 1, "grouped convolutions are refused where targets are looked up"
        nn.Conv2d.__init__(self, **_geometry(base))
        self.dropout, self.dropout_at = dropout, dropout_at
        self._start(base, rank, scaling, gate)

    def _down(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.lora_a, None)  # the base's stride, padding and dilation

    def _project(self, z: Tensor, up: Tensor) -> Tensor:
        return F.conv2d(z, up)

    def merged(self, gate_value: float | None = None) -> nn.Conv2d:
        """A plain Conv2d with the update in its weight."""
        return _dressed(nn.Conv2d(**_geometry(self)), self, gate_value)


def check_options(rank: int, dropout: float, dropout_at: str) -> None:
    """ValueError for an option outside its range."""
    if rank < 1:
        raise ValueError(f"adapter.rank is {rank}; it must be at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"adapter.dropout is {dropout}; it must lie in [0, 1)")
    if dropout_at not in ("input", "output"):
        raise ValueError(f"adapter.dropout_at is '{dropout_at}'; it must be 'input' or 'output'")


def adapt(
    backbone: nn.Module,
    names: list[str],
    rank: int,
    scaling: float,
    dropout: float,
    dropout_at: DropoutAt,
    gate: Gate | None = None,
) -> None:
    """Put a low-rank layer in the place of each named Linear and Conv2d."""
    for name in names:
        base = backbone.get_submodule(name)
        kind = LoRALinear if isinstance(base, nn.Linear) else LoRAConv2d
        replace(backbone, name, kind(base, rank, scaling, dropout, dropout_at, gate))


def replace(backbone: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` where the qualified name points."""
    parent, _, last = name.rpartition(".")
    setattr(backbone.get_submodule(parent), last, layer)


def _geometry(conv: nn.Conv2d) -> dict:
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


def _dressed(plain: nn.Module, layer: _LowRank, gate_value: float | None) -> nn.Module:
    plain.weight = nn.Parameter(layer.merged_weight(gate_value), requires_grad=layer.weight.requires_grad)
    plain.bias = layer.bias
    return plain.train(layer.training)
