"""Small two-layer networks beside the frozen base: behind the embedding, or inside every block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters import ADAPTERS
from adapters._parts import find_blocks, find_modules, put_in_front
from recognition.gate import Gate
from recognition.types import AttachReport

NAME = "bottleneck"  # of the new module inside the one that it extends


@ADAPTERS.register("bottleneck")
class BottleneckAdapter:
    """A bottleneck of two Linear layers and a ReLU is added to the embedding, or inside every block.

    place: "feature", the pooled feature, which is the embedding: e + scaling * U relu(D e), without biases. FS-Adapter
    (arXiv 2510.10663) sets relu(U relu(D e)) beside e, for a classifier of double width; here the two are added, so
    that the embedding keeps its size, and the outer ReLU is left out, since behind a U of zeros it passes no gradient.
    It sees nothing but the embedding: what low resolution spoilt on the way it cannot bring back.
    "blocks": inside every block, with biases: in its `mlp` where it has one, else around the block.
    form: of those in blocks, with f the module. "serial": y + scaling * B(y), y = f(x) (Houlsby et al. 2019, arXiv
    1902.00751); "parallel": f(x) + scaling * B(x), where f keeps the shape (AdaptFormer, arXiv 2205.13535).
    width: channels inside; None for a quarter of those outside, FS-Adapter's. scaling: AdaptFormer's is 0.1.
    dropout: probability, on what leaves the ReLU.
    modules: globs on module names in place of the choice above; ["blocks.*.attn", "blocks.*.mlp"] are Houlsby's two.
    A module's channels are taken to be those of its first and last Linear or Conv2d.
    """

    identity_at_start = True
    keeps_base_keys = True
    mergeable = "none"
    needs_gate = False
    auxiliary_losses = False
    freezes_base = True
    of_training = ("dropout",)

    def __init__(
        self,
        place: Literal["feature", "blocks"] = "feature",
        form: Literal["serial", "parallel"] = "serial",
        width: int | None = None,
        scaling: float = 1.0,
        dropout: float = 0.0,
        modules: Sequence[str] | None = None,
    ) -> None:
        if place not in ("feature", "blocks"):
            raise ValueError(f"adapter.place is '{place}'; it must be 'feature' or 'blocks'")
        if form not in ("serial", "parallel"):
            raise ValueError(f"adapter.form is '{form}'; it must be 'serial' or 'parallel'")
        if place == "feature" and (form != "serial" or modules is not None):
            raise ValueError("adapter.form and adapter.modules are for bottlenecks in blocks: set adapter.place=blocks")
        if width is not None and width < 1:
            raise ValueError(f"adapter.width is {width}; it must be at least 1, or None for a quarter of the channels")
        if not 0 <= dropout < 1:
            raise ValueError(f"adapter.dropout is {dropout}; it must lie in [0, 1)")
        self.place, self.form, self.width = place, form, width
        self.scaling, self.dropout, self.modules = scaling, dropout, modules

    def attach(self, backbone: nn.Module, gate: Gate) -> AttachReport:
        """Extend the modules in place. ValueError for a glob that names none, and for a shape that does not fit."""
        if self.place == "feature":
            plan = [("", backbone.embedding_size, -1)]
        else:
            names = _default_modules(backbone) if self.modules is None else find_modules(backbone, self.modules)
            plan = [(name, *self._channels(name, backbone.get_submodule(name))) for name in names]
        for name, _, _ in plan:
            if hasattr(backbone.get_submodule(name), NAME):
                raise ValueError(f"'{name}' has a part named {NAME} already, the name of what this adapter would add")
        like = next(backbone.parameters())
        for name, channels, axis in plan:
            width = max(1, channels // 4) if self.width is None else self.width
            parallel, bias = self.form == "parallel", self.place == "blocks"
            small = Bottleneck(channels, width, self.scaling, self.dropout, bias, axis, parallel).to(like)
            module = backbone.get_submodule(name)
            module.add_module(NAME, small)
            put_in_front(_ExtendedSequence if isinstance(module, nn.Sequential) else _Extended, module)
        return AttachReport([f"{name}.{NAME}".lstrip(".") for name, _, _ in plan], [])

    def _channels(self, name: str, module: nn.Module) -> tuple[int, int]:
        """Channels of the module's output, and their axis."""
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        if not layers:
            raise ValueError(f"adapter target '{name}' holds no Linear and no Conv2d, so its channels are not known")
        inputs, outputs = layers[0].weight.shape[1], layers[-1].weight.shape[0]
        if isinstance(layers[0], nn.Conv2d):
            inputs *= layers[0].groups
        strided = any(isinstance(layer, nn.Conv2d) and layer.stride != (1, 1) for layer in layers)
        if self.form == "parallel" and (inputs != outputs or strided):
            what = "has a stride" if strided else f"takes {inputs} channels and gives {outputs}"
            raise ValueError(
                f"adapter target '{name}' {what}, so nothing of its input's shape can be added to its output: "
                "set adapter.form=serial, or name others in adapter.modules"
            )
        return outputs, 1 if isinstance(layers[-1], nn.Conv2d) else -1


class Bottleneck(nn.Module):
    """scaling * U relu(D x), along one axis of x; returns x's shape.

    channel_axis: -1 for tokens and embeddings, 1 for feature maps (B, C, H, W).
    down: (width, channels), drawn from N(0, 1 / channels) on the CPU, so that a seed means the same everywhere.
    up: (channels, width) zeros, as both biases: the first output is the base's, bit for bit.
    """

    def __init__(
        self, channels: int, width: int, scaling: float, dropout: float, bias: bool, channel_axis: int, parallel: bool
    ) -> None:
        super().__init__()
        self.scaling, self.dropout, self.channel_axis, self.parallel = scaling, dropout, channel_axis, parallel
        self.down = nn.Parameter(torch.randn(width, channels) / channels**0.5)
        self.up = nn.Parameter(torch.zeros(channels, width))
        self.down_bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.up_bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        z = F.dropout(F.relu(self._project(x, self.down, self.down_bias)), self.dropout, self.training)
        y = self._project(z, self.up, self.up_bias)
        return y if self.scaling == 1 else y * self.scaling

    def _project(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias) if self.channel_axis == -1 else F.conv2d(x, weight[..., None, None], bias)

    def extra_repr(self) -> str:
        width, channels = self.down.shape
        form = "parallel" if self.parallel else "serial"
        return f"{channels}, width={width}, scaling={self.scaling:g}, dropout={self.dropout:g}, {form}"


class _Extended:
    """A module whose output has that of its bottleneck added, on its first input or on its output."""

    def forward(self, x: Tensor, *others: Tensor | None) -> Tensor:
        y = super().forward(x, *others)
        small = self._modules[NAME]
        return y + small(x if small.parallel else y)


class _ExtendedSequence(_Extended):
    """The same for nn.Sequential, which runs all that it iterates over."""

    def __iter__(self) -> Iterator[nn.Module]:
        return iter([module for name, module in self._modules.items() if name != NAME])


def _default_modules(backbone: nn.Module) -> list[str]:
    blocks = find_blocks(backbone)
    known = {name for name, _ in backbone.named_modules()}
    return [f"{block}.mlp" if f"{block}.mlp" in known else block for block in blocks]
