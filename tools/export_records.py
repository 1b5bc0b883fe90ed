"""Take a record set apart: into a WebDataset (tars), or into a folder per identity.

  python tools/export_records.py data/mine tars/                        tars/train-000000.tar ..., 10,000 pictures each
  python tools/export_records.py data/mine tars/ --shards 8             so many tars; --per-shard: so many pictures each
  python tools/export_records.py data/mine faces/ --to folder           faces/<identity>/<number>.jpg

SOURCE is a record file, the prefix of a file or of its shards, or a folder, InsightFace's included: its header and
identity records are no pictures and stay out. Pictures keep their bytes and their order. A sample in a tar is
NUMBER.jpg, NUMBER.cls (the label) and NUMBER.json: the identity where SOURCE/classes.txt names it, landmarks and
quality scores where they lie beside the records. The same records give the same tars, byte for byte. Stopped or killed,
it goes on where it was when called again in the same way; files have their names when all of them are done.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from recognition.data.exported import CLASSES, About, about, folder_names, not_exported, picture, sample
from recognition.data.progress import Progress, exit_status, file_name, folder_to_fill, refuse, take_up
from recognition.data.records import Records, set_of
from recognition.data.tar_format import tar_end
from recognition.files import flush, write_atomically

BATCH = 1024  # pictures between two checkpoints
KINDS = ("webdataset", "folder")
PER_SHARD = 10_000  # pictures of a tar: about 100 MB


class Tars:
    """OUT/NAME-000000.tar and so on."""

    def __init__(self, records: Records, told: About, args: argparse.Namespace) -> None:
        self.records, self.told, self.out = records, told, args.out
        shards = args.shards or -(-len(records) // (args.per_shard or PER_SHARD))
        if shards > len(records):
            raise ValueError(f"--shards is {shards}, but there are only {len(records)} pictures")
        self.ends = [len(records) * (k + 1) // shards for k in range(shards)]
        if args.per_shard:
            self.ends = [min((k + 1) * args.per_shard, len(records)) for k in range(shards)]
        self.files = [self.out / f"{args.name}-{k:06d}.tar" for k in range(shards)]
        self.progress_path = self.out / f"{args.name}.progress.json"
        self.standing = self.of_this_name(args.name)
        folder_to_fill(self.out)

    def of_this_name(self, name: str) -> list[Path]:
        pattern = re.compile(rf"{re.escape(name)}-\d{{6}}\.tar")
        return sorted(path for path in self.out.glob("*.tar") if pattern.fullmatch(path.name))

    @contextmanager
    def opened(self, k: int, size: int) -> Iterator[None]:
        """The k-th tar, to go on behind `size` bytes."""
        partial = Path(f"{self.files[k]}.partial")
        there = partial.stat().st_size if size and partial.is_file() else 0
        if there < size:
            raise ValueError(f"{partial} has {there} bytes, {size} were written: call again with --overwrite")
        with open(partial, "r+b" if size else "wb") as self.file:
            self.file.truncate(size)
            self.file.seek(size)
            yield

    def write(self, i: int) -> None:
        self.file.write(sample(self.records, self.told, i))

    def checkpoint(self, last: bool) -> int:
        if last:
            self.file.write(tar_end(self.file.tell()))
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.file.tell()

    def finish(self) -> str:
        for path in self.standing:
            if path not in self.files or Path(f"{path}.partial").is_file():
                path.unlink(missing_ok=True)  # of an earlier set; its classes.txt belongs to none of these
        if self.told.names:
            write_atomically(self.out / CLASSES, self.told.classes())
        elif self.standing:
            (self.out / CLASSES).unlink(missing_ok=True)
        for file in self.files:
            if Path(f"{file}.partial").is_file():  # else a kill came between the names
                os.replace(f"{file}.partial", file)
        flush(self.out)
        return f"{len(self.files)} tar(s): {self.files[0]}" + (f" to {self.files[-1].name}" if self.files[1:] else "")


class Folders:
    """OUT/<identity>/<number>.jpg; OUT.partial until it is done."""

    def __init__(self, records: Records, told: About, args: argparse.Namespace) -> None:
        self.records, self.told, self.out = records, told, args.out
        if args.shards or args.per_shard:
            raise ValueError("--shards and --per-shard are for tars; a folder has none")
        self.names = folder_names(records, told)
        self.ends = [len(records)]
        self.partial = args.out.with_name(f"{args.out.name}.partial")
        self.earlier = args.out.with_name(f"{args.out.name}.earlier.partial")
        self.progress_path = args.out.with_name(f"{args.out.name}.progress.json")
        if args.out.name in ("", ".."):
            raise ValueError(f"{args.out} cannot be written as a whole: give the folder's name")
        folder_to_fill(args.out, last=False)
        self.standing = [args.out] if args.out.is_dir() and any(args.out.iterdir()) else []
        if self.standing and (foreign := not_exported(args.out)):
            raise ValueError(f"{args.out} holds {foreign}, which no export wrote: name another folder")
        if args.overwrite or not self.progress_path.is_file():
            shutil.rmtree(self.partial, ignore_errors=True)

    @contextmanager
    def opened(self, k: int, size: int) -> Iterator[None]:
        if size and not self.partial.is_dir():
            raise ValueError(f"{self.partial} is gone: call again with --overwrite")
        self.partial.mkdir(parents=True, exist_ok=True)
        yield

    def write(self, i: int) -> None:
        data, ending = picture(self.records, i)
        folder = self.partial / self.names[self.records.labels[i]]
        folder.mkdir(exist_ok=True)
        (folder / f"{i:09d}{ending}").write_bytes(data)

    def checkpoint(self, last: bool) -> int:
        if last:
            os.sync()  # a million small files one by one would take hours
        return 1  # there is a folder to go on with

    def finish(self) -> str:
        if self.partial.is_dir():
            if self.told.names:
                write_atomically(self.partial / CLASSES, self.told.classes())
            if self.standing:
                shutil.rmtree(self.earlier, ignore_errors=True)
                os.replace(self.out, self.earlier)
            os.replace(self.partial, self.out)
            flush(self.out.parent)
        elif not self.out.is_dir():
            raise ValueError(f"{self.partial} is gone: call again with --overwrite")
        shutil.rmtree(self.earlier, ignore_errors=True)
        return f"folders: {self.out}"


def write_all(target: Tars | Folders, progress: Progress, total: int) -> None:
    """Write from progress.position on, with a checkpoint after each batch. The files keep their partial names."""
    with tqdm(total=total, initial=progress.position, unit="image", disable=None) as bar:
        for k, end in enumerate(target.ends):
            if k < len(progress.sizes) and progress.position >= end:
                continue
            if k == len(progress.sizes):
                progress.sizes.append((0,))
                progress.written.append(0)
            with target.opened(k, progress.sizes[k][0]):
                while progress.position < end:
                    upto = min(progress.position + BATCH, end)
                    for i in range(progress.position, upto):
                        try:
                            target.write(i)
                            progress.written[k] += 1
                        except ValueError as error:
                            progress.bad.append((f"image {i}", str(error)))
                    progress.sizes[k] = (target.checkpoint(upto == end),)
                    bar.update(upto - progress.position)
                    progress.position = upto
                    progress.save(target.progress_path)


def export(args: argparse.Namespace) -> int:
    """Read, write, finish. Returns the exit status: 1 where pictures were bad and --skip-bad was not given."""
    records = Records(args.source, bad_record_limit=1.0 if args.skip_bad else None)
    args.name = args.name or set_of(records.shards[0]).name
    told = about(records)
    target = (Folders if args.to == "folder" else Tars)(records, told, args)
    digest = hashlib.sha256(json.dumps([args.to, args.name, target.ends, records.fingerprint()]).encode())
    told.update(digest)
    progress = take_up(
        target.progress_path, digest.hexdigest(), len(records), target.standing, args.overwrite, args.skip_bad
    )
    if progress.position:
        print(f"going on after {progress.position} of {len(records)} pictures")
    write_all(target, progress, len(records))
    if progress.bad and not args.skip_bad:
        return refuse(progress.bad, len(records), " (quick: the rest is written already)")
    where = target.finish()
    target.progress_path.unlink()
    for note in told.notes:
        print(f"note: {note}")
    if count := len(progress.bad) + len(records.left_out):
        print(f"note: {count} bad records left out; tools/inspect_records.py lists them")
    classes = len(np.unique(records.labels))
    print(f"{sum(progress.written)} images of {classes} classes in {where}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    head, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=head, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="x.rec, the prefix of a file or of its shards, or a folder")
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--to", choices=KINDS, default=KINDS[0], help="what to write (webdataset)")
    parser.add_argument("--name", type=file_name, help="name of the tars (that of the record set)")
    count = parser.add_mutually_exclusive_group()
    count.add_argument("--shards", type=int, help="number of tars")
    count.add_argument("--per-shard", type=int, help=f"pictures of each tar but the last ({PER_SHARD})")
    parser.add_argument("--skip-bad", action="store_true", help="leave bad records out")
    parser.add_argument("--overwrite", action="store_true", help="begin anew and replace what is there")
    args = parser.parse_args(argv)
    for name, most in (("shards", 999_999), ("per_shard", 10**9)):
        if getattr(args, name) is not None and not 1 <= getattr(args, name) <= most:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be 1 to {most}")
    return args


def main(argv: list[str] | None = None) -> int:
    return exit_status(export, parse(argv))


if __name__ == "__main__":
    sys.exit(main())
