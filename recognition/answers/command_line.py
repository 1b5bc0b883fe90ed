"""What the three tools of answers share: the model's options, tables, JSON, exit codes. Imported without torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recognition.answers.api import LRFace

SOME_FAILED = 1  # exit code: there are answers, and pictures without one
UNUSABLE = 2
INTERRUPTED = 130
OPTIONS = ("base", "device", "scorer", "card", "any_base")


def add_model(parser: argparse.ArgumentParser) -> None:
    """--model and what belongs to it."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", required=True, metavar="PATH", help="a run, a checkpoint, an adapter's folder, weights, or .onnx"
    )
    model.add_argument("--base", metavar="FILE", help="weights that an adapter's folder goes on")
    model.add_argument("--any-base", action="store_true", help="take --base where the adapter's card tells none")
    model.add_argument("--scorer", metavar="NAME", help="tells quality where the model has no scorer of its own")
    model.add_argument("--card", metavar="FILE", help="thresholds from this card, run or results.json")
    model.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    model.add_argument("--flip", choices=("none", "sum"), default="none", help="sum: add the mirrored face's embedding")
    model.add_argument("--batch-size", type=int, default=64, help="pictures at once (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")


def add_threshold(parser: argparse.ArgumentParser) -> None:
    """--far and what overrules it."""
    chosen = parser.add_argument_group("threshold")
    chosen.add_argument(
        "--far", type=float, default=1e-3, help="false accept rate of one comparison (default: %(default)g)"
    )
    chosen.add_argument("--operating", default="", metavar="SET/PART", help="measured on this, such as lfw/112-14")
    chosen.add_argument("--threshold", type=float, metavar="COSINE", help="in place of the card's")


def load(arguments: argparse.Namespace) -> LRFace:
    """The model that the options name."""
    from recognition.answers.api import LRFace

    return LRFace.load(arguments.model, **{name: getattr(arguments, name) for name in OPTIONS})


def answer(arguments: argparse.Namespace, work: Callable[[argparse.Namespace], int]) -> int:
    """work's exit code; 2 with a sentence for what cannot be used, 130 after Ctrl-C."""
    try:
        return work(arguments)
    except (ValueError, OSError) as error:
        text = str(error)
        print(text if arguments.model in text else f"{arguments.model}: {text}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def finish(errors: Sequence[Mapping[str, str]], answers: int, notes: Iterable[str], as_json: bool) -> int:
    """The exit code, after telling to stderr what went wrong, unless it is in the JSON already."""
    if not as_json:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        for one in errors:
            print(f"failed: {one['name']}: {one['error']}", file=sys.stderr)
        if errors:
            print(f"{len(errors)} of {len(errors) + answers} without an answer", file=sys.stderr)
    if not answers:
        return UNUSABLE
    return SOME_FAILED if errors else 0


def print_json(value: Mapping[str, object]) -> None:
    """One object, for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], most: int | None = None) -> str:
    """Columns under their heads, those of numbers to the right; at most so many rows, then how many there are more."""
    cells = [[shown(value) for value in row] for row in rows]
    hidden = 0 if most is None else max(0, len(cells) - most)
    cells = cells[: len(cells) - hidden]
    widths = [max(len(row[i]) for row in [heads, *cells]) for i in range(len(heads))]
    right = [all(_is_number(row[i]) for row in cells) for i in range(len(heads))]
    lines = [
        "  ".join(
            cell.rjust(width) if aligned else cell.ljust(width)
            for cell, width, aligned in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in [list(heads), *cells]
    ]
    return "\n".join([*lines, *([f"... and {hidden:,} more"] if hidden else [])])


def shown(value: object) -> str:
    """A number, several, a text, or "-" for what is not told."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(shown(one) for one in value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    return text == "-" or (text.lstrip("-")[:1].isdigit() and not text.strip("-0123456789. "))
