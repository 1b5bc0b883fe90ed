"""Open-set identification: is this person on the watch list, and who is it? TPIR at FPIR, with intervals by person."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recognition.evaluation import intervals
from recognition.evaluation.identification import Search
from recognition.evaluation.listed import MISSED
from recognition.evaluation.protocol import Asked
from recognition.evaluation.verification import allowed_accepts

CURVE_POINTS = 200
KEPT = 4  # arrays of one number per probe and resample that are held together


def open_set(
    mated: Search,
    unmated: np.ndarray,
    fpir: Sequence[float],
    ranks: Sequence[int],
    asked: Asked,
    people: tuple[np.ndarray, np.ndarray],
) -> dict:
    """{"tpirK@F": {"value", "lo", "hi", "fpir", "threshold", "nearest", "nearest_fpir"}, ..., "open_set": curve}.

    mated: what M probes of people in the gallery found; (U,) unmated: the highest similarity that each probe of nobody
    in it has to any gallery image. FPIR is the share of unmated probes with one at or above the threshold. TPIR_K is
    the share of mated ones whose mate is within the first K and at or above the threshold: the value is that at the
    lowest threshold whose FPIR is at most F, and fpir what it is there; "nearest" at the FPIR that is nearest to F,
    even above it, and of several at the most lenient.
    people: (M,) and (U,) ids; whole people are drawn, of either kind apart, and the threshold is found anew each time.
    The curve is that of the last of the ranks. ValueError for an F outside (0, 1].
    """
    for f in fpir:
        if not 0 < f <= 1:
            raise ValueError(f"fpir={f}: a false positive identification rate lies in (0, 1]")
    scores = np.stack([np.where(mated.position <= k, mated.mate_similarity, -np.inf) for k in ranks])
    falling = -np.sort(-unmated.astype(np.float64))
    drawn = resample_tpir(scores, unmated, fpir, people, asked.resamples, asked.seed) if asked.resamples else None
    result, persons = {}, len(np.unique(people[0]))
    for i, k in enumerate(ranks):
        hits = np.sort(scores[i][np.isfinite(scores[i])]).astype(np.float64)
        for j, f in enumerate(fpir):
            at = _at(falling, hits, allowed_accepts(f, len(falling)), scores.shape[1])
            lo, hi = (None, None) if drawn is None else intervals.bounds(at["tpir"], drawn[:, i, j], persons)
            near = _at(falling, hits, _nearest(falling, f), scores.shape[1])
            result[f"tpir{k}@{f:g}"] = {
                "value": at["tpir"],
                "lo": lo,
                "hi": hi,
                "fpir": at["fpir"],
                "threshold": at["threshold"],
                "nearest": near["tpir"],
                "nearest_fpir": near["fpir"],
            }
    grid = np.unique(np.geomspace(1, len(falling), CURVE_POINTS).astype(np.int64))
    points = [_at(falling, hits, accepted, scores.shape[1]) for accepted in grid]
    names = {"fpir": "fpir", "tpir": f"tpir{ranks[-1]}"}
    curve = {name: [round(point[key], 6) for point in points] for key, name in names.items()}
    return {**result, "open_set": curve}


def resample_tpir(
    scores: np.ndarray,
    unmated: np.ndarray,
    fpir: Sequence[float],
    people: tuple[np.ndarray, np.ndarray],
    resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """TPIR in resamples of people, (resamples, K, F): the conservative one of open_set, its threshold found anew.

    scores: (K, M) of the best mates, -inf where a probe is no hit at any threshold. The others: as of open_set.
    """
    groups = [np.unique(ids, return_inverse=True)[1] for ids in people]
    falling = np.argsort(-unmated, kind="stable")
    ranked = unmated[falling]
    rising = [np.sort(-row[np.isfinite(row)]) for row in scores]  # negative: hits from the most similar on
    members = [groups[0][np.argsort(-row, kind="stable")[: len(r)]] for row, r in zip(scores, rising, strict=True)]
    generators = [np.random.default_rng([seed, kind]) for kind in (0, 1)]
    width = KEPT * max(scores.shape[1], len(unmated))
    chunks = [intervals.draw_counts(g, n.max() + 1, resamples, width) for g, n in zip(generators, groups, strict=True)]
    size = np.bincount(groups[0])
    drawn = []
    for known, strangers in zip(*chunks, strict=True):
        limit = _limits(strangers[:, groups[1][falling]], ranked, fpir)  # (r, F)
        each = np.empty((len(known), len(scores), len(fpir)))
        for i, (hits, member) in enumerate(zip(rising, members, strict=True)):
            reached = np.pad(np.cumsum(known[:, member], 1), ((0, 0), (1, 0)))
            passing = np.searchsorted(hits, -limit, side="left")  # hits above the limit
            each[:, i] = np.take_along_axis(reached, passing, 1) / (known @ size)[:, None]
        drawn.append(each)
    return np.concatenate(drawn)


def _limits(counts: np.ndarray, ranked: np.ndarray, fpir: Sequence[float]) -> np.ndarray:
    """(r, F) the highest similarity that may not pass, in each resample; counts (r, U) in the order of `ranked`."""
    passed = np.cumsum(counts, 1)
    limit = np.full((len(counts), len(fpir)), -np.inf)
    for row, total in enumerate(passed):
        for j, f in enumerate(fpir):
            first = np.searchsorted(total, allowed_accepts(f, total[-1]), side="right")
            if first < len(ranked):
                limit[row, j] = ranked[first]
    return limit


def _at(falling: np.ndarray, hits: np.ndarray, accepted: int, mated: int) -> dict[str, float]:
    """What comes of it where no more than so many of the unmated probes pass; falling are their similarities."""
    limit = falling[accepted] if accepted < len(falling) else MISSED  # nobody passes without a face
    above = np.searchsorted(hits, limit, side="right")
    false = np.searchsorted(-falling, -limit, side="left")
    observed = [*hits[above : above + 1], *falling[false - 1 : false]] if false else [*hits[above : above + 1]]
    return {
        "tpir": float((len(hits) - above) / mated),
        "fpir": float(false / len(falling)),
        "threshold": float(min(observed)) if observed else float(np.nextafter(np.float32(limit), np.float32(np.inf))),
    }


def _nearest(falling: np.ndarray, fpir: float) -> int:
    """How many unmated probes pass where the FPIR is nearest to this one; the larger of two."""
    seen = falling[falling > MISSED]
    counts = np.append(0, np.flatnonzero(np.append(seen[1:] != seen[:-1], True)[: len(seen)]) + 1)
    gap = np.abs(counts / len(falling) - fpir)
    return int(counts[np.flatnonzero(gap <= gap.min() + 1e-12)[-1]])
