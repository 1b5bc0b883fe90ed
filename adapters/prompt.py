"""Visual prompt tokens: learned tokens that a frozen vision transformer attends to."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters import ADAPTERS
from adapters._parts import find_blocks, put_in_front
from recognition.gate import Gate
from recognition.types import AttachReport


@ADAPTERS.register("prompt")
class Prompt:
    """Learned tokens stand beside a vision transformer's patches (VPT, Jia et al. 2022, arXiv 2203.12119).

    tokens: how many. deep: every block gets its own, in place of what the last block made of the former ones
    (VPT-deep); else they enter once, before the first block (VPT-shallow). dropout: probability, on the tokens.
    Prompts carry no place in the picture, and none leaves the last block: the head sees the patches, as ever.
    The first output is not the base's: softmax shares its attention with the prompts, whatever their values.
    """

    identity_at_start = False
    keeps_base_keys = True
    mergeable = "none"
    needs_gate = False
    auxiliary_losses = False
    freezes_base = True

    def __init__(self, tokens: int = 8, deep: bool = False, dropout: float = 0.0) -> None:
        if tokens < 1:
            raise ValueError(f"adapter.tokens is {tokens}; it must be at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"adapter.dropout is {dropout}; it must lie in [0, 1)")
        self.tokens, self.deep, self.dropout = tokens, deep, dropout

    def attach(self, backbone: nn.Module, gate: Gate) -> AttachReport:
        """Give the blocks their prompts. ValueError for a backbone whose blocks do not take a row of tokens."""
        names = find_blocks(backbone)
        blocks = [backbone.get_submodule(name) for name in names]
        _check(backbone, names)
        position = backbone.pos_embed
        width = position.shape[2]
        patch = next((module.weight[0].numel() for module in backbone.modules() if isinstance(module, nn.Conv2d)), 0)
        bound = (6 / (patch + width)) ** 0.5
        adapted = []
        for i, (name, block) in enumerate(zip(names, blocks, strict=True)):
            enters, leaves = self.deep or i == 0, self.deep or i == len(blocks) - 1
            if not enters and not leaves:
                continue
            if enters:
                block.add_module(
                    "prompt", PromptTokens(self.tokens, position.shape[2], bound, self.dropout).to(position)
                )
                adapted.append(f"{name}.prompt")
            block._prompts_dropped = self.tokens if leaves else 0
            put_in_front(_Prompted, block)
        return AttachReport(adapted, [])


class PromptTokens(nn.Module):
    """(B, N, width) -> (B, tokens + N, width), the prompts first.

    They are drawn from U(-bound, bound), VPT's sqrt(6 / (values of a patch + width)), on the CPU, so that a seed means
    the same everywhere.
    """

    def __init__(self, tokens: int, width: int, bound: float, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.tokens = nn.Parameter((2 * torch.rand(1, tokens, width) - 1) * bound)

    def forward(self, x: Tensor) -> Tensor:
        prompts = F.dropout(self.tokens.expand(x.shape[0], -1, -1), self.dropout, self.training)
        return torch.cat([prompts.to(x.dtype), x], 1)

    def extra_repr(self) -> str:
        return f"tokens={self.tokens.shape[1]}, width={self.tokens.shape[2]}, dropout={self.dropout:g}"


class _Prompted:
    """A block that gets prompts beside its tokens, or whose output loses them, or both."""

    def forward(self, x: Tensor) -> Tensor:
        prompt = self._modules.get("prompt")
        y = super().forward(x if prompt is None else prompt(x))
        return y[:, self._prompts_dropped :] if self._prompts_dropped else y


def _check(backbone: nn.Module, blocks: list[str]) -> None:
    """ValueError, saying why, for a backbone that is no plain vision transformer."""
    kind = type(backbone).__name__
    remedy = "take a vit backbone such as vit_b, or adapter lora or bottleneck"
    if any(isinstance(m, nn.Conv2d) for name in blocks for m in backbone.get_submodule(name).modules()):
        raise ValueError(
            f"adapter prompt does not fit {kind}: its blocks hold convolutions, and on feature maps there are no "
            f"tokens that prompts could stand beside; {remedy}"
        )
    position = getattr(backbone, "pos_embed", None)
    if not isinstance(position, nn.Parameter) or position.dim() != 3 or position.shape[0] != 1:
        raise ValueError(
            f"adapter prompt does not fit {kind}: it has no pos_embed (1, tokens, width), the mark of blocks that "
            "attend among all tokens of an image; blocks that cut a grid of tokens into windows, as Swin's, "
            f"have no room for more; {remedy}"
        )
    if len({name.rpartition(".")[0] for name in blocks}) > 1:
        raise ValueError(
            f"adapter prompt does not fit {kind}: its blocks stand in several stages ({blocks[0]}, {blocks[-1]}), "
            f"and what lies between them would meet the prompts; {remedy}"
        )
