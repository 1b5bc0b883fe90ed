"""What `tools/benchmark.py classifier` measures: updates of the classifier alone, and what they take in memory."""

from __future__ import annotations

import itertools
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from recognition import allocator, distributed
from recognition.bench.classifier_processes import scaling
from recognition.machine import device_free, memory_left, most_held, readable_size
from recognition.margins import MARGINS
from recognition.partial_fc import PartialFC
from recognition.partial_fc.blocks import BLOCK
from recognition.partial_fc.functions import multiply
from recognition.partial_fc.memory import FLOAT, estimate

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
BATCHES = 4  # different ones, in turn
LINEAR = "nn.Linear, cross_entropy"
LIMIT = "bare products"
HEAD_ROOM = 1.2
GIVEN_BACK = 1 << 25  # bytes, glibc's own largest threshold
COPIED_AT_ONCE = 1 << 26  # bytes
SAMPLE_SHARE = 10  # the smallest of --samples is compared with a tenth of its classes, the others with as many

Case = tuple[Callable[[], Iterator[int]], str]  # an endless iterator of images per update; the name of the limit

_peaks: dict[str, list[int]] = {}
_spent: dict[str, list[float]] = {}  # processor seconds of each update
_estimates: dict[str, int] = {}
_sums: dict[str, int] = {}  # bytes of weights, momentum, compared sub-matrix and logits
_batch: dict[str, int] = {}
_limits: dict[str, tuple[str, str]] = {}  # name of the bare products, and of those with the copies


@contextmanager
def cases(args: Namespace) -> Iterator[tuple[str, dict[str, Case]]]:
    """Forward, backward and SGD's step of class centres, on embeddings of noise that want a gradient.

    args: classes, rate, batch (lists, all of them with all), samples, processes, embedding, sampling, state, precision,
    no_linear, device. The limit are the three products that a step of the sample cannot do without, in the same
    precision, into memory that is there already; beside it the same with the copies of memory that no step gets
    round. nn.Linear with cross-entropy knows no samples; it is left out where its memory would not fit.
    ValueError for settings that no classifier takes.
    """
    if min(*args.classes, *args.batch, args.embedding, args.processes, *args.samples, 1) < 1:
        raise ValueError("--classes, --batch, --embedding, --processes and --samples must be 1 or more")
    world = distributed.start(args.device)
    allocator.give_back(GIVEN_BACK)  # memory is measured, too
    try:
        for kept in (_peaks, _spent, _estimates, _sums, _batch, _limits):
            kept.clear()
        about = [
            f"updates of classes x {args.embedding} on {world.device.type}, {torch.get_num_threads()} thread(s), "
            f"{args.precision}, sampling {args.sampling}, state {args.state}"
        ]
        found: dict[str, Case] = {}
        one = {"classes": min(args.classes), "batch": min(args.batch), "rate": min(args.rate)}
        several = len(args.classes) * len(args.batch) > 1
        for classes, batch in itertools.product(args.classes, args.batch):
            single = Namespace(**{**vars(args), **one, "classes": classes, "batch": batch})
            prefix = f"{classes:,} classes, {batch:,} images: " if several else ""
            about.append(f"{classes:,} classes, {batch:,} images")
            for rate in args.rate:
                here = Namespace(**{**vars(single), "rate": rate})
                found |= _of_rate(here, prefix, "" if len(args.rate) == 1 else f" of rate {rate:g}", world.device)
                about.append(f"rate {rate:g}, {_told(here)}")
            if not args.no_linear:
                limit = _limits[f"{prefix}partial FC, rate {args.rate[0]:g}"][0]
                found |= _of_linear(single, prefix, limit, about, world.device)
        if args.samples:
            found |= _of_samples(args, world.device)
        _warm_up(Namespace(**{**vars(args), **one}), world.device)
        yield "\n".join(about), found
    finally:
        distributed.stop()


