"""What `tools/benchmark.py sharding` measures: training steps of a backbone in shares (FSDP2), beside DDP's.

Each way runs in processes of its own, as the points of growth do; their updates take turns.
"""

from __future__ import annotations

import statistics
import tempfile
from argparse import Namespace
from pathlib import Path

from recognition.backbones import BACKBONES
from recognition.bench.growth.points import Pool
from recognition.machine import readable_size

WAYS = {"DDP": "none", "in shares": "full"}  # and the setting train.sharding that each is
CLASSES = 1_000


def report(args: Namespace) -> list[str]:
    """Markdown: seconds of an update and the most memory of a process, by each way.

    args: backbone (random weights), adapter, batch (images of a process), processes, repeats (updates), device.
    ValueError for an unknown backbone, and where a number is below 1.
    """
    if min(args.batch, args.processes) < 1:
        raise ValueError(f"--batch {args.batch} --processes {args.processes}: both must be 1 or more")
    BACKBONES.summary(args.backbone)
    with tempfile.TemporaryDirectory() as place, Pool(args, Path(place)) as pool:
        spec = pool.recipe(args.backbone, args.adapter, CLASSES) | {"batch": args.batch, "processes": args.processes}
        specs = [spec | {"overrides": [*spec["overrides"], f"train.sharding={way}"]} for way in WAYS.values()]
        points = pool.measure([(0.0, one) for one in specs])
    first = points[0]
    lines = [
        f"{args.backbone}, {args.adapter}, {args.processes} processes with {args.batch} images each, fp32, SGD; "
        f"{args.repeats} updates of each way, in turn",
        "",
        "| | s of an update, median (min - max) | times DDP | s of processor time, of all | times DDP "
        "| most memory of a process | times DDP |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, point in zip(WAYS, points, strict=True):
        wall = statistics.median(point.seconds)
        lines.append(
            f"| {name} | {wall:.2f} ({min(point.seconds):.2f} - {max(point.seconds):.2f}) "
            f"| {wall / statistics.median(first.seconds):.2f} | {point.median:.2f} "
            f"| {point.median / first.median:.2f} | {readable_size(point.memory)} "
            f"| {point.memory / first.memory:.2f} |"
        )
    return lines
