"""What `tools/benchmark.py index` measures: opening a set of many records, reading it in random order, its shuffle.

The set is made for the run: records of 8 bytes behind their headers, 58 bytes each with the index. Every measurement
is a process of its own, `python -m recognition.bench.index PART RECORDS COUNT BATCH`. Private memory is RssAnon of
/proc/self/status, what a process alone has, less what it had after its imports; mapped is RssFile, pages of files that
all processes share and the system takes back when it likes.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from recognition.data.index_cache import places
from recognition.data.order import SampleOrder
from recognition.data.record_format import HEADER_BYTES, MAGIC, PART
from recognition.data.records import Records

PAYLOAD = 8  # bytes
SIZE = PART.size + HEADER_BYTES + PAYLOAD
RECORD = np.dtype(
    [("magic", "<u4"), ("length", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("ids", "<u8", 2), ("payload", "<u8")]
)
PER_CLASS = 20  # records, about as many as WebFace42M has
CHUNK = 1 << 20  # records that are made at once
READ_SECONDS = 2.0  # of reading in random order
EVERY = 0.01  # seconds between two looks at the memory
MEBI = 2**20


def report(args: Namespace) -> list[str]:
    """Markdown: seconds and memory of the openings, of reading and of the shuffle.

    args: records (how many), shards, batch, repeats (of the second opening), folder (None = the system's temporary
    one). ValueError where there is no Linux to tell the memory, fewer than one record for a shard, or no room.
    """
    if not Path("/proc/self/status").is_file():
        raise ValueError("the memory of a process is read from /proc, which only Linux has")
    if args.shards < 1 or args.batch < 1 or args.records < args.shards:
        raise ValueError(f"--records {args.records} --shards {args.shards} --batch {args.batch}: each 1 at least")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        begin = time.perf_counter()
        size = make(Path(folder), args.records, args.shards)
        about = (
            f"{args.records:,} records of {SIZE} bytes in {args.shards} file(s), {size / 1e9:.2f} GB with indexes, "
            f"made in {time.perf_counter() - begin:.0f} s in {folder}; all of it in the page cache"
        )

        def part(name: str) -> dict[str, float]:
            return _fresh(name, Path(folder), args)

        first, cache = part("open"), _cached(Path(folder))
        later = [part("open") for _ in range(args.repeats)]
        middle = sorted(later, key=lambda run: run["seconds"])[len(later) // 2]
        span = f" ({min(run['seconds'] for run in later):.2f} - {max(run['seconds'] for run in later):.2f})"
        read, order = part("read"), part("order")
    return [
        about,
        f"caches of the index: {cache / MEBI:,.0f} MiB",
        "",
        "| | seconds | of processor time | private MiB, at most | private MiB, after | mapped MiB, after |",
        "|---|---:|---:|---:|---:|---:|",
        _opening("opened for the first time", first, ""),
        _opening("opened again", middle, span),
        "",
        "| | |",
        "|---|---:|",
        f"| records/s in random order, batches of {args.batch} with labels and keys | {read['rate']:,.0f} |",
        f"| records/s of bare slices of the mapped file, in that order | {read['limit']:,.0f} |",
        f"| private MiB of a forked worker that reads | {read['worker']:,.1f} |",
        f"| seconds until the shuffle of an epoch is there | {order['seconds']:.2f} |",
        f"| seconds until the first step of another epoch is there (a resume) | {order['resume']:.2f} |",
        f"| private MiB of one epoch's shuffle | {order['one']:,.0f} |",
        f"| private MiB of two epochs', the most that is kept | {order['two']:,.0f} |",
        f"| microseconds for the record numbers of a step | {order['step']:,.0f} |",
    ]


def _opening(name: str, run: dict[str, float], span: str) -> str:
    memory = " | ".join(f"{run[key] / MEBI:,.0f}" for key in ("most", "after", "mapped"))
    return f"| {name} | {run['seconds']:.2f}{span} | {run['cpu']:.2f} | {memory} |"


def make(folder: Path, count: int, shards: int) -> int:
    """Write many tiny records as a set `many`, with indexes. Returns bytes."""
    written = 0
    for shard in range(shards):
        name = "many" if shards == 1 else f"many-{shard:05d}-of-{shards:05d}"
        begin, end = (count * number // shards for number in (shard, shard + 1))
        with open(folder / f"{name}.rec", "wb") as records, open(folder / f"{name}.idx", "wb") as index:
            for first in range(begin, end, CHUNK):
                keys = np.arange(first, min(first + CHUNK, end))
                found = np.zeros(len(keys), RECORD)
                found["magic"], found["length"] = MAGIC, HEADER_BYTES + PAYLOAD
                found["label"], found["ids"][:, 0], found["payload"] = keys // PER_CLASS, keys, keys
                records.write(found)
                index.writelines(_lines(keys, (keys - begin) * SIZE))
            written += records.tell() + index.tell()
    return written


def _lines(keys: np.ndarray, offsets: np.ndarray) -> Iterator[bytes]:
    """The lines `key TAB offset` of an index, those of equal widths at once."""
    widths = _digits(keys), _digits(offsets)
    changes = np.flatnonzero(np.diff(widths[0]) | np.diff(widths[1])) + 1
    for part in np.split(np.arange(len(keys)), changes):
        one, two = int(widths[0][part[0]]), int(widths[1][part[0]])
        text = np.empty((len(part), one + two + 2), np.uint8)
        text[:, one], text[:, -1] = ord("\t"), ord("\n")
        for values, begin, width in ((keys[part], 0, one), (offsets[part], one + 1, two)):
            for place in range(begin + width - 1, begin - 1, -1):
                values, digit = np.divmod(values, 10)
                text[:, place] = digit + ord("0")
        yield text.tobytes()


def _digits(values: np.ndarray) -> np.ndarray:
    return np.searchsorted(10 ** np.arange(1, 19), values, side="right") + 1


def _cached(folder: Path) -> int:
    """Bytes of the caches that the first opening left."""
    files = [place for records in folder.glob("*.rec") for place in places(records)]
    return sum(file.stat().st_size for file in files if file.is_file())


def _fresh(part: str, folder: Path, args: Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "recognition.bench.index", part, str(folder), str(args.records), str(args.batch)]
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": paths})
    if run.returncode:
        raise ValueError(f"{part} failed: {(run.stderr.strip() or 'killed').splitlines()[-1]}")
    return json.loads(run.stdout)


def memory(process: int | str = "self") -> tuple[int, int]:
    """Private and mapped bytes of a process."""
    text = Path(f"/proc/{process}/status").read_text()
    found = dict(line.split(":", 1) for line in text.splitlines())
    return tuple(int(found[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Seconds, and bytes: private at most, private and mapped after, while the result is held."""
    before, most, ended = memory(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY):
            most[0] = max(most[0], memory()[0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin, cpu = time.perf_counter(), time.process_time()
    held = work()
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    ended.set()
    watcher.join()
    private, mapped = (now - then for now, then in zip(memory(), before, strict=True))
    del held
    most = max(most[0] - before[0], private)
    return {"seconds": seconds, "cpu": cpu, "most": most, "after": private, "mapped": mapped}


def _open(folder: Path, count: int, _: int) -> dict[str, float]:
    def work() -> Records:
        records = Records(folder, most_classes=0)  # as training opens it
        assert len(records) == count and records.num_classes == -(-count // PER_CLASS)
        records.fingerprint()
        return records

    return measured(work)


def _read(folder: Path, count: int, batch: int) -> dict[str, float]:
    records = Records(folder)
    order = SampleOrder(count, 0, min(batch, count))
    rates = {"rate": _rate(records, order, _batch), "limit": _rate(records, order, _slices(records))}
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        before = memory()[0]
        _rate(records, order, _batch, warm=False)
        os.write(theirs, b"%d" % (memory()[0] - before))
        os._exit(0)
    os.waitpid(child, 0)
    return rates | {"worker": int(os.read(ours, 64)) / MEBI}


def _rate(
    records: Records, order: SampleOrder, read: Callable[[Records, np.ndarray], None], warm: bool = True
) -> float:
    if warm:
        order.indices(order.positions(0))
    done, begin = 0, time.perf_counter()
    for step in itertools.count():
        indices = order.indices(order.positions(step))
        read(records, indices)
        done += len(indices)
        if (elapsed := time.perf_counter() - begin) > READ_SECONDS * min(1, len(records) / 10**6):
            return done / elapsed


def _batch(records: Records, indices: np.ndarray) -> None:
    for index in indices.tolist():
        records.read(index)
    records.labels_of(indices)
    records.identities(indices)


def _slices(records: Records) -> Callable[[Records, np.ndarray], None]:
    maps, sizes = [], [0]
    for shard in records.shards:
        with open(shard, "rb") as file:
            maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        sizes.append(sizes[-1] + len(maps[-1]) // SIZE)

    def read(_: Records, indices: np.ndarray) -> None:
        files = np.searchsorted(sizes, indices, side="right") - 1
        begins = (indices - np.array(sizes)[files]) * SIZE
        for file, begin in zip(files.tolist(), begins.tolist(), strict=True):
            maps[file][begin : begin + SIZE]

    return read


def _order(_: Path, count: int, batch: int) -> dict[str, float]:
    order, batch = SampleOrder(count, 0, min(batch, count)), min(batch, count)
    per_epoch = -(-count // batch)

    def first(step: int) -> Callable[[], object]:
        return lambda: order.indices(order.positions(step))

    one = measured(first(0))
    two = measured(first(3 * per_epoch + 1))
    times = []
    for step in range(3 * per_epoch + 1, 3 * per_epoch + 101):
        begin = time.perf_counter()
        first(step)()
        times.append(time.perf_counter() - begin)
    return {
        "seconds": one["seconds"],
        "resume": two["seconds"],
        "one": one["after"] / MEBI,
        "two": (one["after"] + two["after"]) / MEBI,
        "step": sorted(times)[50] * 1e6,
    }


PARTS = {"open": _open, "read": _read, "order": _order}


def main(argv: Sequence[str]) -> None:
    """Print what one part found, as JSON."""
    part, folder, count, batch = argv
    print(json.dumps(PARTS[part](Path(folder), int(count), int(batch))))


if __name__ == "__main__":
    main(sys.argv[1:])
