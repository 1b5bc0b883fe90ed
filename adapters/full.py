"""Full fine-tuning: no adapter at all, behind the same interface."""

from __future__ import annotations

from torch import nn

from adapters import ADAPTERS
from recognition.gate import Gate
from recognition.types import AttachReport


@ADAPTERS.register("full")
class Full:
    """Every parameter of the backbone trains; its norms, dropout and DropPath are alive.

    Parameters that the backbone itself holds fixed (the scale of an embedding's last norm, for example) stay fixed.
    """

    identity_at_start = True
    keeps_base_keys = True
    mergeable = "exact"
    needs_gate = False
    auxiliary_losses = False
    freezes_base = False

    def attach(self, backbone: nn.Module, gate: Gate) -> AttachReport:
        """Change nothing: the one adapted layer is the backbone, named ''. ValueError where nothing would train."""
        if not any(parameter.requires_grad for parameter in backbone.parameters()):
            raise ValueError("full fine-tuning of a frozen backbone trains nothing: call backbone.requires_grad_(True)")
        return AttachReport([""], [])
