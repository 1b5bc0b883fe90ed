"""What `tools/benchmark.py scoring` measures: benchmarks from embeddings to figures, on drawn ones of full size.

Each measurement is a process of its own, `python -m recognition.bench.scoring CASE PASS SCALE RESAMPLES THREADS`, so
that its peak is nobody else's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from recognition.bench.limits import copies
from recognition.evaluation import identification
from recognition.evaluation.identification import DISTRACTOR
from recognition.evaluation.listed import Listed
from recognition.evaluation.protocol import Asked, Looked, Rules
from recognition.evaluation.protocols._templates import Shots, TemplatePairs, Templates, verification
from recognition.evaluation.protocols.survface import WatchList
from recognition.evaluation.retrieval import VIEW, Retrieval
from recognition.evaluation.templates import IJB_FAR
from recognition.machine import peak_memory

MOST = 2e9  # bytes that a whole process may take
PASSES = {"score": "the protocol", "intervals": "with intervals"}
DIMENSIONS = 512
TINY = 400  # a case whose size is divided by this is done at once
FRAMES = 4  # pictures of one medium in a random template
# of IJB-C: how many templates, which of them stand in the galleries, and pairs of such a one with a probe
PICTURES, TEMPLATES, ENROLLED, GENUINE, IMPOSTORS = 469_375, 23_124, 3_531, 19_557, 15_638_932
ALIKE = (0.05, 0.45)  # cosines of a probe and its mate; the best of 157,871 strangers has 0.2, so most come first
SAME = (0.7, 0.95)  # and those of two gallery pictures of one person


@dataclass(frozen=True)
class Case:
    """A benchmark of drawn embeddings."""

    about: str
    images: int
    score: Callable[[dict[str, Looked], Asked], object]
    bare: Callable[[Tensor], None]
    prepare: Callable[[Tensor], object] = lambda embeddings: None  # before it is measured: what is no noise, and lists
    passes: tuple[str, ...] = tuple(PASSES)
    limit: str = "bare products"


class Rows(Listed):
    """Pictures that are all there, known by their rows alone."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.failed = rows, np.zeros(len(rows), bool)
        self.images = []


