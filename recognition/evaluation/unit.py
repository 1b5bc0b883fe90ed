"""Embeddings of length one, a few at a time: a whole gallery in float64 would be thrice its size in memory."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from recognition.evaluation.verification import unit_rows

CHUNK = 2**22  # numbers in float64 at once: 32 MiB
CPU_CHUNK = 2**16  # on a CPU: what stays in the cache of a core takes half the time


def unit_float32(embeddings: ArrayLike | Tensor, rows: np.ndarray | None = None) -> Tensor:
    """(n, D) float32 rows of length one on the embeddings' device, divided in float64; one new array, no second copy.

    embeddings: (N, D). rows: (n,) positions in them; None = all.
    ValueError for a row that is NaN, infinite or zero.
    """
    whole = embeddings if isinstance(embeddings, Tensor) else torch.from_numpy(np.asarray(embeddings))
    if whole.ndim != 2:
        raise ValueError(f"embeddings must be (N, D), got {tuple(whole.shape)}")
    chosen = None if rows is None else torch.from_numpy(rows).to(whole.device)
    count = len(whole) if chosen is None else len(chosen)
    unit = torch.empty(count, whole.shape[1], device=whole.device)
    length = torch.empty(count, dtype=torch.float64, device=whole.device)
    step = max(1, (CPU_CHUNK if whole.device.type == "cpu" else CHUNK) // max(1, whole.shape[1]))
    for begin in range(0, count, step):
        some = slice(begin, begin + step)
        part = (whole[some] if chosen is None else whole[chosen[some]]).double()
        length[some] = torch.linalg.vector_norm(part, dim=1)
        unit[some] = part / length[some, None]
    if not bool((torch.isfinite(length) & (length > 0)).all()):
        unit_rows(length[:, None])  # complains, with the numbers of the rows
    return unit
