"""What `tools/benchmark.py growth` measures: how time and memory grow with batch, classes, processes, images, pixels.

Each point is a process of its own (points.py, work.py). Time is taken with the allocator as it is, the points of a
curve in turn; memory in another process that gives back at once what it frees, so that it is the memory of tensors,
which recognition/memory.py predicts.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from recognition.backbones import BACKBONES
from recognition.bench.growth import tables
from recognition.bench.growth.fits import Fit
from recognition.bench.growth.plots import Curve, draw
from recognition.bench.growth.points import Pool
from recognition.bench.index import make
from recognition.files import write_atomically
from recognition.machine import readable_size

MIB = 2**20
SHAPES = (  # of the memory table: backbone, adapter, batch, classes, rate, processes
    ("mobilefacenet_nano", "full", 32, 10_000, 1.0, 1),
    ("mobilefacenet_nano", "full", 16, 100_000, 0.1, 1),
    ("mobilefacenet_nano", "full", 16, 100_000, 0.1, 2),
    ("mobilefacenet_y1", "full", 32, 1_000, 1.0, 1),
    ("r18", "full", 8, 10_000, 1.0, 1),
    ("r18", "lora", 16, 1_000, 1.0, 1),
    ("vit_t", "dual_lora", 16, 1_000, 1.0, 1),
)


def report(args: Namespace) -> list[str]:
    """Lines of the curves that are asked for, with their laws. Files go to args.output, where it is named.

    args: over, carry, output, backbone, adapter, batches, classes, rates, processes, images, sides, shapes, repeats,
    device. ValueError where a number or a name is none that can be measured.
    """
    if args.carry:
        return tables.tables(args.output)
    for name in ("batches", "classes", "processes", "images", "sides"):
        if min(getattr(args, name)) < 1:
            raise ValueError(f"--{name} {min(getattr(args, name))}: wanted 1 or more")
    if "processes" in args.over and 1 not in args.processes:
        raise ValueError("--processes: 1 must be among them, the others are compared with it")
    for name in (args.backbone, *(shape[0] for shape in SHAPES)):
        BACKBONES.summary(name)  # an unknown one is refused before anything is measured
    lines = []
    with tempfile.TemporaryDirectory() as place, Pool(args, Path(place)) as pool:
        for name in args.over:
            lines += [*CURVES[name](args, pool), ""]
    return lines


def over_batch(args: Namespace, pool: Pool) -> list[str]:
    """Training steps of an adapter on a frozen base."""
    spec = pool.recipe(args.backbone, args.adapter, 1000)
    points = pool.measure([(batch, {**spec, "batch": batch}) for batch in args.batches])
    limits = [point.flops / pool.rate() for point in points]
    told = f"a step of {args.backbone}, {args.adapter}"
    curve = Curve("batch", told, "images of a step", points, limits, "bare products of as many FLOPs")
    return _told(args, [curve])


def over_classes(args: Namespace, pool: Pool) -> list[str]:
    """Updates of the class centres, 128 images, for each rate."""
    curves = []
    for rate in args.rates:
        specs = [(n, {"kind": "updates", "classes": n, "rate": rate, "batch": 128}) for n in args.classes]
        points = pool.measure(specs)
        limits = [point.flops / pool.rate() for point in points]
        told = f"an update of the classifier, 128 images, rate {rate:g}"
        curves.append(Curve(f"classes_{rate:g}", told, "classes", points, limits, "its three bare products"))
    return _told(args, curves)


def over_processes(args: Namespace, pool: Pool) -> list[str]:
    """The same images and classes, shared out over more processes of one thread."""
    curves = []
    batch = 8 * max(args.processes)
    spec = pool.recipe("mobilefacenet_nano", "full", 1000)
    steps = [(n, {**spec, "processes": n, "batch": batch // n}) for n in args.processes]
    classes = max(args.classes)
    updates = [(n, _shared_update(n, classes, batch)) for n in args.processes]
    for name, told, specs in (
        ("processes_steps", f"a step of mobilefacenet_nano, {batch} images in all", steps),
        ("processes_updates", f"an update of {classes:,} classes, rate 0.1, {batch} images in all", updates),
    ):
        points = pool.measure(specs)
        alone = next(statistics.median(point.seconds) for point in points if point.x == 1)
        limits = [alone / point.x for point in points]
        curves.append(Curve(name, told, "processes", points, limits, "one process's time, divided", wall=True))
    return _told(args, curves)


def _shared_update(processes: int, classes: int, batch: int) -> dict:
    return {"kind": "updates", "processes": processes, "classes": classes, "rate": 0.1, "batch": batch}


def over_images(args: Namespace, pool: Pool) -> list[str]:
    """What every process pays for the number of records: opening the file, shuffling an epoch."""
    folders = {n: pool.place / f"images_{n}" for n in args.images}
    for n, folder in folders.items():
        folder.mkdir()
        make(folder, n, 1)
    opened = pool.measure([(n, {"kind": "opening", "records": str(place)}) for n, place in folders.items()])
    shuffled = pool.measure([(n, {"kind": "shuffling", "images": n}) for n in args.images])
    curves = [
        Curve("images_opening", "opening a record file", "images", opened, (), ""),
        Curve("images_shuffling", "shuffling an epoch", "images", shuffled, (), ""),
    ]
    return _told(args, curves)


def over_resolution(args: Namespace, pool: Pool) -> list[str]:
    """Forward and backward of r18's convolutions: what pixels cost."""
    points = pool.measure([(side, {"kind": "pixels", "side": side, "batch": 2}) for side in args.sides])
    limits = [point.flops / pool.rate() for point in points]
    told = "forward and backward of r18's convolutions, 2 images"
    curve = Curve("resolution", told, "side of the input, pixels", points, limits, "bare products of as many FLOPs")
    return _told(args, [curve])


