"""What margins share that ask of each class alone "is it this one?": a binary cross-entropy, not a softmax."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recognition.distributed import all_reduce_sum
from recognition.margins._checks import check_margin, check_scale
from recognition.types import MarginContext


class Binary(nn.Module):
    """A margin with a learned threshold and the loss positive * log(1 + e^-z_y) + negative * sum_j log(1 + e^z_j).

    z: logits, y the target's class, j the others. A subclass sets positive and negative. offset: the learned part of
    the threshold, ().
    """

    positive: float
    negative: float

    def __init__(self, margin: float, scale: float) -> None:
        super().__init__()
        check_margin("margin", margin, 0.0, 2.0)
        check_scale(scale)
        self.margin, self.scale = margin, scale
        self.offset = nn.Parameter(torch.zeros(()))

    def reduce(self, logits: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """logits: (N, local classes). label: (N,) column of the target, -1 where another process holds it.

        Returns (N,) losses over the classes of all processes, the same on each.
        """
        rows = (label >= 0).nonzero().squeeze(1)
        columns = label[rows]
        others = logits.index_put((rows, columns), logits.new_full((len(rows),), -float("inf")))  # adds 0, gradient 0
        share = self.negative * F.softplus(others).sum(1)
        return all_reduce_sum(share.index_add(0, rows, self.positive * F.softplus(-logits[rows, columns])))
