"""What a quality head says after each block of the recognition model, taken together."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from iqa import SCORERS
from iqa._model import Kept, ModelScorer, check_base, read_fitted
from iqa.cr_fiqa import WHERE_FROM, check_size, read_head


class Joined(nn.Module):
    """The last block: gives its own output with those of the blocks before, (B * exits, ...), rows grouped by image.

    What follows it, row by row, then gives the embedding at every exit in one pass.
    """

    def __init__(self, layer: nn.Module, before: list[Kept]) -> None:
        super().__init__()
        self.layer = layer
        self.before = tuple(before)  # no modules of this one: they have their place in the network

    def forward(self, x: Tensor) -> Tensor:
        last = self.layer(x)
        return torch.stack([*(block.take() for block in self.before), last], dim=1).flatten(0, 1)


@SCORERS.register("ex_fiqa")
class ExFIQA(ModelScorer):
    """A quality head at early exits, its figures fused (EX-FIQA, arXiv 2604.22842); needs the head of cr_fiqa.

    After each block the base's last norm and its own head make an embedding, and the quality head a figure of it.
    fusion: "equal", the mean of all; "depth", with weights that rise with the block's number.
    weights, any_base: as of cr_fiqa. The published heads, trained together with their ViT, are not at hand: this takes
        a head that was fitted to the embedding of the last exit alone.
    The paper treats ViT, of which every block is an exit. An extension of ours takes the last stage of other bases,
    whose blocks all give what the last norm expects.
    Costs a forward of the base, and its head once for each exit.
    """

    name = "ex_fiqa"

    def __init__(
        self, weights: str | None = None, fusion: Literal["equal", "depth"] = "depth", any_base: bool = False
    ) -> None:
        super().__init__()
        if fusion not in ("equal", "depth"):
            raise ValueError(f"scorer.fusion is '{fusion}'; it must be 'equal' or 'depth'")
        self.fusion, self.any_base = fusion, any_base
        self.range = (0.0, 0.8)
        self.exits = 0  # once bound
        tensors, self.fitted_on = read_fitted(weights, "cr_fiqa", WHERE_FROM)
        weight, bias = read_head(tensors, "ex_fiqa", str(weights))
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def _prepare(self, base: nn.Module) -> None:
        check_size(self.weight, base, self.name)
        check_base(base, self.fitted_on, self.name, self.any_base)
        blocks = _last_stage(base)
        kept = [Kept(block) for block in blocks]
        for i, block in enumerate(kept):
            blocks[i] = block
        with torch.no_grad():
            like = next(base.parameters())
            base(like.new_zeros(1, 3, base.input_size, base.input_size))
        outputs = [block.take() for block in kept]
        fits = [output.shape == outputs[-1].shape for output in outputs]
        for i, block in enumerate(kept):
            if not fits[i]:
                blocks[i] = block.layer
        exits = [block for block, fit in zip(kept, fits, strict=True) if fit]
        if len(exits) < 2:
            raise ValueError(
                f"scorer 'ex_fiqa' needs early exits, and only the last block of {type(base).__name__} gives what its "
                "head expects; cr_fiqa reads the same file and any base"
            )
        blocks[len(kept) - 1] = Joined(exits[-1].layer, exits[:-1])
        self.exits = len(exits)

    def _rate(self, embedding: Tensor) -> Tensor:
        figure = (embedding @ self.weight + self.bias).unflatten(0, (-1, self.exits))  # (B, exits)
        if self.fusion == "equal":
            return figure.mean(1)
        depth = torch.arange(1, self.exits + 1, dtype=torch.float32, device=figure.device)
        return figure @ (depth / depth.sum())

    def extra_repr(self) -> str:
        return f"fusion={self.fusion}, exits={self.exits}"


def _last_stage(base: nn.Module) -> nn.ModuleList | nn.Sequential:
    """The list of blocks that the network's last one stands in. ValueError where there is none."""
    declared = getattr(base, "checkpoint_blocks", ())
    place = declared[-1].rpartition(".")[0] if declared else ""
    blocks = dict(base.named_modules()).get(place)
    if not place or not isinstance(blocks, nn.ModuleList | nn.Sequential):
        raise ValueError(
            f"scorer 'ex_fiqa' needs a network whose last checkpoint_blocks stand in a list, such as 'blocks.*', and "
            f"{type(base).__name__} declares {declared or 'none'}; cr_fiqa reads the same file and any base"
        )
    return blocks
