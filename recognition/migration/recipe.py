"""Writes recipes: a head that says Needs, Run and Expect, and plain values."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from keyword import iskeyword

from recognition.migration.found import Found
from recognition.migration.rules import Need
from recognition.recipes import spelled

WIDTH = 120
PER_MACHINE = 8
ORDER = (
    "run",
    "backbone",
    "adapter",
    "scorer",
    "gate",
    "margin",
    "objectives",
    "classifier",
    "data",
    "degradation",
    "optim",
    "schedule",
    "train",
    "evaluation",
)


def render(
    found: Found, path: str, sections: Mapping[str, object], needs: Sequence[Need], dropped: Sequence[str]
) -> str:
    """The text of the recipe at `path`. What comes from outside is a literal in it, or in the head without quotes."""
    lines = ['"""' + "\n".join(_head(found, path, needs, dropped)), '"""', "", "from easydict import EasyDict as edict"]
    lines += ["", "config = edict()"]
    if needs:
        lines += _pretty([{"path": need.path, "help": need.help} for need in needs], "config.needs = ", "", "")
    for section in (*ORDER, *(one for one in sections if one not in ORDER)):
        if sections.get(section):
            lines += _pretty(sections[section], f"config.{section} = ", "", "")
    return "\n".join(lines) + "\n"


def run_line(found: Found, path: str) -> str:
    """The command that trains the recipe on as many processes as there were."""
    processes = found.processes or PER_MACHINE
    if processes == 1:
        return spelled(f"python tools/train.py {path}")
    if processes > PER_MACHINE and processes % PER_MACHINE == 0:
        machines = processes // PER_MACHINE
        return spelled(f"torchrun --nnodes {machines} --nproc-per-node {PER_MACHINE} tools/train.py {path}")
    return spelled(f"torchrun --nproc-per-node {processes} tools/train.py {path}")


def _head(found: Found, path: str, needs: Sequence[Need], dropped: Sequence[str]) -> list[str]:
    images, people = found.get("num_image"), found.get("num_classes")
    counted = isinstance(images, int) and isinstance(people, int) and found.written("num_image")
    size = f" ({images:,} faces of {people:,} people, its settings say)" if counted else ""
    needed = ", ".join(f"{_safe(need.path)}{'' if n else size}" for n, need in enumerate(needs))
    told = f"told by {found.processes_by}" if found.processes else "not told, so adapt it"
    left = f"; left out: {', '.join(_safe(one) for one in dropped)}" if dropped else ""
    return [
        f"Converted from {_safe(found.source)} of {found.program}.",
        "",
        *_hanging("Needs", needed or "records: name them in data.records"),
        *_hanging("Run", run_line(found, shlex.quote(_safe(path)))),
        *_hanging("Expect", f"not measured here; the number of processes is {told}{left}"),
    ]


def _hanging(word: str, text: str) -> list[str]:
    first, more = f"{word:<8}", " " * 8
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=more, break_long_words=False, break_on_hyphens=False
    )


def _safe(text: str) -> str:
    """What may stand inside a docstring."""
    return "".join(char if char.isprintable() and char not in '"\\' else "?" for char in text)


def _pretty(value: object, before: str, indent: str, after: str) -> list[str]:
    """Lines of a literal, each element on its own where one line is too long."""
    whole = f"{indent}{before}{_literal(value)}{after}"
    if len(whole) <= WIDTH or not isinstance(value, dict | list | tuple) or not value:
        return [whole] if len(whole) <= WIDTH or not isinstance(value, str) else _broken(value, before, indent, after)
    deeper = f"{indent}    "
    if not isinstance(value, dict):
        inner = [line for one in value for line in _pretty(one, "", deeper, ",")]
        return [f"{indent}{before}[", *inner, f"{indent}]{after}"]
    names = _identifiers(value)
    inner = [
        line
        for key, one in value.items()
        for line in _pretty(one, f"{key}=" if names else f"{_literal(key)}: ", deeper, ",")
    ]
    opening, closing = ("edict(", ")") if names else ("{", "}")
    return [f"{indent}{before}{opening}", *inner, f"{indent}{closing}{after}"]


def _broken(value: str, before: str, indent: str, after: str) -> list[str]:
    """A long text over several lines, as literals beside one another."""
    parts = textwrap.wrap(value, WIDTH - len(indent) - 8, drop_whitespace=False, break_long_words=False)
    if "".join(parts) != value:  # it has other white space than blanks
        return [f"{indent}{before}{_literal(value)}{after}"]
    more = [f"{indent}{before}{_literal(parts[0])}", *(f"{indent}{_literal(part)}" for part in parts[1:])]
    return [*more[:-1], f"{more[-1]}{after}"]


def _literal(value: object) -> str:
    if isinstance(value, dict) and _identifiers(value):
        return f"edict({', '.join(f'{key}={_literal(one)}' for key, one in value.items())})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(key)}: {_literal(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_literal(one) for one in value)}]"
    plain = isinstance(value, str) and value.isprintable() and "\\" not in value and '"' not in value
    return f'"{value}"' if plain else repr(value)


def _identifiers(value: dict) -> bool:
    return all(isinstance(key, str) and key.isidentifier() and not iskeyword(key) for key in value)
