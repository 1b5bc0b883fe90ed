"""Make a record set from pictures: a folder per identity, a list, an LMDB or a WebDataset.

  python tools/make_records.py faces/ data/mine                 faces/<identity>/<picture>, identities numbered by name
  python tools/make_records.py faces.txt data/mine --shards 8   a line `picture TAB label` (or a space) for each picture
  python tools/make_records.py train.lst data/mine              as im2rec and InsightFace write it; CSV with a header
  python tools/make_records.py faces.lmdb data/mine             an LMDB: a folder with data.mdb, or a file
  python tools/make_records.py "tars/faces-{000000..000099}.tar" data/mine      a WebDataset: tars, or a folder of tars

Writes OUT/train.rec and train.idx (or train-00000-of-00008.rec ...), OUT/property (classes,height,width) and
OUT/classes.txt (class number TAB identity); with --checksum OUT/train.crc as well, against which every read of a record
is then checked. Pictures are shuffled, unless --keep-order is given. Stopped or killed, it goes on where it was when
called again in the same way, and the files are the same as from a run that was never stopped. docs/records.md has all
forms in which pictures may come.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from recognition.data.checksums import checksum_path
from recognition.data.pictures import Plan, encode, quiet_decoders
from recognition.data.progress import Progress, exit_status, file_name, folder_to_fill, refuse, take_up
from recognition.data.recordio import Header, RecordWriter, pack, record_paths
from recognition.data.sources import open_source
from recognition.files import flush, write_atomically

BATCH = 256  # pictures between two checkpoints: about a second's work
MOST_CLASSES = 2**24  # labels are stored as float32


def shard_names(folder: Path, name: str, shards: int) -> list[Path]:
    """Prefixes of the record files."""
    return [folder / (name if shards == 1 else f"{name}-{k:05d}-of-{shards:05d}") for k in range(shards)]


def of_this_name(folder: Path, name: str, partial: bool = False) -> list[Path]:
    """Records, indexes and what lies beside them, of the set NAME in any number of shards; or the partial files."""
    endings = (
        r"\.(rec|idx|crc)\.partial"
        if partial
        else r"\.(rec|idx|crc|idx\.cache(\.fingerprints)?|landmarks\.npz|scores\..+)"
    )
    pattern = re.compile(rf"{re.escape(name)}(-\d{{5}}-of-\d{{5}})?{endings}")
    found = [path for path in folder.iterdir() if pattern.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: (".rec" not in path.suffixes, path.name))  # without .rec there is no set


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
    for i, (jpeg, stretched, reason) in zip(batch, pool.map(lambda i: attempt(plan, i, args), batch), strict=True):
        if reason:
            progress.bad.append((plan.name(i), reason))
            continue
        key = progress.written[-1]
        writer.write(key, pack(Header(0, float(plan.labels[i]), key, 0), jpeg))
        progress.written[-1] += 1
        progress.stretched += stretched


def attempt(plan: Plan, i: int, args: argparse.Namespace) -> tuple[bytes, bool, str]:
    """encode(), with the reason of a failure instead of an exception; empty where there is none."""
    try:
        return *encode(plan.read(i), args.size, args.quality), ""
    except OSError as error:
        return b"", False, error.strerror or str(error)
    except (ValueError, cv2.error) as error:
        return b"", False, str(error).strip()


def finish(plan: Plan, prefixes: list[Path], progress: Progress, args: argparse.Namespace) -> None:
    """Give the files their names, behind the removal of an earlier set's. May be repeated after a kill at any point.

    Names of classes never stand beside records of another set, nor shards beside those of another number.
    """
    remove_earlier(prefixes, args)
    bad = args.out / "bad_images.txt"
    if lines := "".join(f"{name}\t{reason}\n" for name, reason in all_bad(plan, progress)):
        write_atomically(bad, lines.encode(errors="backslashreplace"))
    else:
        bad.unlink(missing_ok=True)
    write_atomically(args.out / "property", f"{len(plan.names)},{args.size},{args.size}\n")
    classes = "".join(f"{number}\t{name}\n" for number, name in enumerate(plan.names))
    write_atomically(args.out / "classes.txt", classes)
    for prefix, sizes in zip(prefixes, progress.sizes, strict=True):
        records, index = record_paths(prefix)
        if Path(f"{records}.partial").is_file():
            RecordWriter(prefix, resume_at=tuple(sizes), checksum=args.checksum).close()
        for file in (index, checksum_path(records)):  # a kill came between the names
            if Path(f"{file}.partial").is_file():
                os.replace(f"{file}.partial", file)
    flush(args.out)
    progress_path(args).unlink()


def remove_earlier(prefixes: list[Path], args: argparse.Namespace) -> None:
    """Remove what is there under this name, other than what this run has named and scores of the same shards."""
    own = {
        file: records
        for records, index in map(record_paths, prefixes)
        for file in (records, index, checksum_path(records))
    }
    stems = tuple(f"{prefix.name}." for prefix in prefixes)
    for file in of_this_name(args.out, args.name):
        of_another = not file.name.startswith(stems) or ".cache" in file.suffixes
        if Path(f"{own[file]}.partial").is_file() if file in own else of_another:
            file.unlink()
    flush(args.out)


def all_bad(plan: Plan, progress: Progress) -> list[tuple[str, str]]:
    """Name and reason of what could not be used, at planning and at reading."""
    return sorted([*plan.bad, *(tuple(one) for one in progress.bad)])


def progress_path(args: argparse.Namespace) -> Path:
    return args.out / f"{args.name}.progress.json"


def digest_of(plan: Plan, args: argparse.Namespace) -> str:
    """Stands for all that the files depend on, except for what is in the pictures."""
    settings = [
        args.name,
        args.shards,
        args.size,
        args.quality,
        args.seed,
        plan.names,
        *(["checksum"] if args.checksum else []),
        *(["keep_order"] if args.keep_order else []),
    ]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for i, label in enumerate(plan.labels):
        digest.update(f"{plan.place(i)}\0{label}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def parse(argv: list[str] | None) -> argparse.Namespace:
    head, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=head, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder per identity, list file, LMDB, tar, folder of tars")
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--name", type=file_name, default="train", help="name of the record files (train)")
    parser.add_argument("--root", type=Path, help="folder that a list file's pictures are relative to (the list's own)")
    parser.add_argument("--shards", type=int, default=1, help="number of record files (1)")
    parser.add_argument("--size", type=int, default=112, help="side of the stored pictures in pixels (112)")
    parser.add_argument(
        "--quality", type=int, default=95, help="JPEG quality where a picture is coded anew, 1-100 (95)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the shuffling (0)")
    parser.add_argument("--keep-order", action="store_true", help="do not shuffle: the order of the source")
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
    plan = open_source(args.source, args.root, args.keep_order)
    if plan.bad and not args.skip_bad:
        return refuse(plan.bad, len(plan) + len(plan.bad))
    if len(plan.names) > MOST_CLASSES:
        raise ValueError(f"{len(plan.names)} classes; labels are stored as float32, which tells {MOST_CLASSES} apart")
    if args.shards > len(plan):
        raise ValueError(f"--shards is {args.shards}, but there are only {len(plan)} pictures")
    folder_to_fill(args.out)
    prefixes = shard_names(args.out, args.name, args.shards)
    standing = [file for file in of_this_name(args.out, args.name) if file.suffix in (".rec", ".idx")]
    digest = digest_of(plan, args)
    progress = take_up(progress_path(args), digest, len(plan), standing, args.overwrite, args.skip_bad)
    if progress.position:
        print(f"going on after {progress.position} of {len(plan)} pictures")
    for file in of_this_name(args.out, args.name, partial=True) if not progress.sizes else ():
        file.unlink()  # of a run that is not gone on with, perhaps with checksums or in other shards
    order = np.arange(len(plan)) if args.keep_order else np.random.default_rng(args.seed).permutation(len(plan))
    with quiet_decoders():
        write_shards(plan, order, prefixes, progress, args)
    if progress.bad and not args.skip_bad:
        return refuse(progress.bad, len(plan), " (quick: the rest is written already)")
    if 0 in progress.written:
        raise ValueError(
            f"bad pictures leave {prefixes[progress.written.index(0)]}.rec without a record: call again with "
            f"--overwrite and other pictures, or fewer shards than {args.shards}"
        )
    finish(plan, prefixes, progress, args)
    report(plan, progress, args)
    return 0


def report(plan: Plan, progress: Progress, args: argparse.Namespace) -> None:
    """What was made, and what its owner should know."""
    for note in plan.notes:
        print(f"note: {note}")
    if empty := emptied_classes(plan, progress):
        shown = ", ".join(f"{number} ({plan.names[number]})" for number in empty[:10])
        print(
            f"note: {len(empty)} classes have no picture left and keep their numbers: {shown}"
            f"{' ...' if empty[10:] else ''}; remove their bad pictures and call again to close the gaps"
        )
    if progress.stretched:
        print(
            f"note: {progress.stretched} pictures were not square and have been stretched; align faces before this step"
        )
    if bad := all_bad(plan, progress):
        print(f"note: {len(bad)} bad pictures left out, see {args.out / 'bad_images.txt'}")
    print(
        f"{sum(progress.written)} images of {len(plan.names)} classes in {args.shards} file(s): {args.out / args.name}"
    )


def emptied_classes(plan: Plan, progress: Progress) -> list[int]:
    """Classes of which every picture was bad."""
    bad = {name for name, _ in progress.bad}
    if not bad:
        return []
    labels = np.asarray(plan.labels)
    good = np.array([plan.name(i) not in bad for i in range(len(plan))])
    return np.flatnonzero(np.bincount(labels[good], minlength=len(plan.names)) == 0).tolist()


def main(argv: list[str] | None = None) -> int:
    return exit_status(make, parse(argv))


if __name__ == "__main__":
    sys.exit(main())
