"""What a plugin's docstring and signature say: prose apart from the meanings of its arguments.

The house's form: a summary in the first line; `name: meaning` or `one, other: meaning` where a line or sentence begins,
its further lines hung in or running on until a sentence ends at a line's end.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHORT = 100  # characters of a meaning that is told again for each of the arguments that share it


@dataclass(frozen=True)
class Argument:
    """One argument of a plugin. default: as it is written; None = required. meaning: "" where the prose has it."""

    name: str
    kind: str
    default: str | None
    meaning: str


@dataclass(frozen=True)
class About:
    """What a plugin says of itself."""

    name: str
    file: str  # from the project's root; "" for one of another package, whose module is named
    module: str
    summary: str
    prose: str  # without the meanings that the arguments hold
    arguments: tuple[Argument, ...]
    text: str  # all of its docstrings, for what they cite


def about(name: str, plugin: Callable) -> About:
    """Read one plugin. Its builder's or constructor's docstring, and that of the class it makes, are read too."""
    own = inspect.getdoc(plugin) or ""
    made, constructor = _made(plugin), _constructor(plugin)
    given = [
        parameter
        for parameter in inspect.signature(plugin).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)  # of a class without a constructor
    ]
    names = [parameter.name for parameter in given]
    summary, _, rest = own.partition("\n")
    prose, meanings = split(rest, names)
    other, more = split(constructor, names)
    meanings = {**split(made, names)[1], **more, **meanings}  # what else a class is made from is its builder's affair
    if inspect.isfunction(plugin) and not prose and made:
        other = inspect.getdoc(inspect.getmodule(plugin)) or ""
    arguments = tuple(
        Argument(
            parameter.name,
            _type_of(parameter),
            None if parameter.default is parameter.empty else repr(parameter.default),
            meanings.get(parameter.name, ""),
        )
        for parameter in given
    )
    return About(
        name=name,
        file=_file_of(plugin),
        module=plugin.__module__,
        summary=summary,
        prose="\n\n".join(filter(None, (prose, other))),
        arguments=arguments,
        text="\n".join([own, other, constructor]),
    )


def split(text: str, names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """(prose without them, meaning by argument's name) of a docstring."""
    if not names:
        return text.strip(), {}
    any_name = "|".join(map(re.escape, names))
    begins = re.compile(rf"(?:^|(?<=[.;)] ))((?:{any_name})(?:, (?:{any_name}))*): ")
    prose: list[str] = []
    meanings: dict[str, str] = {}
    shared: dict[str, tuple[str, ...]] = {}
    current: tuple[str, ...] = ()
    for line in text.split("\n"):
        hung = line.startswith(" ")
        ended = not current or meanings[current[0]].endswith(".")
        pieces = begins.split(line.strip())
        lead = pieces[0]
        if not line.strip():
            current = ()
            prose.append("")
        elif lead and current and (hung or not ended):
            meanings[current[0]] += " " + lead.strip()
        elif lead:
            current = ()
            prose.append(line[: len(line) - len(line.lstrip())] + lead.rstrip())
        for found, meaning in zip(pieces[1::2], pieces[2::2], strict=True):
            current = tuple(found.split(", "))
            meanings[current[0]] = meaning.strip()
            shared[current[0]] = current[1:]
    for first, others in shared.items():
        short = len(meanings[first]) <= SHORT
        meanings |= dict.fromkeys(others, meanings[first] if short else f"see `{first}`")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(prose)).strip("\n"), meanings


def _made(plugin: Callable) -> str:
    """Docstring of the class that a builder makes, by its annotation."""
    if inspect.isclass(plugin):
        return ""
    try:
        made = typing.get_type_hints(plugin).get("return")
    except NameError:  # a name of type checking only
        return ""
    return inspect.getdoc(made) or "" if inspect.isclass(made) and made.__module__ == plugin.__module__ else ""


def _constructor(plugin: Callable) -> str:
    own = vars(plugin).get("__init__") if inspect.isclass(plugin) else None  # not one that is inherited
    return inspect.cleandoc(own.__doc__) if own is not None and own.__doc__ else ""


def _type_of(parameter: inspect.Parameter) -> str:
    kind = parameter.annotation
    return "" if kind is parameter.empty else kind if isinstance(kind, str) else inspect.formatannotation(kind)


def _file_of(plugin: Callable) -> str:
    source = inspect.getsourcefile(inspect.unwrap(plugin))
    path = Path(source) if source else ROOT.parent
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) and "site-packages" not in path.parts else ""
