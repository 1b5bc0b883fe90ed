"""Writes a trained run as one ONNX file: an aligned face in, its embedding out; scorer and quality gate inside.

    python tools/export_onnx.py runs/demo                       RUN/onnx/NAME.onnx, with InsightFace's manifest.json
    python tools/export_onnx.py runs/demo/checkpoints/best      RUN/onnx/NAME_best.onnx
    python tools/export_onnx.py runs/demo --output models/face.onnx
    python tools/export_onnx.py runs/demo --two-inputs          the raw quality score stays an input

The file is kept only if onnxruntime agrees with torch at batches 1, 2 and 7. InsightFace opens it:
insightface.model_zoo.get_model("RUN/onnx/NAME.onnx").
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from recognition.answers.command_line import sentence
from recognition.config import run_of


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
    return parser.parse_args(argv)


def target(arguments: argparse.Namespace) -> Path:
    """The file that is written."""
    if arguments.out:
        return Path(arguments.out)
    path = Path(arguments.run)
    run = run_of(path)
    name = run.resolve().name + ("" if run == path else f"_{path.name}")
    return run / "onnx" / f"{name}{'_two_inputs' if arguments.two_inputs else ''}.onnx"


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
    from recognition.export import BATCHES, export_onnx
    from recognition.runs import load_run

    check_place(target(arguments))
    model = load_run(arguments.run)
    print(f"{arguments.run}: loaded in {time.perf_counter() - start:.1f} s; exporting and comparing ...", flush=True)
    start = time.perf_counter()
    report = export_onnx(
        model,
        target(arguments),
        two_inputs=arguments.two_inputs,
        opset=arguments.opset,
        exporter=arguments.exporter,
        metadata={"run": run_of(arguments.run).resolve().name, **_thresholds(Path(arguments.run))},
    )
    print(f"{report.path}: {report.size / 2**20:.1f} MiB in {time.perf_counter() - start:.1f} s")
    batches = ", ".join(str(batch) for batch in BATCHES)
    print(
        f"onnxruntime against torch at batches {batches}: lowest cosine {report.cosine:.7f}, "
        f"largest relative difference {report.difference:.1e}"
    )
    if report.manifest is not None:
        print(f"{report.manifest}: preprocessing and sha256 for InsightFace")


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
