"""Globs on qualified module names: which layers an adapter takes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

ADAPTABLE = (nn.Linear, nn.Conv2d)


@dataclass(slots=True)
class Matches:
    """What a set of patterns names in one model, in the model's own order."""

    names: list[str] = field(default_factory=list)  # layers that can be adapted
    skipped: list[str] = field(default_factory=list)  # layers met by a wildcard that cannot


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that the glob names.

    A name's parts stand between dots. `*` is any text and `?` any character within one part, `[0-3]` one character of a
    set, and a part `**` any number of parts, none included: `blocks.*.attn.qkv`, `**.qkv`, `layers.[12].**`.
    """
    wanted = re.compile(_expression(pattern))
    return [name for name in names if wanted.fullmatch(name)]


def find(backbone: nn.Module, patterns: Sequence[str] | str) -> Matches:
    """The Linear and Conv2d layers that the globs name.

    Only exact nn.Linear and nn.Conv2d count: a subclass may never call its own forward, as torch's MultiheadAttention
    does with its out_proj, and an adapter there would be without effect. Grouped convolutions and layers that stand at
    several places are no targets either. A wildcard skips all of these.
    ValueError for a pattern that names no adaptable layer, and for one of those named outright.
    """
    modules = dict(backbone.named_modules())
    known = {name: module for name, module in modules.items() if isinstance(module, ADAPTABLE)}
    places: dict[nn.Module, list[str]] = {}
    for name, module in backbone.named_modules(remove_duplicate=False):
        places.setdefault(module, []).append(name)
    obstacles = {name: why for name, module in known.items() if (why := _obstacle(module, places[module]))}
    met: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        here = matching(pattern, known)
        if not here:
            raise ValueError(_no_match(pattern, modules, [n for n in known if n not in obstacles]))
        if pattern in obstacles:
            raise ValueError(f"adapter target '{pattern}' cannot be adapted: it is {obstacles[pattern]}")
        if all(name in obstacles for name in here):
            raise ValueError(
                f"adapter target '{pattern}' names only layers that cannot be adapted ({len(here)} of them): "
                f"'{here[0]}' is {obstacles[here[0]]}"
            )
        met.update(here)
    return Matches([n for n in known if n in met - obstacles.keys()], [n for n in known if n in met & obstacles.keys()])


def find_declared(backbone: nn.Module, attribute: str, remedy: str) -> Matches:
    """The layers that the backbone itself names in `attribute`. ValueError, ending with `remedy`, where it has none."""
    patterns = getattr(backbone, attribute, ())
    if not patterns:
        raise ValueError(f"{type(backbone).__name__} declares no {attribute}: {remedy}")
    return find(backbone, patterns)


def lay_over(ranks: Mapping[str, int], patterns: Mapping[str, int] | None) -> dict[str, int]:
    """The ranks of layers by name, with those of the globs in their place.

    ValueError for a glob that names none of the layers, and for two globs that give one layer different ranks.
    """
    found, said = dict(ranks), {}
    for pattern, rank in (patterns or {}).items():
        here = matching(pattern, ranks)
        if not here:
            raise ValueError(
                f"adapter.ranks: '{pattern}' names no adapted layer; "
                f"the adapted layers {nearest_names(pattern, [*ranks])}"
            )
        for name in here:
            other = said.setdefault(name, pattern)
            if patterns[other] != rank:
                raise ValueError(
                    f"adapter.ranks: '{other}' gives '{name}' rank {patterns[other]} and '{pattern}' rank {rank}; "
                    "narrow one of the two, as in 'blocks.[1-9].**'"
                )
            found[name] = rank
    return found


def nearest_names(pattern: str, names: list[str]) -> str:
    """The end of a sentence: the names nearest to a glob that fits none or not well.

    Those that differ by a number only are shown once, as a glob that names them all.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"(?<![^.])\d+(?![^.])", "*", name), []).append(name)
    shown = [glob if len(group) > 1 else group[0] for glob, group in groups.items()]
    near = difflib.get_close_matches(pattern, shown, n=4, cutoff=0.0)
    return f"nearest to it are {', '.join(repr(n) for n in near)}" if near else "of this model are of other kinds"


def _expression(pattern: str) -> str:
    parts = pattern.split(".")
    text = ""
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if part == "**":
            text += r".*" if last else r"(?:[^.]+\.)*"
        else:
            text += _part(part) + ("" if last else r"\.")
    return text


def _part(part: str) -> str:
    tokens = re.findall(r"\[[^\]]+\]|.", part)
    wild = {"*": "[^.]*", "?": "[^.]"}
    return "".join(wild.get(t) or (t if t.startswith("[") and len(t) > 2 else re.escape(t)) for t in tokens)


def _obstacle(module: nn.Module, places: list[str]) -> str:
    """Why a Linear or Conv2d cannot be adapted, as the end of a sentence; empty where it can."""
    if type(module) not in ADAPTABLE:
        return f"a {type(module).__name__}, whose forward need not be that of {_plain_kind(module).__name__}"
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return (
            f"a grouped convolution ({module.groups} groups), whose low-rank update would mix the groups it keeps "
            "apart; name other layers, or use a wildcard, which skips it"
        )
    if len(places) > 1:
        return f"shared, one layer at {', '.join(places)}"
    return ""


def _plain_kind(module: nn.Module) -> type[nn.Module]:
    return next(kind for kind in ADAPTABLE if isinstance(module, kind))


def _no_match(pattern: str, modules: dict[str, nn.Module], adaptable: list[str]) -> str:
    if pattern in modules:
        inside = [name for name in adaptable if name.startswith(f"{pattern}.")]
        found = f"names a module of kind {type(modules[pattern]).__name__}, not a Linear or Conv2d"
        return f"adapter target '{pattern}' {found}; the layers {nearest_names(pattern, inside or adaptable)}"
    return f"adapter target '{pattern}' names no Linear or Conv2d; the layers {nearest_names(pattern, adaptable)}"
