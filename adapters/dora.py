"""DoRA: a low-rank update of the weight's directions, and a trained magnitude for each output channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from adapters import ADAPTERS
from adapters._layers import DropoutAt, Init, LoRAConv2d, LoRALinear, ScalingRule, Settings, adapt
from adapters.lora import find_ranks
from recognition.gate import Gate
from recognition.types import AttachReport


class WeightDecomposed:
    """Stands in front of a low-rank layer: y = m / |V| * (V x) + bias with V = W + scaling * B A.

    |V|: L2 norm of each output channel's weights, a constant to the gradient (the paper's section 4.3). It is taken in
    float64 and rounded once, so that at the start m / |V| is 1 to the bit on any device.
    magnitude: (out,), m, starts at |W|. A channel whose weights are all zero stays at its bias.
    """

    multiplies_only = False  # it takes norms of the weight

    def _start(self, *given) -> None:
        super()._start(*given)
        self.magnitude = nn.Parameter(_norm(self.weight.detach().double()).to(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        norm = _norm(super().exact_weight(None)).to(self.magnitude)
        scale = self.magnitude / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        shape = [-1] + [1] * (self.weight.dim() - 2)  # channels last for rows, before height and width for maps
        adapted = super().forward(x) * scale.view(shape)
        return adapted if self.bias is None else adapted + ((1 - scale) * self.bias).view(shape)

    def exact_weight(self, gate_value: float | None) -> Tensor:
        """m / |V| * V, float64 and without a gradient."""
        adapted = super().exact_weight(gate_value)
        scale = self.magnitude.detach().double() / _norm(adapted).clamp_min(torch.finfo(self.weight.dtype).tiny)
        return adapted * scale.view(-1, *[1] * (adapted.dim() - 1))


class DoRALinear(WeightDecomposed, LoRALinear):
    """A Linear with an update of its directions and magnitudes. x: (..., in) -> (..., out)."""


class DoRAConv2d(WeightDecomposed, LoRAConv2d):
    """A Conv2d with an update of its directions and magnitudes. x: (batch, in, H, W)."""


@ADAPTERS.register("dora")
class DoRA:
    """Weight-decomposed low-rank updates: LoRA for directions, magnitudes trained apart (Liu et al. 2024).

    arXiv 2402.09353. Each step builds the adapted layers' whole weight once, for its norms.
    rank: channels of the bottleneck. scaling: factor of the update; or give alpha, and the factor is alpha / rank, or
    alpha / sqrt(rank) by scaling_rule "rank_stabilized".
    dropout: probability, on what enters the update ("input") or leaves it ("output"); the norms see no dropout.
    init: of A, N(0, 1/rank^2) or, "kaiming" and the paper's, U(-1, 1) / sqrt(fan_in); B is zero.
    targets: globs on module names, None for the backbone's own adapter_targets.
    ranks: glob -> rank, laid over `rank` (and head_rank) for the adapted layers that it names.
    head_rank: 0, or the rank of an update on the backbone's head_targets.
    lr_plus_ratio: learning rate of B over that of A and the magnitudes (LoRA+); 1 = off.
    """

    identity_at_start = True
    keeps_base_keys = True
    mergeable = "exact"
    needs_gate = False
    auxiliary_losses = False
    freezes_base = True
    of_training = ("dropout", "dropout_at", "init", "lr_plus_ratio")

    def __init__(
        self,
        rank: int = 8,
        alpha: float | None = None,
        scaling: float = 1.0,
        scaling_rule: ScalingRule = "standard",
        dropout: float = 0.0,
        dropout_at: DropoutAt = "input",
        init: Init = "gaussian",
        targets: Sequence[str] | None = None,
        ranks: Mapping[str, int] | None = None,
        head_rank: int = 0,
        lr_plus_ratio: float = 1.0,
    ) -> None:
        self.settings = Settings(
            rank, alpha, scaling, scaling_rule, dropout, dropout_at, init, ranks, lr_plus_ratio, head_rank
        )
        self.targets = targets

    def attach(self, backbone: nn.Module, gate: Gate) -> AttachReport:
        """Adapt the targets in place. ValueError for a target or a glob of `ranks` that names nothing adaptable."""
        body, head, skipped = find_ranks(backbone, self.targets, self.settings)
        adapt(backbone, {**body, **head}, self.settings, kinds=(DoRALinear, DoRAConv2d))
        return AttachReport([*body, *head], skipped)

    def parameter_groups(self, backbone: nn.Module) -> list[dict]:
        """LoRA+'s group; none at ratio 1."""
        return self.settings.parameter_groups(backbone)


def _norm(weight: Tensor) -> Tensor:
    """L2 norm of each output channel's weights, (out,)."""
    return weight.flatten(1).square().sum(1).sqrt()
