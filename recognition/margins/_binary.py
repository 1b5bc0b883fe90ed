"""What margins share that ask of each class alone "is it this one?": a binary cross-entropy, not a softmax."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from recognition.distributed import all_reduce_sum


def binary_losses(logits: Tensor, label: Tensor, positive: float, negative: float) -> Tensor:
    """positive * log(1 + exp(-z_y)) + negative * sum over the other classes j of log(1 + exp(z_j)).

    logits: (N, local classes). label: (N,) column of the target, -1 where another process holds it.
    Returns (N,), the sum over the classes of all processes, the same on each.
    """
    rows = (label >= 0).nonzero().squeeze(1)
    columns = label[rows]
    others = logits.index_put((rows, columns), logits.new_full((len(rows),), -float("inf")))  # adds 0, gradient 0
    share = negative * F.softplus(others).sum(1)
    return all_reduce_sum(share.index_add(0, rows, positive * F.softplus(-logits[rows, columns])))
