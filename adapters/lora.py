"""Plain LoRA: one low-rank update per layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from adapters import ADAPTERS
from adapters._layers import DropoutAt, adapt, check_options
from adapters._targets import Matches, find, find_declared
from recognition.gate import Gate
from recognition.types import AttachReport


@ADAPTERS.register("lora")
class LoRA:
    """Low-rank updates on a frozen base (Hu et al. 2021, arXiv 2106.09685).

    rank: channels of the bottleneck. scaling: factor of the update; or give alpha, and the factor is alpha / rank.
    dropout: probability, on what enters the update ("input") or leaves it ("output", PETALface's place).
    targets: globs on module names, None for the backbone's own adapter_targets.
    head_rank: 0, or the rank of an update on the backbone's head_targets.
    """

    identity_at_start = True
    keeps_base_keys = True
    mergeable = "exact"
    needs_gate = False
    freezes_base = True

    def __init__(
        self,
        rank: int = 8,
        alpha: float | None = None,
        scaling: float = 1.0,
        dropout: float = 0.0,
        dropout_at: DropoutAt = "input",
        targets: Sequence[str] | None = None,
        head_rank: int = 0,
    ) -> None:
        check_options(rank, dropout, dropout_at)
        if head_rank < 0:
            raise ValueError(f"adapter.head_rank is {head_rank}; it must be 0 (no update on the head) or more")
        if alpha is not None and scaling != 1.0:
            raise ValueError(f"adapter.alpha is {alpha} and adapter.scaling is {scaling}; set one of the two")
        self.rank, self.alpha, self.scaling = rank, alpha, scaling
        self.dropout, self.dropout_at = dropout, dropout_at
        self.targets, self.head_rank = targets, head_rank

    def attach(self, backbone: nn.Module, gate: Gate) -> AttachReport:
        """Adapt the targets in place. ValueError for a target that names nothing adaptable."""
        head, body = find_layers(backbone, self.targets, head=self.head_rank > 0)
        for names, rank in ((body.names, self.rank), (head.names, self.head_rank)):
            adapt(backbone, names, rank, self._scaling(rank), self.dropout, self.dropout_at)
        return AttachReport([*body.names, *head.names], body.skipped)

    def _scaling(self, rank: int) -> float:
        return self.scaling if self.alpha is None or rank == 0 else self.alpha / rank


def find_layers(backbone: nn.Module, targets: Sequence[str] | None, head: bool) -> tuple[Matches, Matches]:
    """Layers of the head, where it is asked for, and of the body; a layer that both name belongs to the head."""
    top = find_declared(backbone, "head_targets", "set no adapter on its head") if head else Matches()
    if targets is None:
        body = find_declared(backbone, "adapter_targets", "set adapter.targets")
    else:
        body = find(backbone, targets)
    return top, Matches([name for name in body.names if name not in top.names], body.skipped)
