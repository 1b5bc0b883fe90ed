"""Pairs under a two-way bootstrap: what a resample of groups weighs each pair with, and where its threshold falls.

A group drawn c times weighs a pair inside it c, and a pair of two groups the product of their counts. Weights are
never written out for all pairs: totals come from a table of groups, and thresholds from the highest impostors.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy
from numpy.typing import ArrayLike

BLOCK = 1 << 20  # weights held at once: 8 MiB
DENSE = 4096  # groups up to which pairs are counted in a full table, of 128 MiB at most
KEPT = 1.3  # times as many impostors are sorted as may pass; the others follow where a resample needs them


def group_positions(*ids: ArrayLike) -> tuple[tuple[np.ndarray, ...], int]:
    """Groups numbered from 0 on, alike in all arrays, and how many they are. ValueError for shapes.

    The numbers are signed integers, int32 unless the ids are such numbers already: those are returned, not copied.
    """
    arrays = [np.asarray(one) for one in ids]
    if len({one.shape for one in arrays}) > 1:
        raise ValueError(f"groups must be one per side of a pair, got {', '.join(str(one.shape) for one in arrays)}")
    if all(one.dtype.kind in "iu" and np.can_cast(one.dtype, np.int64) and one.size for one in arrays):
        low, high = min(int(one.min()) for one in arrays), max(int(one.max()) for one in arrays)
        if high - low < max(1000, arrays[0].size):  # a table beats sorting tens of millions of ids
            there = np.zeros(high - low + 1, bool)
            for one in arrays:
                for block in _blocks(one.size):
                    there[one[block].astype(np.int64) - low] = True
            if low == 0 and there.all() and all(one.dtype.kind == "i" for one in arrays):
                return tuple(arrays), len(there)
            number = (np.cumsum(there) - 1).astype(np.int32)
            found = tuple(np.empty(one.size, np.int32) for one in arrays)
            for one, named in zip(arrays, found, strict=True):
                for block in _blocks(one.size):
                    named[block] = number[one[block].astype(np.int64) - low]
            return found, int(there.sum())
    names, found = np.unique(np.concatenate(arrays), return_inverse=True)
    return tuple(part.astype(np.int32) for part in np.split(found, len(arrays))), len(names)


class Drawn:
    """Pairs whose weights are drawn: (P,) scores, and the groups of either side as positions in 0 .. groups - 1."""

    def __init__(
        self, scores: np.ndarray, first: np.ndarray, second: np.ndarray, groups: int, chosen: np.ndarray | None = None
    ) -> None:
        """chosen: (P,) bool, the pairs that count; None = all. The arrays are held, not copied."""
        self.scores, self.first, self.second, self.chosen = scores, first, second, chosen
        self._inside = np.zeros(groups)
        dense = groups <= DENSE
        table = np.zeros(groups**2 if dense else 0)
        apart: list[tuple[np.ndarray, np.ndarray]] = []
        for block in _blocks(len(scores)):
            a, b = (side[block] if chosen is None else side[block][chosen[block]] for side in (first, second))
            inside = a == b
            self._inside += np.bincount(a[inside], minlength=groups)
            a, b = a[~inside], b[~inside]
            if dense:
                np.add.at(table, a.astype(np.int64) * groups + b, 1.0)
            else:
                apart.append((a, b))
        if dense:
            self._between = table.reshape(groups, groups)
        else:
            rows, columns = (np.concatenate(side) for side in zip(*apart, strict=True)) if apart else (first, second)
            self._between = scipy.sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), (groups, groups)).tocsr()

    def total(self, counts: np.ndarray) -> np.ndarray:
        """Weight of all pairs, (r,). counts: (groups, r) float64, how often each group was drawn."""
        return self._inside @ counts + np.einsum("gr,gr->r", counts, self._between @ counts)

    def above(self, counts: np.ndarray, limits: np.ndarray) -> np.ndarray:
        """Weight of the pairs that score above a limit of their resample, (F, r). limits: (F, r)."""
        order = np.argsort(-self.scores, kind="stable")
        ranked = -self.scores[order]
        found = np.zeros(limits.shape)
        ends = np.searchsorted(ranked, -limits)  # (F, r) pairs above
        step = max(1, BLOCK // counts.shape[1])
        for begin in range(0, int(ends.max(initial=0)), step):
            weight = pair_weights(counts, *(side[order[begin : begin + step]] for side in (self.first, self.second)))
            sums = np.concatenate([np.zeros((1, counts.shape[1])), np.cumsum(weight, 0)])
            upto = np.clip(ends - begin, 0, len(weight))
            found += np.take_along_axis(sums, upto, 0)
        return found


class Summed:
    """A sum of (P,) numbers of pairs whose weights are drawn."""

    def __init__(self, values: np.ndarray, first: np.ndarray, second: np.ndarray, groups: int) -> None:
        inside = first == second
        self._inside = np.bincount(first[inside], values[inside], minlength=groups)
        apart = (values[~inside], (first[~inside], second[~inside]))
        self._between = scipy.sparse.coo_matrix(apart, (groups, groups)).tocsr()

    def total(self, counts: np.ndarray) -> np.ndarray:
        """The sum in each resample, (r,). counts: (groups, r) float64, how often each group was drawn."""
        return self._inside @ counts + np.einsum("gr,gr->r", counts, self._between @ counts)


class Impostors(Drawn):
    """Impostor pairs, which `chosen` says; the highest are sorted, as many as thresholds have needed so far."""

    def failing(self, counts: np.ndarray, totals: np.ndarray, far: np.ndarray) -> np.ndarray:
        """The highest score that may not pass at a FAR, (F, r); -inf where all may.

        counts: (groups, r). totals: (r,) what total(counts) gave. far: (F,).
        """
        allowed = np.floor(far[:, None] * totals + 1e-9)
        count = int(self.chosen.sum())
        kept = int(KEPT * float(far.max()) * count) + 1000
        while True:
            scores, first, second = self._highest(min(kept, count))
            place = first_failing(counts, first, second, allowed)
            if len(scores) == count or (place < len(scores)).all():
                return np.append(scores, -np.inf)[place]
            kept *= 2

    def _highest(self, kept: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not hasattr(self, "_sorted") or len(self._sorted[0]) < kept:
            scores = self.scores[self.chosen]
            scores.partition(len(scores) - kept)
            least = scores[len(scores) - kept]
            del scores  # as large as all pairs' scores
            top = np.flatnonzero(self.chosen & (self.scores >= least))  # with all that are as high as the last one
            top = top[np.argsort(-self.scores[top], kind="stable")]
            self._sorted = self.scores[top], self.first[top], self.second[top]
        return self._sorted


def _blocks(count: int) -> Iterator[slice]:
    return (slice(begin, begin + BLOCK) for begin in range(0, count, BLOCK))


def pair_weights(counts: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Weights of pairs in each resample, (B, r). counts: (groups, r); first, second: (B,) groups."""
    weight = counts[first]
    between = first != second
    weight *= np.where(between[:, None], counts[second], 1.0)
    return weight


def first_failing(counts: np.ndarray, first: np.ndarray, second: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Position of the first pair, in the order given, at which the weight exceeds the allowed one; P where none does.

    counts: (groups, r). first, second: (P,) groups, the pair with the highest score first. allowed: (F, r).
    Returns (F, r) int64.
    """
    place = np.full(allowed.shape, len(first))
    reached = np.zeros(counts.shape[1])
    step = max(1, BLOCK // counts.shape[1])
    for begin in range(0, len(first), step):
        weight = pair_weights(counts, first[begin : begin + step], second[begin : begin + step])
        after = reached + weight.sum(0)
        for f, r in zip(*np.nonzero((reached <= allowed) & (after > allowed)), strict=True):
            place[f, r] = begin + int(np.argmax(reached[r] + np.cumsum(weight[:, r]) > allowed[f, r]))
        reached = after
        if (reached > allowed).all():
            break
    return place
