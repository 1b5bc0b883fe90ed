"""Make a record set of synthetic faces, and verification pairs of them.

  python tools/make_synthetic.py data/faces --identities 300 --images 20
  python tools/make_synthetic.py data/faces_test --identities 60 --images 10 --first-identity 1000000 --pairs 600

Writes OUT/train.rec and train.idx (JPEG, 112 x 112), with --pairs OUT/pairs.csv (key_1,key_2,same,fold), and last
OUT/synthetic.json, the settings. Called again with the same settings it says so and does nothing. A seed is a
population: sets over disjoint ranges of identity numbers have no person in common.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from recognition.data.recordio import Header, RecordWriter, pack
from recognition.data.synthetic import SyntheticFaces

QUALITY = 95  # of the JPEGs
FOLDS = 10
SETTINGS = "synthetic.json"
POOL_FROM = 2000  # images: with fewer, starting processes costs more than it gains


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder, one set each")
    parser.add_argument("--identities", type=int, default=300, help="people (default: %(default)s)")
    parser.add_argument("--images", type=int, default=20, help="pictures of each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the population (default: %(default)s)")
    parser.add_argument(
        "--first-identity", type=int, default=0, help="number of the first person (default: %(default)s)"
    )
    parser.add_argument(
        "--pairs", type=int, default=0, help=f"genuine pairs, and as many impostors, in {FOLDS} folds of people"
    )
    parser.add_argument("--name", default="train", help="of the record files (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    return parser.parse_args(argv)


def settings_of(args: argparse.Namespace) -> dict[str, int | str]:
    """What decides the set's content."""
    names = ("identities", "images", "seed", "first_identity", "pairs", "name")
    return {"renderer": SyntheticFaces.VERSION, "quality": QUALITY, **{name: getattr(args, name) for name in names}}


def is_there(out: Path, settings: dict[str, int | str]) -> bool:
    """True where OUT holds this very set. ValueError where it holds anything that would be overwritten."""
    files = [out / f"{settings['name']}.rec", *([out / "pairs.csv"] if settings["pairs"] else [])]
    if (out / SETTINGS).is_file():
        found = json.loads((out / SETTINGS).read_text())
        differing = [name for name in {**settings, **found} if found.get(name) != settings.get(name)]
        if differing:
            shown = ", ".join(f"{name} {found.get(name)!r} (asked for: {settings.get(name)!r})" for name in differing)
            raise ValueError(f"{out} holds another set: {shown}. Take another folder, or remove this one")
        if missing := [file.name for file in files if not file.is_file()]:
            raise ValueError(
                f"{out / SETTINGS} is there, but not {', '.join(missing)}: remove the folder and call again"
            )
        return True
    if there := [file.name for file in files if file.is_file()]:
        raise ValueError(f"{out} holds {', '.join(there)}, not made by this program: take another folder")
    return False


def encode(faces: SyntheticFaces, index: int) -> tuple[int, bytes]:
    """Label and JPEG of one picture."""
    image, label = faces[index]
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done, "cv2 encodes any uint8 picture"
    return label, data.tobytes()


def encoded(faces: SyntheticFaces, workers: int) -> Iterator[tuple[int, bytes]]:
    """All pictures in order, whatever the number of processes."""
    job = partial(encode, faces)
    if workers < 2 or len(faces) < POOL_FROM:
        yield from map(job, range(len(faces)))
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
        yield from pool.map(job, range(len(faces)), chunksize=50)


def _one_thread() -> None:
    cv2.setNumThreads(1)


def drawn_pairs(faces: SyntheticFaces, count: int, seed: int) -> list[tuple[int, int, int, int]]:
    """`count` genuine and as many impostor pairs as rows (key_1, key_2, same, fold); no pair twice, no person in two
    folds. ValueError where the set is too small for so many."""
    rng = np.random.Generator(np.random.PCG64([seed, faces.first_identity]))
    people, images = faces.num_identities, faces.images_per_identity
    each, group = count // FOLDS, people // FOLDS
    most = (group * (images * (images - 1) // 2), group * (group - 1) // 2 * images**2)
    if count < 1 or count % FOLDS or each > min(most):
        raise ValueError(
            f"--pairs {count}: wanted a multiple of {FOLDS}, at most {FOLDS * min(most)}: {people} people with "
            f"{images} images each give no more genuine and as many impostor pairs in {FOLDS} folds"
        )
    shuffled, rows = rng.permutation(people), []
    for fold in range(FOLDS):
        members = shuffled[fold::FOLDS]
        for same in (1, 0):
            chosen: set[tuple[int, int]] = set()
            while len(chosen) < each:
                a, b = rng.choice(members, 2, replace=False)
                i, j = rng.choice(images, 2, replace=not same)
                first, second = int(a) * images + int(i), int(a if same else b) * images + int(j)
                chosen.add((min(first, second), max(first, second)))
            rows += [(first, second, same, fold) for first, second in sorted(chosen)]
    return rows


def write_pairs(path: Path, rows: list[tuple[int, int, int, int]]) -> None:
    beside = Path(f"{path}.partial")
    with beside.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["key_1", "key_2", "same", "fold"])
        table.writerows(rows)
    os.replace(beside, path)


def make(args: argparse.Namespace) -> None:
    """Write what is not there yet."""
    settings = settings_of(args)
    if is_there(args.out, settings):
        print(f"{args.out} holds this set already")
        return
    faces = SyntheticFaces(args.identities, args.images, args.seed, first_identity=args.first_identity)
    rows = drawn_pairs(faces, args.pairs, args.seed) if args.pairs else []
    with RecordWriter(args.out / args.name) as writer:
        bar = tqdm(encoded(faces, args.workers), total=len(faces), unit="face", disable=None)
        for key, (label, data) in enumerate(bar):
            writer.write(key, pack(Header(0, float(label), key, 0), data))
    if rows:
        write_pairs(args.out / "pairs.csv", rows)
    beside = args.out / f"{SETTINGS}.partial"
    beside.write_text(json.dumps(settings, indent=2) + "\n")
    os.replace(beside, args.out / SETTINGS)
    print(f"{len(faces)} faces of {args.identities} people in {args.out / args.name}.rec")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        make(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; nothing was left behind", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
