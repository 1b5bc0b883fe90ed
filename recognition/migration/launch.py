"""Of a launch script the command that trains: which it is, its options, on how many processes."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import PurePosixPath

from recognition.migration import petalface
from recognition.migration.shell import Command, read_commands
from recognition.migration.shell_words import Word

TRAINERS = ("train.py", "train_v2.py", "train_iqa.py", "train_fc.py", "train_full.py")
TORCHRUN = ("torchrun", "torch.distributed.run", "torch.distributed.launch")
RUNNERS = (*TORCHRUN, "accelerate", "deepspeed", "srun", "mpirun", "mpiexec", "horovodrun", "xvfb-run", "uv", "poetry")
NO_RUNNERS = ("echo", "printf", "cat", "grep", "which", "ls", "pkill", "tee", "awk", "sed")
PYTHON = re.compile(r"python[\d.]*")


def trainer(command: Command) -> int | None:
    """Where in its words the program stands that it starts, None where it starts no training."""
    names = [PurePosixPath(word.text).name for word in command.words]
    for number, name in enumerate(names):
        if name in TRAINERS:
            started = number == 0 or any(PYTHON.fullmatch(one) or one in RUNNERS for one in names[:number])
            started = started or bool(command.words[0].unknown)  # $PYTHON
            return number if started and names[0] not in NO_RUNNERS else None
    return None


def trainings(text: str) -> tuple[list[Command], bool]:
    """(the commands that train, False), or (those that stand in comments, True) where no other is there."""
    found = [one for one in read_commands(text) if trainer(one) is not None]
    return (found, False) if found else (_commented(text), True)


def _commented(text: str) -> list[Command]:
    found: list[Command] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        first, block = at, []
        while at < len(lines) and lines[at].lstrip().startswith("#"):
            block.append(lines[at].lstrip().lstrip("# \t"))
            at += 1
            if not block[-1].endswith("\\"):
                break
        at += not block
        try:
            commands = read_commands("\n".join(block))
        except ValueError:  # a sentence with an apostrophe
            continue
        for one in commands:
            if trainer(one) is not None:
                found.append(Command(first + one.line, one.words, one.environment))
    return found


def choose(found: list[Command], commented: bool, name: str, wanted: int | None) -> Command:
    """The training that is meant. ValueError naming them all where that is not clear."""
    if not found:
        raise ValueError(f"{name} starts no training: no command in it runs {', '.join(TRAINERS)}")
    if not 1 <= (wanted or 1) <= len(found):
        raise ValueError(f"--command {wanted}: {name} starts {len(found)} training(s), counted from 1")
    if wanted is None and (len(found) > 1 or commented or found[0].within):
        listed = "; ".join(f"{n} = {_told(one)}" for n, one in enumerate(found, 1))
        if commented:
            raise ValueError(
                f"{name} starts no training, all are commented out: choose one by --command N, or uncomment it "
                f"({listed})"
            )
        doubt = ", and it depends on a condition whether" if len(found) == 1 else ""
        many = f"{len(found)} training{'s' * (len(found) > 1)}"
        raise ValueError(f"{name} starts {many}{doubt}: choose one by --command N ({listed})")
    return found[(wanted or 1) - 1]


def _told(command: Command) -> str:
    at = trainer(command)
    assert at is not None
    program = " ".join(word.text for word in command.words[at : at + 2])
    within = f", within {command.within}" if command.within else ""
    return f"line {command.line}, {command.heading or 'no heading'}: {program}{within}"


def options(words: tuple[Word, ...], place: str) -> dict[str, Word]:
    """Options of a command line, by name without dashes. ValueError where a word is none and belongs to none."""
    found: dict[str, Word] = {}
    at = 0
    while at < len(words):
        option, equals, value = words[at].text.partition("=")
        name = option.lstrip("-").replace("-", "_")
        if words[at].unknown and not equals:
            raise ValueError(f"{place}: '{option}' is known to a shell only: write out the options that it stands for")
        if not option.startswith("--"):
            raise ValueError(f"{place}: '{words[at].text}' stands where an option was expected")
        if not re.fullmatch(r"\w+", name):
            raise ValueError(f"{place}: '{option}' is one word for the shell, and no option: take its quotes away")
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
        found[name] = given
    return found


def processes(command: Command) -> tuple[int | None, str]:
    """(how many processes it starts, what tells): 1 where python starts the program, None where that is not clear."""
    at = trainer(command)
    assert at is not None
    words = [word.text for word in command.words[:at]]
    first = PurePosixPath(words[0]).name if words else ""
    by_module = any(one == "-m" and other in TORCHRUN for one, other in pairwise(words))
    if not words or (PYTHON.fullmatch(first) and not by_module):
        plain = all(word.startswith("-") for word in words[1:])
        return (1, "no launcher") if plain else (None, "")
    if first not in TORCHRUN and not (PYTHON.fullmatch(first) and by_module):
        return None, ""
    found = {"nproc_per_node": "1", "nnodes": "1"}
    for number, word in enumerate(words):
        option, equals, value = word.lstrip("-").replace("-", "_").partition("=")
        if option in found:
            follows = command.words[number + 1] if number + 1 < len(words) else Word("")
            found[option] = value if equals else follows.text
        elif word.startswith("-") and option.startswith(("nproc", "nnode")):  # a name cut short
            return None, ""
    devices = [one for one in command.environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    if found["nproc_per_node"] in ("gpu", "auto") and devices:
        found["nproc_per_node"] = str(len(devices))
    if not all(value.isdecimal() and int(value) for value in found.values()):
        return None, ""
    return int(found["nproc_per_node"]) * int(found["nnodes"]), "its launcher"
