"""Closed-set identification: whose face is it, among a gallery with distractors?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from recognition.evaluation.verification import as_array, unit_rows

DISTRACTOR = -100  # label of gallery images of nobody who is asked for
BLOCK = 2**25  # similarities held at once: 128 MiB


def identify(
    probe: ArrayLike | Tensor,
    probe_labels: ArrayLike | Tensor,
    gallery: ArrayLike | Tensor,
    gallery_labels: ArrayLike | Tensor,
    ranks: Sequence[int] = (1, 5, 20),
    *,
    unmated: str = "error",
) -> dict:
    """Rank-k rates of Q probes against G gallery images by cosine; any mate among the k most alike counts.

    probe: (Q, D). gallery: (G, D). Labels: (Q,) and (G,) integers; gallery labels that no probe has, such as
    DISTRACTOR, only stand in the way. Computed on the gallery's device, in blocks.
    Ties: a stranger as alike as the best mate stands before it, so that a constant embedding scores 0.
    unmated: probes without a mate in the gallery are an "error", or count as "miss" at every rank.
    Returns rates {k: share}, position (Q,) int64 of the best mate, from 1 on (G + 1 for a miss), probes,
    gallery, people.
    ValueError for embeddings that are NaN, infinite or zero, unmated probes, and a rank outside 1 .. G.
    """
    asked, stored = (as_array(labels).astype(np.int64) for labels in (probe_labels, gallery_labels))
    if np.shape(probe)[:1] != asked.shape or np.shape(gallery)[:1] != stored.shape or not len(asked):
        raise ValueError(
            f"one label per embedding, and a probe at least: got {tuple(np.shape(probe))} probes with {asked.shape} "
            f"labels, {tuple(np.shape(gallery))} gallery images with {stored.shape}"
        )
    for k in ranks:
        if not 1 <= k <= len(stored):
            raise ValueError(f"rank {k} of a gallery of {len(stored)} images: it must lie in 1 .. {len(stored)}")
    if unmated not in ("error", "miss"):
        raise ValueError(f"unmated is '{unmated}'; it must be 'error' or 'miss'")
    lonely = np.flatnonzero(~np.isin(asked, stored) | (asked == DISTRACTOR))
    if len(lonely) and unmated == "error":
        raise ValueError(
            f"{len(lonely)} of {len(asked)} probes have no mate in the gallery, the first is probe {lonely[0]}, label "
            f"{asked[lonely[0]]}: closed-set rates need one each (unmated='miss' counts them as never found)"
        )
    device = gallery.device if isinstance(gallery, Tensor) else torch.device("cpu")
    position = _positions(*(torch.from_numpy(a).to(device) for a in (_unit(probe), asked, _unit(gallery), stored)))
    position[lonely] = len(stored) + 1
    return {
        "rates": {int(k): float((position <= k).mean()) for k in ranks},
        "position": position,
        "probes": len(asked),
        "gallery": len(stored),
        "people": len(np.unique(asked)),
    }


def _unit(embeddings: ArrayLike | Tensor) -> np.ndarray:
    return unit_rows(embeddings).astype(np.float32)


def _positions(probe: Tensor, asked: Tensor, gallery: Tensor, stored: Tensor) -> np.ndarray:
    """(Q,) int64: one more than the strangers at least as alike as the best mate."""
    rows = max(1, BLOCK // len(gallery))
    found = []
    for block, label in zip(probe.split(rows), asked.split(rows), strict=True):
        similarity = block @ gallery.T  # (rows, G)
        mate = label[:, None] == stored
        best = similarity.masked_fill(~mate, -torch.inf).amax(1, keepdim=True)
        found.append(((similarity >= best) & ~mate).sum(1) + 1)
    return torch.cat(found).cpu().numpy()