def report(args: Namespace) -> list[str]:
    """Markdown: seconds, seconds of CPU, peak memory and what is beyond the bare products, of each case and pass.

    args: cases, repeats, scale (the size's divisor), resamples, threads. ValueError for a case that fails.
    """
    lines = [
        f"drawn embeddings of {DIMENSIONS} numbers, {args.threads} threads; the fastest of {args.repeats}; peak "
        "memory is the whole process's, embeddings and libraries included (before: these alone); the share is of CPU "
        "time, which a busy machine changes least",
        "",
        f"| | seconds | of CPU | of the limit | peak MB | of which before | under {MOST / 1e9:g} GB |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for name in args.cases:
        case = CASES[name]
        found = {way: [] for way in (*case.passes, "bare")}
        for _ in range(args.repeats):  # in turn, so that a busy machine slows them alike
            for way in found:
                found[way].append(_fresh(name, way, args))
        fastest = {way: min(runs, key=lambda run: run["cpu"]) for way, runs in found.items()}
        limit = fastest["bare"]["cpu"]
        lines.append(f"| {case.about} | | | | | | |")
        for way, run in fastest.items():
            share = "limit" if way == "bare" else f"{100 * run['cpu'] / limit:.0f} %"
            peak = max(one["peak"] for one in found[way])
            label = PASSES.get(way, case.limit)
            lines.append(
                f"| {name}, {label} | {run['seconds']:.1f} | {run['cpu']:.1f} | {share} | {peak / 1e6:,.0f} | "
                f"{run['before'] / 1e6:,.0f} | {'yes' if peak < MOST else 'NO'} |"
            )
    return lines


def _fresh(name: str, way: str, args: Namespace) -> dict[str, float]:
    numbers = [str(n) for n in (args.scale, args.resamples, args.threads)]
    command = [sys.executable, "-m", "recognition.bench.scoring", name, way, *numbers]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(
            f"{name}, {PASSES.get(way, CASES[name].limit)} ended with {done.returncode}: {done.stderr.strip()[-500:]}"
        )
    return json.loads(done.stdout)


def _measure(name: str, way: str, scale: int, resamples: int, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    case = CASES[name]
    case.score({VIEW: Looked(_random(case.images // TINY))}, Asked(resamples=2))  # what is loaded with a first call
    embeddings = _random(case.images // scale)
    case.prepare(embeddings)
    before, begin, spent = peak_memory(), time.perf_counter(), time.process_time()
    if way == "bare":
        case.bare(embeddings)
    else:
        looked = {VIEW: Looked(embeddings)}
        del embeddings  # whoever scores them may let them go
        case.score(looked, Asked(resamples=resamples if way == "intervals" else 0))
    seconds, cpu = time.perf_counter() - begin, time.process_time() - spent
    return {"seconds": seconds, "cpu": cpu, "peak": peak_memory(), "before": before}


def _random(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.empty(count, DIMENSIONS)
    for part in embeddings.split(4096):
        part.normal_(generator=generator)
    return embeddings


def _shares(count: int, *sizes: int) -> list[np.ndarray]:
    """Rows of `count` embeddings in parts whose sizes are as these."""
    ends = np.cumsum(sizes) * count // sum(sizes)
    return [np.arange(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


def _products(probe: Tensor, gallery: Tensor) -> None:
    """The bare products of a search: as many probes at a time, into the same room."""
    step = max(1, identification.BLOCK // len(gallery))
    room = gallery.new_empty(min(step, len(probe)), len(gallery))
    for block in probe.split(step):
        torch.mm(block, gallery.T, out=room[: len(block)])


def _near(embeddings: Tensor, probes: np.ndarray, mates: np.ndarray, alike: tuple[float, float] = ALIKE) -> None:
    """Turn probes, in place, so that each has about such a cosine to its mate. probes, mates: (n,) rows."""
    generator = torch.Generator().manual_seed(1)
    for some, others in zip(torch.from_numpy(probes).split(4096), torch.from_numpy(mates).split(4096), strict=True):
        cosine = torch.empty(len(some), 1).uniform_(*alike, generator=generator)
        embeddings[some] = cosine * embeddings[others] + (1 - cosine**2).sqrt() * embeddings[some]


def _tinyface_drawn(embeddings: Tensor) -> None:
    probes, gallery, _ = _shares(len(embeddings), 3728, 4443, 153428)
    people = max(1, len(gallery) * 2569 // 4443)
    _near(embeddings, gallery[people:], gallery[np.arange(people, len(gallery)) % people], SAME)
    _near(embeddings, probes, gallery[np.arange(len(probes)) % people])


def _survface_drawn(embeddings: Tensor) -> None:
    gallery, mated, _ = _shares(len(embeddings), 60294, 60423, 121736)
    people = max(1, len(gallery) // 20)
    _near(embeddings, gallery[people:], gallery[np.arange(people, len(gallery)) % people], SAME)
    _near(embeddings, mated, gallery[np.arange(len(mated)) % people])


def _tinyface(looked: dict[str, Looked], asked: Asked) -> object:
    probes, gallery, others = _shares(len(looked[VIEW].embedding), 3728, 4443, 153428)
    people = max(1, len(gallery) * 2569 // 4443)
    labels = np.append(np.arange(len(gallery)) % people, np.full(len(others), DISTRACTOR))
    protocol = Retrieval(
        Rules("random"),
        Rows(probes),
        np.arange(len(probes)) % people,
        Rows(np.append(gallery, others)),
        labels,
        {"identification": np.ones(len(probes), bool)},
        precision=True,
    )
    return protocol.measure(looked, asked)


def _tinyface_bare(embeddings: Tensor) -> None:
    probes, _ = _shares(len(embeddings), 3728, 4443 + 153428)
    _products(embeddings[: len(probes)], embeddings[len(probes) :])


def _survface(looked: dict[str, Looked], asked: Asked) -> object:
    gallery, mated, unmated = _shares(len(looked[VIEW].embedding), 60294, 60423, 121736)
    people = max(1, len(gallery) // 20)
    watched = WatchList(
        Rows(gallery),
        np.arange(len(gallery)) % people,
        Rows(mated),
        np.arange(len(mated)) % people,
        Rows(unmated),
        people + np.arange(len(unmated)) // 17,
    )
    return watched.measure(looked[VIEW], asked)


def _survface_bare(embeddings: Tensor) -> None:
    gallery, _ = _shares(len(embeddings), 60294, 60423 + 121736)
    _products(embeddings[len(gallery) :], embeddings[: len(gallery)])


@cache
def _shots(count: int) -> tuple[Shots, np.ndarray]:
    """So many pictures in templates, and (T,) whose template each is; the first templates are the galleries'."""
    templates = TEMPLATES * count // PICTURES
    enrolled = max(2, ENROLLED * templates // TEMPLATES)
    shots = Shots(
        (np.arange(count) * templates // count).astype(np.int32),
        np.arange(count) // FRAMES,
        np.arange(count),
        templates,
        np.random.default_rng(0).uniform(0.5, 1, count).astype(np.float32),
    )
    return shots, (np.arange(templates) % enrolled).astype(np.int32)


@cache
def _pairs(count: int) -> TemplatePairs:
    """As many pairs as go with so many pictures, of a gallery's template and a probe's each, in no order."""
    generator, person = np.random.default_rng(0), _shots(count)[1]
    enrolled, templates = int(person.max()) + 1, len(person)
    genuine, impostors = (max(2, n * count // PICTURES) for n in (GENUINE, IMPOSTORS))
    first = generator.integers(enrolled, size=genuine + impostors, dtype=np.int32)
    second = generator.integers(enrolled, templates, size=genuine + impostors, dtype=np.int32)
    chosen = generator.choice(len(first), genuine, replace=False)
    first[chosen] = person[second[chosen]]
    return TemplatePairs(first, second, person[first] == person[second], person)


def _pooled(looked: dict[str, Looked], asked: Asked) -> Templates:
    shots, _ = _shots(len(looked[VIEW].embedding))
    return shots.pooled(looked.pop(VIEW), shots.view(None), keep_norm=True)


def _reading(embeddings: Tensor) -> None:
    next(copies(embeddings.nbytes, 1, embeddings.device))


def _ijbc(looked: dict[str, Looked], asked: Asked) -> object:
    count = len(looked[VIEW].embedding)
    return verification(_pooled(looked, asked), _pairs(count), asked, IJB_FAR)


def _ijbc_bare(embeddings: Tensor) -> None:
    """One product of all the galleries' templates with all the probes'; a copy of the embeddings before it."""
    _reading(embeddings)
    person = _shots(len(embeddings))[1]
    enrolled = int(person.max()) + 1
    _products(*embeddings[: len(person)].split([enrolled, len(person) - enrolled]))


CASES = {
    "tinyface": Case(
        "TinyFace: 3,728 probes x 157,871, rank-K and mAP",
        3728 + 4443 + 153428,
        _tinyface,
        _tinyface_bare,
        _tinyface_drawn,
    ),
    "survface": Case(
        "QMUL-SurvFace: 182,159 probes x 60,294, TPIR@FPIR",
        60294 + 60423 + 121736,
        _survface,
        _survface_bare,
        _survface_drawn,
    ),
    "ijbc": Case(
        "IJB-C: 469,375 pictures, 23,124 templates, 15,658,489 pairs",
        PICTURES,
        _ijbc,
        _ijbc_bare,
        lambda embeddings: _pairs(len(embeddings)),
    ),
    "pooling": Case(
        "of it, pooling alone: 469,375 pictures to 23,124 templates",
        PICTURES,
        _pooled,
        _reading,
        lambda embeddings: _shots(len(embeddings)),
        passes=("score",),
        limit="bare copy of the embeddings",
    ),
}


def main(argv: Sequence[str]) -> int:
    name, way, *numbers = argv
    print(json.dumps(_measure(name, way, *(int(n) for n in numbers))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
