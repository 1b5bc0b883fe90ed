"""How far an embedding moves when parts of the network's last layer fail."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iqa import SCORERS
from iqa._model import ModelScorer

SEED = 0  # of the masks
WITHOUT = 0.4  # rate for bases without a dropout of their own there; SER-FIQ's network has this one
MASKS_AT_ONCE = 10  # of 25,088 numbers each for an IResNet: 1 MB for each image


class Repeated(nn.Module):
    """A Linear that takes each row under every mask: (B, in) -> (B * masks, out), rows grouped by image.

    What follows it in the network, row by row, then gives as many embeddings of each image in the same pass.
    """

    masks: Tensor  # (T, in) bool

    def __init__(self, layer: nn.Linear, masks: int, dropout: float) -> None:
        super().__init__()
        self.layer, self.keep = layer, 1 - dropout
        drawn = torch.rand(masks, layer.in_features, generator=torch.Generator().manual_seed(SEED))
        self.register_buffer("masks", (drawn < self.keep).to(layer.weight.device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kept = (x / self.keep).unsqueeze(1)
        outputs = [self.layer(kept * some) for some in self.masks.split(MASKS_AT_ONCE)]  # (B, masks, out) each
        return torch.cat(outputs, dim=1).flatten(0, 1)


@SCORERS.register("ser_fiq")
class SerFIQ(ModelScorer):
    """How stable the embedding is under dropout (SER-FIQ, Terhoerst et al., CVPR 2020): passes of the last layers only.

    2 / (1 + exp(mean distance of each two of `passes` unit embeddings)), in (0, 1]. Dropout strikes what enters the
    last Linear of the network; the layers before it run once.
    passes: embeddings of one image. dropout: rate; 0 = the one that the base was trained with at that place or, where
    it was trained with none (MobileFaceNet, ViT: an approximation of ours, the paper wants one), 0.4.
    rescaled: the published 1 / (1 + exp(-130 (score - 0.88))), fitted to their network.
    The masks are one fixed draw, the same for every image, so a score does not depend on the batch or on the run.
    mobilefacenet_y1 over 60 aligned faces reduced to 112, 56, 28, 14 and 7 pixels and enlarged again: 0.647, 0.646,
    0.637, 0.524, 0.470. A small Swin trained without dropout on synthetic faces goes the other way, 0.77 to 0.83.
    Costs a forward of the base, and `passes` of its last Linear and what follows: a fifth more for that network.
    """

    name = "ser_fiq"

    def __init__(self, passes: int = 100, dropout: float = 0.0, rescaled: bool = False) -> None:
        super().__init__()
        if passes < 2:
            raise ValueError(
                f"scorer.passes is {passes}; it must be at least 2, since distances lie between two passes"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"scorer.dropout is {dropout}; it must lie in [0, 1), 0 for the base's own rate")
        self.passes, self.dropout, self.rescaled = passes, dropout, rescaled
        self.rate = dropout  # at work, once bound
        self.range = (0.0, 1.0) if rescaled else (0.4, 0.9)

    def _prepare(self, base: nn.Module) -> None:
        leaves = [(name, module) for name, module in base.named_modules() if not [*module.children()]]
        linear = [i for i, (_, module) in enumerate(leaves) if type(module) is nn.Linear]
        if not linear:
            raise ValueError(
                f"scorer 'ser_fiq' needs a network that ends in a Linear layer, and {type(base).__name__} has none; "
                "feature_norm, recognizability and cr_fiqa read any base"
            )
        name, last = leaves[linear[-1]]
        before = leaves[linear[-1] - 1][1] if linear[-1] else None
        own = before.p if isinstance(before, nn.Dropout) else 0.0
        self.rate = self.dropout or own or WITHOUT
        base.set_submodule(name, Repeated(last, self.passes, self.rate))

    def _rate(self, embedding: Tensor) -> Tensor:
        # float64: a distance is the root of a difference of nearly equal numbers
        unit = F.normalize(embedding.double(), dim=1).unflatten(0, (-1, self.passes))  # (B, T, D)
        distance = (2 - 2 * unit @ unit.transpose(1, 2)).clamp(min=0).sqrt()
        other = 1 - torch.eye(self.passes, dtype=torch.float64, device=unit.device)  # none to itself, but for rounding
        mean = (distance * other).sum(dim=(1, 2)) / (self.passes * (self.passes - 1))
        score = 2 / (1 + mean.exp())
        return (torch.sigmoid(130 * (score - 0.88)) if self.rescaled else score).float()

    def extra_repr(self) -> str:
        return f"passes={self.passes}, dropout={self.rate}, rescaled={self.rescaled}"
