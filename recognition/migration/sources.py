"""From a path or a command line to the settings found there, whichever program they are of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from recognition.migration import arcface_torch, facemoe, petalface
from recognition.migration.configs import find_config
from recognition.migration.found import BY_DEFAULT, Found, Setting, Unknown
from recognition.migration.launch import TRAINERS, choose, options, processes, trainer, trainings
from recognition.migration.python_config import LARGEST_FILE
from recognition.migration.rules import Program
from recognition.migration.shell import Command
from recognition.migration.shell_words import Word
from recognition.registry import nearest

PROGRAMS: dict[str, Program] = {one.name: one for one in (arcface_torch.PROGRAM, facemoe.PROGRAM, petalface.PROGRAM)}


def find(source: str, command: int | None = None, processes: int | None = None) -> Found:
    """The settings that `source` names: a Python config, a launch script, or a command line as text.

    command: which of a script's training commands, from 1. processes: how many there were, where nothing tells.
    ValueError for what is none of these, and for a script of several commands without a choice.
    """
    path = Path(source)
    is_line = len(source.split()) > 1 and any(name in source for name in TRAINERS) and not path.is_file()
    if path.suffix == ".py" and not is_line:
        if command is not None:
            raise ValueError(f"--command chooses among those of a launch script; {path} is a config")
        return find_config(path, processes=processes)
    if not is_line and (path.suffix in (".sh", ".bash", ".txt") or path.is_file()):
        text, name = _text(path), path.name
    elif is_line:
        text, name = source, "a command line"
    else:
        raise ValueError(
            f"{source}: name a Python config (.py), a launch script (.sh), or a whole command line in quotes, "
            "such as 'torchrun --nproc_per_node=8 train_iqa.py --network swin_256new_iqa ...'"
        )
    try:
        found, commented = trainings(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    chosen = choose(found, commented, name, command)
    return _command(chosen, name, None if is_line else path, processes, commented)


def _text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes: that is no launch script")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text") from None


def _command(command: Command, name: str, script: Path | None, wanted: int | None, commented: bool) -> Found:
    at = trainer(command)
    assert at is not None
    place = f"{name} line {command.line}"
    program = PurePosixPath(command.words[at].text).name
    rest = command.words[at + 1 :]
    count, by = (wanted, "--processes") if wanted else processes(command)
    notes = [f"{place} is commented out there"] if commented else []
    files = (script,) if script else ()
    if rest and not rest[0].text.startswith("-"):
        config = _beside(rest[0], script.parent if script else Path(), place)
        of_config = find_config(config, program, count, by, tuple(notes), files)
        return replace(of_config, notes=(*_uncounted(command, of_config.processes), *of_config.notes))
    found = options(rest, place)
    settings = petalface.read_options({name: word.text for name, word in found.items()}, place)
    settings |= {name: Setting(Unknown(word.unknown), place) for name, word in found.items() if word.unknown}
    if program == "train.py" and "network" not in settings:
        raise ValueError(f"{place}: {program} gets neither a config nor --network: no program known here")
    notes += [
        f"--{key} {word.text}: its program takes any text for True (type=bool); here it is {settings[key].value}"
        for key, word in found.items()
        if key not in petalface.SWITCHES and isinstance(petalface.DEFAULTS.get(key), bool)
    ]
    notes += _uncounted(command, count)
    settings = _with_defaults(settings, petalface.DEFAULTS)
    return Found("PETALface", name, settings, program, count, by, tuple(notes), files)


def _uncounted(command: Command, count: int | None) -> list[str]:
    if count is not None:
        return []
    started = " ".join(word.text for word in command.words[: trainer(command)])
    return [f"how many processes '{started}' starts is not known here: give --processes N"]


def _beside(word: Word, folder: Path, place: str) -> Path:
    """The config that a command line names, wherever it was started."""
    if word.unknown:
        raise ValueError(f"{place}: the config's name depends on {word.unknown}: name the config itself")
    name = Path(word.text if word.text.endswith(".py") else f"{word.text}.py")
    for start in (Path(), folder, folder.parent):
        if (start / name).is_file():
            return start / name
    raise ValueError(f"{place} trains with {name}, which is not here: name that file")


def _with_defaults(settings: Mapping[str, Setting], defaults: Mapping[str, object]) -> dict[str, Setting]:
    return {**{key: Setting(value, BY_DEFAULT, True) for key, value in defaults.items()}, **settings}


def near(name: str, program: Program) -> str:
    """The sentence on a setting that nobody knows."""
    return nearest(name, [*program.rules, *program.dropped]).partition(" (have")[0]
