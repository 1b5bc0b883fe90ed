"""What `tools/benchmark.py loader` measures: loaders, and the bare decoders as their limits."""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch

from recognition.bench.page_cache import disk_of, evict, resident
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
COLD_RECORDS = 40_000  # at least, of which a measurement with a cold cache sees each once
LOOK = 0.02  # seconds between two looks at what bare processes have decoded

Case = tuple[Callable[[], Iterator[int]], str]  # an endless iterator of images per batch; the name of the case's limit


@dataclass(frozen=True)
class _Measured:
    """A set under one state of the page cache, and how its rows' names end."""

    records: Records
    ending: str
    cold: bool
    left: list[float]  # shares of it that were in the page cache when measurements began

    def case(self, work: Callable[[], Iterator[int]]) -> Callable[[], Iterator[int]]:
        """The same work, begun with a cold cache where it shall be one."""
        return partial(self._cold, work) if self.cold else work

    def _cold(self, work: Callable[[], Iterator[int]]) -> Iterator[int]:
        self.records.close()  # pages that are mapped stay
        evict(self.records.shards)
        self.left.append(resident(self.records.shards))
        with closing(work()) as pieces:
            yield from pieces


@contextmanager
def cases(args: Namespace) -> Iterator[tuple[str, dict[str, Case]]]:
    """A line about the data, and cases by name.

    args: records (path or None), shards (list of int; empty = the records as they are), cache (list of "warm", "cold"),
    workers (list of int), batch (images), degrade (bool), device ("auto", "cpu", "cuda").
    """
    if args.batch < 1 or min(args.workers) < 0 or min(args.shards, default=1) < 1:
        raise ValueError(
            f"--batch {args.batch} --workers {args.workers} --shards {args.shards}: a batch has 1 image or more, a set "
            "1 file or more, workers are 0 or more"
        )
    on_cuda = torch.cuda.is_available() if args.device == "auto" else args.device == "cuda"
    device = torch.device("cuda", 0) if on_cuda else torch.device("cpu")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = args.records or _paint(folder)
        sets = _sets(Path(path), folder, args)
        first = next(iter(sets.values()))
        sizes = [len(first.read(row)) for row in range(min(len(first), 1000))]
        about = (
            f"{len(first)} images of {np.mean(sizes) / 1024:.1f} KiB ({args.records or 'synthetic'}), "
            f"batch {args.batch}, degradation {'on' if args.degrade else 'off'}, {device}, OpenCV {cv2.__version__}"
        )
        if "cold" in args.cache:
            about += f"; cold: {disk_of(first.shards[0])}, {_coldness(sets)}"
        has_dali = find_spec("nvidia.dali") is not None
        about += (
            f", DALI {_dali_version()}"
            if has_dali
            else "; without DALI, which is not installed: pip install -e '.[dali]'"
        )
        other = any(first.counts[kind] for kind in ("header", "identity", "empty"))
        if has_dali and other:
            about += "; without DALI's MXNet reader, which takes this file's header records for images"
        elif has_dali and max(sets) > 1:
            about += "; DALI's MXNet reader reads a set of one file only"
        found: dict[str, Case] = {}
        for (shards, records), cache in itertools.product(sets.items(), args.cache):
            ending = f", {_many(shards, 'file')}" if len(sets) > 1 else ""
            ending += f", {cache}" if len(args.cache) > 1 else ""
            measured = _Measured(records, ending, cache == "cold", [])
            found |= _torch_cases(measured, args, device)
            if has_dali:
                found |= _dali_cases(measured, args, device, mxnet=shards == 1 and not other)
        yield about, found


def _sets(path: Path, folder: Path, args: Namespace) -> dict[int, Records]:
    """By number of files, the pictures of a set, often enough for a cold cache, in so many."""
    records = Records(path, classes="shared")
    if not args.shards and ("cold" not in args.cache or len(records) >= COLD_RECORDS):
        return {len(records.shards): records}
    times = -(-COLD_RECORDS // len(records)) if "cold" in args.cache else 1
    made = {}
    for shards in args.shards or [1]:
        total = times * len(records)
        for shard in range(shards):
            name = folder / f"times{times}" / (str(shards) if shards == 1 else f"{shards}-{shard:05d}-of-{shards:05d}")
            with RecordWriter(name) as writer:
                for key in range(total * shard // shards, total * (shard + 1) // shards):
                    i = key % len(records)
                    writer.write(key, pack(Header(0, float(records.labels[i]), key, 0), records.read(i)))
        made[shards] = Records(folder / f"times{times}" / str(shards), classes="shared")
    return made


def _coldness(sets: dict[int, Records]) -> str:
    for records in sets.values():
        records.close()
        evict(records.shards)
    left = max(resident(records.shards) for records in sets.values())
    return f"{100 * left:.1f} % of the pages stay when they are asked to leave"


def _torch_cases(measured: _Measured, args: Namespace, device: torch.device) -> dict[str, Case]:
    found: dict[str, Case] = {}
    records, end = measured.records, measured.ending
    for workers in args.workers:
        bare = partial(_processes, records, args.batch, workers) if workers else partial(_opencv, records, args.batch)
        limit = f"OpenCV decode, {_many(workers, 'process') if workers else '1 thread'}{end}"
        found[limit] = measured.case(bare), limit
        loader = partial(_loader, TorchLoader, records, args, workers, device)
        found[f"torch loader, {_many(workers, 'worker')}{end}"] = measured.case(loader), limit
    return found


def _dali_cases(measured: _Measured, args: Namespace, device: torch.device, mxnet: bool) -> dict[str, Case]:
    found: dict[str, Case] = {}
    records, end = measured.records, measured.ending
    for threads in sorted({max(workers, 1) for workers in args.workers}):
        count = _many(threads, "thread")
        limit = f"DALI decode, {count}{end}"
        found[limit] = measured.case(partial(_dali, records, args.batch, threads, device, False)), limit
        loader = partial(_loader, DaliLoader, records, args, threads, device)
        found[f"DALI loader, {count}{end}"] = measured.case(loader), limit
        if mxnet:
            reader = partial(_dali, records, args.batch, threads, device, True)
            found[f"DALI's MXNet reader, {count}{end}"] = measured.case(reader), limit
    return found


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 'es' if thing.endswith('s') else 's'}"


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


def _processes(records: Records, batch: int, count: int) -> Iterator[int]:
    """Reading and decoding in so many processes, nothing else; what they did is looked at now and then."""
    context = multiprocessing.get_context("fork")
    done = context.Array("q", count, lock=False)
    processes = [context.Process(target=_decoding, args=(records, batch, done, i), daemon=True) for i in range(count)]
    for process in processes:
        process.start()
    try:
        before = 0
        while True:
            time.sleep(LOOK)
            now = sum(done)
            if now > before:
                yield now - before
            before = now
    finally:
        for process in processes:
            process.kill()
            process.join()


def _decoding(records: Records, batch: int, done: Sequence[int], number: int) -> None:
    cv2.setNumThreads(0)
    order = SampleOrder(len(records), 0, batch * len(done))
    for step in itertools.count():
        for index in order.indices(order.positions(step)[number :: len(done)]).tolist():
            decode(records.read(index), IMAGE_SIZE, "")
            done[number] += 1


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
