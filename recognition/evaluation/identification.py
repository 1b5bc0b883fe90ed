"""Identification: whose face is it, among a gallery with distractors? Every probe's best mate, in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from recognition.evaluation.listed import MISSED
from recognition.evaluation.unit import unit_float32
from recognition.evaluation.verification import as_array

DISTRACTOR = -100  # label of gallery images of nobody who is asked for
BLOCK = 2**25  # similarities held at once: 128 MiB
TILE = 512  # similarities of one probe whose maximum says whether they need be looked at again
TILES = 2**9  # of them that are looked at again at once: 1 MiB, which stays in a cache
CROWDED = 0.2  # of a probe's tiles: with more to look at, all of them cost no more


@dataclass(frozen=True)
class Search:
    """What Q probes found in a gallery. similarity are cosines, as computed in float32."""

    best: np.ndarray  # (Q,) int64 the most similar gallery image, as a position in the gallery
    similarity: np.ndarray  # (Q,) float32 its similarity
    position: np.ndarray  # (Q,) int64 of the best mate, from 1 on; G + 1 without a mate
    mate_similarity: np.ndarray  # (Q,) float32 of the best mate; MISSED without a mate
    precision: np.ndarray | None = None  # (Q,) float64 average precision over all mates; 0 without a mate


def identify(
    probe: ArrayLike | Tensor,
    probe_labels: ArrayLike | Tensor,
    gallery: ArrayLike | Tensor,
    gallery_labels: ArrayLike | Tensor,
    ranks: Sequence[int] = (1, 5, 20),
    *,
    unmated: str = "error",
    precision: bool = False,
) -> dict:
    """Rank-k rates of Q probes against G gallery images by cosine; any mate among the k most alike counts.

    probe: (Q, D). gallery: (G, D). Labels: (Q,) and (G,) integers; gallery labels that no probe has, such as
    DISTRACTOR, only stand in the way. Computed on the gallery's device, in blocks: beside the embeddings it takes the
    gallery once more in float32, and BLOCK similarities.
    Ties: a stranger as alike as the best mate stands before it, so that a constant embedding scores 0.
    unmated: probes without a mate in the gallery are an "error", or count as "miss" at every rank.
    precision: also average precision, as `search` has it.
    Returns rates {k: share}, position (Q,) int64 of the best mate, from 1 on (G + 1 for a miss), probes, gallery,
    people; best (Q,), similarity (Q,) and mate_similarity (Q,) of `Search`, and precision (Q,) if asked for.
    ValueError for embeddings that are NaN, infinite or zero, unmated probes, and a rank outside 1 .. G.
    """
    found = search_closed(probe, probe_labels, gallery, gallery_labels, ranks, unmated=unmated, precision=precision)
    return {
        "rates": rank_rates(found.position, ranks),
        "position": found.position,
        "probes": len(found.position),
        "gallery": len(gallery_labels),
        "people": len(np.unique(as_array(probe_labels))),
        "best": found.best,
        "similarity": found.similarity,
        "mate_similarity": found.mate_similarity,
        **({"precision": found.precision} if precision else {}),
    }


def search_closed(
    probe: ArrayLike | Tensor,
    probe_labels: ArrayLike | Tensor,
    gallery: ArrayLike | Tensor,
    gallery_labels: ArrayLike | Tensor,
    ranks: Sequence[int],
    *,
    unmated: str = "error",
    precision: bool = False,
) -> Search:
    """What `identify` finds, whose arguments and errors these are."""
    asked, stored = (as_array(labels).astype(np.int64) for labels in (probe_labels, gallery_labels))
    if np.shape(probe)[:1] != asked.shape or np.shape(gallery)[:1] != stored.shape or not len(asked):
        raise ValueError(
            f"one label per embedding, and a probe at least: got {tuple(np.shape(probe))} probes with {asked.shape} "
            f"labels, {tuple(np.shape(gallery))} gallery images with {stored.shape}"
        )
    if unmated not in ("error", "miss"):
        raise ValueError(f"unmated is '{unmated}'; it must be 'error' or 'miss'")
    lonely = np.flatnonzero(~np.isin(asked, stored) | (asked == DISTRACTOR))
    if len(lonely) and unmated == "error":
        raise ValueError(
            f"{len(lonely)} of {len(asked)} probes have no mate in the gallery, the first is probe {lonely[0]}, label "
            f"{asked[lonely[0]]}: closed-set rates need one each (unmated='miss' counts them as never found)"
        )
    check_ranks(ranks, len(stored))
    return search(probe, asked, unit_float32(gallery), stored, precision=precision)


def check_ranks(ranks: Sequence[int], gallery: int) -> None:
    """ValueError for a rank that a gallery of so many images has not."""
    for k in ranks:
        if not 1 <= k <= gallery:
            raise ValueError(f"rank {k} of a gallery of {gallery} images: it must lie in 1 .. {gallery}")


def rank_rates(position: np.ndarray, ranks: Sequence[int]) -> dict[int, float]:
    """{k: share of probes (Q,) whose best mate stands among the first k}."""
    return {int(k): float((position <= k).mean()) for k in ranks}


def search(
    probe: ArrayLike | Tensor,
    probe_labels: np.ndarray | None,
    gallery: Tensor,
    gallery_labels: np.ndarray,
    *,
    rows: np.ndarray | None = None,
    precision: bool = False,
) -> Search:
    """Compare every probe with the whole gallery, as many probes at a time as BLOCK allows.

    probe: (N, D), of any length. rows: (Q,) positions of the probes in it; None = all. probe_labels: (Q,); None = none
    of them has a mate. gallery: (G, D) of length one. gallery_labels: (G,).
    precision: average precision as TinyFace's script has it: over the mates from the most similar on, with r_i the
    position of the i-th among all gallery images, the mean of ((i - 1) / (r_i - 1) + i / r_i) / 2, where 0 / 0 is 1.
    """
    count = len(probe) if rows is None else len(rows)  # type: ignore[arg-type]
    mates = _Mates(probe_labels, gallery_labels, count)
    here = np.arange(count) if rows is None else rows
    best, position = torch.empty(count, dtype=torch.int64), torch.full((count,), len(gallery) + 1)
    similarity, mate_similarity = torch.empty(count), torch.full((count,), MISSED)
    average = torch.zeros(count, dtype=torch.float64)
    width = min(TILE, len(gallery))
    parts = -(-len(gallery) // width)
    step = min(max(1, BLOCK // (parts * width)), count)
    tiles = gallery.new_full((step, parts, width), -torch.inf)
    for begin in range(0, count, step):
        some = slice(begin, min(begin + step, count))
        asked = unit_float32(probe, here[some]).to(gallery.device)
        tiled = tiles[: len(asked)]
        block = torch.mm(asked, gallery.T, out=tiled.flatten(1)[:, : len(gallery)])
        highest = tiled.amax(2)
        similarity[some], best[some] = (values.cpu() for values in _best(tiled, highest))
        known, at = mates.of(some)  # (m,) those with mates, (m, M)
        if not len(known):
            continue
        known, at = known.to(block.device), at.to(block.device)
        alike = block[known[:, None], at.clamp_min(0)].masked_fill_(at < 0, -torch.inf).sort(1, descending=True).values
        ranked, exact = _positions(tiled, highest, known, alike, len(alike[0]) if precision else 1)
        target = begin + known.cpu()
        position[target], mate_similarity[target] = ranked[:, 0].cpu(), alike[:, 0].cpu()
        if precision:
            average[target] = _average_precision(ranked, exact).cpu()
    arrays = (best, similarity, position, mate_similarity)
    return Search(*(values.numpy() for values in arrays), precision=average.numpy() if precision else None)


class _Mates:
    """The gallery images of each probe's label, without comparing every label with every other."""

    def __init__(self, asked: np.ndarray | None, stored: np.ndarray, count: int) -> None:
        self._order = np.argsort(stored, kind="stable")
        if asked is None:
            self._begin = self._end = np.zeros(count, np.int64)
            return
        ranked = stored[self._order]
        self._begin, self._end = (np.searchsorted(ranked, asked, side=side) for side in ("left", "right"))
        self._end = np.where(asked == DISTRACTOR, self._begin, self._end)

    def of(self, some: slice) -> tuple[Tensor, Tensor]:
        """Rows (m,) of this slice that have mates, counted from its begin, and their mates (m, M), -1 where fewer."""
        begin, size = self._begin[some], (self._end - self._begin)[some]
        known = np.flatnonzero(size)
        steps = np.arange(size.max(initial=0))
        at = np.minimum(begin[known, None] + steps, len(self._order) - 1)
        mates = np.where(steps < size[known, None], self._order[at], -1)
        return torch.from_numpy(known), torch.from_numpy(mates)


