"""Whose faces are these? The people of a gallery that are most alike to each probe.

    python tools/identify.py --model runs/demo probes/ --gallery people/
    python tools/identify.py --model runs/demo probe.jpg --gallery people/ --index people.npz
    python tools/identify.py --model runs/demo probe.jpg --index people.npz --top 10 --fuse mean --json
    python tools/identify.py --model face.onnx --card runs/demo probes/ --gallery people/ --labels people.csv

--gallery: a folder whose sub-folders are people (people/anna/1.jpg), or with the person before the last underscore
(people/anna_1.jpg), or as --labels says: a CSV of name,person, names as in the folder; a .rec file with its labels.
--index keeps the gallery's embeddings with the model's hash: the next call embeds new and changed files only, and an
index of another model is refused; so is a folder in which faces of the index are missing, unless --prune takes them
out. From 100,000 faces on faiss searches (pip install faiss-cpu), as exactly.
The false accept rate is that of one comparison, and a search makes as many as there are faces: it says what to expect.

Exit code 0, whoever was found; 1 where some probes failed; 2 where nothing could be done. Pictures of the gallery that
cannot be used are left out, listed and counted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from recognition.answers import command_line

if TYPE_CHECKING:
    from recognition.answers.api import Gallery, LRFace, Search


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Answers --help without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("probes", nargs="+", metavar="PROBE", help="pictures, folders of pictures, .rec files")
    parser.add_argument("--gallery", metavar="DIR", help="pictures of the people")
    parser.add_argument("--index", metavar="FILE", help=".npz that keeps the gallery; alone, the gallery itself")
    parser.add_argument("--labels", metavar="CSV", help="name,person of the gallery's pictures")
    parser.add_argument("--half", action="store_true", help="keep the index as float16")
    parser.add_argument("--prune", action="store_true", help="take faces out of the index that the gallery has no more")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="candidates of each probe (default: 5)")
    parser.add_argument("--fuse", choices=("max", "mean"), default="max", help="several faces of a person")
    parser.add_argument("--search", choices=("auto", "exact", "flat", "hnsw"), default="auto", help="flat, hnsw: faiss")
    command_line.add_model(parser)
    command_line.add_threshold(parser)
    arguments = command_line.parse(parser, argv)
    if not arguments.gallery and not arguments.index:
        parser.error("name the people: --gallery DIR, --index FILE, or both")
    if not arguments.gallery and (arguments.labels or arguments.half or arguments.prune):
        parser.error("--labels, --half and --prune are of a --gallery; an --index keeps its own")
    if arguments.index and Path(arguments.index).suffix != ".npz":
        parser.error(f"--index {arguments.index}: it must end in .npz")
    if arguments.top < 1:
        parser.error(f"--top is {arguments.top}; it must be at least 1")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Searches and tells. Exit codes as above."""
    return command_line.answer(parse(argv), _identify)


def _identify(arguments: argparse.Namespace) -> int:
    model = command_line.load(arguments)
    gallery = _gallery(arguments, model)
    found = model.identify(
        arguments.probes[0] if len(arguments.probes) == 1 else arguments.probes,
        gallery,
        arguments.top,
        arguments.far,
        operating=arguments.operating,
        threshold=arguments.threshold,
        fuse=arguments.fuse,
        search=arguments.search,
        flip=arguments.flip,
        batch_size=arguments.batch_size,
        progress=True,
    )
    lost = [{"name": one.name, "error": one.error} for one in found if one.error]
    answered = len(found) - len(lost)
    if arguments.json:
        command_line.print_json(_as_json(model, gallery, found, lost))
    else:
        for line in command_line.left_out(gallery.errors, found.faces):
            print(line, file=sys.stderr)
    if answered and not arguments.json:
        print(_table(found))
        kept = f"; {gallery.computed:,} embedded now" + (f", kept in {arguments.index}" if arguments.index else "")
        print(f"gallery     {found.people:,} people, {found.faces:,} faces{kept if arguments.gallery else ''}")
        print(command_line.threshold_line(found.chosen))
    none = [found.chosen.note] if found.chosen.threshold is None else []
    return command_line.finish(lost, answered, [*none, *found.notes] if answered else [], arguments.json)


def _gallery(arguments: argparse.Namespace, model: LRFace) -> Gallery:
    from recognition.answers.api import Gallery

    if not arguments.gallery:
        return Gallery.load(arguments.index)
    return model.gallery(
        arguments.gallery,
        arguments.labels,
        arguments.index,
        half=arguments.half,
        prune=arguments.prune,
        flip=arguments.flip,
        batch_size=arguments.batch_size,
        progress=True,
    )


def _table(found: Search) -> str:
    heads = ["probe", "quality", "gate", "person", "similarity", "accepted", "face"]
    rows = []
    for one in found:
        for number, candidate in enumerate(one.candidates):
            about = [one.name, one.about["quality"], one.about["gate"]] if number == 0 else ["", "", ""]
            rows.append([*about, candidate.person, candidate.similarity, candidate.accepted, candidate.image])
    return command_line.table(heads, rows)


def _as_json(model: LRFace, gallery: Gallery, found: Search, errors: list[dict[str, str]]) -> dict[str, object]:
    probes = [
        {
            "name": one.name,
            "person": one.person,
            **one.about,
            "candidates": [
                {"person": c.person, "similarity": c.similarity, "face": c.image, "accepted": c.accepted}
                for c in one.candidates
            ],
        }
        for one in found
        if not one.error
    ]
    counts = {"people": found.people, "faces": found.faces, "embedded": gallery.computed, "errors": gallery.errors}
    told = {"probes": probes, "errors": errors, "notes": found.notes}
    return {"model": model.source, "gallery": counts, "threshold": found.chosen.as_dict(), **told}


if __name__ == "__main__":
    sys.exit(main())
