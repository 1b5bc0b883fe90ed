"""Which classes a step compares with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recognition.partial_fc.functions import SMALLEST_NORM, multiply

PRODUCTS_AT_ONCE = 1 << 22  # 16 MiB
POSITIVE, HARD = 3.0, 2.0  # priorities above every random one, which lies in [0, 1)


OF_MARGIN, OF_OBJECTIVES = 1, 2  # last of mix()'s numbers: their draws, and the sampled classes', are independent


def mix(*numbers: int) -> int:
    """One 64-bit seed from several numbers >= 0."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def fill_up(positive: Tensor, local: int, wanted: int, seed: int, nearness: Tensor | None, hard_share: float) -> Tensor:
    """Rows of a step, (wanted,) int64 sorted: the positives, the nearest of the others, and random ones.

    positive: (p,) int64 rows, p < wanted <= local. nearness: (local,) of the rows to the batch, is changed; None = all
    others are random. hard_share: of the rows that are not positive, how many are taken by nearness.
    """
    generator = torch.Generator(positive.device).manual_seed(seed)
    priority = torch.rand(local, generator=generator, device=positive.device)
    if nearness is not None:
        nearness[positive] = -torch.inf
        priority[nearness.topk(round(hard_share * (wanted - len(positive))), sorted=False).indices] = HARD
    priority[positive] = POSITIVE
    return _highest(priority, wanted)


def _highest(priority: Tensor, wanted: int) -> Tensor:
    """(wanted,) int64 sorted places of the highest priorities, of equal ones the first.

    Those below a bound that lies under the last of them, almost surely, are left out first: of a million numbers in
    [0, 1), to look for the highest tenth costs four times as much.
    """
    free = len(priority)
    bound = 1 - (wanted + 6 * wanted**0.5) / free  # six deviations of how many random ones lie above it
    places = (priority >= bound).nonzero().squeeze(1)
    if len(places) < wanted:
        places = torch.arange(free, device=priority.device)
    left = priority[places]
    last = left.topk(wanted, sorted=False).values.min()
    above = left > last
    ties = (left == last).nonzero().squeeze(1)
    above[ties[: wanted - int(above.sum())]] = True
    return places[above]


@torch.no_grad()
def nearness(embedding: Tensor, weight: Tensor) -> Tensor:
    """(rows of weight,): of each centre, the largest of its cosines to the embeddings; products in bf16.

    embedding: (N, D). weight: (rows, D). The work is one product with all centres without gradient, where a step has
    three with a sample of them: little for a processor that multiplies bf16 ten times as fast as float32, three steps
    at a sample rate of 0.1 for one that cannot. Nothing is kept from step to step, so that there is nothing to save, to
    share out anew or to grow stale. Cheaper sketches find too little: among 100,000 centres in families of ten, cosines
    of 32 of the 512 coordinates found 12 % of the nearest, of 128 coordinates 33 %, and a draw at random 11 %.
    """
    unit = embedding.detach().to(weight.dtype)
    unit = (unit / torch.linalg.vector_norm(unit, dim=1, keepdim=True).clamp_min(SMALLEST_NORM)).T.contiguous()
    found = weight.new_empty(len(weight))
    rows = max(1, PRODUCTS_AT_ONCE // max(1, unit.shape[1]))
    for part, centres in zip(found.split(rows), weight.detach().split(rows), strict=True):
        norm = torch.linalg.vector_norm(centres, dim=1).clamp_min_(SMALLEST_NORM)
        torch.div(multiply(centres, unit, low=True).amax(1), norm, out=part)
    return found
