"""The project's backbones with as few channels and blocks as keep every kind of place that an adapter can stand in."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import torch
from torch import nn

from adapters import ADAPTERS, attach
from iqa import SCORERS, QualityGate
from recognition.backbones import iresnet
from recognition.backbones.mobilefacenet import MobileFaceNet
from recognition.backbones.swin import SwinTransformer
from recognition.backbones.vit import VisionTransformer
from recognition.gate import Gate
from recognition.model import FaceModel
from recognition.types import Adapter

EMBEDDING = 16


def r18() -> nn.Module:
    """A strided block with a shortcut of its own and a plain one; four blocks and 48 times fewer channels left out."""
    # 16 channels and not fewer: torch 2.13 for CPUs ends by a segmentation fault in the backward pass of a strided
    # 1 x 1 convolution of 8 channels on channels-last maps
    with mock.patch.object(iresnet, "WIDTHS", (16, 16, 16, 16)):
        whole = iresnet.IResNet((2, 1, 1, 1), EMBEDDING, dropout=0.1)
    return _without(whole, 14, "layer2", "layer3", "layer4")


def mbf() -> nn.Module:
    """A strided and a residual bottleneck, with the projection of arcface_torch."""
    return _mobilefacenet()


def mobilefacenet_y1() -> nn.Module:
    """The same with the options of the published MXNet network."""
    return _mobilefacenet(projection_bias=True, eps=1e-3, embedding_eps=2e-5, input_scale=127.5 / 128)


def vit_t() -> nn.Module:
    """Two blocks on all 144 tokens."""
    return VisionTransformer(8, 2, 2, EMBEDDING, drop_path=0.1, mask_ratio=0.1)


def swin() -> nn.Module:
    """A block with whole windows and one with shifted ones, in a single stage."""
    return SwinTransformer(8, 2, 8, (2,), (2,), 2, EMBEDDING, dropout=0.1, drop_path=0.1)


NARROW: dict[str, Callable[[], nn.Module]] = {
    "r18": r18,
    "mbf": mbf,
    "mobilefacenet_y1": mobilefacenet_y1,
    "vit_t": vit_t,
    "swin": swin,
}


ON_MAPS = ("r18", "mbf", "mobilefacenet_y1")
REFUSED = {  # (adapter, backbone): what the error says; an adapter that is not named here fits all
    **{("moe", backbone): "has no MLPs" for backbone in ON_MAPS},
    **{("prompt", backbone): "on feature maps there are no tokens" for backbone in ON_MAPS},
    ("prompt", "swin"): "blocks that cut a grid of tokens into windows",
}


def build(adapter: Adapter | str, backbone: nn.Module | str) -> FaceModel:
    """The adapted model in training mode, as assemble() makes it, from the same weights in every call."""
    torch.manual_seed(1)
    adapter = ADAPTERS.create(adapter) if isinstance(adapter, str) else adapter
    backbone = NARROW[backbone]() if isinstance(backbone, str) else backbone
    _move_norms(backbone)
    gate = Gate()
    attach(backbone, adapter, gate)
    quality_gate = scorer = None
    if adapter.needs_gate:
        quality_gate, scorer = QualityGate(1.5, 1.0, "sigmoid"), SCORERS.create("sharpness")
    return FaceModel(backbone, gate, quality_gate, scorer, adapter.freezes_base).train()


def _mobilefacenet(**options: float) -> nn.Module:
    whole = MobileFaceNet(EMBEDDING, 8, (16, 16, 16, 16), (1, 0, 1, 0), first_groups=4, last=16, **options)
    return _without(whole, 28, "layers.1", "layers.2", "layers.3", "layers.6", "layers.7")


def _without(backbone: nn.Module, input_size: int, *stages: str) -> nn.Module:
    """The network with empty stages, for the size of image that then comes out as before."""
    for name in stages:
        parent, _, last = name.rpartition(".")
        setattr(backbone.get_submodule(parent), last, nn.Sequential())
    backbone.input_size = input_size
    names = {name for name, _ in backbone.named_modules()}
    for declared in {"adapter_targets", "checkpoint_blocks"} & vars(backbone).keys():  # where made of names, not globs
        setattr(backbone, declared, tuple(name for name in getattr(backbone, declared) if name in names))
    return backbone


def _move_norms(backbone: nn.Module) -> None:
    """Statistics and scales of batch norms away from 0 and 1, where a fault in freezing would not show."""
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
