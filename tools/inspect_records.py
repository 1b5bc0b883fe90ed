"""Look into record files: what they hold, whether it is sound, and what it looks like.

  python tools/inspect_records.py data/mine                       counts, sizes, classes; bad records by key and offset
  python tools/inspect_records.py data/mine --decode              every picture decoded as well
  python tools/inspect_records.py data/mine --sheet sheet.png     a sheet of pictures, one class after another
  python tools/inspect_records.py data/mine/train.rec --rebuild-index
  python tools/inspect_records.py data/mine --checksum            every record held against train.crc
  python tools/inspect_records.py data/mine --write-checksum      train.crc from the records as they are now

Exit status: 0 all sound, 1 something is bad, 2 the call cannot be answered.
"""

from __future__ import annotations

import argparse
import os
import sys
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from recognition.data.checksums import write_checksums
from recognition.data.encoded import LEAST_SIDE, PictureError, read_picture
from recognition.data.recordio import RecordError, RecordReader, unpack
from recognition.data.records import find_shards, set_of
from recognition.data.survey import IMAGE, KINDS, Survey, survey

SAMPLE = 1000  # pictures per file whose pixel size is looked at without --decode
BAR = 40  # characters of the histogram's longest bar
CELL = 112  # pixels of one picture on the sheet


def picture_of(reader: RecordReader, row: int) -> np.ndarray | str:
    """Decoded BGR uint8 (H, W, 3), or why there is none."""
    try:
        _, data = unpack(reader.read_row(row))
        picture = read_picture(data, "", LEAST_SIDE)
    except PictureError as error:
        return error.problem
    except RecordError as error:
        return str(error)
    if data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data[-64:]:
        return f"its JPEG of {len(data)} bytes has no end marker"
    return picture


def decode(reader: RecordReader, rows: np.ndarray, workers: int) -> tuple[Counter[str], dict[int, str]]:
    """Pixel sizes with their counts, and what is bad: row -> reason."""

    def look(row: int) -> tuple[str, str]:
        picture = picture_of(reader, row)
        return ("", picture) if isinstance(picture, str) else (f"{picture.shape[1]}x{picture.shape[0]}", "")

    sizes: Counter[str] = Counter()
    bad: dict[int, str] = {}
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(rows), unit="image", desc=reader.path.name, disable=None) as bar,
    ):
        for begin in range(0, len(rows), 1024):  # map() takes all it is given at once
            part = rows[begin : begin + 1024].tolist()
            for row, (size, reason) in zip(part, pool.map(look, part), strict=True):
                if reason:
                    bad[row] = reason
                else:
                    sizes[size] += 1
            bar.update(len(part))
    return sizes, bad


def uncovered(reader: RecordReader, found: Survey) -> int:
    """Bytes of the file that belong to no record of the index; records whose end is unknown reach to the next one."""
    order = np.argsort(reader.offsets, kind="stable")
    begins, ends = reader.offsets[order], found.end[order]
    following = np.append(begins[1:], reader.size)
    gaps = following - np.where(ends < 0, following, ends)
    return int(gaps[gaps > 0].sum()) + int(begins[0] if len(begins) else reader.size)


def histogram(counts: np.ndarray) -> list[str]:
    """Lines of text: how many classes have 0, 1, 2, 3-4, 5-8, ... images. counts: int (classes,)."""
    bins = np.where(counts < 2, counts, np.ceil(np.log2(np.maximum(counts, 1))).astype(np.int64) + 1)
    classes = np.bincount(bins)
    lines = []
    for number, count in enumerate(classes):
        low, high = (number, number) if number < 2 else (2 ** (number - 2) + 1, 2 ** (number - 1))
        name = f"{low}" if low == high else f"{low}-{high}"
        bar = "#" * int(np.ceil(count / classes.max() * BAR))
        lines.append(f"  {name:>9} per class {count:>8} classes  {bar}".rstrip())
    while lines and " 0 classes" in lines[0]:
        lines.pop(0)
    return lines


