"""What the three tools of answers share: the model's options, tables, JSON, exit codes. Imported without torch."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recognition.answers.api import LRFace
    from recognition.answers.thresholds import Chosen

SOME_FAILED = 1  # exit code: there are answers, and pictures without one
UNUSABLE = 2
INTERRUPTED = 130
OPTIONS = ("base", "device", "scorer", "card", "any_base")
MOST_LEFT_OUT = 10  # pictures of a gallery that are told one by one


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, options and pictures in any order. An option that there is not is told before what is missing."""
    given = list(sys.argv[1:] if argv is None else argv)
    known = [option for action in parser._actions for option in action.option_strings]
    for one in given[: given.index("--") if "--" in given else None]:
        name = one.split("=")[0]
        if name.startswith("--") and not any(option.startswith(name) for option in known):
            like = difflib.get_close_matches(name, known, 1)
            parser.error(f"there is no option {name}{f'; is {like[0]} meant?' if like else ', see --help'}")
    return parser.parse_intermixed_args(given)


def add_model(parser: argparse.ArgumentParser, decides: bool = True) -> None:
    """--model and what belongs to it. decides: the tool uses thresholds, which a card tells."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", required=True, metavar="PATH", help="a run, a checkpoint, an adapter's folder, weights, or .onnx"
    )
    model.add_argument("--base", metavar="FILE", help="weights that an adapter's folder goes on")
    model.add_argument("--any-base", action="store_true", help="take --base where the adapter's card tells none")
    model.add_argument("--scorer", metavar="NAME", help="tells quality where the model has no scorer of its own")
    if decides:
        model.add_argument("--card", metavar="FILE", help="thresholds from this card, run, checkpoint or results.json")
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

    return LRFace.load(arguments.model, **{name: getattr(arguments, name, None) for name in OPTIONS})


def answer(arguments: argparse.Namespace, work: Callable[[argparse.Namespace], int]) -> int:
    """work's exit code; 2 with a sentence for what cannot be used, 130 after Ctrl-C."""
    try:
        return work(arguments)
    except (ValueError, OSError) as error:
        print(sentence(error), file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def sentence(error: Exception) -> str:
    """An error in words, without its number."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def threshold_line(chosen: Chosen) -> str:
    """The threshold with its interval and false accept rate, and where it comes from."""
    if chosen.threshold is None:
        return "threshold   none"
    within = "" if chosen.lo is None or chosen.hi is None else f" [{chosen.lo:.4f}, {chosen.hi:.4f}]"
    at = "" if chosen.far is None else f" at FAR {chosen.far:g}"
    return f"threshold   {chosen.threshold:.4f}{within}{at}, {chosen.note}"


def left_out(errors: Sequence[Mapping[str, str]], faces: int) -> list[str]:
    """What is told of pictures that a gallery of so many faces had to do without."""
    if not errors:
        return []
    shown = [f"left out of the gallery: {one['name']}: {one['error']}" for one in errors[:MOST_LEFT_OUT]]
    more = [f"... and {len(errors) - MOST_LEFT_OUT:,} more"] if len(errors) > MOST_LEFT_OUT else []
    return [*shown, *more, f"{len(errors):,} of {len(errors) + faces:,} pictures of the gallery were left out"]


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
    return text in ("-", "") or (text.lstrip("-")[:1].isdigit() and not text.strip("-0123456789. "))
