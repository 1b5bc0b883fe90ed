"""The classifier on several processes of this machine, beside one: images/s, and what communication takes of them."""

from __future__ import annotations

import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

ROOT = Path(__file__).parents[2]
WARM_UP = 2  # updates


def scaling(args: Namespace) -> list[str]:
    """Markdown: updates of the same global batch by one process and by args.processes, each with a share of the
    classes and one thread, in turn.

    Efficiency is the rate by the number of processes times that of one. Communication is the share of a process's time
    in collectives, waiting for the others included. ValueError where a process fails.
    """
    lines = [
        f"| on processes of one thread each | images/s of 1 | of {args.processes} | efficiency | communication |",
        "|---|---:|---:|---:|---:|",
    ]
    for classes, batch, rate in itertools.product(args.classes, args.batch, args.rate):
        one = {**vars(args), "classes": classes, "batch": batch, "rate": rate, "device": "cpu"}
        one.pop("subject", None)
        found: dict[int, list[dict[str, float]]] = {1: [], args.processes: []}
        for size in [*found] * args.repeats:
            found[size].append(_together(size, one))
        alone, several = (statistics.median(r["rate"] for r in found[size]) for size in found)
        spoken = statistics.median(r["communication"] for r in found[args.processes])
        lines.append(
            f"| {classes:,} classes, {batch:,} images, rate {rate:g} | {alone:,.0f} | {several:,.0f} | "
            f"{100 * several / alone / args.processes:.0f} % | {100 * spoken:.0f} % |"
        )
    return lines


def _together(size: int, one: dict) -> dict[str, float]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "recognition.bench.classifier_processes", json.dumps(one)]
    workers = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    said = [worker.communicate() for worker in workers]
    for worker, (_, errors) in zip(workers, said, strict=True):
        if worker.returncode:
            raise ValueError(f"a process of the benchmark failed: {errors.strip()[-500:]}")
    found = [json.loads(output.splitlines()[-1]) for output, _ in said]
    return {
        "rate": min(one["rate"] for one in found),
        "communication": statistics.mean(one["communication"] for one in found),
    }


class _Watch:
    """How long collectives take."""

    def __init__(self) -> None:
        self.seconds = 0.0
        for name in ("all_reduce", "all_gather"):
            setattr(dist, name, self._timed(getattr(dist, name)))

    def _timed(self, collective: Callable) -> Callable:
        def call(*arguments, **named):
            begin = time.perf_counter()
            try:
                return collective(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - begin

        return call


def work(one: dict) -> dict[str, float]:
    """What one of the processes does and finds."""
    from recognition import distributed
    from recognition.bench.classifier import _updates

    world = distributed.start("cpu")
    watch, args = _Watch(), Namespace(**one)
    updates = _updates(args, world.device)
    for _ in range(WARM_UP):
        next(updates)
    dist.barrier()
    begin, watch.seconds, images, goes_on = time.perf_counter(), 0.0, 0, True
    while goes_on:
        images += next(updates)
        elapsed = time.perf_counter() - begin
        goes_on = not distributed.any_process(elapsed >= args.seconds)
    elapsed = time.perf_counter() - begin
    updates.close()
    del updates
    distributed.stop()
    return {"rate": images / elapsed, "communication": watch.seconds / elapsed}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(work(json.loads(sys.argv[1]))))