def describe(reader: RecordReader, found: Survey, sizes: Counter[str], sampled: bool) -> list[str]:
    """The report on one file."""
    images = np.flatnonzero(found.kind == IMAGE)
    kinds = np.bincount(found.kind, minlength=len(KINDS))
    index = (
        "none, keys found by scanning (--rebuild-index writes it)" if reader.index_rebuilt else reader.index_path.name
    )
    lines = [
        f"{reader.path}",
        f"  size           {reader.size:,} bytes; index: {index}",
        f"  records        {len(reader)}: "
        + ", ".join(f"{count} {name}" for name, count in zip(KINDS, kinds, strict=True) if count),
    ]
    if rest := uncovered(reader, found):
        lines.append(f"  not indexed    {rest:,} bytes: the index names a part of the file only, or is another file's")
    if not len(images):
        return [*lines, "  no images"]
    weights = found.image_bytes[images]
    lines.append(
        f"  image bytes    smallest {weights.min()}, median {int(np.median(weights))}, largest {weights.max()}"
    )
    shown = ", ".join(f"{size} ({count})" for size, count in sizes.most_common(8))
    more = f", {len(sizes) - 8} other sizes" if len(sizes) > 8 else ""
    lines.append(f"  pixels         {shown}{more}{f' in {sizes.total()} sampled' if sampled else ''}")
    vectors = Counter(found.flag[images].tolist())
    if set(vectors) != {0}:
        lines.append("  label vectors  " + ", ".join(f"length {n} ({count})" for n, count in sorted(vectors.items())))
    return lines


def describe_classes(name: Path, files: list[tuple[RecordReader, Survey]]) -> list[str]:
    """The report on the classes of one set, all its shards together."""
    label = np.concatenate([found.label[found.kind == IMAGE] for _, found in files]).astype(np.int64)
    if not len(label):
        return []
    labels, counts = np.unique(label, return_counts=True)
    empty = int(labels[-1]) + 1 - len(labels)
    shards = f" in {len(files)} shards" if len(files) > 1 else ""
    return [
        f"{name}: {len(label)} images{shards}",
        f"  classes        {labels[-1] + 1} (labels 0 to {labels[-1]}), {empty} of them without an image; images per "
        f"class: {counts.min()} to {counts.max()}, mean {counts.mean():.1f}",
        *histogram(counts),
    ]


def bad_lines(reader: RecordReader, found: Survey, undecodable: dict[int, str]) -> list[str]:
    """A line for each bad record: file, key, offset, reason."""
    reasons = dict(undecodable)
    for row in np.flatnonzero(found.problem).tolist():
        reasons[row] = found.says(row)
    return [
        f"{reader.path}, key {reader.keys[row]}, offset {reader.offsets[row]}: {reason}"
        for row, reason in sorted(reasons.items())
    ]


