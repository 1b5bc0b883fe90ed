"""Aligns faces in raw pictures: five points, a similarity transform, 112 x 112 records and a manifest with hashes.

  python tools/align.py photos/ data/mine --detector det_10g --models ~/.insightface/models/buffalo_l
  python tools/align.py photos/ data/mine --points points.csv          points from elsewhere, no detector
  python tools/align.py IJBC/loose_crop data/ijbc --points meta/ijbc_name_5pts_score.txt
  python tools/align.py TinyFace/Testing_Set data/tinyface --detector det_10g --models models \\
      --square 32 --pad 0.1 --choose central --fallback raised         as AdaFace's aligned_pad_0.1_pad_high
  python tools/align.py --verify data/mine                             do the records still have their hashes?
  python tools/align.py photos/ --verify data/mine                     and the raw pictures theirs?

INPUT is a folder of any depth, or a list of names (and labels) relative to its own place. Writes OUTPUT/aligned.rec and
.idx, aligned.landmarks.npz, property, classes.txt where there are labels, failures.txt where a picture failed, and
manifest.jsonl, which says what became of each picture. Protocols read OUTPUT as they read a folder of pictures.
Detectors are ONNX files on this machine; nothing is downloaded. See docs/alignment.md.

Exit code 0; 1 where some pictures failed (the others are written), or where --verify found a difference; 2 where
nothing could be done; 130 after Ctrl-C, 143 after SIGTERM, and OUTPUT is as it was.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from recognition.answers import command_line

if TYPE_CHECKING:
    from recognition.data.detection import Detector
    from recognition.data.points import Face


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Answers --help without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("input", type=Path, nargs="?", help="folder of pictures, or a list of them")
    add("output", type=Path, nargs="?", help="folder to write into")
    add("--verify", type=Path, metavar="OUTPUT", help="hash again what was written, and INPUT if given; write nothing")
    add("--detector", metavar="NAME", help="an insightface detector with points (scrfd, retinaface); none: no detector")
    add("--models", type=Path, help="folder of detectors' .onnx files (~/.insightface/models)")
    add("--points", type=Path, metavar="FILE", help="five points of each picture instead: text, .csv or .jsonl")
    add("--list", type=Path, metavar="FILE", help="only the pictures of the folder that this list names")
    add("--label-from", choices=("folder", "list", "none"), help="whose labels: those there are (default)")
    add(
        "--fallback",
        choices=("none", "resize", "raised"),
        default="none",
        help="for a picture without points: fails (default), is resized as a whole, or resized with black above it",
    )
    add("--choose", choices=("largest", "central", "best"), default="largest", help="of several faces (largest)")
    add("--square", type=int, default=0, metavar="PX", help="first make the picture a black-bordered square of PX")
    add("--pad", type=float, default=0.0, metavar="SHARE", help="black border for detection, share of the side (0)")
    add("--det-size", type=int, default=640, metavar="PX", help="side of the detector's input (640)")
    add("--det-threshold", type=float, default=0.5, metavar="SCORE", help="least score of a face (0.5)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="that detects (cpu)")
    add("--quality", type=int, default=98, help="of the JPEGs, 1-100 (98)")
    add("--png", action="store_true", help="store PNGs, without loss, about three times as large")
    add("--workers", type=int, default=min(8, os.cpu_count() or 1), help="threads; the files do not depend on it")
    add("--overwrite", action="store_true", help="replace what OUTPUT holds")
    args = parser.parse_args(argv)
    if args.verify is None:
        if args.input is None or args.output is None:
            parser.error("give INPUT and OUTPUT, or --verify OUTPUT")
        if (args.points is None) == (args.detector is None):
            parser.error("give either --detector NAME (or none) or --points FILE")
    if not 1 <= args.workers <= 256 or not 1 <= args.quality <= 100:
        parser.error(f"--workers {args.workers} must be 1 to 256, --quality {args.quality} 1 to 100")
    return args


def make(args: argparse.Namespace) -> int:
    """Align, and say what became of the pictures. Returns 1 where some failed."""
    from tqdm import tqdm

    from recognition.aligning import FAILURES, MANIFEST, align_pictures
    from recognition.data.aligner import Aligner, Settings
    from recognition.data.gathered import gather

    settings = Settings(args.fallback, args.choose, args.square, args.pad, 0 if args.png else args.quality)
    if args.input.is_dir() and args.output.resolve() == args.input.resolve():
        raise ValueError(f"{args.output} is INPUT: name another folder")
    pictures = gather(args.input, args.list, args.label_from)
    source, stated = origin(args)
    if isinstance(source, dict) and not set(source) & set(pictures.names):
        raise ValueError(
            f"{args.points} names none of these pictures: it has '{next(iter(source))}', they are such as "
            f"'{pictures.names[0]}'"
        )
    with tqdm(total=len(pictures.names), unit="picture", disable=None) as bar:
        totals = align_pictures(
            pictures, Aligner(source, settings), args.output, {**stated, "source": str(args.input)},
            workers=args.workers, overwrite=args.overwrite, advance=bar.update,
        )  # fmt: skip
    for note in pictures.notes:
        print(f"note: {note}")
    print("\n".join(totals.lines()))
    if totals.reasons:
        print(f"each of these with its reason: {args.output / FAILURES}")
    labels = f"{totals.classes} classes" if pictures.label_from != "none" else "no labels"
    print(f"{args.output / MANIFEST}; labels from: {pictures.label_from} ({labels})")
    return command_line.SOME_FAILED if totals.status["failed"] else 0


def origin(args: argparse.Namespace) -> tuple[Detector | dict[str, Face] | None, dict[str, object]]:
    """Where points come from, as Aligner takes it, and what the manifest says of it."""
    import hashlib

    from recognition.data.detection import MODELS, InsightFaceDetector, model_file
    from recognition.data.points import read_points

    if args.points is not None:
        points = read_points(args.points)
        digest = hashlib.sha256(args.points.read_bytes()).hexdigest()
        return points, {"detector": f"points: {args.points.name}", "detector_sha256": digest}
    if args.detector == "none":
        return None, {"detector": "none", "detector_sha256": ""}
    path = model_file(args.detector, args.models or MODELS)
    detector = InsightFaceDetector(path, args.det_size, args.det_threshold, args.device)
    settings = {"det_size": args.det_size, "det_threshold": args.det_threshold, "device": args.device}
    return detector, {
        "detector": detector.name, "detector_sha256": detector.sha256, "settings": settings,
        "versions": detector.versions,
    }  # fmt: skip


def check(args: argparse.Namespace) -> int:
    """Say what has changed since. Returns 1 where anything has."""
    from recognition.aligning import verify

    root = args.input if args.input is None or args.input.is_dir() else args.input.parent
    looked_at, wrong = verify(args.verify, root)
    for line in wrong:
        print(f"changed: {line}")
    what = "records and raw pictures" if root else "records"
    print(f"{args.verify}: {what} of {looked_at:,} pictures, {len(wrong)} differences")
    return 1 if wrong else 0


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        return check(args) if args.verify is not None else make(args)
    except (ValueError, OSError) as error:
        print(f"error: {command_line.sentence(error)}", file=sys.stderr)
        return command_line.UNUSABLE
    except KeyboardInterrupt as stopped:
        print("\nstopped; nothing was written", file=sys.stderr)
        return 128 + (stopped.args[0] if stopped.args else signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(number: int, frame: object) -> NoReturn:
    """SIGTERM leaves by the way of Ctrl-C, which tidies up."""
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    sys.exit(main())
