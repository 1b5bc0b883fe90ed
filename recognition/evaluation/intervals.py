"""Bootstrap intervals, vectorised: a resample is a row of counts, a statistic a weighted mean.

The same seed draws the same items, so the difference of two models' resampled values is the paired bootstrap (for
resample_tar with paired=True).
Percentile intervals are degenerate at 0 and 1: where every item is right, no resample can hold a wrong one, and
`bounds` gives the exact interval of a share instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy
from numpy.typing import ArrayLike

from recognition.evaluation.listed import MISSED
from recognition.evaluation.verification import allowed_accepts
from recognition.evaluation.weighted import Drawn, Impostors, Summed, group_positions

LEVEL = 0.95
CHUNK = 1 << 22  # counts held at once: 32 MiB, and two or three times that while they are weighed
LARGE = 100_000  # pairs beyond which drawing every one of them takes seconds per resample


def interval(resampled: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of resampled values (R,): (lo, hi)."""
    lo, hi = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(lo), float(hi)


def interval_of_share(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact interval of a share of independent trials (Clopper and Pearson 1934): (lo, hi), never narrower than asked.

    600 of 600 gives (0.9939, 1.0): the unseen error rate may still be 0.6 %. ValueError for impossible counts.
    """
    if not 0 <= successes <= trials or not trials:
        raise ValueError(
            f"{successes} successes in {trials} trials: wanted 0 <= successes <= trials and a trial at least"
        )
    tail = (1 - level) / 2
    lo = scipy.special.betaincinv(successes, trials - successes + 1, tail) if successes else 0.0
    hi = scipy.special.betaincinv(successes + 1, trials - successes, 1 - tail) if successes < trials else 1.0
    return float(lo), float(hi)


def bounds(value: float, resampled: np.ndarray, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a share: of its resampled values, or the exact one where the share is 0 or 1.

    trials: what the bootstrap draws and the share is of: pairs, genuine pairs for TAR, or people.
    """
    if value in (0.0, 1.0):
        return interval_of_share(trials if value else 0, trials, level)
    return interval(resampled, level)


def resample_mean(
    values: ArrayLike, *, groups: ArrayLike | None = None, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Means of `resamples` resamples, (resamples,) float64.

    values: (N,), one per item: 1 right, 0 wrong. groups: (N,) ids such as people; whole groups are drawn then, since
    the items of one group are not independent. None draws items.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"values must be finite and (N,) with N > 0, got {values.shape}")
    if groups is None:
        total, size = values, np.ones(len(values))
    else:
        if np.shape(groups) != values.shape:
            raise ValueError(f"groups must be one per value, {values.shape}, got {np.shape(groups)}")
        _, group = np.unique(np.asarray(groups), return_inverse=True)
        total, size = np.bincount(group, values), np.bincount(group).astype(np.float64)
    generator = np.random.default_rng(seed)
    drawn = [(counts @ total) / (counts @ size) for counts in draw_counts(generator, len(total), resamples)]
    return np.concatenate(drawn)


def resample_tar(
    scores: ArrayLike, same: ArrayLike, far: float, *, resamples: int = 1000, seed: int = 0, paired: bool = False
) -> np.ndarray:
    """TAR at the lowest threshold whose FAR is at most `far`, found anew in each resample: (resamples,) float64.

    scores, same: (P,); those at MISSED never pass. Genuine and impostor pairs are drawn apart, as a protocol fixes how
    many there are of each.
    paired: the same seed draws the same pairs whatever their scores, as the difference of two models needs. Else ranks
    are drawn, which is the same for one model and never for two, and beyond LARGE pairs only what follows from them:
    the first impostor that may not pass is an order statistic of uniform draws, a beta variate, and the genuine pairs
    above it are a binomial one.
    """
    scores, same = _seen(np.asarray(scores, np.float64)), np.asarray(same, bool)
    kinds = [scores[same], scores[~same]]
    if not len(kinds[0]) or not len(kinds[1]):
        raise ValueError("TAR needs genuine and impostor pairs")
    orders = [np.argsort(-kind) for kind in kinds] if paired else [slice(None)] * 2
    genuine, impostor = (-np.sort(-kind) for kind in kinds)
    allowed = allowed_accepts(far, len(impostor))
    generators = [np.random.default_rng([seed, kind]) for kind in (0, 1)]
    if len(scores) > LARGE and not paired:
        return _tar_of_ranks(genuine, impostor, allowed, resamples, generators)
    last = np.flatnonzero(np.append(impostor[1:] != impostor[:-1], True))  # of each run of equal scores
    # genuine pairs above each distinct impostor score; all that were seen where no impostor limits the threshold
    above = np.append(np.searchsorted(-genuine, -impostor[last]), np.isfinite(genuine).sum())
    chunks = [draw_counts(g, len(n), resamples, len(scores)) for g, n in zip(generators, kinds, strict=True)]
    drawn = []
    for genuine_counts, impostor_counts in zip(*chunks, strict=True):
        passes = np.cumsum(impostor_counts[:, orders[1]], 1)[:, last] <= allowed
        reached = np.pad(np.cumsum(genuine_counts[:, orders[0]], 1), ((0, 0), (1, 0)))
        drawn.append(reached[np.arange(len(passes)), above[passes.sum(1)]] / len(genuine))
    return np.concatenate(drawn)


def _tar_of_ranks(
    genuine: np.ndarray, impostor: np.ndarray, allowed: int, resamples: int, generators: Sequence[np.random.Generator]
) -> np.ndarray:
    """What resample_tar gives for sorted scores, from one beta and one binomial variate per resample."""
    if allowed >= len(impostor):
        return generators[0].binomial(len(genuine), np.isfinite(genuine).mean(), resamples) / len(genuine)
    place = generators[1].beta(allowed + 1, len(impostor) - allowed, resamples) * len(impostor)
    failing = impostor[np.minimum(place.astype(np.int64), len(impostor) - 1)]
    return generators[0].binomial(len(genuine), np.searchsorted(-genuine, -failing) / len(genuine)) / len(genuine)


def resample_tar_by_group(
    scores: ArrayLike,
    same: ArrayLike,
    first_group: ArrayLike,
    second_group: ArrayLike,
    far: float | Sequence[float],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """TAR at FAR by people (or templates), which are independent where pairs are not: (resamples,) float64.

    scores, same, first_group, second_group: (P,); the groups are ids of whom, or which template, either side is of.
    Groups are drawn with replacement; one drawn c times gives a pair inside it weight c, and a pair of two groups the
    product of their counts. The threshold is the lowest whose weighted FAR is at most `far`. A resample without genuine
    pairs or without impostors is drawn again.
    far: one rate, or several for (F, resamples) at little more than the cost of one. The same groups and seed draw the
    same resamples, whatever the scores. 15.7 million pairs take seconds, and in float32, of groups that are numbered
    from 0 on, less than 384 MiB beside the arguments.
    ValueError without genuine or impostor pairs, for scores that are not finite, and for a rate outside (0, 1].
    """
    scores, same = np.asarray(scores), np.asarray(same, bool)
    scores = scores if scores.dtype == np.float32 else scores.astype(np.float64, copy=False)
    groups, count = group_positions(first_group, second_group)
    if not scores.shape == same.shape == groups[0].shape or scores.ndim != 1:
        raise ValueError(
            f"scores, same and groups must all be (P,), got {scores.shape}, {same.shape}, {groups[0].shape}"
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"the score of pair {np.flatnonzero(~np.isfinite(scores))[0]} is not finite")
    if same.all() or not same.any():
        raise ValueError("TAR needs genuine and impostor pairs")
    scores = _seen(scores)
    genuine = Drawn(scores[same], *(g[same] for g in groups), count)
    impostors = Impostors(scores, *groups, count, ~same)
    fars = np.atleast_1d(np.asarray(far, np.float64))
    if not ((fars > 0) & (fars <= 1)).all():
        raise ValueError(f"far={far}: a false accept rate lies in (0, 1]")
    generator = np.random.default_rng(seed)
    drawn, missing = [], resamples
    while missing:
        for counts in draw_counts(generator, count, missing, max(count, len(genuine.scores))):
            weights = counts.T.astype(np.float64)
            totals = genuine.total(weights), impostors.total(weights)
            whole = (totals[0] > 0) & (totals[1] > 0)
            if whole.any():
                weights = np.ascontiguousarray(weights[:, whole])
                failing = impostors.failing(weights, totals[1][whole], fars)
                drawn.append(genuine.above(weights, failing) / totals[0][whole])
            missing -= int(whole.sum())
    found = np.concatenate(drawn, 1)
    return found if np.ndim(far) else found[0]


def resample_eer(
    scores: ArrayLike, same: ArrayLike, *, resamples: int = 1000, seed: int = 0, paired: bool = False
) -> np.ndarray:
    """Equal error rates of resamples, (resamples,) float64: pairs drawn by kind, EER as verify_scores has it.

    paired: as in resample_tar. Thresholds are all distinct scores up to LARGE pairs; beyond, unless paired, about
    10,000 quantiles of each kind of pair, so that a rate is right to 1e-4.
    """
    scores, same = _seen(np.asarray(scores, np.float64)), np.asarray(same, bool)
    kinds = [scores[same], scores[~same]]
    if not len(kinds[0]) or not len(kinds[1]):
        raise ValueError("an equal error rate needs genuine and impostor pairs")
    orders = [np.argsort(-kind) for kind in kinds]
    falling = [kind[order] for kind, order in zip(kinds, orders, strict=True)]
    chosen = falling
    if len(scores) > LARGE and not paired:
        chosen = [kind[np.linspace(0, len(kind) - 1, min(len(kind), 10_000)).astype(np.int64)] for kind in falling]
    steps = -np.unique(-np.concatenate(chosen))
    steps = steps[np.isfinite(steps)]
    # pairs of each kind that pass a threshold, the first of which lies above every score
    passing = [np.append(0, np.searchsorted(-kind, -steps, side="right")) for kind in falling]
    generators = [np.random.default_rng([seed, kind]) for kind in (0, 1)]
    rows = max(1, CHUNK // (len(scores) if paired else len(steps) + 1))
    drawn = []
    for begin in range(0, resamples, rows):
        r = min(rows, resamples - begin)
        rates = []
        for generator, upto, order in zip(generators, passing, orders, strict=True):
            if paired:
                counts = next(draw_counts(generator, len(order), r))[:, order]
                passed = np.pad(np.cumsum(counts, 1), ((0, 0), (1, 0)))[:, upto]
            else:  # pairs from one threshold to the next: a resample is a draw of how many
                sizes = np.diff(upto, prepend=0, append=len(order)) / len(order)  # the last: those no threshold accepts
                passed = np.cumsum(generator.multinomial(len(order), sizes, r)[:, :-1], 1)
            rates.append(passed / len(order))
        tar, far = rates
        row, equal = np.arange(r), np.argmin(np.abs(far - (1 - tar)), 1)
        drawn.append((far[row, equal] + 1 - tar[row, equal]) / 2)
    return np.concatenate(drawn)


def resample_mean_by_group(
    values: ArrayLike,
    first_group: ArrayLike,
    second_group: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Weighted means of values of pairs by people, as resample_tar_by_group draws them: (resamples,) float64.

    values, first_group, second_group: (P,). weights: (P,) what each pair weighs before anything is drawn; None = 1.
    The same groups and seed draw the same resamples, whatever the values. A resample without pairs is drawn again.
    ValueError for values that are not finite and (P,).
    """
    values = np.asarray(values, np.float64)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    groups, count = group_positions(first_group, second_group)
    if values.shape != groups[0].shape or values.shape != weights.shape or not np.isfinite(values).all():
        raise ValueError(f"values must be finite, and as many as weights and groups, got {values.shape}")
    sums, sizes = Summed(values * weights, *groups, count), Summed(weights, *groups, count)
    generator = np.random.default_rng(seed)
    drawn, missing = [], resamples
    while missing:
        for counts in draw_counts(generator, count, missing):
            held = counts.T.astype(np.float64)
            total, size = sums.total(held), sizes.total(held)
            drawn.append(total[size > 0] / size[size > 0])
            missing -= len(drawn[-1])
    return np.concatenate(drawn)


def difference(
    before: ArrayLike, after: ArrayLike, *, groups: ArrayLike | None = None, resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """after - before on the same items: {"value", "lo", "hi"}, by the paired bootstrap.

    before, after: (N,) per-item results of two models, in one order. groups: as in resample_mean.
    """
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if before.shape != after.shape:
        raise ValueError(f"a paired difference needs the same items, got {before.shape} and {after.shape}")
    gain = after - before
    lo, hi = interval(resample_mean(gain, groups=groups, resamples=resamples, seed=seed))
    return {"value": float(gain.mean()), "lo": lo, "hi": hi}


def difference_of_tar(
    before: ArrayLike, after: ArrayLike, same: ArrayLike, far: float, *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """TAR at FAR of `after` less that of `before` in resamples of the same pairs: (resamples,) float64.

    before, after, same: (P,) scores of two models, in one order. Up to LARGE pairs the difference of two resample_tar.
    Beyond, only genuine pairs and those impostors are drawn that can set a threshold of either model: how many draws
    fall on them is binomial, and which of them, uniform.
    """
    same = np.asarray(same, bool)
    scores = [_seen(np.asarray(model, np.float64)) for model in (before, after)]
    bootstrap = {"resamples": resamples, "seed": seed}
    impostors = int((~same).sum())
    allowed = allowed_accepts(far, impostors)
    reach = allowed + int(12 * np.sqrt(allowed)) + 100  # a resample needs more of them once in 1e30
    if len(same) <= LARGE or reach >= impostors / 2:
        old, new = (resample_tar(model, same, far, paired=True, **bootstrap) for model in scores)
        return new - old
    strangers = [model[~same] for model in scores]
    tops = [np.argpartition(-model, reach)[:reach] for model in strangers]
    kept = np.unique(np.concatenate(tops))
    orders = [np.searchsorted(kept, top[np.argsort(-model[top])]) for top, model in zip(tops, strangers, strict=True)]
    genuine = [model[same] for model in scores]
    known = [np.argsort(-model) for model in genuine]
    generators = [np.random.default_rng([seed, kind]) for kind in (0, 1)]
    falls = iter(generators[1].binomial(impostors, len(kept) / impostors, resamples))
    drawn = []
    for counts in draw_counts(generators[0], len(genuine[0]), resamples, max(len(genuine[0]), len(kept))):
        fallen = [generators[1].integers(len(kept), size=next(falls)) for _ in counts]
        hits = np.stack([np.bincount(fall, minlength=len(kept)) for fall in fallen])
        tars = []
        for order, stranger, faces, ranked in zip(orders, strangers, genuine, known, strict=True):
            passed = np.cumsum(hits[:, order], 1)
            assert (passed[:, -1] > allowed).all(), "a resample needs more impostors than were kept"
            failing = stranger[kept[order]][(passed <= allowed).sum(1)]
            reached = np.pad(np.cumsum(counts[:, ranked], 1), ((0, 0), (1, 0)))
            tars.append(reached[np.arange(len(counts)), np.searchsorted(-faces[ranked], -failing)] / len(faces))
        drawn.append(tars[1] - tars[0])
    return np.concatenate(drawn)


def _seen(scores: np.ndarray) -> np.ndarray:
    """Scores with -inf for those at MISSED, which no threshold accepts; the same array where there are none."""
    missed = scores == MISSED
    return np.where(missed, -np.inf, scores).astype(scores.dtype, copy=False) if missed.any() else scores


def draw_counts(generator: np.random.Generator, items: int, resamples: int, width: int = 0) -> Iterator[np.ndarray]:
    """Rows of how often each item is drawn when `items` are drawn with replacement: chunks (r, items) int64.

    width: sizes the chunks where several generators have to keep step.
    """
    rows = max(1, CHUNK // max(items, width))
    for begin in range(0, resamples, rows):
        r = min(rows, resamples - begin)
        drawn = generator.integers(items, size=(r, items))
        drawn += np.arange(r)[:, None] * items
        yield np.bincount(drawn.ravel(), minlength=r * items).reshape(r, items)
