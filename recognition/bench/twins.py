"""What an adapted network is compared with: two branches written naively, a dense MLP, an adapter that keeps nothing.

Each changes a model in place; all weights that it shares with the adapted one are the same tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import adapters
from adapters._layers import LowRank, geometry, replace
from adapters._moe import Mixture
from adapters.moe import find_mlps
from recognition.gate import per_image
from recognition.model import FaceModel


class _Plain:
    """Stands in front of nn.Linear or nn.Conv2d: a layer on another's weight."""

    multiplies_only = True

    def _adopt(self, layer: nn.Linear | nn.Conv2d) -> None:
        self.weight, self.bias = layer.weight, layer.bias
        self.training = layer.training
        self.channel_axis = -1 if isinstance(layer, nn.Linear) else 1


class _TwoBranches(_Plain):
    """PETALface's layer as its program writes it (arXiv 2412.07771, lora_layers.py): both branches in full.

    y = W x + b + s Drop(U1 D1 ((1 - g) x)) + s Drop(U2 D2 (g x)), the gate on the input, each branch's dropout its own.
    """

    def _start(self, layer: LowRank) -> None:
        self._adopt(layer)
        self.gate, self.scaling = layer.gate, layer.scaling
        self.dropout, self.dropout_at = layer.dropout, layer.dropout_at
        downs, ups = layer.lora_a.detach().chunk(2, 0), layer.lora_b.detach().chunk(2, 1)
        self.downs = nn.ParameterList([nn.Parameter(down.clone()) for down in downs])
        self.ups = nn.ParameterList([nn.Parameter(up.clone()) for up in ups])

    def forward(self, x: Tensor) -> Tensor:
        gate, out = self.gate.require().unsqueeze(1), super().forward(x)
        at_input = self.dropout if self.dropout_at == "input" else 0.0
        at_output = self.dropout if self.dropout_at == "output" else 0.0
        for weight, down, up in zip((1 - gate, gate), self.downs, self.ups, strict=True):
            branch = F.dropout(per_image(x, weight, self.channel_axis), at_input, self.training)
            branch = self._through(branch, down, up)
            out = out + self.scaling * F.dropout(branch, at_output, self.training)
        return out


class TwoBranchLinear(_TwoBranches, nn.Linear):
    """Of a gated LoRALinear."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Linear.__init__(self, layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self._start(layer)

    def _through(self, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        return F.linear(F.linear(x, down), up)


class TwoBranchConv2d(_TwoBranches, nn.Conv2d):
    """Of a gated LoRAConv2d."""

    def __init__(self, layer: nn.Conv2d) -> None:
        nn.Conv2d.__init__(self, **geometry(layer))
        self._start(layer)

    def _through(self, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        return F.conv2d(self._conv_forward(x, down, None), up)


class _Tapped(_Plain):
    """The base's layer and a trained number for each channel: the same graph behind it, but a sum keeps nothing."""

    def _start(self, layer: nn.Linear | nn.Conv2d) -> None:
        self._adopt(layer)
        shape = [-1] + [1] * (self.weight.dim() - 2)
        self.tap = nn.Parameter(layer.weight.new_zeros(layer.weight.shape[0], dtype=torch.float32).view(shape))

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out + self.tap.to(out.dtype)


class TappedLinear(_Tapped, nn.Linear):
    """In the place of an adapted Linear."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Linear.__init__(self, layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self._start(layer)


class TappedConv2d(_Tapped, nn.Conv2d):
    """In the place of an adapted Conv2d."""

    def __init__(self, layer: nn.Conv2d) -> None:
        nn.Conv2d.__init__(self, **geometry(layer))
        self._start(layer)


def two_branches(model: FaceModel) -> FaceModel:
    """The naive layout in the place of dual_lora's gated layers, at the same weights."""
    for name, layer in [*adapters.layers(model.backbone)]:
        if layer.gate is not None:
            kind = TwoBranchLinear if isinstance(layer, nn.Linear) else TwoBranchConv2d
            replace(model.backbone, name, kind(layer))
    return model.train()


def tapped(model: FaceModel) -> FaceModel | None:
    """Low-rank layers' places filled by what keeps nothing; None for a model without any."""
    found = [(n, layer) for n, layer in adapters.layers(model.backbone) if isinstance(layer, LowRank | _TwoBranches)]
    for name, layer in found:
        replace(model.backbone, name, (TappedLinear if isinstance(layer, nn.Linear) else TappedConv2d)(layer))
    return model.train() if found else None


def dense(backbone: nn.Module, model: FaceModel) -> FaceModel:
    """The dense twin of a mixture: MLPs as wide as the experts that a token takes together, and no router.

    backbone: plain; its MLPs are replaced and trained, where the mixture's are. All else is frozen.
    """
    mixtures = {name: layer for name, layer in model.backbone.named_modules() if isinstance(layer, Mixture)}
    backbone.requires_grad_(False)
    for name, width in find_mlps(backbone, [*mixtures]).items():
        mlp = backbone.get_submodule(name)
        linears = {inner: layer for inner, layer in mlp.named_modules() if type(layer) is nn.Linear}
        hidden = mixtures[name].top_k * next(iter(linears.values())).out_features
        for (inner, layer), sizes in zip(linears.items(), ((width, hidden), (hidden, width)), strict=True):
            replace(mlp, inner, nn.Linear(*sizes, bias=layer.bias is not None, device=layer.weight.device))
    return FaceModel(backbone, frozen_base=True).train()


def active_parameters(model: FaceModel) -> int:
    """Trained parameters that take part in what one token becomes: of a mixture's experts top_k."""
    total = sum(p.numel() for p in model.backbone.parameters() if p.requires_grad)
    for layer in model.backbone.modules():
        if isinstance(layer, Mixture):
            own = sum(p.numel() for p in layer.experts.parameters() if p.requires_grad)
            total -= own * (len(layer.experts) - layer.top_k) // len(layer.experts)
    return total
