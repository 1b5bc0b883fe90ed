"""Plain LoRA: one low-rank update per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from adapters import ADAPTERS
from adapters._layers import DropoutAt, Init, ScalingRule, Settings, adapt
from adapters._targets import Matches, find, find_declared, lay_over
from recognition.gate import Gate
from recognition.types import AttachReport


@ADAPTERS.register("lora")
class LoRA:
    """Low-rank updates on a frozen base (Hu et al. 2021, arXiv 2106.09685).

    rank: channels of the bottleneck. scaling: factor of the update; or give alpha, and the factor is alpha / rank, or
    alpha / sqrt(rank) by scaling_rule "rank_stabilized" (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732).
    dropout: probability, on what enters the update ("input") or leaves it ("output", PETALface's place).
    init: of A, N(0, 1/rank^2) or, "kaiming", U(-1, 1) / sqrt(fan_in), as peft draws it; B is zero.
    targets: globs on module names, None for the backbone's own adapter_targets.
    ranks: glob -> rank, laid over `rank` (and head_rank) for the adapted layers that it names.
    head_rank: 0, or the rank of an update on the backbone's head_targets.
    lr_plus_ratio: learning rate of B over that of A (LoRA+, Hayou et al. 2024, arXiv 2402.12354); 1 = off.
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
        adapt(backbone, {**body, **head}, self.settings)
        return AttachReport([*body, *head], skipped)

    def parameter_groups(self, backbone: nn.Module) -> list[dict]:
        """LoRA+'s group; none at ratio 1."""
        return self.settings.parameter_groups(backbone)


def find_layers(backbone: nn.Module, targets: Sequence[str] | None, head: bool) -> tuple[Matches, Matches]:
    """Layers of the head, where it is asked for, and of the body; a layer that both name belongs to the head."""
    top = find_declared(backbone, "head_targets", "set no adapter on its head") if head else Matches()
    if targets is None:
        body = find_declared(backbone, "adapter_targets", "set adapter.targets")
    else:
        body = find(backbone, targets)
    return top, Matches([name for name in body.names if name not in top.names], body.skipped)


def find_ranks(
    backbone: nn.Module, targets: Sequence[str] | None, settings: Settings
) -> tuple[dict[str, int], dict[str, int], list[str]]:
    """Rank of each layer of the body and of each of the head, by name, and the names skipped."""
    head, body = find_layers(backbone, targets, settings.head_rank > 0)
    defaults = {**dict.fromkeys(body.names, settings.rank), **dict.fromkeys(head.names, settings.head_rank)}
    ranks = lay_over(defaults, settings.ranks)
    return {n: ranks[n] for n in body.names}, {n: ranks[n] for n in head.names}, body.skipped
