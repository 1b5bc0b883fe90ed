"""VeRA: one frozen random pair of matrices for all layers, two trained vectors in each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters import ADAPTERS
from adapters._layers import check_options, dressed, geometry, replace
from adapters.lora import find_layers
from recognition.gate import Gate
from recognition.types import AttachReport


class Projections(nn.Module):
    """The frozen pair that all layers share: a function of the seed and the rank alone, and in no state dict.

    a: (largest fan-in, rank) and b: (largest out, rank), float32 in [-1, 1). A layer takes the leading rows that it has
    inputs and outputs for, which are the same whatever other layers are adapted.
    """

    a: Tensor
    b: Tensor

    def __init__(self, inputs: int, outputs: int, rank: int, seed: int) -> None:
        super().__init__()
        self.register_buffer("a", _draw(inputs, rank, (seed, 0)), persistent=False)
        self.register_buffer("b", _draw(outputs, rank, (seed, 1)), persistent=False)


class Vectors:
    """What the adapted layers share: y = W x + vera_b * (B (vera_d * (A x))).

    A and B are the pair's leading rows times Kaiming's bound sqrt(6 / fan_in) of this layer. vera_d: (rank,) starts at
    d_initial. vera_b: (out,) zeros: the first output is the base's, bit for bit.
    """

    multiplies_only = True  # with the adopted weight, as a low-rank layer

    def _start(self, base: nn.Linear | nn.Conv2d, pair: Projections, dropout: float, d_initial: float) -> None:
        self.weight, self.bias = base.weight, base.bias  # adopted: the base's keys stay as they were
        self.training = base.training
        self.dropout, self.pair, self.rank = dropout, pair, pair.a.shape[1]
        self.fan_in, self.fan_out = math.prod(base.weight.shape[1:]), base.weight.shape[0]
        self.bound = math.sqrt(6 / self.fan_in) * math.sqrt(6 / self.rank)
        self.vera_d = nn.Parameter(base.weight.new_full((self.rank,), d_initial))
        self.vera_b = nn.Parameter(base.weight.new_zeros(self.fan_out))

    def _matrices(self) -> tuple[Tensor, Tensor]:
        """(rank, in, ...) and (out, rank, ...), without their bounds."""
        down = self.pair.a[: self.fan_in].t().reshape(self.rank, *self.weight.shape[1:])
        return down, self.pair.b[: self.fan_out].reshape(-1, self.rank, *[1] * (self.weight.dim() - 2))

    def forward(self, x: Tensor) -> Tensor:
        down, up = self._matrices()
        shape = [-1] + [1] * (self.weight.dim() - 2)  # channels last for rows, before height and width for maps
        z = self._down(F.dropout(x, self.dropout, self.training), down) * (self.vera_d * self.bound).view(shape)
        return super().forward(x) + self._project(z, up) * self.vera_b.view(shape)

    def merged(self, gate_value: float | None = None) -> nn.Linear | nn.Conv2d:
        """A plain layer with the update in its weight, computed in float64 and rounded once."""
        down, up = (matrix.double().flatten(1) for matrix in self._matrices())
        b, d = self.vera_b.detach().double()[:, None], self.vera_d.detach().double() * self.bound
        return dressed(self, self.weight.detach().double() + (b * ((up * d) @ down)).view_as(self.weight))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"


class VeRALinear(Vectors, nn.Linear):
    """A Linear with a vector-scaled random update. x: (..., in) -> (..., out)."""

    def __init__(self, base: nn.Linear, pair: Projections, dropout: float = 0.0, d_initial: float = 0.1) -> None:
        nn.Linear.__init__(self, base.in_features, base.out_features, base.bias is not None, device="meta")
        self._start(base, pair, dropout, d_initial)

    def _down(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)

    def _project(self, z: Tensor, up: Tensor) -> Tensor:
        return F.linear(z, up)


class VeRAConv2d(Vectors, nn.Conv2d):
    """A Conv2d with a vector-scaled random update: A convolves as the base does, B is 1 x 1. x: (batch, in, H, W)."""

    def __init__(self, base: nn.Conv2d, pair: Projections, dropout: float = 0.0, d_initial: float = 0.1) -> None:
        nn.Conv2d.__init__(self, **geometry(base))
        self._start(base, pair, dropout, d_initial)

    def _down(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._conv_forward(x, weight, None)  # the base's stride, padding and dilation

    def _project(self, z: Tensor, up: Tensor) -> Tensor:
        return F.conv2d(z, up)


@ADAPTERS.register("vera")
class VeRA:
    """Vectors on a shared, frozen random low-rank pair: rank + out parameters a layer (Kopiczko et al. 2024).

    arXiv 2310.11454. The pair is drawn from the seed, the same on every machine, and is not saved: a deliverable holds
    the vectors, and its arguments the seed. Linear and Conv2d of any shape: a convolution's weight counts as the matrix
    (out, in * height * width). A layer's update costs rank / out of the layer's own time: choose a small rank for
    narrow convolutions.
    rank: channels of the bottleneck (paper: 256 and more). seed: of the shared pair.
    d_initial: where the vector on the bottleneck starts (paper: 0.1); the one on the outputs starts at zero.
    dropout: probability, on what enters the update.
    targets: globs on module names, None for the backbone's own adapter_targets. head: take its head_targets, too.
    """

    identity_at_start = True
    keeps_base_keys = True
    mergeable = "exact"
    needs_gate = False
    auxiliary_losses = False
    freezes_base = True

    def __init__(
        self,
        rank: int = 256,
        seed: int = 0,
        d_initial: float = 0.1,
        dropout: float = 0.0,
        targets: Sequence[str] | None = None,
        head: bool = False,
    ) -> None:
        check_options(rank, dropout, "input")
        if seed < 0:
            raise ValueError(f"adapter.seed is {seed}; it must be 0 or more")
        if d_initial == 0:
            raise ValueError("adapter.d_initial is 0; both vectors would start at zero, where neither has a gradient")
        self.rank, self.seed, self.d_initial = rank, seed, d_initial
        self.dropout, self.targets, self.head = dropout, targets, head

    def attach(self, backbone: nn.Module, gate: Gate) -> AttachReport:
        """Adapt the targets in place. ValueError for a target that names nothing adaptable."""
        head, body = find_layers(backbone, self.targets, self.head)
        names = [*body.names, *head.names]
        shapes = {name: backbone.get_submodule(name).weight.shape for name in names}
        inputs = max((math.prod(shape[1:]) for shape in shapes.values()), default=0)
        outputs = max((shape[0] for shape in shapes.values()), default=0)
        pair = Projections(inputs, outputs, self.rank, self.seed)
        for name in names:
            base = backbone.get_submodule(name)
            kind = VeRALinear if isinstance(base, nn.Linear) else VeRAConv2d
            replace(backbone, name, kind(base, pair.to(base.weight), self.dropout, self.d_initial))
        return AttachReport(names, body.skipped)


def _draw(rows: int, columns: int, seed: tuple[int, int]) -> Tensor:
    """(rows, columns) float32, uniform in [-1, 1): numpy promises raw streams for good, torch no draw of its own."""
    raw = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(rows * columns)
    return torch.from_numpy(((raw >> np.uint64(40)).astype(np.float32) * 2.0**-23 - 1).reshape(rows, columns))
