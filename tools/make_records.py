"""Make a record set from pictures: a folder per identity, or a list file.

  python tools/make_records.py faces/ data/mine                 faces/<identity>/<picture>, identities numbered by name
  python tools/make_records.py faces.txt data/mine --shards 8   a line `picture TAB label` (or a space) for each picture

Writes OUT/train.rec and train.idx (or train-00000-of-00008.rec ...), OUT/property (classes,height,width) and
OUT/classes.txt (class number TAB identity); with --checksum OUT/train.crc as well, against which every read of a record
is then checked. Stopped or killed, it goes on where it was when called again in the same
way, and the files are the same as from a run that was never stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from recognition.data.checksums import checksum_path
from recognition.data.pictures import Plan, encode, plan_folder, plan_list
from recognition.data.recordio import Header, RecordWriter, pack, record_paths

BATCH = 256  # pictures between two checkpoints: about a second's work
MOST_CLASSES = 2**24  # labels are stored as float32


@dataclass(slots=True)
class Progress:
    """How far a run has come. sizes: bytes of .rec, .idx and .crc, if any, for each shard that was begun."""

    plan: str  # digest of plan and settings
    position: int = 0  # in the shuffled order
    sizes: list[tuple[int, ...]] = field(default_factory=list)
    written: list[int] = field(default_factory=list)  # records for each shard that was begun
    bad: list[tuple[str, str]] = field(default_factory=list)  # picture, reason
    stretched: int = 0

    @classmethod
    def load(cls, path: Path) -> Progress:
        return cls(**json.loads(path.read_text()))

    def save(self, path: Path) -> None:
        beside = Path(f"{path}.partial")
        beside.write_text(json.dumps(asdict(self)))
        os.replace(beside, path)


def shard_names(folder: Path, name: str, shards: int) -> list[Path]:
    """Prefixes of the record files."""
    return [folder / (name if shards == 1 else f"{name}-{k:05d}-of-{shards:05d}") for k in range(shards)]


def write_shards(
    plan: Plan, order: np.ndarray, prefixes: list[Path], progress: Progress, args: argparse.Namespace
) -> None:
    """Write from progress.position on, with a checkpoint after each batch. The files keep their partial names."""
    total, shards = len(order), len(prefixes)
    with (
        ThreadPoolExecutor(args.workers) as pool,
        tqdm(total=total, initial=progress.position, unit="image", disable=None) as bar,
    ):
        for k, prefix in enumerate(prefixes):
            end = total * (k + 1) // shards
            begun = k < len(progress.sizes)
            if begun and progress.position >= end:
                continue
            sizes = tuple(progress.sizes[k]) if begun else None
            writer = RecordWriter(prefix, resume_at=sizes, checksum=args.checksum)
            try:
                if not begun:
                    progress.sizes.append((0, 0, 0) if args.checksum else (0, 0))
                    progress.written.append(0)
                while progress.position < end:
                    batch = order[progress.position : min(progress.position + BATCH, end)]
                    write_batch(plan, batch, writer, progress, pool, args)
                    progress.sizes[k] = writer.checkpoint()
                    progress.position += len(batch)
                    progress.save(progress_path(args))
                    bar.update(len(batch))
            finally:
                writer.suspend()


def write_batch(
    plan: Plan,
    batch: np.ndarray,
    writer: RecordWriter,
    progress: Progress,
    pool: ThreadPoolExecutor,
    args: argparse.Namespace,
) -> None:
    """Append the pictures of one batch; a key is the running number within the shard."""
    paths = [plan.paths[i] for i in batch]
    for i, path, (jpeg, stretched, reason) in zip(
        batch, paths, pool.map(lambda p: attempt(p, args), paths), strict=True
    ):
        if reason:
            progress.bad.append((str(path), reason))
            continue
        key = progress.written[-1]
        writer.write(key, pack(Header(0, float(plan.labels[i]), key, 0), jpeg))
        progress.written[-1] += 1
        progress.stretched += stretched


def attempt(path: Path, args: argparse.Namespace) -> tuple[bytes, bool, str]:
    """encode(), with the reason of a failure instead of an exception; empty where there is none."""
    try:
        return *encode(path, args.size, args.quality), ""
    except (ValueError, cv2.error) as error:
        return b"", False, str(error).strip()


def finish(plan: Plan, prefixes: list[Path], progress: Progress, args: argparse.Namespace) -> None:
    """Give the files their names. May be repeated after a kill at any point."""
    (args.out / "property").write_text(f"{len(plan.names)},{args.size},{args.size}\n")
    classes = "".join(f"{number}\t{name}\n" for number, name in enumerate(plan.names))
    (args.out / "classes.txt").write_text(classes, encoding="utf-8")
    if progress.bad:
        lines = "".join(f"{path}\t{reason}\n" for path, reason in sorted(progress.bad))
        (args.out / "bad_images.txt").write_text(lines, encoding="utf-8")
    for prefix, sizes in zip(prefixes, progress.sizes, strict=True):
        records, index = record_paths(prefix)
        if Path(f"{records}.partial").is_file():
            RecordWriter(prefix, resume_at=tuple(sizes), checksum=args.checksum).close()
        for file in (index, checksum_path(records)):  # a kill came between the names
            if Path(f"{file}.partial").is_file():
                os.replace(f"{file}.partial", file)
    progress_path(args).unlink()


def progress_path(args: argparse.Namespace) -> Path:
    return args.out / f"{args.name}.progress.json"


def digest_of(plan: Plan, args: argparse.Namespace) -> str:
    """Stands for all that the files depend on, except for what is in the pictures."""
    base = args.root or (args.source if args.source.is_dir() else args.source.parent)
    settings = [
        args.name,
        args.shards,
        args.size,
        args.quality,
        args.seed,
        plan.names,
        *(["checksum"] if args.checksum else []),
    ]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for path, label in zip(plan.paths, plan.labels, strict=True):
        digest.update(f"{os.path.relpath(path, base)}\0{label}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def take_up(digest: str, total: int, prefixes: list[Path], args: argparse.Namespace) -> Progress:
    """The progress of an earlier call, or a fresh one. ValueError where files stand in the way."""
    path = progress_path(args)
    if args.overwrite:
        path.unlink(missing_ok=True)
    if path.is_file():
        progress = Progress.load(path)
        if progress.plan != digest:
            raise ValueError(
                f"{path} belongs to other pictures or settings: call as before to go on, or with --overwrite"
            )
        if progress.position == total and progress.bad and not args.skip_bad:
            return Progress(digest)  # everything was read and something was bad: read again, it may be mended now
        return progress
    standing = [file for prefix in prefixes for file in record_paths(prefix) if file.exists()]
    if standing and not args.overwrite:
        raise ValueError(f"{standing[0]} is there already: give --overwrite, another --name or another folder")
    return Progress(digest)


def parse(argv: list[str] | None) -> argparse.Namespace:
    head, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=head, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder with a folder per identity, or a list file")
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--name", default="train", help="name of the record files (train)")
    parser.add_argument("--root", type=Path, help="folder that a list file's pictures are relative to (the list's own)")
    parser.add_argument("--shards", type=int, default=1, help="number of record files (1)")
    parser.add_argument("--size", type=int, default=112, help="side of the stored pictures in pixels (112)")
    parser.add_argument(
        "--quality", type=int, default=95, help="JPEG quality where a picture is coded anew, 1-100 (95)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the shuffling (0)")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="threads that read and decode")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave unreadable pictures out, list them in bad_images.txt"
    )
    parser.add_argument("--checksum", action="store_true", help="write checksums beside the records")
    parser.add_argument("--overwrite", action="store_true", help="begin anew and replace what is there")
    args = parser.parse_args(argv)
    for name, low, high in (("shards", 1, 99999), ("size", 8, 4096), ("quality", 1, 100), ("workers", 1, 256)):
        if not low <= getattr(args, name) <= high:
            parser.error(f"--{name} is {getattr(args, name)}; it must be {low} to {high}")
    return args


def make(args: argparse.Namespace) -> int:
    """Plan, write, finish. Returns the exit status: 1 where pictures were bad and --skip-bad was not given."""
    if args.source.is_dir():
        plan = plan_folder(args.source)
    elif args.source.is_file():
        plan = plan_list(args.source, args.root or args.source.parent)
    else:
        raise ValueError(f"{args.source} is neither a folder nor a file")
    if len(plan.names) > MOST_CLASSES:
        raise ValueError(f"{len(plan.names)} classes; labels are stored as float32, which tells {MOST_CLASSES} apart")
    if args.shards > len(plan.paths):
        raise ValueError(f"--shards is {args.shards}, but there are only {len(plan.paths)} pictures")
    args.out.mkdir(parents=True, exist_ok=True)
    prefixes = shard_names(args.out, args.name, args.shards)
    progress = take_up(digest_of(plan, args), len(plan.paths), prefixes, args)
    if progress.position:
        print(f"going on after {progress.position} of {len(plan.paths)} pictures")
    order = np.random.default_rng(args.seed).permutation(len(plan.paths))
    write_shards(plan, order, prefixes, progress, args)
    if progress.bad and not args.skip_bad:
        for path, reason in sorted(progress.bad):
            print(f"{path}: {reason}", file=sys.stderr)
        print(
            f"error: {len(progress.bad)} of {len(plan.paths)} pictures cannot be used. Mend or remove them and "
            "call again, or call again with --skip-bad to leave them out (quick: the rest is written already)",
            file=sys.stderr,
        )
        return 1
    if 0 in progress.written:
        raise ValueError(
            f"bad pictures leave {prefixes[progress.written.index(0)]}.rec without a record: call again with "
            f"--overwrite and other pictures, or fewer shards than {args.shards}"
        )
    finish(plan, prefixes, progress, args)
    for note in plan.notes:
        print(f"note: {note}")
    if progress.stretched:
        print(
            f"note: {progress.stretched} pictures were not square and have been stretched; align faces before this step"
        )
    if progress.bad:
        print(f"note: {len(progress.bad)} bad pictures left out, see {args.out / 'bad_images.txt'}")
    print(
        f"{sum(progress.written)} images of {len(plan.names)} classes in {args.shards} file(s): {args.out / args.name}"
    )
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        return make(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; call again in the same way to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
