"""Dual quality-gated LoRA: two low-rank branches, mixed per image by its quality."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from adapters import ADAPTERS
from adapters._layers import DropoutAt, adapt, check_options
from adapters.lora import find_layers
from recognition.gate import Gate
from recognition.types import AttachReport


@ADAPTERS.register("dual_lora")
class DualLoRA:
    """Two low-rank branches per layer, weighted per image by 1 - gate and gate (PETALface, arXiv 2412.07771).

    rank: channels of each branch. scaling: factor of the update (PETALface: 1).
    dropout: probability, on what enters the update ("input") or leaves each branch ("output", PETALface's place, 0.1).
    targets: globs on module names, None for the backbone's own adapter_targets.
    head: an un-gated update of the same rank on the backbone's head_targets, as in PETALface.
    """

    identity_at_start = True
    keeps_base_keys = True
    mergeable = "at_gate"
    needs_gate = True
    freezes_base = True

    def __init__(
        self,
        rank: int = 8,
        scaling: float = 1.0,
        dropout: float = 0.0,
        dropout_at: DropoutAt = "input",
        targets: Sequence[str] | None = None,
        head: bool = False,
    ) -> None:
        check_options(rank, dropout, dropout_at)
        self.rank, self.scaling = rank, scaling
        self.dropout, self.dropout_at = dropout, dropout_at
        self.targets, self.head = targets, head

    def attach(self, backbone: nn.Module, gate: Gate) -> AttachReport:
        """Adapt the targets in place. ValueError for a target that names nothing adaptable."""
        head, body = find_layers(backbone, self.targets, self.head)
        for names, its_gate in ((body.names, gate), (head.names, None)):
            adapt(backbone, names, self.rank, self.scaling, self.dropout, self.dropout_at, its_gate)
        return AttachReport([*body.names, *head.names], body.skipped)