def sheet(chosen: list[tuple[RecordReader, int, int]], columns: int) -> np.ndarray:
    """A picture of pictures, each with its class and key beneath. chosen: (reader, row, class). Returns BGR uint8."""
    text = 14  # pixels
    lines = -(-len(chosen) // columns)
    page = np.full((lines * (CELL + text), columns * CELL, 3), 255, np.uint8)
    for place, (reader, row, label) in enumerate(chosen):
        top, left = place // columns * (CELL + text), place % columns * CELL
        picture = picture_of(reader, row)
        if isinstance(picture, str):
            picture = np.full((CELL, CELL, 3), (0, 0, 255), np.uint8)
        scale = CELL / max(picture.shape[:2])
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
        side = tuple(max(1, round(n * scale)) for n in picture.shape[1::-1])
        picture = cv2.resize(picture, side, interpolation=way)
        page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        caption = f"{label} / {reader.keys[row]}"
        at = (left + 2, top + CELL + text - 3)
        cv2.putText(page, caption, at, cv2.FONT_HERSHEY_SIMPLEX, 0.35, (0, 0, 0), 1, cv2.LINE_AA)
    return page


def choose(files: list[tuple[RecordReader, Survey]], count: int, seed: int) -> list[tuple[RecordReader, int, int]]:
    """Pictures for the sheet, evenly from the files: random ones, those of one class side by side."""
    chosen = []
    for k, (reader, found) in enumerate(files):
        share = count * (k + 1) // len(files) - count * k // len(files)
        rows = np.flatnonzero(found.kind == IMAGE)
        rows = np.random.default_rng(seed).permutation(rows)[:share]
        rows = rows[np.argsort(found.label[rows], kind="stable")]
        chosen += [(reader, int(row), int(found.label[row])) for row in rows]
    return chosen


def rebuild_index(path: Path) -> str:
    """Scan a file and write the index beside it. ValueError where there is one already."""
    reader = RecordReader(path)
    if not reader.index_rebuilt:
        raise ValueError(f"{reader.index_path} is there already: move it away to have it rebuilt")
    beside = Path(f"{reader.index_path}.partial")
    with open(beside, "wb") as file:
        file.writelines(b"%d\t%d\n" % pair for pair in zip(reader.keys.tolist(), reader.offsets.tolist(), strict=True))
    os.replace(beside, reader.index_path)
    return f"{reader.index_path}: {len(reader)} records"


def verify(path: Path) -> list[str]:
    """Hold every record against its checksum. A line for each that does not agree; ValueError without checksums."""
    reader = RecordReader(path)
    if reader.checksums is None:
        raise ValueError(f"{reader.checksum_path} is not there; --write-checksum makes it from the records as they are")
    bad = []
    for row in tqdm(range(len(reader)), unit="record", desc=path.name, disable=None):
        try:
            reader.read_row(row)
        except RecordError as error:
            bad.append(str(error))
    print(f"{path}: {len(reader) - len(bad)} of {len(reader)} records agree with {reader.checksum_path.name}")
    return bad


def write_checksum(path: Path) -> str:
    """Write the checksums of a file beside it. ValueError where they are there, RecordError for a damaged record."""
    reader = RecordReader(path)
    if reader.checksums is not None:
        raise ValueError(f"{reader.checksum_path} is there already: --checksum verifies it; move it away to replace it")
    keys = tqdm(reader.keys.tolist(), unit="record", desc=path.name, disable=None)
    pairs = ((key, zlib.crc32(reader.read_row(row))) for row, key in enumerate(keys))
    write_checksums(reader.checksum_path, pairs)
    return f"{reader.checksum_path}: {len(reader)} records"


def inspect(args: argparse.Namespace) -> int:
    """Report on every file. Returns the exit status."""
    paths = [shard for path in args.paths for shard in find_shards(path)]
    if args.rebuild_index or args.write_checksum:
        for path in paths:
            print(rebuild_index(path) if args.rebuild_index else write_checksum(path))
        return 0
    bad: list[str] = []
    if args.checksum:
        return told([line for path in paths for line in verify(path)])
    files: list[tuple[RecordReader, Survey]] = []
    for path in paths:
        try:
            reader = RecordReader(path)
        except RecordError as error:  # the other files can still be looked at
            bad.append(str(error))
            continue
        found = survey(reader)
        rows = np.flatnonzero(found.kind == IMAGE)
        looked = rows if args.decode else rows[np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64)]
        sizes, undecodable = decode(reader, looked, args.workers)
        print("\n".join(describe(reader, found, sizes, len(looked) < len(rows))))
        bad += bad_lines(reader, found, undecodable)
        files.append((reader, found))
    for prefix in dict.fromkeys(set_of(reader.path) for reader, _ in files):
        print("\n".join(describe_classes(prefix, [file for file in files if set_of(file[0].path) == prefix])))
    if args.sheet and (chosen := choose(files, args.pictures, args.seed)):
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(args.sheet), sheet(chosen, min(args.columns, len(chosen)))):
            raise ValueError(f"cv2 cannot write {args.sheet}")
        print(f"sheet of {len(chosen)} pictures (class / key): {args.sheet}")
    return told(bad)


def told(bad: list[str]) -> int:
    """Print what is bad. Returns the exit status."""
    for line in bad:
        print(f"bad: {line}")
    if bad:
        print(f"{len(bad)} bad")
    return 1 if bad else 0


def main(argv: list[str] | None = None) -> int:
    head, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=head, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", type=Path, nargs="+", help="x.rec, the prefix of a file or of its shards, or a folder")
    parser.add_argument("--decode", action="store_true", help="decode every picture, not a sample")
    parser.add_argument("--rebuild-index", action="store_true", help="write a missing .idx by scanning the .rec")
    parser.add_argument("--checksum", action="store_true", help="verify every record against the .crc, nothing else")
    parser.add_argument("--write-checksum", action="store_true", help="write a missing .crc from the records")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="write a sheet of pictures")
    parser.add_argument("--pictures", type=int, default=96, help="pictures on the sheet (96)")
    parser.add_argument("--columns", type=int, default=12, help="pictures in a line of the sheet (12)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice for the sheet (0)")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="threads that decode")
    args = parser.parse_args(argv)
    for name in ("pictures", "columns", "workers"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if args.sheet and args.sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        parser.error(f"--sheet {args.sheet}: the name must end in .png or .jpg")
    try:
        return inspect(args)
    except RecordError as error:
        print(f"bad: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
