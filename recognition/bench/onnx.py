"""What `tools/benchmark.py onnx` measures: exported files in onnxruntime beside torch eager, and the gate's cost.

The images are noise; int8 is calibrated on painted faces. The gate's cost is that of scorer, gate and mixing: the file
against one of the same weights whose two branches weigh 1/2 for every picture, run in turn.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from adapters._layers import LowRank, replace
from iqa import SCORERS, make_gate
from recognition.backbones import BACKBONES
from recognition.bench import limits
from recognition.bench.model_step import make
from recognition.data.synthetic import SyntheticFaces
from recognition.export import Calibration, ExportReport, export_onnx, of_pixels
from recognition.model import FaceModel
from recognition.runs import load_run
from recognition.types import IMAGE_SIZE

TORCH, SIDES = "torch eager", (112, 28, 14)
Case = tuple[Callable[[], Iterator[int]], str]
Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Gated:
    """Files of one model with its gate, with both branches at 1/2, and merged into the base."""

    gated: Run
    halves: Run
    merged: Run


@contextmanager
def cases(args: Namespace) -> Iterator[tuple[str, dict[str, Case]]]:
    """Rows of torch and of each precision, by batch; the limit are bare products of as many FLOPs.

    args: run, backbone, adapter, scorer, precision, batch, threads, images (to calibrate by), gate_seconds, device.
    ValueError where neither a run nor a backbone is named, or both.
    """
    if bool(args.run) == bool(args.backbone):
        raise ValueError("name a RUN, or a network by --backbone, and not both")
    if min(args.batch) < 1:
        raise ValueError(f"--batch {min(args.batch)}: at least 1")
    usual = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        with tempfile.TemporaryDirectory(prefix="lrface-onnx-") as folder:
            device = _device(args.device)
            model = load_run(args.run) if args.run else _made(args)
            files = _files(model, args, Path(folder))
            args.files = files  # for the summary, as args.gated
            args.gated = _gated(model, Path(folder), args, device) if model.needs_gate else None
            found, flops = _rows(model.to(device), files, args, device)
            yield (
                f"{args.run or args.backbone}, {'gated' if model.needs_gate else 'no gate'}: an embedding is "
                f"{flops / 1e9:.2f} GFLOP of products; {device.type}, {args.threads} thread(s)",
                found,
            )
    finally:
        torch.set_num_threads(usual)


def summary(args: Namespace, rates: Mapping[str, Sequence[float]]) -> list[str]:
    """Markdown: milliseconds of a batch, times torch's rate, size and nearness of each file; then the gate's cost."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    lines = [
        "| | batch | ms a batch | times torch eager | file, MiB | cosine to torch |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for batch in args.batch:
        for name in (TORCH, *args.files):
            here, told = medians[_row(name, batch)], args.files.get(name)
            times = f"{here / medians[_row(TORCH, batch)]:.2f}"
            file = " | " if told is None else f"{told.size / 2**20:.1f} | {told.cosine:.5f}"
            lines.append(f"| {name} | {batch} | {1000 * batch / here:,.2f} | {times} | {file} |")
    return lines + ([] if args.gated is None else _gate_lines(args))


def _gate_lines(args: Namespace) -> list[str]:
    lines = [
        "",
        "| gate | batch | ms a batch | of the branches at 1/2 | of the merged base |",
        "|---|---:|---:|---:|---:|",
    ]
    for batch in args.batch:
        gated, *times = _in_turn(args, batch)
        costs = (f"{100 * (one - 1):+.1f} %" for one in times)
        lines.append(f"| in the graph, fp32 | {batch} | {1000 * gated:,.2f} | {' | '.join(costs)} |")
    return lines


def _in_turn(args: Namespace, batch: int) -> list[float]:
    """Seconds of the gated file, and how many times those of the two others: medians over rounds of all three.

    Of processor time on one thread, and round by round, which other programs disturb less.
    """
    clock = time.process_time if args.threads == 1 else time.perf_counter
    images = _noise(batch)
    runs = (args.gated.gated, args.gated.halves, args.gated.merged)
    taken: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run(images)
    end = time.perf_counter() + args.gate_seconds
    while time.perf_counter() < end or len(taken[0]) < 3:
        for run, own in zip(runs, taken, strict=True):
            began = clock()
            run(images)
            own.append(clock() - began)
    gated, *others = taken
    ratios = [statistics.median(a / b for a, b in zip(gated, own, strict=True)) for own in others]
    return [statistics.median(gated), *ratios]


