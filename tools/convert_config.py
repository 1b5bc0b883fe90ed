"""Converts settings of arcface_torch, FaceMoE or PETALface into a recipe, and tells what became of each.

    python tools/convert_config.py configs/ms1mv3_r50.py                        look only: the table, nothing is written
    python tools/convert_config.py configs/ms1mv3_r50.py mine.py --processes 8
    python tools/convert_config.py configs/ms1mv3_r50.py mine.py data.records=data/ms1mv3 train.precision=bf16
    python tools/convert_config.py FaceMoE/train.sh mine.py --command 2         its second line, commented out or not
    python tools/convert_config.py PETALface/scripts/train_iqa.sh mine.py
    python tools/convert_config.py --settings PETALface                         what becomes of every setting
    python tools/convert_config.py "torchrun --nproc_per_node=8 train_iqa.py --network swin_256new_iqa ..." mine.py

A Python config is read as text and never run: literals, arithmetic on earlier settings, f-strings, os.path.join and
`if` on what is known count; what only running it would tell is an error with its line, unless the setting is dropped
anyway. It is laid over the base.py beside it, else over arcface_torch's defaults as known here. Of a launch script the
training commands count, with the variables that it sets itself, or where there is none those that are commented out;
FaceMoE's name the config, which is then read.

Every setting is listed with what it becomes, or why it is dropped; (default): no file says it, (base.py): not the
config itself. One that is not known is an error: --allow-unknown
leaves it out and says so. section.setting=value goes over all and into the recipe, where rows say what it
overrides; there a setting of ours stands in for one of theirs that cannot be converted.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recognition.migration.convert import Conversion

OVERRIDE = re.compile(r"[a-z_]+(\.\w+)*=")  # what a path begins with seldom


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; neither it nor the conversion imports torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", help="a Python config, a launch script, or a command line in quotes")
    parser.add_argument("out", nargs="?", help="the recipe to write, NAME.py; without it nothing is written")
    parser.add_argument("overrides", nargs="*", metavar="section.setting=value", help="laid over, and written into it")
    parser.add_argument("--command", type=int, metavar="N", help="of a script with several trainings, from 1")
    parser.add_argument("--processes", type=int, metavar="N", help="how many it ran on, where nothing tells")
    parser.add_argument("--allow-unknown", action="store_true", help="leave unknown settings out, naming them")
    parser.add_argument("--overwrite", action="store_true", help="replace a recipe that is there")
    parser.add_argument(
        "--settings", metavar="PROGRAM", help="show what becomes of every setting of a program, and stop"
    )
    arguments = parser.parse_intermixed_args(argv)
    if (arguments.source is None) == (arguments.settings is None):
        parser.error("name a config, a script or a command line; or a program by --settings")
    if arguments.out is not None and OVERRIDE.match(arguments.out):
        arguments.overrides = [arguments.out, *arguments.overrides]
        arguments.out = None
    arguments.out = None if arguments.out is None else Path(arguments.out)
    if arguments.out is not None and (arguments.out.suffix != ".py" or not arguments.out.stem.isprintable()):
        parser.error(f"{arguments.out}: a recipe is a file NAME.py")
    if arguments.processes is not None and arguments.processes < 1:
        parser.error(f"--processes {arguments.processes}: it takes a whole number, 1 or more")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Converts and tells. Returns 0, or 2 where the source or its settings cannot be used."""
    arguments = parse(argv)
    try:
        if arguments.settings is not None:
            print(table_of(arguments.settings), end="")
            return 0
        done = convert(arguments)
    except (ValueError, OSError) as error:
        print(f"convert_config: {error}", file=sys.stderr)
        return 2
    print(*lines(done, arguments.out), sep="\n")
    return 0


def table_of(name: str) -> str:
    """A program's settings as a Markdown table. ValueError for a program that is not known."""
    from recognition.migration.pages import table
    from recognition.migration.sources import PROGRAMS
    from recognition.registry import nearest

    if name not in PROGRAMS:
        raise ValueError(f"--settings {name}: no program is known by that name{nearest(name, PROGRAMS)}")
    return table(PROGRAMS[name])


def convert(arguments: argparse.Namespace) -> Conversion:
    """Read, convert and, where an OUT is named, write. ValueError and OSError for what cannot be."""
    from recognition.files import write_atomically
    from recognition.migration import convert as conversion
    from recognition.migration.sources import find

    out = arguments.out
    if out is not None and out.exists() and not arguments.overwrite:
        raise FileExistsError(f"{out} is there already; name another file, or take --overwrite")
    found = find(arguments.source, arguments.command, arguments.processes)
    if out is not None and any(out.resolve() == one.resolve() for one in found.files):
        raise FileExistsError(f"{out} is what is converted, or its base.py: name another file for the recipe")
    done = conversion.convert(found, out or Path("mine.py"), arguments.overrides, arguments.allow_unknown)
    if out is not None:
        write_atomically(out, done.text)
    return done


def lines(done: Conversion, out: Path | None) -> list[str]:
    """What is told: where it came from, each setting, and what to do next."""
    from recognition.migration.recipe import run_line
    from recognition.recipes import spelled

    found = done.found
    told = f", {found.processes} processes by {found.processes_by}" if found.processes else ""
    shown = [f"{found.source}: {found.program}{f', {found.script}' if found.script else ''}{told}"]
    shown += [f"  {note}" for note in found.notes]
    for row in done.rows:
        left = f"{row.setting} {row.value}" if row.setting.startswith("(") else f"{row.setting} = {row.value}"
        left += f" ({row.origin})" if row.origin else ""
        became = " ".join(text if len(text) <= 80 else f"{text[:77]}..." for text in row.becomes)
        remark = row.remark if not became else f"   ({row.remark})" if row.remark else ""
        shown.append(f"  {left:<44}  {f'-> {became}{remark}' if became else f'-- {remark}'}")
    shown += [f"unknown, left out: {', '.join(done.unknown)}"] if done.unknown else []
    if out is None:
        return [*shown, "nothing is written: name a recipe, NAME.py"]
    shown += [f"written: {out}", f"train:   {run_line(found, shlex.quote(str(out)))}"]
    folder = found.get("output")
    if folder is None and found.written("output"):
        folder = f"work_dirs/{PurePath(found.source).stem}"  # as its utils_config.py
    if found.program == "arcface_torch" and isinstance(folder, str) and folder:
        theirs, ours, recipe = (shlex.quote(text) for text in (folder, f"runs/{out.stem}", str(out)))
        shown.append(spelled(f"go on:   python tools/convert_checkpoint.py {theirs} {ours} --recipe {recipe}"))
    return shown


if __name__ == "__main__":
    sys.exit(main())
