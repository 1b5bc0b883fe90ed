"""Only norms and biases train: no weight matrix or kernel changes."""

from __future__ import annotations

from torch import nn

from adapters import ADAPTERS
from adapters._parts import unfreeze
from recognition.gate import Gate
from recognition.types import AttachReport

NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


@ADAPTERS.register("norms_only")
class NormsOnly:
    """Weights and biases of every norm train, and all biases (BitFit, Ben Zaken et al. 2021, arXiv 2106.10199).

    The scale of an embedding's last norm is among them, also where a backbone holds it fixed in its own training.
    biases: those of other layers too; tables of position biases and the slopes of PReLU are none and stand still.
    alive: batch norms use the batch's statistics in training, move their running ones, and the deliverable holds these;
    else they stay the base's, and training sees the network that inference sees.
    """

    identity_at_start = True
    keeps_base_keys = True
    mergeable = "exact"
    needs_gate = False
    auxiliary_losses = False
    freezes_base = True

    def __init__(self, biases: bool = True, alive: bool = False) -> None:
        self.biases, self.alive = biases, alive

    def attach(self, backbone: nn.Module, gate: Gate) -> AttachReport:
        """Unfreeze norms and biases. ValueError for a backbone that has none."""
        keys = [key for key, norm in _direct_parameters(backbone) if norm or (self.biases and _is_bias(key))]
        if not keys:
            raise ValueError(
                f"{type(backbone).__name__} has no norm with weights{' and no bias' if self.biases else ''}, "
                "so that norms_only would train nothing: take another adapter"
            )
        return unfreeze(backbone, keys, NORMS if self.alive else ())


def _direct_parameters(backbone: nn.Module) -> list[tuple[str, bool]]:
    """(name, whether it stands in a norm) of every parameter, in the model's order."""
    norms = {name for name, module in backbone.named_modules() if isinstance(module, NORMS)}
    return [(key, key.rpartition(".")[0] in norms) for key, _ in backbone.named_parameters()]


def _is_bias(key: str) -> bool:
    last = key.rpartition(".")[2]
    return last == "bias" or last.endswith("_bias")  # torch's attention calls one in_proj_bias
