"""Are two aligned faces of one person? The threshold is the one that the model's card tells at a false accept rate.

    python tools/verify.py --model runs/demo a.jpg b.jpg
    python tools/verify.py --model runs/demo a.jpg b.jpg --far 1e-2 --operating lfw/112-14 --json
    python tools/verify.py --model runs/demo --pairs pairs.csv
    python tools/verify.py --model runs/petal/model --base weights/base.safetensors a.jpg b.jpg
    python tools/verify.py --model face.onnx --card runs/demo a.jpg b.jpg
    python tools/verify.py --model face.onnx --threshold 0.31 a.jpg b.jpg

--pairs: two paths in each line, parted by a comma, a tab or spaces; relative ones from --root. Without any threshold
the similarity alone is told. What cannot be read is listed, and the other pairs are answered.

Exit code 0, whichever the answer; 1 where some pairs failed; 2 where nothing could be done.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from recognition.answers import command_line

if TYPE_CHECKING:
    from recognition.answers.results import Verified

ANSWERS = {True: "one person", False: "two people", None: "-"}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Answers --help without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help="two of them")
    parser.add_argument("--pairs", metavar="FILE", help="a list of pairs, in place of two pictures")
    parser.add_argument("--root", default="", metavar="DIR", help="folder of the paths in --pairs")
    command_line.add_model(parser)
    command_line.add_threshold(parser)
    arguments = command_line.parse(parser, argv)
    if len(arguments.pictures) != (0 if arguments.pairs else 2):
        parser.error(f"name two pictures, or a list by --pairs; got {len(arguments.pictures)} pictures")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Compares and tells. Exit codes as above."""
    return command_line.answer(parse(argv), _verify)


def read_pairs(path: str | Path, root: str | Path = "") -> list[tuple[str, str]]:
    """The pairs of a list; empty lines and those that begin with # are passed over. ValueError naming a wrong line."""
    from recognition.data.gathered import read_list

    found = []
    for number, line in enumerate(read_list(path).splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        mark = next((mark for mark in "\t," if mark in text), None)
        try:
            cells = next(csv.reader([text], delimiter=mark)) if mark else text.split()
        except csv.Error as error:
            raise ValueError(f"{path}, line {number}: {error}; wanted two paths") from None
        names = [cell.strip() for cell in cells]
        if len(names) != 2 or not all(names):
            raise ValueError(f"{path}, line {number}: wanted two paths, got {text!r}")
        found.append((str(Path(root, names[0])), str(Path(root, names[1]))))
    if not found:
        raise ValueError(f"{path} holds no pairs")
    return found


def _verify(arguments: argparse.Namespace) -> int:
    pairs = read_pairs(arguments.pairs, arguments.root) if arguments.pairs else [tuple(arguments.pictures)]
    model = command_line.load(arguments)
    found = model.verify_pairs(
        pairs,
        arguments.far,
        operating=arguments.operating,
        threshold=arguments.threshold,
        flip=arguments.flip,
        batch_size=arguments.batch_size,
        progress=True,
    )
    answered = [one for one in found if not one.error]
    errors = [_lost(one) for one in found if one.error]
    chosen = found[0].chosen
    if arguments.json:
        told = [{"names": one.names, "similarity": one.similarity, "same": one.same, **_sides(one)} for one in answered]
        command_line.print_json({"model": model.source, "threshold": chosen.as_dict(), "pairs": told, "errors": errors})
    elif answered:
        print(_one(answered[0]) if len(found) == 1 else _table(answered))
        print(command_line.threshold_line(chosen))
    notes = [chosen.note] if chosen.threshold is None else []
    return command_line.finish(errors, len(answered), notes, arguments.json)


def _lost(one: Verified) -> dict[str, str]:
    """The picture of a pair that could not be read, and why."""
    name = next(name for name in one.names if one.error.startswith(f"{name}: "))
    return {"name": name, "error": one.error.removeprefix(f"{name}: ")}


def _sides(one: Verified) -> dict[str, object]:
    return {"first": one.first, "second": one.second}


def _one(one: Verified) -> str:
    sides = [[name, *about.values()] for name, about in zip(one.names, (one.first, one.second), strict=True)]
    lines = [f"similarity  {one.similarity:.4f}", f"answer      {ANSWERS[one.same]}", ""]
    return "\n".join([*lines, command_line.table(["picture", *one.first], sides), ""])


def _table(pairs: list[Verified]) -> str:
    heads = ["first", "second", "similarity", "answer", "quality", "gate", "quality", "gate"]
    return command_line.table(
        heads,
        [
            [*one.names, one.similarity, ANSWERS[one.same]]
            + [about[key] for about in (one.first, one.second) for key in ("quality", "gate")]
            for one in pairs
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