def _positions(tiled: Tensor, highest: Tensor, known: Tensor, alike: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Positions (m, most) int64 of each probe's mates among all gallery images, and (m, most) which exist.

    tiled, highest: as of _best. alike: (m, M) similarities of the mates, falling. A stranger as alike as a mate stands
    before it; of mates that are alike, one stands before the other.
    """
    exists = torch.isfinite(alike[:, :most])
    position = torch.zeros(len(alike), most, dtype=torch.int64, device=tiled.device)
    for i in range(most):
        those = exists[:, i].nonzero()[:, 0]
        threshold = alike[those, i]
        mates = (alike[those] >= threshold[:, None]).sum(1)
        position[those, i] = _at_least(tiled, highest, known[those], threshold) - mates + i + 1
    return position, exists


def _at_least(tiled: Tensor, highest: Tensor, rows: Tensor, threshold: Tensor) -> Tensor:
    """(m,) int64: how many numbers of these rows are at least as large as the row's threshold.

    tiled, highest: as of _best. Where a probe's mate is among the first, hardly a tile reaches that high.
    """
    reached = highest[rows] >= threshold[:, None]
    if tiled.is_cuda:
        probe, tile = reached.nonzero(as_tuple=True)
        found = torch.zeros(len(rows), dtype=torch.int64, device=tiled.device)
        for p, t in zip(probe.split(TILES), tile.split(TILES), strict=True):
            found.index_add_(0, p, (tiled[rows[p], t] >= threshold[p, None]).sum(1))
        return found
    # in numpy: a fifth of the time of torch's comparison and sum on a CPU
    found, least, numbers = np.zeros(len(rows), np.int64), threshold.numpy()[:, None], tiled.numpy()
    crowded = reached.sum(1) > CROWDED * reached.shape[1]
    for i in crowded.nonzero()[:, 0].tolist():  # no tile of them is copied
        found[i] = np.count_nonzero(numbers[rows[i]] >= least[i])
    probe, tile = (index.numpy() for index in (reached & ~crowded[:, None]).nonzero(as_tuple=True))
    rows = rows.numpy()
    for begin in range(0, len(probe), TILES):
        p, t = probe[begin : begin + TILES], tile[begin : begin + TILES]
        count = (numbers[rows[p], t] >= least[p]).view(np.uint8).sum(1, dtype=np.int64)
        found += np.bincount(p, count, minlength=len(found)).astype(np.int64)
    return torch.from_numpy(found)


def _best(tiled: Tensor, highest: Tensor) -> tuple[Tensor, Tensor]:
    """Largest number of each row and where it stands, the first of equals: (m,) and (m,) int64.

    tiled: (m, T, width), the last tile filled up with -inf. highest: (m, T) of each tile.
    """
    similarity, tile = highest.max(1)
    inside = tiled[torch.arange(len(tiled), device=tiled.device), tile]
    return similarity, tile * tiled.shape[2] + (inside == similarity[:, None]).int().argmax(1)


def _average_precision(position: Tensor, exists: Tensor) -> Tensor:
    """(m,) from positions (m, M) of the mates, in rising order where they exist."""
    i = torch.arange(1, position.shape[1] + 1, device=position.device, dtype=torch.float64)
    r = position.clamp_min(1).double()
    before = torch.where(r > 1, (i - 1) / (r - 1).clamp_min(1), 1.0)
    each = torch.where(exists, (before + i / r) / 2, 0.0)
    return each.sum(1) / exists.sum(1)
