"""Dual quality-gated LoRA: two low-rank branches, mixed per image by its quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from adapters import ADAPTERS
from adapters._layers import DropoutAt, Init, ScalingRule, Settings, adapt
from adapters.lora import find_ranks
from recognition.gate import Gate
from recognition.types import AttachReport


@ADAPTERS.register("dual_lora")
class DualLoRA:
    """Two low-rank branches per layer, weighted per image by 1 - gate and gate (PETALface, arXiv 2412.07771).

    rank: channels of each branch. scaling: factor of the update (PETALface: 1); or give alpha, and the factor is
    alpha / rank, or alpha / sqrt(rank) by scaling_rule "rank_stabilized".
    dropout: probability, on what enters the update ("input") or leaves each branch ("output", PETALface's place, 0.1).
    init: of A, N(0, 1/rank^2) or, "kaiming", U(-1, 1) / sqrt(fan_in); B is zero.
    targets: globs on module names, None for the backbone's own adapter_targets.
    ranks: glob -> rank, laid over `rank` for the adapted layers that it names, the head's among them.
    head: an un-gated update of the same rank on the backbone's head_targets, as in PETALface.
    lr_plus_ratio: learning rate of B over that of A (LoRA+); 1 = off.
    gated: False for the twin in comparisons, equal but for the gate: the same parameters from the same draws, both
    branches weighing 1/2 for every image, as at gate 1/2. It needs no score and merges exactly. Plain `lora` at twice
    the rank has as many parameters, but A starts at half the size, so at one learning rate it moves twice as far.
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
        rank: int = 8,
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
        gated: bool = True,
    ) -> None:
        self.settings = Settings(
            rank, alpha, scaling, scaling_rule, dropout, dropout_at, init, ranks, lr_plus_ratio, rank if head else 0
        )
        self.targets, self.gated = targets, gated
        if not gated:
            self.needs_gate, self.mergeable = False, "exact"

    def attach(self, backbone: nn.Module, gate: Gate) -> AttachReport:
        """Adapt the targets in place. ValueError for a target or a glob of `ranks` that names nothing adaptable."""
        body, head, skipped = find_ranks(backbone, self.targets, self.settings)
        adapt(backbone, body, self.settings, gate if self.gated else None, branches=2)
        adapt(backbone, head, self.settings)
        return AttachReport([*body, *head], skipped)

    def parameter_groups(self, backbone: nn.Module) -> list[dict]:
        """LoRA+'s group; none at ratio 1."""
        return self.settings.parameter_groups(backbone)
