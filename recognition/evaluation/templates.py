"""IJB-style templates: many images and video frames of one person become one embedding.

Everything is done in blocks: 469,375 embeddings and 15.7 million pairs (IJB-C) take little more than their own memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from recognition.evaluation.listed import MISSED
from recognition.evaluation.verification import ROC_POINTS, allowed_accepts, as_array, unit_rows

ROWS = 1 << 8  # embeddings in float64, or gathered, at once: 1 MiB at 512, which stays in a cache
FIRSTS = 1 << 8  # templates compared with all others at once
PAIRS = 1 << 14  # that are looked up at once, in a cache
DENSE = 1 / 64  # of all combinations: with more pairs, one matrix product costs less than gathering embeddings
TABLE = 1 << 22  # ids in a table: 16 MiB
IJB_FAR = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def fuse(
    embeddings: ArrayLike,
    mirrored: ArrayLike | None = None,
    *,
    flip: str = "sum",
    keep_norm: bool = True,
    detector_score: ArrayLike | None = None,
) -> np.ndarray:
    """One vector per image, before pooling; the IJB scripts' letters in brackets, N1D1F2 being what papers report.

    embeddings, mirrored: (N, D) raw, of the images and of their mirror images.
    flip: "sum" [F2] adds the mirrored one, "concat" [F1] appends it, "none" [F0] leaves it out.
    keep_norm: [N1] a raw norm is a weight in its template; False [N0] makes each vector unit first.
    detector_score: (N,) [D1] a weight per image; None [D0].
    Returns (N, D), or (N, 2D) for "concat"; float32 for float32 embeddings, else float64.
    """
    vectors = np.asarray(embeddings)
    if flip not in ("sum", "concat", "none"):
        raise ValueError(f"flip is '{flip}'; it must be 'sum', 'concat' or 'none'")
    if (mirrored is None) != (flip == "none"):
        raise ValueError(f"flip='{flip}' {'needs' if mirrored is None else 'does not take'} the mirrored embeddings")
    others = None if mirrored is None else np.asarray(mirrored)
    kind = np.float32 if vectors.dtype == np.float32 else np.float64
    fused = np.empty((len(vectors), vectors.shape[1] * (1 + (flip == "concat"))), kind)
    for begin in range(0, len(vectors), ROWS):
        here = slice(begin, begin + ROWS)
        block = vectors[here].astype(np.float64)
        if flip == "sum":
            block += others[here]
        elif flip == "concat":
            block = np.concatenate([block, others[here]], 1)
        fused[here] = _weighted(block, keep_norm, None if detector_score is None else np.asarray(detector_score)[here])
    return fused


def pool(
    vectors: ArrayLike | Tensor,
    template_ids: ArrayLike,
    media_ids: ArrayLike,
    *,
    rows: np.ndarray | None = None,
    keep_norm: bool = True,
    detector_score: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Templates: the mean within each medium (frames of one video), the sum over media, then length one.

    vectors: (N, D), as `fuse` gives them. template_ids, media_ids: (N,) integers; a medium counts within its template.
    rows: (N,) positions in `vectors` where the ids are not of its rows one by one.
    keep_norm, detector_score: as of `fuse`, for vectors that did not go through it.
    Returns the sorted template ids (T,) and their embeddings (T, D) float64.
    ValueError for vectors that are not finite or a template that sums to zero.
    """
    vectors = vectors if isinstance(vectors, Tensor) else np.asarray(vectors)
    templates, media = np.asarray(template_ids), np.asarray(media_ids)
    if vectors.ndim != 2 or not templates.shape == media.shape == np.shape(vectors[:, 0] if rows is None else rows):
        raise ValueError(
            f"vectors (N, D) and ids (N,) are wanted, got {tuple(vectors.shape)}, {templates.shape} and {media.shape}"
        )
    count = len(templates)
    if not count:
        raise ValueError("a template takes a picture at least, got none")
    order = np.lexsort((media, templates))
    templates, media = templates[order], media[order]
    fresh = np.append(True, (templates[1:] != templates[:-1]) | (media[1:] != media[:-1]))
    frames = np.diff(np.append(np.flatnonzero(fresh), count))
    share = np.repeat(1 / frames, frames)
    unique, slot = np.unique(templates, return_inverse=True)
    weight = None if detector_score is None else np.asarray(detector_score, np.float64)[order]
    totals = np.zeros((len(unique), vectors.shape[1]))
    for begin in range(0, count, ROWS):
        here = slice(begin, begin + ROWS)
        block = as_array(vectors[order[here] if rows is None else rows[order[here]]]).astype(np.float64)
        block = _weighted(block, keep_norm, None if weight is None else weight[here])
        block *= share[here, None]
        starts = np.flatnonzero(np.diff(slot[here], prepend=-1))
        totals[slot[here][starts]] += np.add.reduceat(block, starts, axis=0)
    return unique, unit_rows(totals, copy=False)