def over_memory(args: Namespace, pool: Pool) -> list[str]:
    """The model's bytes beside a process's, over networks, adapters, classes and processes."""
    lines = [
        "memory of training processes beyond their libraries, predicted by recognition/memory.py",
        "",
        "| network | adapter | batch | classes | rate | processes | measured, MiB | predicted, MiB | ratio |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    found = []
    for backbone, adapter, batch, classes, rate, processes in SHAPES[: args.shapes]:
        spec = {**pool.recipe(backbone, adapter, classes, rate), "batch": batch, "processes": processes}
        point = pool.measure([(batch, spec)], time=False)[0]
        shape = f"| {backbone} | {adapter} | {batch} | {classes:,} | {rate:g} | {processes} "
        ratio = point.predicted / point.memory
        lines.append(f"{shape}| {point.memory / MIB:,.0f} | {point.predicted / MIB:,.0f} | {ratio:.2f} |")
        found.append({"shape": [backbone, adapter, batch, classes, rate, processes], **asdict(point)})
    _write(args, "memory", found)
    return lines


CURVES: dict[str, Callable[[Namespace, Pool], list[str]]] = {
    "batch": over_batch,
    "classes": over_classes,
    "processes": over_processes,
    "images": over_images,
    "resolution": over_resolution,
    "memory": over_memory,
}


def _told(args: Namespace, curves: Sequence[Curve]) -> list[str]:
    """Tables and laws of curves; their files."""
    lines = []
    for curve in curves:
        time, memory = curve.time_law(), curve.memory_law()
        lines += [f"{curve.told}, over {curve.label}", "", *_table(curve), "", f"time, s: {time.words()}"]
        lines += [f"memory, MiB: {memory.words()}", ""] if memory else [""]
        _write(args, curve.name, _as_json(curve, time, memory))
        if args.output:
            write_atomically(Path(args.output) / f"{curve.name}.svg", draw(curve, time, memory))
    return lines[:-1]


def _table(curve: Curve) -> list[str]:
    lines = [
        f"| {curve.label} | processor time, ms (range) | wall time, ms (range) | of limit | memory | predicted |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for number, point in enumerate(curve.points):
        share = f"{100 * curve.limits[number] / curve.time(point):.0f} %" if curve.limits else ""
        predicted = readable_size(point.predicted) if point.predicted else ""
        if predicted and point.memory:
            predicted += f" ({point.predicted / point.memory:.2f})"
        lines.append(
            f"| {point.x:,g} | {_range(point.processor)} | {_range(point.seconds)} | {share} "
            f"| {readable_size(point.memory)} | {predicted} |"
        )
    return lines


def _range(seconds: Sequence[float]) -> str:
    low, middle, high = (1000 * value for value in (min(seconds), statistics.median(seconds), max(seconds)))
    return f"{middle:,.4g} ({low:,.4g} - {high:,.4g})"


def _as_json(curve: Curve, time: Fit, memory: Fit | None) -> dict:
    laws = {"time": asdict(time), "memory": asdict(memory) if memory else None}
    points = [asdict(point) for point in curve.points]
    return {"about": curve.told, "x": curve.label, "points": points, "limits": [*curve.limits], "laws": laws}


def _write(args: Namespace, name: str, value: object) -> None:
    if args.output:
        write_atomically(Path(args.output) / f"{name}.json", json.dumps(value, indent=1) + "\n")
