"""How well a transformer's last queries and keys agree."""

from __future__ import annotations

import math

from torch import Tensor, nn

from iqa import SCORERS
from iqa._model import Kept, ModelScorer


@SCORERS.register("attn_fiqa")
class AttnFIQA(ModelScorer):
    """Mean scaled dot product of queries and keys in the last block (ATTN-FIQA, arXiv 2604.22841); transformers only.

    Nothing is trained. The published score is the mean over heads and all pairs of tokens before the softmax; that mean
    is the product of the means, mean_h(mean query . mean key) / sqrt(width of a head), so no attention map is computed.
    Swin, which the paper does not treat, is an extension of ours: the pairs within each window, mean over windows.
    Scores lie close together (published: -1.1 to -0.9; a small Swin trained on synthetic faces: -0.68 at 112 pixels,
    -0.77 at 14, -0.81 at 7): find midpoint and slope on faces. Costs a forward of the base.
    """

    name = "attn_fiqa"

    def __init__(self) -> None:
        super().__init__()
        self.range = (-1.6, -0.5)
        self._attention = ""  # name of the last attention layer

    def _prepare(self, base: nn.Module) -> None:
        found = [
            name
            for name, module in base.named_modules()
            if isinstance(getattr(module, "qkv", None), nn.Linear) and isinstance(getattr(module, "heads", None), int)
        ]
        if not found:
            raise ValueError(
                f"scorer 'attn_fiqa' needs a transformer, with attention layers that have `qkv` and `heads`, and "
                f"{type(base).__name__} has none; feature_norm, ser_fiq, recognizability and cr_fiqa read any base"
            )
        self._attention = found[-1]
        attention = base.get_submodule(self._attention)
        attention.qkv = Kept(attention.qkv)

    def _rate(self, embedding: Tensor) -> Tensor:
        attention = self.base.get_submodule(self._attention)
        mean = attention.qkv.take().float().mean(dim=-2)  # over tokens: (B, 3 width) or (B, windows, 3 width)
        query, key, _ = mean.unflatten(-1, (3, attention.heads, -1)).unbind(-3)
        agreement = (query * key).sum(-1).mean(-1) / math.sqrt(query.shape[-1])
        return agreement.reshape(embedding.shape[0], -1).mean(dim=1)
