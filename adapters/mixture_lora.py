"""Mixture of LoRA branches over the range of quality: each image takes the branches nearest to its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from adapters import ADAPTERS
from adapters._layers import DropoutAt, Init, ScalingRule, Settings, adapt
from adapters.lora import find_ranks
from recognition.gate import Gate
from recognition.types import AttachReport


@ADAPTERS.register("mixture_lora")
class MixtureLoRA:
    """Low-rank branches at even places of the gate, weighted per image by soft bins: dual_lora with k branches.

    Branch i stands at gate i / (branches - 1). An image's gate lies between two of them, which share it linearly; all
    others weigh nothing, so the weights sum to one. Two branches are dual_lora, to the bit.
    branches: two or more; the time and the parameters are those of plain LoRA at rank branches * rank.
    rank: channels of each branch. scaling: factor of the update; or give alpha, and the factor is alpha / rank, or
    alpha / sqrt(rank) by scaling_rule "rank_stabilized".
    dropout: probability, on what enters the update ("input") or leaves each branch ("output").
    init: of A, N(0, 1/rank^2) or, "kaiming", U(-1, 1) / sqrt(fan_in); B is zero.
    targets: globs on module names, None for the backbone's own adapter_targets.
    ranks: glob -> rank, laid over `rank` for the adapted layers that it names, the head's among them.
    head: an un-gated update of the same rank on the backbone's head_targets.
    lr_plus_ratio: learning rate of B over that of A (LoRA+); 1 = off.
    """

    identity_at_start = True
    keeps_base_keys = True
    mergeable = "at_gate"
    needs_gate = True
    auxiliary_losses = False
    freezes_base = True
    of_training = ("dropout", "dropout_at", "init", "lr_plus_ratio")

    def __init__(
        self,
        branches: int = 4,
        rank: int = 4,
        alpha: float | None = None,
        scaling: float = 1.0,
        scaling_rule: ScalingRule = "standard",
        dropout: float = 0.0,
        dropout_at: DropoutAt = "input",
        init: Init = "gaussian",
        targets: Sequence[str] | None = None,
        ranks: Mapping[str, int] | None = None,
        head: bool = False,
        lr_plus_ratio: float = 1.0,
    ) -> None:
        if branches < 2:
            raise ValueError(f"adapter.branches is {branches}; it must be at least 2 (adapter lora has one)")
        self.settings = Settings(
            rank, alpha, scaling, scaling_rule, dropout, dropout_at, init, ranks, lr_plus_ratio, rank if head else 0
        )
        self.targets, self.branches = targets, branches

    def attach(self, backbone: nn.Module, gate: Gate) -> AttachReport:
        """Adapt the targets in place. ValueError for a target or a glob of `ranks` that names nothing adaptable."""
        body, head, skipped = find_ranks(backbone, self.targets, self.settings)
        adapt(backbone, body, self.settings, gate, self.branches)
        adapt(backbone, head, self.settings)
        return AttachReport([*body, *head], skipped)

    def parameter_groups(self, backbone: nn.Module) -> list[dict]:
        """LoRA+'s group; none at ratio 1."""
        return self.settings.parameter_groups(backbone)
