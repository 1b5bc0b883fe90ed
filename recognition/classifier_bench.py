"""What `tools/benchmark.py classifier` measures: updates of the classifier alone, and what they take in memory."""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from recognition import distributed
from recognition.machine import device_free, memory_left, peak_memory, readable_size
from recognition.margins import MARGINS
from recognition.partial_fc import PartialFC
from recognition.partial_fc.functions import multiply
from recognition.partial_fc.memory import FLOAT, estimate

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
BATCHES = 4  # different ones, in turn
LINEAR = "nn.Linear, cross_entropy"
LIMIT = "bare products"
HEAD_ROOM = 1.2

Case = tuple[Callable[[], Iterator[int]], str]  # an endless iterator of images per update; the name of the limit

_peaks: dict[str, list[int]] = {}
_spent: dict[str, list[float]] = {}  # processor seconds of each update
_estimates: dict[str, int] = {}


@contextmanager
def cases(args: Namespace) -> Iterator[tuple[str, dict[str, Case]]]:
    """Forward, backward and SGD's step of class centres, on embeddings of noise that want a gradient.

    args: classes, rate, embedding, batch, sampling, state, precision, no_linear, device. The limit are the three
    products that a step of the sample cannot do without, in the same precision, into memory that is there already.
    nn.Linear with cross-entropy knows no samples; it is left out where its memory would not fit.
    ValueError for settings that no classifier takes.
    """
    if args.classes < 1 or args.batch < 1 or args.embedding < 1:
        raise ValueError("--classes, --batch and --embedding must be 1 or more")
    world = distributed.start(args.device)
    try:
        _peaks.clear(), _spent.clear(), _estimates.clear()
        ours = f"partial FC, rate {args.rate:g}"
        parts = estimate(args.classes, args.embedding, args.batch, sample_rate=args.rate, state=args.state)
        _estimates[ours] = sum(parts.values())
        left = device_free() if world.device.type == "cuda" else memory_left()
        if _estimates[ours] * HEAD_ROOM > left:
            raise ValueError(f"this takes {readable_size(_estimates[ours])}, {readable_size(left)} are left")
        about = [
            f"updates of {args.classes:,} classes x {args.embedding}: {args.batch} images on {world.device.type}, "
            f"{torch.get_num_threads()} thread(s), {args.precision}, sampling {args.sampling}, state {args.state}",
            "estimate: " + ", ".join(f"{name} {readable_size(size)}" for name, size in parts.items()),
        ]
        found: dict[str, Case] = {
            LIMIT: (partial(_measured, LIMIT, partial(_products, args, world.device), world.device), LIMIT),
            ours: (partial(_measured, ours, partial(_updates, args, world.device), world.device), LIMIT),
        }
        centres, logits = args.classes * args.embedding, args.batch * args.classes
        _estimates[LINEAR] = FLOAT * max(4 * centres, 3 * centres + 3 * logits)
        if not args.no_linear and _estimates[LINEAR] * HEAD_ROOM > left:
            about.append(f"{LINEAR}: left out, as it would take {readable_size(_estimates[LINEAR])}")
        elif not args.no_linear:
            found[LINEAR] = partial(_measured, LINEAR, partial(_linear, args, world.device), world.device), LIMIT
        _warm_up(args, world.device)
        yield "\n".join(about), found
    finally:
        distributed.stop()


def summary(args: Namespace, rates: Mapping[str, Sequence[float]]) -> list[str]:
    """Markdown: milliseconds of an update, peak memory beside its estimate, and how many times nn.Linear's rate.

    Processor time is what an update takes of the CPU whoever else is at work: of all threads, the median.
    """
    medians = {name: statistics.median(values) for name, values in rates.items()}
    lines = [
        "| | ms an update | ms of processor time | peak memory | estimate | of nn.Linear's rate |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, peaks in _peaks.items():
        ratio = f"{medians[name] / medians[LINEAR]:.2f}" if LINEAR in medians and name != LINEAR else ""
        spent = f"{1000 * args.batch / medians[name]:,.1f} | {1000 * statistics.median(_spent[name]):,.1f}"
        if name not in _estimates:
            lines.append(f"| {name} | {spent} | | | {ratio} |")
            continue
        peak, wanted = max(peaks), _estimates[name]  # later repeats find memory that the first left
        lines.append(
            f"| {name} | {spent} | {readable_size(peak)} | {readable_size(wanted)} ({peak / wanted:.2f}) | {ratio} |"
        )
    return lines


def _warm_up(args: Namespace, device: torch.device) -> None:
    """What torch loads with the first update is not the classifier's memory."""
    small = Namespace(**{**vars(args), "classes": 256})
    for work in (_updates(small, device), _linear(small, device), _products(small, device)):
        next(work), next(work)
        work.close()


def _measured(name: str, work: Callable[[], Iterator[int]], device: torch.device) -> Iterator[int]:
    """The same work; its processor time, and how much memory it took at most, are kept."""
    before = _memory(device, reset=True)
    updates, spent = work(), _spent.setdefault(name, [])
    try:
        next(updates)  # builds, and allocates
        while True:
            begin = time.process_time()
            units = next(updates)
            spent.append(time.process_time() - begin)
            yield units
    finally:
        _peaks.setdefault(name, []).append(_memory(device) - before)
        updates.close()


def _memory(device: torch.device, *, reset: bool = False) -> int:
    """Most bytes held since the last reset; reset: begin anew, and those held now."""
    if device.type == "cuda":
        if reset:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


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
    batches, step = _batches(args, device), 0
    while True:
        embedding, label = batches[step % BATCHES]
        loss = classifier(embedding, label, step=step)
        yield _finish(loss, optimizer, embedding)
        step += 1


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
def _products(args: Namespace, device: torch.device) -> Iterator[int]:
    low, rows = args.precision == "bf16", max(1, round(args.rate * args.classes))
    embedding = _batches(args, device)[0][0].detach()
    centres = torch.randn(rows, args.embedding, device=device)
    while True:
        logits = multiply(embedding, centres.T, low)
        of_embedding = multiply(logits, centres, low)
        of_centres = multiply(logits.T, embedding, low)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        del logits, of_embedding, of_centres
        yield args.batch
