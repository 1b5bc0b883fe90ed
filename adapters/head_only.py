"""Only the head trains: the projection to the embedding, on a body that stands still."""

from __future__ import annotations

from torch import nn

from adapters import ADAPTERS
from adapters._parts import unfreeze
from adapters._targets import find_declared
from recognition.gate import Gate
from recognition.types import AttachReport


@ADAPTERS.register("head_only")
class HeadOnly:
    """The head's Linear layers train, all else stands still: a baseline.

    The head is what the backbone names in head_targets. Norms in and behind it keep their weights and statistics.
    """

    identity_at_start = True
    keeps_base_keys = True
    mergeable = "exact"
    needs_gate = False
    auxiliary_losses = False
    freezes_base = True

    def attach(self, backbone: nn.Module, gate: Gate) -> AttachReport:
        """Unfreeze the head's weights and biases. ValueError for a backbone that names no head."""
        found = find_declared(backbone, "head_targets", "take adapter partial, norms_only or full, which need none")
        report = unfreeze(backbone, parameters_of(backbone, found.names))
        return AttachReport(report.adapted, [*found.skipped, *report.skipped])


def parameters_of(backbone: nn.Module, modules: list[str]) -> list[str]:
    """Names of all parameters inside the named modules, in the model's order."""
    inside = tuple(f"{name}." for name in modules)
    return [key for key, _ in backbone.named_parameters() if key.startswith(inside)]
