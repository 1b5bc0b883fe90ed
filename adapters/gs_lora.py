"""Group-sparse LoRA: low-rank updates that a group lasso drives out of whole blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters import ADAPTERS
from adapters._attach import attached, layers
from adapters._layers import DropoutAt, Init, LoRAConv2d, LoRALinear, ScalingRule, Settings, adapt
from adapters._moe import mlp_width
from adapters._parts import find_blocks
from adapters._targets import Matches, find, lay_over
from recognition.distributed import whole
from recognition.gate import Gate
from recognition.types import AttachReport


@dataclass(slots=True, eq=False)
class Lasso:
    """The penalty on one group of low-rank layers: weight * sqrt(sum of squares of all their A and B).

    It sits on the group's first layer, which hands it to the gate once per forward. Plain attributes hold the group's
    layers, so that a copy of the network has lassos over its own layers, and no key of its state dict changes.
    """

    group: str  # the block's name, or the layer's where it stands in no block
    weight: float
    gate: Gate
    layers: list[nn.Module]

    def norm(self) -> Tensor:
        """The norm, (), float32 or wider. Its gradient is 0 where the group, or a matrix of it, is all zero."""
        # vector_norm has subgradient 0 at 0, where a root of a sum of squares gives NaN: every B is zero at the start
        matrices = [matrix for layer in self.layers for matrix in (layer.lora_a, layer.lora_b)]
        wide = torch.promote_types(matrices[0].dtype, torch.float32)
        return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(m, dtype=wide) for m in matrices]))


class Grouped:
    """Stands in front of the low-rank layers: a group's first layer hands its lasso to the gate in training."""

    lasso: Lasso | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.lasso is not None and self.lasso.weight:
            self.lasso.gate.add_auxiliary(self.lasso.weight * self.lasso.norm())
        return super().forward(x)


class GroupedLinear(Grouped, LoRALinear):
    """A Linear with a low-rank update of a group. x: (..., in) -> (..., out)."""


class GroupedConv2d(Grouped, LoRAConv2d):
    """A Conv2d with a low-rank update of a group. x: (batch, in, H, W)."""


@ADAPTERS.register("gs_lora")
class GSLoRA:
    """Low-rank updates with a group lasso over blocks, for continual forgetting (GS-LoRA, arXiv 2403.11530).

    All updates of one block form a group; sparsity * sum over groups of the group's norm is added to the loss, which
    empties the blocks that the task does without. Forgetting itself is margin "forgetting". For a next task merge the
    adapter and train another one on the merged weights.
    rank, alpha, scaling, scaling_rule, dropout, dropout_at: as for lora. The published code has rank 8 and loralib's
        factor of 1 / rank (alpha 1).
    init: of A, as for lora; with loralib's "kaiming" all groups start with norms alike, sqrt(rank / 3) for each A.
    sparsity: weight of the lasso, 0 = none. While a B is small the lasso alone moves its A, and an optimizer that
        scales gradients (AdamW) does so at full speed however small the weight. The published scripts have 1e-4 at
        AdamW's lr 1e-2, after some epochs without. An adapter knows no epoch: for those train a run at sparsity 0 first
        and go on from it (config.adapter.weights).
    epsilon: a group of a smaller norm counts as unused in the report; nothing is set to zero.
    targets: globs on module names. None: the Linear layers of each block's MLP; in a block without one, those of the
        backbone's own adapter_targets. A target that stands in no block is a group by itself.
    ranks: glob -> rank, laid over `rank` for the adapted layers that it names.
    lr_plus_ratio: learning rate of B over that of A (LoRA+); 1 = off.
    """

    identity_at_start = True
    keeps_base_keys = True
    mergeable = "exact"
    needs_gate = False
    auxiliary_losses = True
    freezes_base = True
    # what weights say nothing of: a run that starts from another's may set them anew
    of_training = ("sparsity", "epsilon", "dropout", "dropout_at", "init", "lr_plus_ratio")

    def __init__(
        self,
        rank: int = 8,
        alpha: float | None = None,
        scaling: float = 1.0,
        scaling_rule: ScalingRule = "standard",
        dropout: float = 0.0,
        dropout_at: DropoutAt = "input",
        init: Init = "kaiming",
        sparsity: float = 1e-2,
        epsilon: float = 0.05,
        targets: Sequence[str] | None = None,
        ranks: Mapping[str, int] | None = None,
        lr_plus_ratio: float = 1.0,
    ) -> None:
        self.settings = Settings(rank, alpha, scaling, scaling_rule, dropout, dropout_at, init, ranks, lr_plus_ratio)
        for name, value in (("sparsity", sparsity), ("epsilon", epsilon)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"adapter.{name} is {value}; it must be 0 or more")
        self.sparsity, self.epsilon, self.targets = sparsity, epsilon, targets
        self.auxiliary_losses = sparsity > 0

    def attach(self, backbone: nn.Module, gate: Gate) -> AttachReport:
        """Adapt the targets in place.

        ValueError for a backbone without blocks, and for a target or a glob of `ranks` that names nothing adaptable.
        """
        blocks = find_blocks(backbone)
        found = find_in_blocks(backbone, blocks) if self.targets is None else find(backbone, self.targets)
        ranks = lay_over(dict.fromkeys(found.names, self.settings.rank), self.settings.ranks)
        adapt(backbone, ranks, self.settings, kinds=(GroupedLinear, GroupedConv2d))
        groups: dict[str, list[nn.Module]] = {}
        for name in found.names:
            groups.setdefault(_block_of(name, blocks) or name, []).append(backbone.get_submodule(name))
        for group, members in groups.items():
            members[0].lasso = Lasso(group, self.sparsity, gate, members)
        return AttachReport(found.names, found.skipped)

    def parameter_groups(self, backbone: nn.Module) -> list[dict]:
        """LoRA+'s group; none at ratio 1."""
        return self.settings.parameter_groups(backbone)

    def report(self, backbone: nn.Module, forward: Callable[[], object]) -> dict[str, float]:
        """Norm of every group, and the share of groups below epsilon; no image is looked at."""
        norms = group_norms(backbone)
        return {f"groups/{group}": norm for group, norm in norms.items()} | {
            "groups/unused_share": unused_share(norms, self.epsilon)
        }


