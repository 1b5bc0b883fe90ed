"""Writes a trained run as one ONNX file: an aligned face in, its embedding out; scorer and quality gate inside.

    python tools/export_onnx.py runs/demo                       RUN/onnx/NAME.onnx, with InsightFace's manifest.json
    python tools/export_onnx.py runs/demo/checkpoints/best      RUN/onnx/NAME_best.onnx
    python tools/export_onnx.py runs/demo --output models/face.onnx
    python tools/export_onnx.py runs/demo --two-inputs          the raw quality score stays an input
    python tools/export_onnx.py runs/demo --precision fp16      RUN/onnx/fp16/NAME_fp16.onnx: half as large, for GPUs
    python tools/export_onnx.py runs/demo --precision int8 --calibrate faces.rec --pairs test.rec

The file is kept only if onnxruntime agrees with torch at batches 1, 2 and 7, fp16 and int8 less closely. InsightFace
opens it: insightface.model_zoo.get_model("RUN/onnx/NAME.onnx").

int8 wants faces like those that it will see: it looks at --images of them, at the resolutions that the run was
trained and evaluated at, and finds the ranges of its numbers. --pairs tells what the precision costs on your own
pairs at 112, 28 and 14 pixels: a verification .bin, or records with PREFIX_pairs.csv or pairs.csv beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from recognition.answers.command_line import sentence
from recognition.config import run_of

if TYPE_CHECKING:
    from recognition.evaluation.protocol import EvaluationSet
    from recognition.export import Calibration
    from recognition.model import FaceModel


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Answers --help without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run, or one of its checkpoints")
    parser.add_argument(
        "--output", "--out", dest="out", metavar="FILE", help="the .onnx file, in place of RUN/onnx/NAME.onnx"
    )
    parser.add_argument("--two-inputs", action="store_true", help="keep the score as a second input")
    parser.add_argument("--opset", type=int, default=18, help="ONNX operator set (default: %(default)s)")
    parser.add_argument(
        "--exporter",
        choices=("trace", "export"),
        default="trace",
        help="export: through torch.export, ten times slower, for a model whose code branches (default: %(default)s)",
    )
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="of the network (default: %(default)s)"
    )
    parser.add_argument("--calibrate", nargs="+", metavar="RECORDS", help="faces by which int8 finds its ranges")
    parser.add_argument("--images", type=int, default=512, help="of them that are looked at (default: %(default)s)")
    parser.add_argument("--pairs", metavar="RECORDS", help="pairs on which the file is compared with torch")
    arguments = parser.parse_args(argv)
    if arguments.precision == "int8" and not arguments.calibrate:
        parser.error("int8 finds the ranges of its numbers on faces like those it will see: --calibrate RECORDS")
    if arguments.precision != "int8" and arguments.calibrate:
        parser.error(f"--calibrate is for --precision int8; {arguments.precision} needs no faces")
    if arguments.two_inputs and (arguments.precision == "int8" or arguments.pairs):
        parser.error("--two-inputs takes scores that pictures alone do not tell: leave out int8 and --pairs")
    return arguments


def target(arguments: argparse.Namespace) -> Path:
    """The file that is written."""
    if arguments.out:
        return Path(arguments.out)
    path = Path(arguments.run)
    run = run_of(path)
    name = run.resolve().name + ("" if run == path else f"_{path.name}")
    folder = run / "onnx" if arguments.precision == "fp32" else run / "onnx" / arguments.precision
    return folder / f"{name}{_ending(arguments)}.onnx"


def _ending(arguments: argparse.Namespace) -> str:
    precision = "" if arguments.precision == "fp32" else f"_{arguments.precision}"
    return f"{'_two_inputs' if arguments.two_inputs else ''}{precision}"


def main(argv: list[str] | None = None) -> int:
    """Exports and reports. Returns 0, or 2 where the run cannot be exported."""
    arguments = parse(argv)
    try:
        _export(arguments)
    except (ValueError, RuntimeError) as error:
        print(f"{arguments.run}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(sentence(error), file=sys.stderr)
        return 2
    return 0


def _export(arguments: argparse.Namespace) -> None:
    start = time.perf_counter()
    from recognition.answers.writing import check_place
    from recognition.export import BATCHES, export_onnx, open_pairs
    from recognition.runs import load_run

    check_place(target(arguments))
    pairs = open_pairs(arguments.pairs) if arguments.pairs else []
    calibration = _calibration(arguments)
    model = load_run(arguments.run)
    print(f"{arguments.run}: loaded in {time.perf_counter() - start:.1f} s; exporting and comparing ...", flush=True)
    start = time.perf_counter()
    report = export_onnx(
        model,
        target(arguments),
        two_inputs=arguments.two_inputs,
        opset=arguments.opset,
        exporter=arguments.exporter,
        precision=arguments.precision,
        calibration=calibration,
        metadata={"run": run_of(arguments.run).resolve().name, **_thresholds(Path(arguments.run))},
    )
    print(f"{report.path}: {report.size / 2**20:.1f} MiB in {time.perf_counter() - start:.1f} s")
    batches = ", ".join(str(batch) for batch in BATCHES)
    where = f"at batches {batches}" if calibration is None else f"on faces of {arguments.calibrate[0]}"
    print(
        f"onnxruntime against torch {where}: lowest cosine {report.cosine:.7f}, "
        f"largest relative difference {report.difference:.1e}"
    )
    _tell_loss(model, report.path, pairs, arguments)
    if report.manifest is not None:
        print(f"{report.manifest}: preprocessing and sha256 for InsightFace")


def _calibration(arguments: argparse.Namespace) -> Calibration | None:
    """Faces for int8, at the resolutions that the run was trained and evaluated at."""
    if arguments.precision != "int8":
        return None
    from recognition.config import from_json
    from recognition.export import draw, sides_of

    sides = sides_of(from_json(run_of(Path(arguments.run)) / "config.json"))
    found = draw(arguments.calibrate, arguments.images, sides)
    seen = ", ".join(str(side) for side in sides)
    print(f"{' '.join(arguments.calibrate)}: {len(found.images)} faces to calibrate by, in turn at {seen} px")
    return found


def _tell_loss(model: FaceModel, file: Path, pairs: list[EvaluationSet], arguments: argparse.Namespace) -> None:
    """What the precision costs on the user's pairs, beside torch's accuracy."""
    if not pairs:
        if arguments.precision == "int8":
            print("what int8 costs was not measured: --pairs RECORDS compares the accuracy on your own pairs")
        return
    from recognition.export import loss_on_pairs

    print(f"{arguments.pairs}: accuracy in %, {arguments.precision} file minus torch [95 % interval, paired]")
    for one in loss_on_pairs(model, file, pairs):
        print(
            f"  {one.side:>4} px  torch {100 * one.torch:.2f}  file {100 * one.file:.2f}  "
            f"{100 * one.difference:+.2f} [{100 * one.low:+.2f}, {100 * one.high:+.2f}]"
        )


def _thresholds(path: Path) -> dict[str, str]:
    """What the card of a run or checkpoint tells of thresholds, as JSON, for whoever verifies with the file alone."""
    from adapters._files import read_object
    from recognition.answers.cards import card_file

    place = card_file(path)
    card = read_object(place) if place is not None and place.is_file() else {}
    results = card.get("results", {})
    of_base = list(results) == ["before"]
    own = {when: found for when, found in results.items() if when != "before"}
    told = {"thresholds": None if of_base else card.get("thresholds"), "results": own}
    return {key: json.dumps(found) for key, found in told.items() if found}


if __name__ == "__main__":
    sys.exit(main())
