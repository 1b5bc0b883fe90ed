"""Thresholds for a model card: from which similarity on may two faces pass, for one false accept in so many?

All pairs of strangers among N images are compared, in blocks, of which only the highest are kept: 100,000 images (5e9
pairs) take their embeddings twice and half a GiB, and some minutes on one core: 40,000 images of 512 numbers take one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from recognition.evaluation import intervals
from recognition.evaluation.unit import unit_float32
from recognition.evaluation.verification import allowed_accepts
from recognition.evaluation.weighted import Drawn, first_failing, group_positions

FAR = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
BLOCK = 1 << 24  # similarities held at once: 64 MiB
LIMIT = 200_000  # pairs that pass at a rate; beyond, a random share of all pairs is looked at
SPARE = 2.0  # times as many impostors are kept as may pass: people who resemble many may be drawn several times


def thresholds(
    embedding: ArrayLike | Tensor,
    person: ArrayLike,
    far: Sequence[float] = FAR,
    resamples: int = 1000,
    seed: int = 0,
    *,
    gallery: ArrayLike | Tensor | None = None,
    gallery_person: ArrayLike | None = None,
) -> dict:
    """{"threshold@F": {"value", "lo", "hi", "unit", "far", "tar", "tar_lo", "tar_hi"}, ..., counts}, for F in `far`.

    embedding: (N, D), on any device. person: (N,) ids. gallery: (G, D) and gallery_person (G,); with them each of the N
    is compared with each of the G, else all N with one another.
    The value is the lowest similarity of two strangers at which the false accept rate is at most F, far the rate there,
    tar the share of genuine pairs that pass, None without any. Intervals draw people, on both sides of a pair, and find
    the threshold anew. Where F allows more than LIMIT impostors, a random share of pairs stands for all, so that the
    rate is right to 0.5 % of itself. With fewer than 1 / F pairs of strangers the value is None and "reason" says so.
    Counts: images, people, impostors, genuine. ValueError for embeddings that are NaN, infinite or zero, and where
    there are no two strangers.
    """
    for f in far:
        if not 0 < f <= 1:
            raise ValueError(f"far={f}: a false accept rate lies in (0, 1]")
    pairs = _AllPairs(embedding, person, gallery, gallery_person, seed)
    if not pairs.impostors:
        raise ValueError(f"{pairs.images} images hold no pair of strangers, so there is no false accept rate")
    counts = {"images": pairs.images, "people": pairs.people, "impostors": pairs.impostors, "genuine": pairs.genuine}
    possible = [f for f in far if allowed_accepts(f, pairs.impostors) >= 1]
    spare, found = SPARE, None
    while found is None:
        found = _found(pairs, possible, resamples, seed, spare)
        spare *= 2
    why = {
        f: f"needs at least {1 / f:,.0f} impostor pairs, and there are {pairs.impostors:,}"
        for f in far
        if f not in possible
    }
    none = {"value": None, "lo": None, "hi": None, "unit": "cosine"}
    return {**{f"threshold@{f:g}": found.get(f) or {**none, "reason": why[f]} for f in far}, **counts}


class _AllPairs:
    """Pairs of images, as blocks of similarities."""

    def __init__(
        self,
        embedding: ArrayLike | Tensor,
        person: ArrayLike,
        gallery: ArrayLike | Tensor | None,
        gallery_person: ArrayLike | None,
        seed: int,
    ) -> None:
        if (gallery is None) != (gallery_person is None):
            raise ValueError("a gallery comes with its people, and people with a gallery")
        if len(np.shape(person)) != 1 or np.shape(embedding)[:1] != np.shape(person):
            raise ValueError(f"one person per embedding: got {np.shape(embedding)} and {np.shape(person)}")
        if gallery is not None and np.shape(gallery)[:1] != np.shape(gallery_person):
            raise ValueError(f"one person per gallery image: got {np.shape(gallery)} and {np.shape(gallery_person)}")
        self.rows = unit_float32(embedding)
        self.columns = self.rows if gallery is None else unit_float32(gallery).to(self.rows.device)
        self.within, self.seed = gallery is None, seed
        both = [np.asarray(person)] if gallery_person is None else [np.asarray(person), np.asarray(gallery_person)]
        joined, self.people = group_positions(np.concatenate(both))
        self.person = joined[0][: len(self.rows)]
        self.other = self.person if self.within else joined[0][len(self.rows) :]
        self._sizes = [np.bincount(of, minlength=self.people).astype(np.float64) for of in (self.person, self.other)]
        self.images = len(self.rows) + (0 if self.within else len(self.columns))
        totals = self.totals(np.ones((self.people, 1)))
        self.impostors, self.genuine = (int(total[0]) for total in totals)

    def totals(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weight of all impostor and of all genuine pairs, (r,) each. counts: (people, r)."""
        a, b = self._sizes
        if self.within:
            return ((a @ counts) ** 2 - a**2 @ counts**2) / 2, (a * (a - 1) / 2) @ counts
        return (a @ counts) * (b @ counts) - (a * b) @ counts**2, (a * b) @ counts

    def walk(self, keepers: Sequence[_Keeper], genuine: _Keeper) -> None:
        """Show every pair once: impostors to all keepers, genuine pairs to theirs."""
        people, others = (torch.from_numpy(of).to(self.rows.device) for of in (self.person, self.other))
        step = max(1, BLOCK // len(self.columns))
        for begin in range(0, len(self.rows), step):
            first = begin if self.within else 0  # pairs with earlier images have been seen
            block = self.rows[begin : begin + step] @ self.columns[first:].T
            left, right = people[begin : begin + step], others[first:]
            flat = block.view(-1)
            if self.within:
                block.masked_fill_(torch.ones_like(block, dtype=torch.bool).tril_(), -torch.inf)  # seen, or itself
            mates = (left[:, None] == right).view(-1).nonzero()[:, 0]
            pairs = mates[flat[mates] > -torch.inf]
            genuine.add(flat[pairs], left[pairs // len(right)], right[pairs % len(right)])
            flat[mates] = -torch.inf
            for keeper in keepers:
                at = keeper.chosen(flat)
                keeper.add(flat[at], left[at // len(right)], right[at % len(right)])


class _Keeper:
    """The highest of the pairs that it is shown, or of a random share of them."""

    def __init__(self, room: int, share: float, seed: int) -> None:
        self.room, self.share = room, share
        self._cut, self._held = -np.inf, 0
        self._dropped = False  # something that was shown, and drawn, is not held
        self._kept: list[tuple[Tensor, ...]] = []
        self._generator = np.random.default_rng([seed, room])

    def chosen(self, flat: Tensor) -> Tensor:
        """Positions of the similarities (n,) that are worth adding; -inf stands for no pair."""
        if self.share == 1:
            at = (flat > self._cut).nonzero()[:, 0]
        else:
            at = torch.from_numpy(self._draw(len(flat))).to(flat.device)
            at = at[flat[at] > self._cut]
        if len(at) <= 2 * self.room:
            return at
        self._dropped = True
        return at[self._highest(flat[at])]

    def add(self, *pairs: Tensor) -> None:
        """pairs: similarity, and the person on either side, (n,) each."""
        self._kept.append(tuple(values.cpu() for values in pairs))
        self._held += len(pairs[0])
        if self._held > 4 * self.room:
            whole = self._joined()
            top = self._highest(whole[0])
            self._kept = [tuple(values[top] for values in whole)]
            self._held, self._cut, self._dropped = self.room, float(self._kept[0][0].min()), True

    def ranked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
        """Similarities falling, the people on either side, and whether all pairs that were drawn are there."""
        score, first, second = (values.numpy() for values in self._joined())
        order = np.argsort(-score, kind="stable")[: self.room]
        return score[order], first[order], second[order], self._held <= self.room and not self._dropped

    def _joined(self) -> tuple[Tensor, ...]:
        return tuple(torch.cat(values) for values in zip(*self._kept, strict=True))

    def _draw(self, many: int) -> np.ndarray:
        """Positions below `many`, each with the share's probability."""
        if self.share > 0.05:
            return np.flatnonzero(self._generator.random(many, np.float32) < self.share)
        steps = int(many * self.share + 10 * np.sqrt(many * self.share) + 100)
        at = np.cumsum(self._generator.geometric(self.share, steps)) - 1
        return at[at < many]

    def _highest(self, similarity: Tensor) -> Tensor:
        """Positions of as many as there is room for."""
        values = similarity.cpu().numpy()  # its partition is many times faster than topk on a CPU
        return torch.from_numpy(np.argpartition(-values, self.room)[: self.room]).to(similarity.device)


class _Thinned(_Keeper):
    """A random share of the genuine pairs, high and low."""

    def add(self, *pairs: Tensor) -> None:
        """pairs: as of _Keeper."""
        kept = torch.from_numpy(self._draw(len(pairs[0])))
        self._kept.append(tuple(values.cpu()[kept] for values in pairs))

    def drawn(self, people: int) -> Drawn | None:
        """The pairs kept; None without any."""
        score, first, second = (values.numpy() for values in self._joined())
        return Drawn(score.astype(np.float64), first, second, people) if len(score) else None


def _found(pairs: _AllPairs, far: Sequence[float], resamples: int, seed: int, spare: float) -> dict | None:
    """Figures by rate; None where a resample needs more impostors than were kept."""
    shares = {f: min(1.0, LIMIT / (f * pairs.impostors)) for f in far}
    keepers: dict[float, _Keeper] = {}
    for share in sorted(set(shares.values())):
        most = max(f for f in far if shares[f] == share) * pairs.impostors * share
        keepers[share] = _Keeper(int(spare * most) + 1000, share, seed)
    genuine = _Thinned(LIMIT, min(1.0, LIMIT / max(1, pairs.genuine)), seed)
    pairs.walk(list(keepers.values()), genuine)
    mates = genuine.drawn(pairs.people)
    ones = np.ones((pairs.people, 1))
    result: dict[float, dict] = {}
    for share, keeper in keepers.items():
        rates = np.array([f for f in far if shares[f] == share])
        score, first, second, complete = keeper.ranked()
        allowed = np.array([[allowed_accepts(f * share, pairs.impostors)] for f in rates])
        at = first_failing(ones, first, second, allowed)
        if not complete and (at == len(score)).any():
            return None
        drawn = _resample(pairs, mates, (score, first, second), rates * share, resamples, seed, complete)
        if drawn is None:
            return None
        for i, f in enumerate(rates):
            value = float(_least(score, at[i])[0])
            result[f] = {
                "value": value,
                **dict(zip(("lo", "hi"), intervals.interval(drawn[0][i]) if resamples else (None, None), strict=True)),
                "unit": "cosine",
                "far": float((score >= value).sum() / (share * pairs.impostors)),
                **_tar(mates, value, None if drawn[1] is None or not resamples else drawn[1][i]),
            }
    return result


def _tar(mates: Drawn | None, threshold: float, drawn: np.ndarray | None) -> dict[str, float | None]:
    if mates is None:
        return dict.fromkeys(("tar", "tar_lo", "tar_hi"))
    tar = float((mates.scores >= threshold).mean())
    lo, hi = (None, None) if drawn is None else intervals.bounds(tar, drawn, len(np.unique(mates.first)))
    return {"tar": tar, "tar_lo": lo, "tar_hi": hi}


def _resample(
    pairs: _AllPairs,
    mates: Drawn | None,
    ranked: tuple[np.ndarray, np.ndarray, np.ndarray],
    far: np.ndarray,
    resamples: int,
    seed: int,
    complete: bool,
) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Thresholds and TARs of resamples of people, (F, R) each; None where the ranked impostors do not suffice."""
    score, first, second = ranked
    found, tars = [], []
    for counts in intervals.draw_counts(np.random.default_rng(seed), pairs.people, resamples):
        weights = counts.T.astype(np.float64)
        impostors, genuine = pairs.totals(weights)[0], None if mates is None else mates.total(weights)
        whole = (impostors > 0) & (True if genuine is None else genuine > 0)  # few people: some hold no such pair
        weights = np.ascontiguousarray(weights[:, whole])
        place = first_failing(weights, first, second, np.floor(far[:, None] * impostors[whole] + 1e-9))
        if not complete and (place == len(score)).any():
            return None
        found.append(_least(score, place))
        if mates is not None:
            below = np.nextafter(found[-1], np.float32(-np.inf)).astype(np.float64)  # the threshold itself passes
            tars.append(mates.above(weights, below) / genuine[whole])  # type: ignore[index]
    none = np.empty((len(far), 0))
    return np.concatenate([none, *found], 1), np.concatenate([none, *tars], 1) if mates is not None else None


def _least(score: np.ndarray, failing: np.ndarray) -> np.ndarray:
    """The lowest similarity above that of the first impostor that may not pass; failing = their number if all may."""
    rises = -score
    below = np.append(rises, np.inf)[failing]
    last = np.searchsorted(rises, below, side="left") - 1  # ties of the first failing one do not pass either
    above_all = np.nextafter(score[:1], np.float32(np.inf), dtype=np.float32)
    return np.where(last >= 0, score[np.maximum(last, 0)], above_all)
