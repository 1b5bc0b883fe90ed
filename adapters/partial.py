"""Only the last blocks and the head train."""

from __future__ import annotations

from torch import nn

from adapters import ADAPTERS
from adapters._parts import find_blocks, unfreeze
from adapters._targets import find_declared
from adapters.head_only import parameters_of
from recognition.gate import Gate
from recognition.types import AttachReport


@ADAPTERS.register("partial")
class Partial:
    """Every parameter of the last blocks trains, and the head's Linear layers: a baseline.

    blocks: how many, of those that the backbone names in checkpoint_blocks; layers between and behind them stand still.
    head: the Linear layers of head_targets, too.
    alive: the blocks follow train(): their norms use the batch's statistics and move the running ones, which the
    deliverable then holds, and their dropout and DropPath draw; else training sees the network that inference sees.
    """

    identity_at_start = True
    keeps_base_keys = True
    mergeable = "exact"
    needs_gate = False
    auxiliary_losses = False
    freezes_base = True

    def __init__(self, blocks: int = 1, head: bool = True, alive: bool = False) -> None:
        if blocks < 1:
            raise ValueError(f"adapter.blocks is {blocks}; it must be 1 or more (adapter head_only trains no block)")
        self.blocks, self.head, self.alive = blocks, head, alive

    def attach(self, backbone: nn.Module, gate: Gate) -> AttachReport:
        """Unfreeze blocks and head. ValueError for more blocks than there are, and for a head that is not declared."""
        blocks = find_blocks(backbone)
        if self.blocks > len(blocks):
            raise ValueError(
                f"adapter.blocks is {self.blocks}, but {type(backbone).__name__} has {len(blocks)} blocks "
                f"({blocks[0]} to {blocks[-1]}); adapter full trains all of the network"
            )
        chosen = blocks[-self.blocks :]
        head = find_declared(backbone, "head_targets", "set adapter.head=False").names if self.head else []
        if not self.alive:
            return unfreeze(backbone, parameters_of(backbone, [*chosen, *head]))
        for name in chosen:
            backbone.get_submodule(name).requires_grad_(True)
        return AttachReport([*chosen, *unfreeze(backbone, parameters_of(backbone, head)).adapted], [])
