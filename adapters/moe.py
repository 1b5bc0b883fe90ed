"""Mixture of experts: the MLPs of a transformer become several, and a router chooses among them for every token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from adapters import ADAPTERS
from adapters._layers import replace
from adapters._moe import Losses, Mixing, Mixture, ZLoss, mlp_width, picks
from adapters._targets import matching, nearest_names
from recognition.gate import Gate
from recognition.types import AttachReport

Trained = Literal["experts", "all", "none"]


@ADAPTERS.register("moe")
class MoE:
    """Experts in the place of each MLP, chosen per token (FaceMoE, arXiv 2606.32040), up-cycled from the dense MLP.

    experts, top_k: how many there are, and how many a token takes; with top_k 1 and softmax the router learns from the
        auxiliary losses alone, since its weight is always 1.
    mixing: weights of the chosen are the "softmax" over their logits (paper; the first output is the base's), or the
        "logits" themselves (the published weights; another function than the base from the start).
    z_loss: "paper" or "code", experts times smaller. z_weight, balance_weight: 0 = without. auxiliary_weight: of both.
        Summed over blocks; even routing costs auxiliary_weight * balance_weight * top_k per block.
    jitter: noise on what the router sees in training, in [0, 1).
    targets: globs on the names of MLPs, None for all.
    train: "experts" and routers on a frozen base; "all" of the network; "none", for training a classifier first.
    """

    identity_at_start = True
    keeps_base_keys = False  # an MLP's tensors become those of its first expert
    mergeable = "none"
    needs_gate = False
    auxiliary_losses = True
    freezes_base = True
    # what weights say nothing of: a run that starts from another's may set them anew
    of_training = ("z_loss", "z_weight", "balance_weight", "auxiliary_weight", "jitter", "train")

    def __init__(
        self,
        experts: int = 3,
        top_k: int = 2,
        mixing: Mixing = "softmax",
        z_loss: ZLoss = "paper",
        z_weight: float = 1e-3,
        balance_weight: float = 1e-2,
        auxiliary_weight: float = 10.0,
        jitter: float = 0.0,
        targets: Sequence[str] | None = None,
        train: Trained = "experts",
    ) -> None:
        if experts < 2:
            raise ValueError(f"adapter.experts is {experts}; it must be at least 2")
        if not 1 <= top_k <= experts:
            raise ValueError(f"adapter.top_k is {top_k}; it must lie in 1 .. {experts}, the number of experts")
        if not 0 <= jitter < 1:
            raise ValueError(f"adapter.jitter is {jitter}; it must lie in [0, 1)")
        for name, value, allowed in (
            ("mixing", mixing, Mixing.__args__),
            ("z_loss", z_loss, ZLoss.__args__),
            ("train", train, Trained.__args__),
        ):
            if value not in allowed:
                raise ValueError(f"adapter.{name} is '{value}'; it must be one of {', '.join(allowed)}")
        for name, weight in (
            ("z_weight", z_weight),
            ("balance_weight", balance_weight),
            ("auxiliary_weight", auxiliary_weight),
        ):
            if not 0 <= weight < float("inf"):
                raise ValueError(f"adapter.{name} is {weight}; it must be 0 or more")
        self.experts, self.top_k, self.mixing, self.jitter = experts, top_k, mixing, jitter
        self.targets, self.trained = targets, train
        z_weight, balance_weight = auxiliary_weight * z_weight, auxiliary_weight * balance_weight
        wanted = train != "none" and (z_weight or balance_weight)
        self.losses = Losses(z_loss, z_weight, balance_weight) if wanted else None
        self.auxiliary_losses = self.losses is not None
        self.identity_at_start = mixing == "softmax"
        self.freezes_base = train != "all"

    def attach(self, backbone: nn.Module, gate: Gate) -> AttachReport:
        """Put mixtures in the place of MLPs. ValueError for a backbone without any, and a target that names none."""
        found = find_mlps(backbone, self.targets)
        for name, width in found.items():
            mlp = backbone.get_submodule(name)
            if self.trained == "experts":
                mlp.requires_grad_(True)  # and so its copies
            mixture = Mixture(
                mlp,
                width,
                gate,
                self.experts,
                self.top_k,
                self.mixing,
                self.losses,
                self.jitter,
                quiet=self.freezes_base,
            )
            mixture.router.requires_grad_(self.trained != "none")
            replace(backbone, name, mixture)
        return AttachReport([*found], [])

    def report(self, backbone: nn.Module, forward: Callable[[], object]) -> dict[str, float]:
        """Each expert's share of the choices, by log tag: experts/LAYER/NUMBER, and experts/largest_share of all.

        forward: runs the network once, on images to look at; meanwhile it is in eval mode and without gradients.
        """
        found: dict[str, Tensor] = {}
        layers = {name: layer for name, layer in backbone.named_modules() if isinstance(layer, Mixture)}
        modes = [(module, module.training) for module in backbone.modules()]
        hooks = [layer.router.register_forward_hook(_counting(name, layer, found)) for name, layer in layers.items()]
        backbone.eval()
        try:
            with torch.no_grad():
                forward()
        finally:
            for hook in hooks:
                hook.remove()
            for module, mode in modes:
                module.training = mode
        shares = torch.stack([*found.values()]).tolist()  # the one wait for the device
        tags = {f"experts/{name}/{i}": s for name, row in zip(found, shares, strict=True) for i, s in enumerate(row)}
        return tags | {"experts/largest_share": max(map(max, shares))}


def find_mlps(backbone: nn.Module, patterns: Sequence[str] | str | None = None) -> dict[str, int]:
    """Names and widths of the MLPs that the globs name; a wildcard passes over everything else.

    ValueError for a backbone without MLPs, for a pattern that names no module, and for one that names no MLP.
    """
    modules = {name: module for name, module in backbone.named_modules(remove_duplicate=False) if name}
    widths = {name: width for name, module in modules.items() if (width := mlp_width(module)) is not None}
    mlps = {name: width for name, width in widths.items() if not any(n.startswith(f"{name}.") for n in widths)}
    if not mlps:
        raise ValueError(
            f"{type(backbone).__name__} has no MLPs (two Linear layers, to another width and back), which experts take "
            "the place of: choose a transformer such as swin_120 or vit_b, or an adapter such as lora"
        )
    patterns = ["**"] if patterns is None else [patterns] if isinstance(patterns, str) else [*patterns]
    named = {pattern: matching(pattern, modules) for pattern in patterns}
    for pattern, names in named.items():
        if not names:
            raise ValueError(
                f"adapter target '{pattern}' names no module; the names {nearest_names(pattern, [*modules])}"
            )
    for pattern, names in named.items():
        if not any(name in mlps for name in names):
            kind = type(modules[names[0]]).__name__
            raise ValueError(
                f"adapter target '{pattern}' names no MLP ('{names[0]}' is a {kind}); the MLPs "
                f"{nearest_names(pattern, [*mlps])}"
            )
    met = {name for names in named.values() for name in names}
    return {name: width for name, width in mlps.items() if name in met}


def _counting(name: str, layer: Mixture, found: dict[str, Tensor]) -> Callable[..., None]:
    def count(router: nn.Module, inputs: tuple, logits: Tensor) -> None:
        index = logits.topk(layer.top_k, -1).indices
        found[name] = picks(index, logits.shape[-1]) / layer.top_k

    return count
