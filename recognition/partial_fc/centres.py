"""Class centres: which process holds which, and what they start from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CENTRE_DEVIATION = 0.01  # of the first centres' coordinates, as in arcface_torch
CLASSES_PER_BLOCK = 256  # drawn by one counter-based generator; a change draws other first centres


def class_range(num_classes: int, world_size: int, global_rank: int) -> tuple[int, int]:
    """First class of a process and the one after its last, as torch.chunk splits; the last ranges may be empty."""
    most = -(-num_classes // world_size)
    return min(global_rank * most, num_classes), min((global_rank + 1) * most, num_classes)


def draw_centres(embedding_size: int, start: int, stop: int, seed: int) -> Tensor:
    """First centres of classes start .. stop - 1: (stop - start, embedding_size) float32 from N(0, 0.01^2).

    A row depends on seed, its class and embedding_size only, so any split of the classes starts from the same matrix.
    """
    centres = np.empty((stop - start, embedding_size), np.float32)
    for block in range(start // CLASSES_PER_BLOCK, -(-stop // CLASSES_PER_BLOCK)):
        first = block * CLASSES_PER_BLOCK
        low, high = max(start, first), min(stop, first + CLASSES_PER_BLOCK)
        generator = np.random.Generator(np.random.Philox(key=np.array([seed, block], np.uint64)))
        drawn = generator.standard_normal((high - first, embedding_size), dtype=np.float32)
        centres[low - start : high - start] = drawn[low - first :]
    centres *= np.float32(CENTRE_DEVIATION)
    return torch.from_numpy(centres)


def check_centres(centres: Tensor, num_classes: int, embedding_size: int) -> None:
    """ValueError unless these are all classes' centres, none of them zero or not finite."""
    wanted = (num_classes, embedding_size)
    if centres.shape != wanted:
        raise ValueError(f"centres of shape {tuple(centres.shape)}; wanted {wanted}: all classes, not a share")
    norm = centres.norm(dim=1)
    bad = (~(norm.isfinite() & (norm > 0))).nonzero().squeeze(1).tolist()
    if bad:
        raise ValueError(f"centres of {len(bad)} classes are zero or not finite, the first is class {bad[0]}")