def score_pairs(templates: np.ndarray, template_ids: np.ndarray, first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Cosines of pairs of templates, in blocks: (P,) in the templates' precision.

    templates: (T, D) of length one with their sorted ids (T,), as `pool` gives them. first, second: (P,) template ids.
    ValueError for an id that has no template.
    """
    rows = []
    for ids in (np.asarray(first), np.asarray(second)):
        row = rows_of(template_ids, ids)
        missing = np.flatnonzero(row < 0)
        if len(missing):
            raise ValueError(f"{len(missing)} pairs name a template without images, such as {ids[missing[0]]}")
        rows.append(row)
    return score_rows(templates, *rows)


def score_rows(templates: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """As score_pairs, of rows (P,) of the templates in place of ids."""
    used = [np.flatnonzero(np.bincount(rows, minlength=len(templates))) for rows in (first, second)]
    if len(first) < DENSE * len(used[0]) * len(used[1]):
        scores = np.empty(len(first), templates.dtype)
        for begin in range(0, len(first), ROWS):
            here = slice(begin, begin + ROWS)
            scores[here] = np.einsum("pd,pd->p", templates[first[here]], templates[second[here]])
        return scores
    return _by_product(templates, first, second, *used)


def rows_of(template_ids: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Where these ids stand among the sorted ones: (n,) int32, -1 for one that is not there."""
    low, high = int(template_ids[0]), int(template_ids[-1])
    if high - low < TABLE:  # a table takes a tenth of the time of a search, of which there may be 30 million
        table = np.full(high - low + 3, -1, np.int32)  # below and above them stand strangers
        table[template_ids - low + 1] = np.arange(len(template_ids))
        return table[np.clip(ids, low - 1, high + 1) - (low - 1)]
    row = np.minimum(np.searchsorted(template_ids, ids), len(template_ids) - 1)
    row[template_ids[row] != ids] = -1
    return row.astype(np.int32)


def tar_at_far(scores: ArrayLike, same: ArrayLike, far: Sequence[float] = IJB_FAR) -> dict:
    """{f: {"nearest", "nearest_far", "conservative", "conservative_far", "threshold"}} of P template pairs.

    "nearest" is the IJB scripts' rule: the point of the curve whose FAR is nearest to f, even above it, and of several
    the highest TAR. "conservative" is the TAR at the largest FAR that is not above f, from the threshold on.
    """
    ranked = Ranked(scores, same)
    return {float(target): ranked.at(target) for target in far}


@dataclass(frozen=True)
class Point:
    """What passes from a threshold on."""

    accepted: int  # impostors
    passed: int  # genuine pairs
    threshold: float


class Ranked:
    """Scores of genuine and of impostor pairs, each in order: a ROC curve that is read where it is wanted."""

    def __init__(self, scores: ArrayLike, same: ArrayLike) -> None:
        """scores: (P,) cosines, float32 ones stay so; pairs at MISSED pass no threshold. same: (P,) bool.

        ValueError where one kind of pair is missing, and for scores that are not finite.
        """
        scores, same = np.asarray(scores), np.asarray(same, bool)
        scores = scores if scores.dtype == np.float32 else scores.astype(np.float64)
        if not np.isfinite(scores).all() or same.all() or not same.any():
            raise ValueError("scores must be finite and both genuine and impostor pairs be there")
        self.genuine, self.impostor = np.sort(scores[same]), np.sort(scores[~same])

    def lowest(self, allowed: int) -> Point:
        """The lowest threshold which at most so many impostors pass."""
        genuine, impostor = self.genuine, self.impostor
        # the first that must not pass, and with it all as high
        limit = impostor[len(impostor) - 1 - allowed] if allowed < len(impostor) else impostor.dtype.type(MISSED)
        above = [np.searchsorted(values, limit, side="right") for values in (genuine, impostor)]
        higher = [v[a] for v, a in zip((genuine, impostor), above, strict=True) if a < len(v)]
        threshold = min(higher) if higher else np.nextafter(limit, limit.dtype.type(np.inf))
        return Point(len(impostor) - int(above[1]), len(genuine) - int(above[0]), float(threshold))

    def at(self, far: float) -> dict[str, float]:
        """The TAR at this FAR by both rules: see tar_at_far."""
        if not 0 < far <= 1:
            raise ValueError(f"far={far}: a false accept rate lies in (0, 1]")
        count = len(self.impostor)
        strict = self.lowest(allowed_accepts(far, count))
        near = self.lowest(int(far * count))
        if near.accepted < count and (limit := self.impostor[count - 1 - near.accepted]) > MISSED:
            # the next point of the curve, beyond all impostors as high as the next one
            beyond = self.lowest(count - int(np.searchsorted(self.impostor, limit, side="left")))
            if abs(beyond.accepted / count - far) <= abs(near.accepted / count - far):
                near = beyond
        return {
            "nearest": near.passed / len(self.genuine),
            "nearest_far": near.accepted / count,
            "conservative": strict.passed / len(self.genuine),
            "conservative_far": strict.accepted / count,
            "threshold": strict.threshold,
        }

    def auc(self) -> float:
        """Share of (genuine, impostor) couples in order; equal ones count half."""
        beaten = sum(np.searchsorted(self.impostor, self.genuine, side=side).sum() for side in ("left", "right"))
        return float(beaten / 2 / len(self.genuine) / len(self.impostor))

    def eer(self) -> float:
        """The mean of false accepts and false rejects at the threshold where they differ least."""
        genuine, impostor = self.genuine, self.impostor
        # for each number of genuine pairs that fail: the impostor scores where as large a share of impostors passes;
        # where fewer or more genuine pairs fail there, the end of that range: a genuine score, the impostor above one
        wanted = np.arange(len(genuine) + 1) * len(impostor) // len(genuine)
        value = impostor[np.maximum(len(impostor) - 1 - wanted, 0)]
        higher = np.searchsorted(impostor, np.concatenate([value, genuine]), side="right")
        thresholds = np.unique(np.concatenate([genuine, value, impostor[np.minimum(higher, len(impostor) - 1)]]))
        thresholds = np.append(thresholds[thresholds > MISSED], np.inf)  # none accepts pairs without a face
        false, tar = ((len(kind) - np.searchsorted(kind, thresholds))[::-1] / len(kind) for kind in (impostor, genuine))
        best = np.argmin(np.abs(false - (1 - tar)))  # of equal ones the strictest, as verify_scores has it
        return float((false[best] + 1 - tar[best]) / 2)

    def roc(self) -> dict[str, list[float]]:
        """TAR at ROC_POINTS false accept rates from one impostor up: {"far", "tar"}."""
        grid = np.geomspace(1 / len(self.impostor), 1, ROC_POINTS)
        allowed = [int(f * len(self.impostor) * (1 + 1e-9)) for f in grid]
        return {
            "far": [float(f"{f:.6g}") for f in grid],
            "tar": [round(self.lowest(n).passed / len(self.genuine), 6) for n in allowed],
        }


def _weighted(block: np.ndarray, keep_norm: bool, weight: np.ndarray | None) -> np.ndarray:
    """The block, float64, itself."""
    block = block if keep_norm else unit_rows(block, copy=False)
    if weight is not None:
        block *= np.asarray(weight, np.float64)[:, None]
    return block


def _by_product(
    templates: np.ndarray, first: np.ndarray, second: np.ndarray, firsts: np.ndarray, seconds: np.ndarray
) -> np.ndarray:
    """Cosines of pairs, of which there are nearly as many as combinations of the rows that occur on each side."""
    scores = np.empty(len(first), templates.dtype)
    row, column = (np.zeros(len(templates), np.int32) for _ in range(2))
    row[firsts], column[seconds] = np.arange(len(firsts)), np.arange(len(seconds))
    starts = range(0, len(firsts), FIRSTS)
    group = (row[first] // FIRSTS).astype(np.min_scalar_type(len(starts)))
    order = np.argsort(group, kind="stable")  # numbers of 16 bits are counted: a tenth of the time of a sort
    ends = [0, *np.cumsum(np.bincount(group, minlength=len(starts))).tolist()]
    others = templates[seconds].T
    room = np.empty((min(FIRSTS, len(firsts)), len(seconds)), templates.dtype)
    for n, start in enumerate(starts):
        chosen = firsts[start : start + FIRSTS]
        block = np.matmul(templates[chosen], others, out=room[: len(chosen)])
        for begin in range(ends[n], ends[n + 1], PAIRS):
            pairs = order[begin : min(begin + PAIRS, ends[n + 1])]
            at = (row[first[pairs]] - start).astype(np.int64) * len(seconds) + column[second[pairs]]
            scores[pairs] = block.ravel()[at]
    return scores