def summary(args: Namespace, rates: Mapping[str, Sequence[float]]) -> list[str]:
    """Markdown: milliseconds of an update, peak memory beside its estimate, and how many times nn.Linear's rate.

    Processor time is what an update takes of the CPU whoever else is at work: of all threads, the median. Its ratios
    are to the bare products, and to those with the copies. "of the sum" is memory against weights, momentum, compared
    sub-matrix and logits.
    """
    medians = {name: statistics.median(values) for name, values in rates.items()}
    spent = {name: statistics.median(values) for name, values in _spent.items()}
    lines = [
        "| | ms an update | ms of processor time | of products | with copies | peak memory | estimate | of the sum "
        "| of nn.Linear's rate |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, peaks in _peaks.items():
        linear = name.rpartition(": ")[0] + (": " if ": " in name else "") + LINEAR
        ratio = f"{medians[name] / medians[linear]:.2f}" if linear in medians and name != linear else ""
        times = " | ".join(f"{spent[name] / spent[limit]:.2f}" for limit in _limits.get(name, ())) or " | "
        peak, memory = max(peaks), " | | "  # later repeats find memory that the first left
        if name in _estimates:
            memory = f"{readable_size(peak)} | {readable_size(_estimates[name])} ({peak / _estimates[name]:.2f}) | "
            memory += f"{peak / _sums[name]:.2f}" if name in _sums else ""
        wall = f"{1000 * _batch[name] / medians[name]:,.1f} | {1000 * spent[name]:,.1f}"
        lines.append(f"| {name} | {wall} | {times} | {memory} | {ratio} |")
    if args.processes > 1:
        lines += ["", *scaling(args)]
    return lines


def _of_rate(args: Namespace, prefix: str, suffix: str, device: torch.device) -> dict[str, Case]:
    """Rows of one sample rate: its limits, and the classifier."""
    ours, limit = f"{prefix}partial FC, rate {args.rate:g}", f"{prefix}{LIMIT}{suffix}"
    copying = f"{prefix}products, copies{suffix}"
    rows = max(1, round(args.rate * args.classes))
    compared, logits = rows * args.embedding, args.batch * rows
    _estimates[ours] = sum(_parts(args).values())
    kept = compared if args.state == "sampled" else args.classes * args.embedding
    _sums[ours] = FLOAT * (args.classes * args.embedding + kept + compared + logits)
    left = device_free() if device.type == "cuda" else memory_left()
    if _estimates[ours] * HEAD_ROOM > left:
        raise ValueError(f"this takes {readable_size(_estimates[ours])}, {readable_size(left)} are left")
    _limits[ours] = limit, copying
    works = {limit: _products, copying: partial(_products, copies=True), ours: _updates}
    found = {}
    for name, work in works.items():
        _batch[name] = args.batch
        found[name] = partial(_measured, name, partial(work, args, device), device), limit
    return found


def _of_linear(args: Namespace, prefix: str, limit: str, about: list[str], device: torch.device) -> dict[str, Case]:
    name, centres, logits = prefix + LINEAR, args.classes * args.embedding, args.batch * args.classes
    size = FLOAT * max(4 * centres, 3 * centres + 3 * logits)
    left = device_free() if device.type == "cuda" else memory_left()
    if size * HEAD_ROOM > left:
        about.append(f"{name}: left out, as it would take {readable_size(size)}")
        return {}
    _estimates[name], _batch[name] = size, args.batch
    return {name: (partial(_measured, name, partial(_linear, args, device), device), limit)}


def _of_samples(args: Namespace, device: torch.device) -> dict[str, Case]:
    """SGD's step on samples of one size, out of ever more classes."""
    rows, found, first = max(1, min(args.samples) // SAMPLE_SHARE), {}, ""
    for classes in args.samples:
        name = f"step of {rows:,} centres out of {classes:,}"
        first, _batch[name] = first or name, rows
        found[name] = partial(_measured, name, partial(steps, classes, rows, args.embedding, device), device), first
    return found


def _parts(args: Namespace) -> dict[str, int]:
    return estimate(args.classes, args.embedding, args.batch, sample_rate=args.rate, state=args.state)


def _told(args: Namespace) -> str:
    return "estimate: " + ", ".join(f"{name} {readable_size(size)}" for name, size in _parts(args).items())


def _warm_up(args: Namespace, device: torch.device) -> None:
    """What torch loads with the first update is not the classifier's memory."""
    small = Namespace(**{**vars(args), "classes": 256})
    for work in (_updates(small, device), _linear(small, device), _products(small, device)):
        next(work), next(work)
        work.close()


def _measured(name: str, work: Callable[[], Iterator[int]], device: torch.device) -> Iterator[int]:
    """The same work; its processor time, and how much memory it took at most, are kept."""
    before = most_held(device, reset=True)
    updates, spent = work(), _spent.setdefault(name, [])
    try:
        next(updates)  # builds, and allocates
        while True:
            begin = time.process_time()
            units = next(updates)
            spent.append(time.process_time() - begin)
            yield units
    finally:
        _peaks.setdefault(name, []).append(most_held(device) - before)
        updates.close()


def _batches(args: Namespace, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(args.batch, args.embedding, generator=draw).to(device).requires_grad_(),
            torch.randint(args.classes, (args.batch,), generator=draw).to(device),
        )
        for _ in range(BATCHES)
    ]


def _updates(args: Namespace, device: torch.device) -> Iterator[int]:
    classifier = PartialFC(
        args.embedding,
        args.classes,
        MARGINS.create("cosface"),
        args.rate,
        sampling=args.sampling,
        state=args.state,
        precision=args.precision,
    ).to(device)
    optimizer = torch.optim.SGD(classifier.parameters(), **SGD)
    classifier.bind(optimizer)
    batches, step, size, rank = _batches(args, device), 0, distributed.world_size(), distributed.global_rank()
    batches = [(e.detach().chunk(size)[rank].clone().requires_grad_(), y.chunk(size)[rank]) for e, y in batches]
    while True:
        embedding, label = batches[step % BATCHES]
        loss = classifier(embedding, label, step=step)
        yield size * _finish(loss, optimizer, embedding)
        step += 1


def steps(classes: int, rows: int, size: int, device: torch.device) -> Iterator[int]:
    """SGD's step on centres whose gradient has some of the rows; how many these are, again and again."""
    classifier = PartialFC(size, classes, MARGINS.create("cosface"), rows / classes).to(device)
    optimizer = torch.optim.SGD(classifier.parameters(), **SGD)
    classifier.bind(optimizer)
    draw = torch.Generator().manual_seed(0)
    places = torch.randperm(classes, generator=draw)[:rows].sort().values.to(device)
    values = torch.randn(rows, size, generator=draw).to(device)
    while True:
        classifier.weight.grad = torch.sparse_coo_tensor(
            places[None], values, classifier.weight.shape, is_coalesced=True, check_invariants=False
        )
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        yield rows


def _linear(args: Namespace, device: torch.device) -> Iterator[int]:
    layer = nn.Linear(args.embedding, args.classes, bias=False, device=device)
    optimizer = torch.optim.SGD(layer.parameters(), **SGD)
    batches, step = _batches(args, device), 0
    while True:
        embedding, label = batches[step % BATCHES]
        yield _finish(nn.functional.cross_entropy(layer(embedding), label), optimizer, embedding)
        step += 1


def _finish(loss: Tensor, optimizer: torch.optim.Optimizer, embedding: Tensor) -> int:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    embedding.grad = None
    if not loss.isfinite():  # waits for the device, as training does
        raise AssertionError("noise of this size has a finite loss")
    return len(embedding)


@torch.no_grad()
def _products(args: Namespace, device: torch.device, copies: bool = False) -> Iterator[int]:
    """copies: and what must be moved beside: SGD reads and writes centres and momentum and reads the gradient, the
    softmax and its gradient read and write the logits once each. Sampled rows are gathered and written back.
    """
    low, rows = args.precision == "bf16", max(1, round(args.rate * args.classes))
    embedding = _batches(args, device)[0][0].detach()
    centres = torch.randn(rows, args.embedding, device=device)
    logits, of_centres = torch.empty(args.batch, rows, device=device), torch.empty_like(centres)
    of_embedding = torch.empty_like(embedding)
    move = _moves(args.classes, rows, args.embedding, args.batch, device) if copies else None
    while True:
        multiply(embedding, centres.T, low, out=logits)
        multiply(logits, centres, low, out=of_embedding)
        multiply(logits.T, embedding, low, out=of_centres)
        if move is not None:
            move()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        yield args.batch


def _moves(classes: int, rows: int, columns: int, batch: int, device: torch.device) -> Callable[[], None]:
    """Bare copies of the bytes that an update moves beside its products; of sampled rows by their places."""
    sampled = rows < classes
    size = FLOAT * rows * (2 * batch + (columns // 2 if sampled else 5 * columns // 2))
    source, target = (torch.zeros(min(size, COPIED_AT_ONCE), dtype=torch.uint8, device=device) for _ in range(2))
    matrix = torch.zeros(classes if sampled else 0, columns, device=device)
    block = matrix.new_empty(min(rows, BLOCK // (FLOAT * columns)), columns)
    places = [torch.randperm(classes)[:rows].sort().values.to(device) for _ in range(2 if sampled else 0)]

    def move() -> None:
        for start in range(0, size, COPIED_AT_ONCE):
            target[: size - start].copy_(source[: size - start])
        for place in places:  # of centres and of momentum
            for part in place.split(max(1, len(block))):
                torch.index_select(matrix, 0, part, out=block[: len(part)])
                matrix.index_copy_(0, part, block[: len(part)])

    return move
