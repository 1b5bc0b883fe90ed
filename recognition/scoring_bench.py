"""What `tools/benchmark.py scoring` measures: benchmarks from embeddings to figures, on random ones of full size.

Each measurement is a process of its own, `python -m recognition.scoring_bench CASE PASS SCALE RESAMPLES THREADS`, so
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

import numpy as np
import torch
from torch import Tensor

from recognition.evaluation import identification
from recognition.evaluation.identification import DISTRACTOR
from recognition.evaluation.listed import Listed
from recognition.evaluation.protocol import Asked, Looked, Rules
from recognition.evaluation.protocols._templates import Shots, TemplatePairs, verification
from recognition.evaluation.protocols.survface import WatchList
from recognition.evaluation.retrieval import VIEW, Retrieval
from recognition.evaluation.templates import IJB_FAR
from recognition.machine import peak_memory

MOST = 2e9  # bytes that a whole process may take
PASSES = {"score": "the protocol", "intervals": "with intervals", "bare": "bare products"}
DIMENSIONS = 512
MEBI = 2**20
FRAMES = 4  # pictures of one medium in a random template
# what numbers go with 469,375 pictures of IJB-C, as (genuine, impostor) pairs
TEMPLATES, GENUINE, IMPOSTORS = 23_124, 19_557, 15_638_932


@dataclass(frozen=True)
class Case:
    """A benchmark of random embeddings."""

    about: str
    images: int
    score: Callable[[dict[str, Looked], Asked], object]
    bare: Callable[[Tensor], None]


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
        f"random embeddings of {DIMENSIONS} numbers, {args.threads} threads; the fastest of {args.repeats}; peak "
        "memory is the whole process's, embeddings and libraries included (before: these alone); the share is of CPU "
        "time, which a busy machine changes least",
        "",
        f"| | seconds | of CPU | of the bare products | peak MB | of which before | under {MOST / 1e9:g} GB |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for name in args.cases:
        found = {way: [] for way in PASSES}
        for _ in range(args.repeats):  # in turn, so that a busy machine slows them alike
            for way in PASSES:
                found[way].append(_fresh(name, way, args))
        fastest = {way: min(runs, key=lambda run: run["cpu"]) for way, runs in found.items()}
        limit = fastest["bare"]["cpu"]
        lines.append(f"| {CASES[name].about} | | | | | | |")
        for way, run in fastest.items():
            share = "limit" if way == "bare" else f"{100 * run['cpu'] / limit:.0f} %"
            peak = max(one["peak"] for one in found[way])
            lines.append(
                f"| {name}, {PASSES[way]} | {run['seconds']:.1f} | {run['cpu']:.1f} | {share} | {peak / 1e6:,.0f} | "
                f"{run['before'] / 1e6:,.0f} | {'yes' if peak < MOST else 'NO'} |"
            )
    return lines


def _fresh(name: str, way: str, args: Namespace) -> dict[str, float]:
    numbers = [str(n) for n in (args.scale, args.resamples, args.threads)]
    command = [sys.executable, "-m", "recognition.scoring_bench", name, way, *numbers]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{name}, {PASSES[way]} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def _measure(name: str, way: str, scale: int, resamples: int, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    case = CASES[name]
    embeddings = _random(case.images // scale)
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


def _ijbc(looked: dict[str, Looked], asked: Asked) -> object:
    generator = np.random.default_rng(0)
    count = len(looked[VIEW].embedding)
    templates = TEMPLATES * count // CASES["ijbc"].images
    person = np.arange(templates, dtype=np.int32) // 6
    weight = generator.uniform(0.5, 1, count).astype(np.float32)
    shots = Shots(
        (np.arange(count) * templates // count).astype(np.int32),
        np.arange(count) // FRAMES,
        np.arange(count),
        templates,
        weight,
    )
    genuine, impostors = (n * count // CASES["ijbc"].images for n in (GENUINE, IMPOSTORS))
    first = generator.integers(templates, size=genuine + impostors, dtype=np.int32)
    second = generator.integers(templates, size=genuine + impostors, dtype=np.int32)
    second[:genuine] = first[:genuine] // 6 * 6 + (first[:genuine] + 1) % 6
    second = np.minimum(second, templates - 1)
    same = np.arange(len(first)) < genuine
    made = shots.pooled(looked.pop(VIEW), shots.view(None), keep_norm=True)
    return verification(made, TemplatePairs(first, second, same, person), asked, IJB_FAR)


def _ijbc_bare(embeddings: Tensor) -> None:
    """One product of all templates with one another, in which every pair is; reading the embeddings once before it."""
    templates = TEMPLATES * len(embeddings) // CASES["ijbc"].images
    totals = torch.zeros(templates, DIMENSIONS)
    owner = torch.arange(len(embeddings)) * templates // len(embeddings)
    totals.index_add_(0, owner, embeddings)
    _products(totals, totals)


CASES = {
    "tinyface": Case(
        "TinyFace: 3,728 probes x 157,871, rank-K and mAP", 3728 + 4443 + 153428, _tinyface, _tinyface_bare
    ),
    "survface": Case(
        "QMUL-SurvFace: 182,159 probes x 60,294, TPIR@FPIR", 60294 + 60423 + 121736, _survface, _survface_bare
    ),
    "ijbc": Case("IJB-C: 469,375 pictures, 23,124 templates, 15,658,489 pairs", 469375, _ijbc, _ijbc_bare),
}


def main(argv: Sequence[str]) -> int:
    name, way, *numbers = argv
    print(json.dumps(_measure(name, way, *(int(n) for n in numbers))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
