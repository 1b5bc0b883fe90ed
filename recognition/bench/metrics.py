"""What `tools/benchmark.py metrics` measures: TAR at FAR and folds by sorting, beside a loop over thresholds.

The loop is what reference programs do: at each threshold all pairs are compared with it, and those that pass are
counted. Both have to give the same answer, else the benchmark fails.
"""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recognition.evaluation.templates import IJB_FAR, tar_at_far
from recognition.evaluation.verification import allowed_accepts, check_folds, verify_scores

FOLDS = 10
GRID = np.arange(0, 4, 0.01)  # insightface's squared distances
FINE = np.arange(0, 4, 0.001)  # and those of its TAR at FAR 1e-3
WANTED = 20  # times as fast as the loop
SHORTEST = 0.05  # seconds that sorting is measured for at least


@dataclass(frozen=True)
class Loop:
    """What a loop over thresholds found, and how many thresholds it tried of how many there are."""

    answer: object
    tried: int
    whole: int
    aside: float = 0.0  # seconds of choosing which ones to try


Answer = Callable[[np.ndarray, np.ndarray], object]
By = Callable[[np.ndarray, np.ndarray, object, int], Loop]  # scores, same, what sorting answered, comparisons at most


def report(args: Namespace) -> list[str]:
    """Markdown: seconds of the loop and of sorting, and their ratio. args: pairs (sizes), most, repeats.

    most: comparisons of a pair with a threshold that a loop makes; where all thresholds take more, an even part of
    them is tried, with the one that sorting found and its neighbours, and the time is told for all. RuntimeError where
    the answers differ, ValueError for sizes below 100.
    """
    if min(args.pairs) < 10 * FOLDS:
        raise ValueError(f"--pairs {min(args.pairs)}: {FOLDS} folds take {10 * FOLDS} pairs at least")
    lines = [
        f"scores of pairs, half of them genuine; seconds of processor time, median of {args.repeats} (min - max); a "
        f"loop makes {args.most:,} comparisons at most, and is told for all thresholds",
        "",
        "| | pairs | thresholds | of them tried | loop, s | sorting, s | times as fast | same answer |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for pairs in args.pairs:
        scores, same = drawn(pairs)
        for name, (sort, loop) in TASKS.items():
            times: dict[str, list[float]] = {"loop": [], "sorting": []}
            sort(scores[: 10 * FOLDS], same[: 10 * FOLDS])  # what is loaded with a first call
            for _ in range(args.repeats):  # in turn, so that a busy machine slows them alike
                begin, runs = time.process_time(), 0
                while not runs or time.process_time() - begin < SHORTEST:
                    answer = sort(scores, same)
                    runs += 1
                times["sorting"].append((time.process_time() - begin) / runs)
                begin = time.process_time()
                found = loop(scores, same, answer, args.most)
                spent = time.process_time() - begin - found.aside
                times["loop"].append(spent * found.whole / found.tried)
                if found.answer != answer:
                    raise RuntimeError(f"{name}, {pairs} pairs: sorting says {answer}, the loop {found.answer}")
            ratio = statistics.median(times["loop"]) / statistics.median(times["sorting"])
            lines.append(
                f"| {name} | {pairs:,} | {found.whole:,} | {found.tried:,} | {_told(times['loop'])} | "
                f"{_told(times['sorting'])} | {ratio:,.0f}{'' if ratio >= WANTED else ' (!)'} | yes |"
            )
    return lines


def drawn(pairs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (P,) float64 on a grid of 1e-6, so that some are equal, and (P,) bool, which pairs are genuine."""
    generator = np.random.default_rng(seed)
    same = generator.random(pairs) < 0.5
    scores = np.where(same, generator.normal(0.4, 0.15, pairs), generator.normal(0, 0.08, pairs))
    return np.clip(scores, -1, 1).round(6), same


def counts(distance: np.ndarray, same: np.ndarray, thresholds: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Genuine and impostor pairs closer than each threshold, one threshold after the other."""
    different = ~same
    genuine, impostors = (np.empty(len(thresholds), np.int64) for _ in range(2))
    for i, threshold in enumerate(thresholds):
        accepted = distance < threshold
        genuine[i] = np.count_nonzero(accepted & same)
        impostors[i] = np.count_nonzero(accepted & different)
    return genuine, impostors


def tars(scores: np.ndarray, same: np.ndarray) -> object:
    """TAR and threshold at each of IJB's rates, by this project's rule: the largest FAR that is not above."""
    found = tar_at_far(scores, same)
    return [(at["conservative"], at["conservative_far"], at["threshold"]) for at in found.values()]


def tars_by_loop(scores: np.ndarray, same: np.ndarray, answer: object, most: int) -> Loop:
    """What `tars` says, from every distinct score as a threshold, or a part of them."""
    steps = np.unique(scores)
    steps = np.append(steps, np.nextafter(steps[-1], np.inf))  # nothing passes the last one
    at = np.searchsorted(steps, [threshold for *_, threshold in answer])
    tried = part_of(len(steps), most // len(scores), np.concatenate([at, at - 1]))
    genuine, impostors = counts(-scores, same, np.nextafter(-steps[tried], np.inf))  # score >= threshold
    known, strangers = int(same.sum()), int((~same).sum())
    found = []
    for far in IJB_FAR:
        i = np.flatnonzero(impostors <= allowed_accepts(far, strangers))[0]  # the lowest threshold
        found.append((genuine[i] / known, impostors[i] / strangers, float(steps[tried[i]])))
    return Loop(found, len(tried), len(steps))


def accuracy(scores: np.ndarray, same: np.ndarray) -> object:
    """Accuracy and threshold of each of 10 folds, every distinct score of the other folds a candidate."""
    found = verify_scores(scores, same, FOLDS, far=())
    return found["accuracy_per_fold"].tolist(), found["threshold_per_fold"].tolist()


def accuracy_by_loop(scores: np.ndarray, same: np.ndarray, answer: object, most: int) -> Loop:
    """What `accuracy` says."""
    fold = check_folds(FOLDS, same)[1]
    right, chosen, tried, whole = [], [], 0, 0
    for f, threshold in enumerate(answer[1]):
        rest = fold != f
        steps = np.unique(scores[rest])
        steps = np.append(steps, np.nextafter(steps[-1], np.inf))
        at = part_of(len(steps), most // len(scores) // FOLDS, np.searchsorted(steps, [threshold]))
        genuine, impostors = counts(-scores[rest], same[rest], np.nextafter(-steps[at], np.inf))
        chosen.append(float(steps[at[np.argmax(genuine - impostors)]]))  # of equally good ones the lowest
        right.append(float(((scores[~rest] >= chosen[-1]) == same[~rest]).mean()))
        tried, whole = tried + len(at), whole + len(steps)
    return Loop((right, chosen), tried, whole)


def insightface(scores: np.ndarray, same: np.ndarray) -> object:
    """Accuracy of each of 10 folds by insightface's thresholds, and its TAR at FAR 1e-3 over folds."""
    found = verify_scores(scores, same, FOLDS, far=(), rule="arcface_torch")
    return found["accuracy_per_fold"].tolist(), found["threshold_per_fold"].tolist(), found["val"], found["val_far"]


def insightface_by_loop(scores: np.ndarray, same: np.ndarray, answer: object, most: int) -> Loop:
    """What `insightface` says: its 400 thresholds on each fold's other folds, and 4,000 for the rate."""
    fold, distance = check_folds(FOLDS, same)[1], 2 - 2 * scores
    share = min(1.0, most / len(scores) / FOLDS / (len(GRID) + len(FINE)))
    right, chosen, val, tried, aside = [], [], [], 0, 0.0
    for f, threshold in enumerate(answer[1]):
        rest = fold != f
        begin, needed = time.process_time(), np.empty(0, np.int64)
        if share < 1:  # where FAR reaches 1e-3: the neighbours of that place are what is interpolated between
            far = np.searchsorted(np.sort(distance[rest & ~same]), FINE)
            needed = int(np.searchsorted(far, 1e-3 * (rest & ~same).sum())) + np.arange(-3, 3)
        aside += time.process_time() - begin
        at = part_of(len(GRID), int(share * len(GRID)), [np.abs(GRID - 2 + 2 * threshold).argmin()])
        fine = part_of(len(FINE), int(share * len(FINE)), needed)
        genuine, impostors = counts(distance[rest], same[rest], GRID[at])
        best = GRID[at[np.argmax(genuine - impostors)]]
        _, impostors = counts(distance[rest], same[rest], FINE[fine])
        rate = impostors / (rest & ~same).sum()
        limit = np.interp(1e-3, rate, FINE[fine]) if rate.max() >= 1e-3 else 0.0
        passed = distance[~rest] < limit
        val.append((passed[same[~rest]].mean(), passed[~same[~rest]].mean()))
        chosen.append(float((2 - best) / 2))
        right.append(float(((distance[~rest] < best) == same[~rest]).mean()))
        tried += len(at) + len(fine)
    means = [float(column.mean()) for column in np.array(val).T]
    return Loop((right, chosen, *means), tried, FOLDS * (len(GRID) + len(FINE)), aside)


TASKS: dict[str, tuple[Answer, By]] = {
    "TAR at 6 FARs, every score": (tars, tars_by_loop),
    "10 folds, every score": (accuracy, accuracy_by_loop),
    "10 folds and TAR, insightface's thresholds": (insightface, insightface_by_loop),
}


def part_of(count: int, most: int, needed: Sequence[int] | np.ndarray) -> np.ndarray:
    """Positions in 0 .. count - 1, rising: all of them, or about `most` evenly spaced ones and the needed ones."""
    if count <= most:
        return np.arange(count)
    even = np.linspace(0, count - 1, max(2, most)).astype(np.int64)
    return np.unique(np.clip(np.append(even, needed).astype(np.int64), 0, count - 1))


def _told(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.3g} ({min(seconds):.3g} - {max(seconds):.3g})"
