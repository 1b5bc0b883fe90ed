"""What `tools/benchmark.py loader` measures: loaders, and the bare decoders as their limits."""

from __future__ import annotations

import itertools
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch

from recognition.data.dali_loader import PREFETCH, DaliLoader
from recognition.data.decode import decode
from recognition.data.degrade import Degradation
from recognition.data.order import SampleOrder
from recognition.data.recordio import Header, RecordWriter, pack, record_paths
from recognition.data.records import Records
from recognition.data.synthetic import SyntheticFaces
from recognition.data.torch_loader import TorchLoader
from recognition.types import IMAGE_SIZE

PICTURES = 512  # synthetic faces where no records are named: two seconds to paint
QUALITY = 95  # of their JPEGs

Case = tuple[Callable[[], Iterator[int]], str]  # an endless iterator of images per batch; the name of the case's limit


@contextmanager
def cases(args: Namespace) -> Iterator[tuple[str, dict[str, Case]]]:
    """A line about the data, and cases by name.

    args: records (path or None), workers (list of int), batch (images), degrade (bool), device ("auto", "cpu", "cuda").
    """
    if args.batch < 1 or min(args.workers) < 0:
        raise ValueError(
            f"--batch {args.batch} --workers {args.workers}: a batch has 1 image or more, workers are 0 or more"
        )
    on_cuda = torch.cuda.is_available() if args.device == "auto" else args.device == "cuda"
    device = torch.device("cuda", 0) if on_cuda else torch.device("cpu")
    with ExitStack() as stack:
        path = args.records or _paint(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        records = Records(path, classes="shared")
        sizes = [len(records.read(row)) for row in range(min(len(records), 1000))]
        about = (
            f"{len(records)} images of {np.mean(sizes) / 1024:.1f} KiB ({args.records or 'synthetic'}), "
            f"batch {args.batch}, degradation {'on' if args.degrade else 'off'}, {device}, OpenCV {cv2.__version__}"
        )
        found = _torch_cases(records, args, device)
        if find_spec("nvidia.dali") is None:
            about += "; without DALI, which is not installed: pip install -e '.[dali]'"
        else:
            about += f", DALI {_dali_version()}"
            found |= _dali_cases(records, args, device)
            if any(records.counts[kind] for kind in ("header", "identity", "empty")):
                about += "; without DALI's MXNet reader, which takes this file's header records for images"
                found = {name: case for name, case in found.items() if not name.startswith("DALI's MXNet")}
        yield about, found


def _torch_cases(records: Records, args: Namespace, device: torch.device) -> dict[str, Case]:
    limit = "OpenCV decode, 1 thread"
    found: dict[str, Case] = {limit: (partial(_opencv, records, args.batch), limit)}
    for workers in args.workers:
        loader = partial(_loader, TorchLoader, records, args, workers, device)
        found[f"torch loader, {_many(workers, 'worker')}"] = loader, limit
    return found


def _dali_cases(records: Records, args: Namespace, device: torch.device) -> dict[str, Case]:
    found: dict[str, Case] = {}
    for threads in sorted({max(workers, 1) for workers in args.workers}):
        count = _many(threads, "thread")
        limit = f"DALI decode, {count}"
        found[limit] = partial(_dali, records, args.batch, threads, device, False), limit
        found[f"DALI loader, {count}"] = partial(_loader, DaliLoader, records, args, threads, device), limit
        found[f"DALI's MXNet reader, {count}"] = partial(_dali, records, args.batch, threads, device, True), limit
    return found


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _dali_version() -> str:
    from nvidia.dali import __version__

    return __version__


def _paint(folder: Path) -> Path:
    faces = SyntheticFaces(PICTURES // 4, 4)
    with RecordWriter(folder / "faces") as writer:
        for key in range(len(faces)):
            image, label = faces[key]
            payload = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
            writer.write(key, pack(Header(flag=0, label=float(label), id=key, id2=0), payload))
    return folder / "faces"


def _order(records: Records, batch: int) -> SampleOrder:
    return SampleOrder(len(records), 0, batch)


def _loader(
    kind: type[TorchLoader] | type[DaliLoader], records: Records, args: Namespace, workers: int, device: torch.device
) -> Iterator[int]:
    """Batches ready for the network, one after the other."""
    degradation = Degradation() if args.degrade else None
    loader = kind(records, _order(records, args.batch), degradation, workers=workers, device=device)
    with closing(loader.batches()) as batches:
        for batch in batches:
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # a batch counts when it is there, not when its copies are queued
            yield len(batch)


def _opencv(records: Records, batch: int) -> Iterator[int]:
    """Reading and decoding in one thread, nothing else."""
    threads, order = cv2.getNumThreads(), _order(records, batch)
    cv2.setNumThreads(0)
    try:
        for step in itertools.count():
            for index in order.indices(order.positions(step)).tolist():
                decode(records.read(index), IMAGE_SIZE, records.where(index))
            yield batch
    finally:
        cv2.setNumThreads(threads)


def _dali(records: Records, batch: int, threads: int, device: torch.device, reads: bool) -> Iterator[int]:
    """DALI's decoder alone, on bytes in memory; reads: on what its own MXNet reader takes from the files, shuffled."""
    from nvidia.dali import fn, pipeline_def, types

    held = [np.frombuffer(records.read(row), np.uint8) for row in range(min(len(records), 4 * batch))]
    held *= -(-batch // len(held))
    on_cuda = device.type == "cuda"

    def feed(info: types.BatchInfo) -> list[np.ndarray]:
        begin = info.iteration * batch % (len(held) - batch + 1)
        return held[begin : begin + batch]

    @pipeline_def(
        batch_size=batch,
        num_threads=threads,
        device_id=(device.index or 0) if on_cuda else None,
        prefetch_queue_depth=PREFETCH,
    )
    def decoding():
        if reads:
            files = [record_paths(shard) for shard in records.shards]
            encoded, _ = fn.readers.mxnet(
                path=[str(file) for file, _ in files],
                index_path=[str(index) for _, index in files],
                random_shuffle=True,
                name="reader",
            )
        else:
            encoded = fn.external_source(feed, dtype=types.UINT8, ndim=1, batch=True, batch_info=True, no_copy=True)
        return fn.decoders.image(encoded, device="mixed" if on_cuda else "cpu", output_type=types.RGB)

    pipeline = decoding()
    try:
        while True:
            pipeline.run()
            yield batch
    finally:
        pipeline._shutdown()  # as in DaliLoader: not left to the garbage collector
