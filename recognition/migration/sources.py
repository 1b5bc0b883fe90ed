"""From a path or a command line to the settings found there, whichever program they are of."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from recognition.migration import arcface_torch, facemoe, petalface
from recognition.migration.found import BY_DEFAULT, Found, Setting, Unknown
from recognition.migration.python_config import read_config
from recognition.migration.rules import Program
from recognition.migration.shell import Command, Word, read_commands
from recognition.registry import nearest

PROGRAMS: dict[str, Program] = {one.name: one for one in (arcface_torch.PROGRAM, facemoe.PROGRAM, petalface.PROGRAM)}
TRAINERS = ("train.py", "train_v2.py", "train_iqa.py", "train_fc.py", "train_full.py")
LAUNCHERS = ("torchrun", "torch.distributed.run", "torch.distributed.launch")
GPUS = re.compile(r"(\d+)gpus?(?![a-z])")
THEIRS = ("network", "margin_list", "loss")  # a base.py of arcface_torch sets one of them


def find(source: str, command: int | None = None, processes: int | None = None) -> Found:
    """The settings that `source` names: a Python config, a launch script, or a command line as text.

    command: which of a script's training commands, from 1. processes: how many there were, where nothing tells.
    ValueError for what is none of these, and for a script of several commands without a choice.
    """
    path = Path(source)
    is_line = len(source.split()) > 1 and any(trainer in source for trainer in TRAINERS) and not path.is_file()
    if path.suffix == ".py" and not is_line:
        if command is not None:
            raise ValueError(f"--command chooses among those of a launch script; {path} is a config")
        return _config(path, processes=processes)
    if not is_line and (path.suffix in (".sh", ".bash", ".txt") or path.is_file()):
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        try:
            text, name = path.read_text(encoding="utf-8"), path.name
        except UnicodeDecodeError:
            raise ValueError(f"{path} is no text") from None
    elif is_line:
        text, name = source, "a command line"
    else:
        raise ValueError(
            f"{source}: name a Python config (.py), a launch script (.sh), or a whole command line in quotes, "
            "such as 'torchrun --nproc_per_node=8 train_iqa.py --network swin_256new_iqa ...'"
        )
    try:
        found = [one for one in read_commands(text) if _trainer(one) is not None]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return _command(_choose(found, name, command), name, Path() if is_line else path.parent, processes)


def _choose(found: list[Command], name: str, wanted: int | None) -> Command:
    if not found:
        raise ValueError(f"{name} starts no training: no command in it runs {', '.join(TRAINERS)}")
    if wanted is None and len(found) > 1:
        listed = "; ".join(f"{n} = line {one.line}, {one.heading or 'no heading'}" for n, one in enumerate(found, 1))
        raise ValueError(f"{name} starts {len(found)} trainings: choose one by --command N ({listed})")
    if not 1 <= (wanted or 1) <= len(found):
        raise ValueError(f"--command {wanted}: {name} starts {len(found)} training(s), counted from 1")
    return found[(wanted or 1) - 1]


def _trainer(command: Command) -> int | None:
    """Where in its words the program stands that it starts, None where it starts no training."""
    for number, word in enumerate(command.words):
        if PurePosixPath(word.text).name in TRAINERS:
            return number
    return None


def _command(command: Command, name: str, folder: Path, processes: int | None) -> Found:
    at = _trainer(command)
    assert at is not None
    place = f"{name} line {command.line}"
    script = PurePosixPath(command.words[at].text).name
    rest = command.words[at + 1 :]
    counted, by = _processes(command, at)
    processes, by = (processes, "--processes") if processes else (counted, by)
    if rest and not rest[0].text.startswith("-"):
        return _config(_beside(rest[0], folder, place), script, processes, by)
    options = _options(rest, place)
    settings = petalface.read_options({name: word.text for name, word in options.items()}, place)
    settings |= {name: Setting(Unknown(word.unknown), place) for name, word in options.items() if word.unknown}
    if script == "train.py" and "network" not in settings:
        raise ValueError(f"{place}: {script} gets neither a config nor --network: no program known here")
    notes = tuple(
        f"--{key} {word.text}: its program takes any text for True (type=bool); here it is {settings[key].value}"
        for key, word in options.items()
        if key not in petalface.SWITCHES and isinstance(petalface.DEFAULTS.get(key), bool)
    )
    return Found("PETALface", name, _with_defaults(settings, petalface.DEFAULTS), script, processes, by, notes)


def _options(words: tuple[Word, ...], place: str) -> dict[str, Word]:
    options: dict[str, Word] = {}
    at = 0
    while at < len(words):
        option, equals, value = words[at].text.partition("=")
        name = option.lstrip("-").replace("-", "_")
        if not option.startswith("--"):
            raise ValueError(f"{place}: '{words[at].text}' stands where an option was expected")
        at += 1
        follows = at < len(words) and not words[at].text.startswith("--")
        if name in petalface.SWITCHES:
            given = Word("True")
        elif equals:
            given = Word(value, words[at - 1].unknown)
        else:
            if not follows and name in petalface.DEFAULTS:
                raise ValueError(f"{place}: --{name} has no value")
            given, at = (words[at], at + 1) if follows else (Word("True"), at)
        options[name] = given
    return options


def _processes(command: Command, script: int) -> tuple[int | None, str]:
    """How many processes a launcher starts; 1 without one."""
    words = [word.text for word in command.words[:script]]
    if not any(launcher in word for word in words for launcher in LAUNCHERS):
        return 1, "no launcher"
    found = {"nproc_per_node": "1", "nnodes": "1"}
    for number, word in enumerate(words):
        option, equals, value = word.lstrip("-").replace("-", "_").partition("=")
        if option in found:
            found[option] = value if equals else (words[number + 1] if number + 1 < len(words) else "")
    devices = [one for one in command.environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    if found["nproc_per_node"] in ("gpu", "auto") and devices:
        found["nproc_per_node"] = str(len(devices))
    if not all(value.isdigit() for value in found.values()):
        return None, ""
    return int(found["nproc_per_node"]) * int(found["nnodes"]), "its launcher"


def _beside(word: Word, folder: Path, place: str) -> Path:
    """The config that a command line names, wherever it was started."""
    if word.unknown:
        raise ValueError(f"{place}: the config's name depends on {word.unknown}: name the config itself")
    name = Path(word.text if word.text.endswith(".py") else f"{word.text}.py")
    for start in (Path(), folder, folder.parent):
        if (start / name).is_file():
            return start / name
    raise ValueError(f"{place} trains with {name}, which is not here: name that file")


def _config(path: Path, script: str = "", processes: int | None = None, by: str = "--processes") -> Found:
    theirs, where = _base(path)
    written, notes = read_config(path, lambda: theirs)
    settings = {**theirs, **written}
    moe = any(name in settings for name in ("num_experts", "use_moe")) or settings["network"].value == "swin_moe"
    defaults = facemoe.DEFAULTS if moe else arcface_torch.DEFAULTS
    if processes is None:
        processes, by = _by_name(path.stem)
    if "loss" in written and settings["margin_list"].default:
        settings = {name: setting for name, setting in settings.items() if name != "margin_list"}
        defaults = {name: value for name, value in defaults.items() if name != "margin_list"}
    if (power := _power(path)) is not None:
        settings["(scheduler power)"] = Setting(power, "train_v2.py")
        notes = [f"schedule: {'PolyScheduler' if power == 2 else 'PolynomialLRWarmup'}, by the program above", *notes]
    notes = [f"defaults: {where}", *notes]
    settings = _with_defaults(settings, defaults)
    return Found("FaceMoE" if moe else "arcface_torch", path.name, settings, script, processes, by, tuple(notes))


def _by_name(stem: str) -> tuple[int | None, str]:
    if "onegpu" in stem:
        return 1, "its name"
    found = GPUS.search(stem)
    return (int(found[1]), "its name") if found else (None, "")


def _base(path: Path) -> tuple[dict[str, Setting], str]:
    """Settings of the base.py beside a config, else those known; and which these are."""
    known = {key: Setting(value, BY_DEFAULT, True) for key, value in arcface_torch.DEFAULTS.items()}
    beside = path.parent / "base.py"
    if path.name != "base.py" and beside.is_file():
        found, _ = read_config(beside, lambda: known)
        if any(name in found for name in THEIRS):
            taken = {key: Setting(setting.value, setting.place, True) for key, setting in found.items()}
            return {**known, **taken}, "the base.py beside it"
    return known, "those of arcface_torch's configs/base.py, as known here"


def _power(path: Path) -> float | None:
    """Of the schedule in train_v2.py above the configs, 2.0 of PolyScheduler, 1.0 of PolynomialLRWarmup; else None."""
    for program in (path.parent.parent / "train_v2.py", path.parent.parent / "train.py"):
        try:
            tree = ast.parse(program.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        called = {one.id for one in calls if isinstance(one, ast.Name)}
        for name, power in (("PolynomialLRWarmup", 1.0), ("PolyScheduler", 2.0)):
            if name in called:
                return power
    return None


def _with_defaults(settings: Mapping[str, Setting], defaults: Mapping[str, object]) -> dict[str, Setting]:
    return {**{key: Setting(value, BY_DEFAULT, True) for key, value in defaults.items()}, **settings}


def near(name: str, program: Program) -> str:
    """The sentence on a setting that nobody knows."""
    return nearest(name, [*program.rules, *program.dropped]).partition(" (have")[0]
