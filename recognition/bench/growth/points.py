"""Processes that do pieces of work when they are asked, started from one that has imported everything."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import statistics
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import torch

from recognition.backbones import BACKBONES
from recognition.bench.growth import work
from recognition.data.recordio import Header, RecordWriter, pack
from recognition.weights import write_weights

PATIENCE = 300  # seconds that a process has for a piece, before it is given up
RECIPE = """
from easydict import EasyDict as edict
config = edict()
config.data = edict(workers=0)
config.optim = edict(name="sgd", lr=1e-6)
config.train = edict(device={device!r})
"""


@dataclass
class Point:
    """A measured place of a curve. seconds, processor: of each piece of work. memory, predicted: bytes."""

    x: float
    units: float = 1
    flops: float = 0
    memory: int = 0
    predicted: int = 0
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds of processor time of a piece, which others at work change least."""
        return statistics.median(self.processor)


class Pool:
    """Starts the processes of points, from a warm one, and asks them for pieces of work."""

    def __init__(self, args: Namespace, place: Path) -> None:
        self.args, self.place = args, place
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([work.__name__])
        self._rate = 0.0
        (place / "recipe.py").write_text(RECIPE.format(device=args.device))

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def rate(self) -> float:
        """Floating-point operations a second of the bare products, of one thread's processor time."""
        if not self._rate:
            point = self.measure([(0.0, {"kind": "limit"})], memory=False)[0]
            self._rate = point.flops / point.median
        return self._rate

    def measure(self, specs: Sequence[tuple[float, dict]], *, memory: bool = True, time: bool = True) -> list[Point]:
        """A point for each (x, spec): seconds of --repeats pieces, taken in turn, and the most memory of a process."""
        points = []
        for x, spec in specs:
            point = Point(x)
            if memory:
                with self._started(spec, tight=True) as group:
                    told, held = zip(*(_hear(pipe) for pipe in group), strict=True)
                    point.memory = max(held)
                    point.predicted = sum(told[0].get("predicted", {}).values())
            points.append(point)
        if not time:
            return points
        with contextlib.ExitStack() as stack:
            groups = [stack.enter_context(self._started(spec, tight=False)) for _, spec in specs]
            for point, group in zip(points, groups, strict=True):
                told = [_hear(pipe)[0] for pipe in group]
                point.units, point.flops = told[0]["units"], told[0].get("flops", 0)
            for _ in range(self.args.repeats):
                for point, group in zip(points, groups, strict=True):
                    for pipe in group:
                        pipe.send("a piece")
                    wall, processor = zip(*(_hear(pipe) for pipe in group), strict=True)
                    point.seconds.append(max(wall))
                    point.processor.append(sum(processor))
        return points

    @contextlib.contextmanager
    def _started(self, spec: dict, tight: bool) -> Iterator[list[Connection]]:
        whole = {"processes": 1, "device": self.args.device, "tight": tight, **spec}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        pipes, processes = [], []
        for rank in range(whole["processes"]):
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=work.serve, args=(theirs, rank, port, whole), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        try:
            yield pipes
            for pipe in pipes:
                pipe.send("")
            for process in processes:
                process.join(PATIENCE)
        finally:
            for process in processes:
                process.kill()
            for pipe in pipes:
                pipe.close()

    def recipe(self, backbone: str, adapter: str, classes: int, rate: float = 1.0) -> dict:
        """What a steps' spec says besides its batch: a recipe over a small record file, and base weights."""
        records, weights = self.place / f"classes_{classes}.rec", self.place / f"{backbone}.safetensors"
        if not records.exists():
            picture = cv2.imencode(".jpg", np.full((112, 112, 3), 127, np.uint8))[1].tobytes()
            with RecordWriter(records) as writer:
                for key in range(8):
                    writer.write(
                        key, pack(Header(0, float(key % classes if key < 7 else classes - 1), key, 0), picture)
                    )
        if not weights.exists():
            torch.manual_seed(0)
            write_weights(weights, BACKBONES.create(backbone).state_dict(), {})
        overrides = [
            f"backbone.name={backbone}",
            f"backbone.weights={weights}",
            f"adapter.name={adapter}",
            f"classifier.sample_rate={rate}",
            f"data.records={records}",
            f"data.most_classes={classes}",
        ]
        return {"kind": "steps", "recipe": str(self.place / "recipe.py"), "overrides": overrides}


def _hear(pipe: Connection) -> tuple:
    if not pipe.poll(PATIENCE):
        raise ValueError(f"a process of the benchmark gave no answer in {PATIENCE} s: take smaller sizes")
    try:
        return pipe.recv()
    except EOFError as error:
        raise ValueError("a process of the benchmark ended before its time; what it said stands above") from error
