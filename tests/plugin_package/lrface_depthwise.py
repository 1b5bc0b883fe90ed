"""An adapter in a package of its own: what a plugin outside the project needs is this file and an entry point."""

from __future__ import annotations

from torch import nn

from recognition.gate import Gate
from recognition.types import AttachReport


class DepthwiseOnly:
    """Only the depthwise convolutions train: kernels that see one channel each, a few percent of the weights.

    biases: theirs train, too.
    """

    identity_at_start = True
    keeps_base_keys = True
    mergeable = "exact"
    needs_gate = False
    auxiliary_losses = False
    freezes_base = True

    def __init__(self, biases: bool = True) -> None:
        self.biases = biases

    def attach(self, backbone: nn.Module, gate: Gate) -> AttachReport:
        """Unfreeze them. ValueError for a backbone that has none."""
        found = {name: module for name, module in backbone.named_modules() if _is_depthwise(module)}
        if not found:
            raise ValueError(f"{type(backbone).__name__} has no depthwise convolution: take another adapter")
        for module in found.values():
            module.weight.requires_grad_(True)
            if self.biases and module.bias is not None:
                module.bias.requires_grad_(True)
        return AttachReport([*found], [])


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