def _rows(
    model: FaceModel, files: Mapping[str, ExportReport], args: Namespace, device: torch.device
) -> tuple[dict[str, Case], float]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.embed(torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE, device=device))
    flops, found = counter.get_total_flops() / 2, {}
    runs = {TORCH: partial(_embed, model, device)}
    runs |= {name: session(one.path, args.threads, device) for name, one in files.items()}
    for batch in args.batch:
        limit = _row("bare products, fp32", batch)
        found[limit] = (partial(limits.products, flops * batch, batch, torch.float32, device), limit)
        for name, run in runs.items():
            found[_row(name, batch)] = (partial(_endless, run, batch), limit)
    return found, flops


def _row(name: str, batch: int) -> str:
    return f"batch {batch}, {name}"


def _endless(run: Run, batch: int) -> Iterator[int]:
    images = _noise(batch)
    while True:
        run(images)
        yield batch


def _noise(batch: int) -> np.ndarray:
    grey = np.random.default_rng(0).integers(0, 256, (batch, 3, IMAGE_SIZE, IMAGE_SIZE))
    return (grey / 127.5 - 1).astype(np.float32)


@torch.no_grad()
def _embed(model: FaceModel, device: torch.device, images: np.ndarray) -> np.ndarray:
    return model.embed(torch.from_numpy(images).to(device)).cpu().numpy()


def session(path: Path, threads: int, device: torch.device) -> Run:
    """The file in onnxruntime, on so many threads. ValueError where the device is CUDA and onnxruntime has none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise ValueError(f"this onnxruntime has no {provider}: install onnxruntime-gpu, or take --device cpu")
    opened = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    return lambda images: opened.run(None, {"input": images})[0]


def _files(model: FaceModel, args: Namespace, folder: Path) -> dict[str, ExportReport]:
    found = {}
    for precision in args.precision:
        calibration = _painted(args.images) if precision == "int8" else None
        path = folder / precision / "face.onnx"
        found[f"onnxruntime {precision}"] = export_onnx(model, path, precision=precision, calibration=calibration)
    return found


def _painted(count: int) -> Calibration:
    faces = np.stack([face for face, _ in SyntheticFaces(count, 1)])
    return of_pixels(torch.from_numpy(faces), SIDES)


def _gated(model: FaceModel, folder: Path, args: Namespace, device: torch.device) -> Gated | None:
    """None for a network whose gate is read by other layers than low-rank ones."""
    layers = {name: layer for name, layer in model.backbone.named_modules() if isinstance(layer, LowRank)}
    if not any(layer.gate is not None for layer in layers.values()):
        return None
    own = args.files.get("onnxruntime fp32") or export_onnx(model, folder / "gated" / "face.onnx")
    opened = [session(own.path, args.threads, device)]
    for merged in (False, True):
        other = copy.deepcopy(model)
        other.quality_gate = other.scorer = None
        for name in layers:
            layer = other.backbone.get_submodule(name)
            if merged:
                replace(other.backbone, name, layer.merged(None if layer.gate is None else 0.5))
            else:
                layer.gate = None  # of several branches, each then weighs as much as any other
        path = export_onnx(other, folder / f"ungated_{merged}" / "face.onnx").path
        del other
        opened.append(session(path, args.threads, device))
    return Gated(*opened)


def _made(args: Namespace) -> FaceModel:
    torch.manual_seed(0)
    base = BACKBONES.create(args.backbone)
    if not args.adapter:
        return FaceModel(base).eval()
    model = make(base, args.adapter)
    if model.needs_gate:
        model.scorer = SCORERS.create(args.scorer)
        low, high = model.scorer.range
        model.quality_gate = make_gate({"midpoint": (low + high) / 2, "slope": 1 / (high - low), "shape": "linear"})
    return model.eval()


def _device(asked: str) -> torch.device:
    if asked == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no CUDA device")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")