def group_norms(backbone: nn.Module) -> dict[str, float]:
    """Norm of every group by its name, in the model's order: the sparsity report as numbers.

    RuntimeError for a backbone that carries no adapter, ValueError for one that carries another.
    """
    adapter = attached(backbone).adapter
    if not isinstance(adapter, GSLoRA):
        raise ValueError(
            f"the backbone carries a {type(adapter).__name__}, whose layers stand in no groups: use gs_lora"
        )
    lassos = [layer.lasso for _, layer in layers(backbone) if layer.lasso is not None]
    with torch.no_grad():
        norms = torch.stack([whole(lasso.norm()) for lasso in lassos]).tolist()  # the one wait for the device
    return dict(zip([lasso.group for lasso in lassos], norms, strict=True))


def unused_share(norms: Mapping[str, float], epsilon: float) -> float:
    """Share of the groups whose norm is below epsilon, in [0, 1]."""
    return sum(norm < epsilon for norm in norms.values()) / len(norms)


def find_in_blocks(backbone: nn.Module, blocks: Sequence[str]) -> Matches:
    """The Linear layers of each block's MLP; in a block without one, those of adapter_targets that stand in it.

    ValueError where no block has any of them.
    """
    of_mlps: set[str] = set()
    for block in blocks:
        for name, module in backbone.get_submodule(block).named_modules(prefix=block):
            if mlp_width(module) is not None:
                of_mlps |= {inner for inner, m in module.named_modules(prefix=name) if type(m) is nn.Linear}
    with_mlp = {_block_of(name, blocks) for name in of_mlps}
    declared = getattr(backbone, "adapter_targets", ())
    others = find(backbone, declared) if declared and len(with_mlp) < len(blocks) else Matches()
    inside = [name for name in others.names if (block := _block_of(name, blocks)) and block not in with_mlp]
    if not of_mlps and not inside:
        raise ValueError(
            f"no block of {type(backbone).__name__} has an MLP or one of its adapter_targets "
            f"({', '.join(declared) or 'none declared'}): set adapter.targets"
        )
    skipped = [name for name in others.skipped if (block := _block_of(name, blocks)) and block not in with_mlp]
    return Matches(find(backbone, sorted(of_mlps | {*inside})).names, skipped)


def _block_of(name: str, blocks: Sequence[str]) -> str:
    """The block that the layer stands in, or is; "" for none."""
    return next((block for block in blocks if name == block or name.startswith(f"{block}.")), "")
