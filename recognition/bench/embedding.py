"""What `tools/benchmark.py embedding` measures: from encoded pictures to embeddings, beside the bare network."""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from recognition import distributed
from recognition.backbones import BACKBONES
from recognition.data.pairs import RecordImages
from recognition.data.records import Records
from recognition.data.synthetic import SyntheticFaces
from recognition.distributed import World
from recognition.evaluation.embed import decoded, forward_batch, look_at
from recognition.evaluation.protocol import View
from recognition.model import FaceModel
from recognition.types import IMAGE_SIZE

PICTURES = 64  # synthetic faces where no records are named
QUALITY = 95  # of their JPEGs
Work = Callable[[], None]


def report(args: Namespace) -> list[str]:
    """Markdown: images/s of recognition.evaluation.embed at each side, beside the bare network and the bare decoder.

    args: backbone (names), batch (evaluation.batch_size), sides, flip, records (path or None), threads, repeats,
    seconds (of a measurement), device. The bare network goes over a ready tensor as often, in batches of the same size;
    weights are random. An image whose mirror image is embedded, too, counts once. ValueError for a side that images
    have not, and for an unknown backbone.
    """
    if args.batch < 1 or not all(1 <= side <= IMAGE_SIZE for side in args.sides) or args.seconds <= 0:
        raise ValueError(f"--batch is 1 or more, --sides lie in 1 .. {IMAGE_SIZE}, --seconds is above 0")
    world = distributed.start(args.device)
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        images = _pictures(args.records)
        lines = [
            f"batches of {args.batch} ({forward_batch(args.batch, world.device)} go through the network at once), "
            f"mirrored faces: {args.flip}, {world.device.type}, {args.threads} thread(s), "
            f"{args.records or 'synthetic faces'}; medians of {args.repeats}",
            "",
            "| | images/s, median | min - max | of the bare network | ms of processor time an image |",
            "|---|---:|---:|---:|---:|",
        ]
        for name in args.backbone:
            lines += _rows(name, images, args, world)
        return lines
    finally:
        torch.set_num_threads(before)
        distributed.stop()


def _rows(name: str, images: Sequence[bytes], args: Namespace, world: World) -> list[str]:
    model = FaceModel(BACKBONES.create(name)).to(world.device).eval()
    size = forward_batch(args.batch, world.device)
    ready = torch.rand(size, 3, IMAGE_SIZE, IMAGE_SIZE, device=world.device) * 2 - 1
    times = 1 if args.flip == "none" else 2
    _forward(model, ready, 1, world)
    begin = time.perf_counter()
    _forward(model, ready, times, world)
    batches = args.seconds / (time.perf_counter() - begin) * size / args.batch
    count = args.batch * max(1, round(batches))
    rows = np.arange(count) % len(images)
    limit = f"{name}, bare network"
    work: dict[str, Work] = {limit: lambda: _forward(model, ready, times * count // size, world)}
    for side in args.sides:
        view = View(rows, side, args.flip)
        work[f"{name}, embed at {side} px"] = lambda view=view: _embed(model, images, view, args.batch, world)
    work["bare decode"] = lambda: _decode(images, rows, args.batch)
    seconds: dict[str, list[float]] = {row: [] for row in work}
    spent: dict[str, list[float]] = {row: [] for row in work}
    for repeat in range(args.repeats):  # in turn, forwards and back, so that a busy machine slows them alike
        for row in list(work)[:: -1 if repeat % 2 else 1]:
            begin, used = time.perf_counter(), time.process_time()
            work[row]()
            seconds[row].append(time.perf_counter() - begin)
            spent[row].append(time.process_time() - used)
    return [_row(row, count, seconds[row], spent[row], seconds[limit], row == limit) for row in work]


def _row(
    name: str, count: int, seconds: Sequence[float], spent: Sequence[float], limit: Sequence[float], is_limit: bool
) -> str:
    share = "limit" if is_limit else f"{100 * statistics.median(limit) / statistics.median(seconds):.0f} %"
    return (
        f"| {name} | {count / statistics.median(seconds):,.1f} | {count / max(seconds):,.1f} - "
        f"{count / min(seconds):,.1f} | {share} | {1000 * statistics.median(spent) / count:,.2f} |"
    )


@torch.no_grad()
def _forward(model: FaceModel, image: Tensor, times: int, world: World) -> None:
    for _ in range(times):
        embedding = model.embed(image)
    if world.device.type == "cuda":
        torch.cuda.synchronize(embedding.device)


def _embed(model: FaceModel, images: Sequence[bytes], view: View, batch: int, world: World) -> None:
    look_at(model, images, view, world=world, batch_size=batch).embedding.sum().item()


def _decode(images: Sequence[bytes], rows: np.ndarray, batch: int) -> None:
    for _ in decoded(images, rows, batch, False):
        pass


def _pictures(path: str | None) -> Sequence[bytes]:
    if path:
        records = Records(path, classes="shared")
        return RecordImages((records, np.arange(len(records))))
    faces = (image for image, _ in SyntheticFaces(PICTURES // 4, 4))
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    return [cv2.imencode(".jpg", image[:, :, ::-1], options)[1].tobytes() for image in faces]
