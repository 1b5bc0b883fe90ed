"""Error rates of groups at the one threshold that all of them share, with the threshold found anew in each resample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recognition.evaluation.intervals import CHUNK, bounds
from recognition.evaluation.protocol import Asked
from recognition.evaluation.verification import allowed_accepts


@dataclass(frozen=True)
class Rates:
    """Of each group at one FAR: {group: {"value", "lo", "hi", "better"}}, and the threshold: a pair passes above it."""

    limit: float  # -inf where all pass
    far: float  # reached by all groups together
    fmr: Mapping[str, dict]  # of groups with impostors
    fnmr: Mapping[str, dict]  # of groups with genuine pairs


def error_rates(
    genuine: Mapping[str, np.ndarray], impostors: Mapping[str, np.ndarray], far: float, asked: Asked
) -> Rates:
    """False match and false non-match rates of groups where the FAR of all impostors together is at most `far`.

    genuine: scores by group, (n,); a pair may be in several groups. impostors: scores by group, each pair in one; the
    lowest threshold whose FAR is at most `far` over all of them. Resamples draw the pairs within their group. Nothing
    is drawn but what follows from a draw of all pairs: how many draws fall on the highest impostors is binomial, and so
    is the number of genuine pairs below a threshold.
    """
    names = list(impostors)
    scores = np.concatenate([impostors[name] for name in names])
    of = np.repeat(np.arange(len(names)), [len(impostors[name]) for name in names])
    allowed = allowed_accepts(far, len(scores))
    reach = min(len(scores), allowed + int(12 * np.sqrt(allowed)) + 100)  # more are needed once in 1e30 resamples
    top = np.argsort(-scores, kind="stable")[:reach]
    scores, of_top = np.append(scores[top], -np.inf), of[top]
    sizes = np.array([len(impostors[name]) for name in names])
    whole = np.ones((1, reach), np.int64)
    limit, passed = _passing(whole, scores, of_top, allowed, len(names))
    drawn = [_passing(hits, scores, of_top, allowed, len(names)) for hits in _hits(of_top, sizes, asked)]
    limits = np.concatenate([found for found, _ in drawn]) if drawn else np.empty(0)
    passes = np.concatenate([found for _, found in drawn]) if drawn else np.empty((0, len(names)))
    fmr = {
        name: _measure(passed[0, g] / sizes[g], passes[:, g] / sizes[g], int(sizes[g]))
        for g, name in enumerate(names)
        if sizes[g]
    }
    generator = np.random.default_rng([asked.seed, 0])
    fnmr = {}
    for name, own in genuine.items():
        if len(own):
            ranked = np.sort(own)
            below, share = (np.searchsorted(ranked, at, side="right") / len(own) for at in (limit[0], limits))
            fnmr[name] = _measure(below, generator.binomial(len(own), share) / len(own), len(own))
    return Rates(float(limit[0]), float(passed[0].sum() / sizes.sum()), fmr, fnmr)


def _passing(
    hits: np.ndarray, scores: np.ndarray, of: np.ndarray, allowed: int, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """The score (R,) above which a pair passes, and how many impostors of each group do, (R, groups)."""
    limit = scores[(np.cumsum(hits, 1) <= allowed).sum(1)]
    above = scores[:-1] > limit[:, None]
    return limit, np.stack([(hits * above)[:, of == g].sum(1) for g in range(groups)], 1)


def _hits(of: np.ndarray, sizes: np.ndarray, asked: Asked):
    """Chunks (r, K) of how often each of the highest impostors is drawn, each group drawing as many as it has."""
    generator = np.random.default_rng([asked.seed, 1])
    own = [np.flatnonzero(of == g) for g in range(len(sizes))]
    rows = max(1, CHUNK // len(of))
    for begin in range(0, asked.resamples, rows):
        hits = np.zeros((min(rows, asked.resamples - begin), len(of)), np.int64)
        for g, places in enumerate(own):
            if len(places):
                for row, count in zip(
                    hits, generator.binomial(sizes[g], len(places) / sizes[g], len(hits)), strict=True
                ):
                    row[places] = np.bincount(generator.integers(len(places), size=count), minlength=len(places))
        yield hits


def _measure(value: float, resampled: np.ndarray, trials: int) -> dict:
    lo, hi = bounds(float(value), resampled, trials) if len(resampled) else (None, None)
    return {"value": float(value), "lo": lo, "hi": hi, "better": "lower"}
