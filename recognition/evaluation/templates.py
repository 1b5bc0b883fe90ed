"""IJB-style templates: many images and video frames of one person become one embedding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from recognition.evaluation.verification import allowed_accepts, unit_rows

CHUNK = 1 << 18  # pairs scored at once: IJB-C has 15.7 million


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
    Returns (N, D) float64, or (N, 2D) for "concat".
    """
    vectors = np.asarray(embeddings, np.float64)
    if flip not in ("sum", "concat", "none"):
        raise ValueError(f"flip is '{flip}'; it must be 'sum', 'concat' or 'none'")
    if (mirrored is None) != (flip == "none"):
        raise ValueError(f"flip='{flip}' {'needs' if mirrored is None else 'does not take'} the mirrored embeddings")
    if flip == "sum":
        vectors = vectors + np.asarray(mirrored, np.float64)
    elif flip == "concat":
        vectors = np.concatenate([vectors, np.asarray(mirrored, np.float64)], 1)
    if not keep_norm:
        vectors = unit_rows(vectors)
    if detector_score is not None:
        vectors = vectors * np.asarray(detector_score, np.float64)[:, None]
    return vectors


def pool(vectors: ArrayLike, template_ids: ArrayLike, media_ids: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Templates: the mean within each medium (frames of one video), the sum over media, then length one.

    vectors: (N, D), as `fuse` gives them. template_ids, media_ids: (N,) integers; a medium counts within its template.
    Returns the sorted template ids (T,) and their embeddings (T, D) float64.
    ValueError for vectors that are not finite or a template that sums to zero.
    """
    vectors = np.asarray(vectors, np.float64)
    templates, media = np.asarray(template_ids), np.asarray(media_ids)
    if vectors.ndim != 2 or templates.shape != (len(vectors),) or media.shape != (len(vectors),) or not len(vectors):
        raise ValueError(
            f"vectors (N, D) and ids (N,) are wanted, got {vectors.shape}, {templates.shape} and {media.shape}"
        )
    order = np.lexsort((media, templates))
    templates, media = templates[order], media[order]
    fresh = np.append(True, (templates[1:] != templates[:-1]) | (media[1:] != media[:-1]))
    begin = np.flatnonzero(fresh)
    frames = np.diff(np.append(begin, len(order)))
    means = np.add.reduceat(vectors[order], begin, axis=0) / frames[:, None]
    unique, first = np.unique(templates[begin], return_index=True)
    return unique, unit_rows(np.add.reduceat(means, first, axis=0))


def score_pairs(templates: np.ndarray, template_ids: np.ndarray, first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Cosines of pairs of templates, in chunks: (P,) float64.

    templates: (T, D) of length one with their sorted ids (T,), as `pool` gives them. first, second: (P,) template ids.
    ValueError for an id that has no template.
    """
    rows = []
    for ids in (np.asarray(first), np.asarray(second)):
        row = np.minimum(np.searchsorted(template_ids, ids), len(template_ids) - 1)
        missing = np.flatnonzero(template_ids[row] != ids)
        if len(missing):
            raise ValueError(f"{len(missing)} pairs name a template without images, such as {ids[missing[0]]}")
        rows.append(row)
    scores = np.empty(len(rows[0]))
    for begin in range(0, len(scores), CHUNK):
        a, b = (row[begin : begin + CHUNK] for row in rows)
        scores[begin : begin + CHUNK] = np.einsum("pd,pd->p", templates[a], templates[b])
    return scores


def tar_at_far(scores: ArrayLike, same: ArrayLike, far: Sequence[float] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)) -> dict:
    """{f: {"nearest", "nearest_far", "conservative", "conservative_far"}} of P template pairs.

    "nearest" is the IJB scripts' rule: the point of the curve whose FAR is nearest to f, even above it, and of several
    the highest TAR. "conservative" is the TAR at the largest FAR that is not above f.
    """
    scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
    if not np.isfinite(scores).all() or same.all() or not same.any():
        raise ValueError("scores must be finite and both genuine and impostor pairs be there")
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    accepted = np.append(0, np.cumsum(~same[order])[last])
    tar = np.append(0, np.cumsum(same[order])[last]) / same.sum()
    reached = accepted / accepted[-1]
    result = {}
    for target in far:
        gap = np.abs(reached - target)
        near = np.flatnonzero(gap == gap.min())
        near = near[np.argmax(tar[near])]
        below = np.searchsorted(accepted, allowed_accepts(target, accepted[-1]), side="right") - 1
        result[float(target)] = {
            "nearest": float(tar[near]),
            "nearest_far": float(reached[near]),
            "conservative": float(tar[below]),
            "conservative_far": float(reached[below]),
        }
    return result
