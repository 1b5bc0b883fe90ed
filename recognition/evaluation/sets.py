"""What is evaluated: settings checked and files opened, before anything is computed."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping, Sequence

from recognition.evaluation.protocol import Asked, EvaluationSet
from recognition.evaluation.protocols import PROTOCOLS
from recognition.registry import nearest
from recognition.types import IMAGE_SIZE

DEFAULTS = {
    "sets": (),
    "low_res": (IMAGE_SIZE,),
    "far": (1e-2, 1e-3),
    "ranks": (1, 5, 20),
    "flip": False,
    "batch_size": 128,
    "bootstrap": 1000,
    "seed": 0,
}
LISTS = (  # key, type and range of its numbers, and what they are in words
    ("far", int | float, lambda far: 0 < far <= 1, "numbers above 0 and up to 1"),
    ("ranks", int, lambda rank: rank >= 1, "whole numbers from 1 on"),
)
OTHERS = ("every", "best", "at_start", "edc", "budget")  # keys that the trainer and the quality protocol read


def settings_with_defaults(settings: dict) -> dict:
    """The evaluation settings, whole. ValueError for a key that evaluation does not know."""
    for key in settings:
        if key not in DEFAULTS and key not in OTHERS:
            raise ValueError(f"unknown setting evaluation.{key}{nearest(key, DEFAULTS)}")
    whole = {**DEFAULTS, **settings}
    for key, kind, fits, what in LISTS:
        if isinstance(whole[key], str) or not isinstance(whole[key], Sequence):
            raise ValueError(f"evaluation.{key} is {whole[key]!r}; it is a list of {what}")
        wrong = [one for one in whole[key] if not isinstance(one, kind) or isinstance(one, bool) or not fits(one)]
        if wrong:
            raise ValueError(f"evaluation.{key} holds {wrong[0]!r}; it is a list of {what}")
    for key, least in (("bootstrap", 0), ("batch_size", 1), ("seed", 0)):
        if not isinstance(whole[key], int) or isinstance(whole[key], bool) or whole[key] < least:
            raise ValueError(f"evaluation.{key} is {whole[key]!r}; it is a whole number from {least} on")
    return whole


def asked(settings: dict) -> Asked:
    """What the section config.evaluation wants measured."""
    whole = settings_with_defaults(settings)
    return Asked(tuple(whole["far"]), tuple(whole["ranks"]), whole["bootstrap"], whole["seed"])


def open_sets(settings: dict) -> list[EvaluationSet]:
    """Open every set of evaluation.sets, in order.

    A set is a dict of name, kind - a protocol's name - and that protocol's arguments. A protocol that takes low_res
    gets evaluation.low_res where the set names none.
    ValueError or FileNotFoundError names the set and what is wrong with it.
    """
    settings = settings_with_defaults(settings)
    opened: list[EvaluationSet] = []
    for chosen in settings["sets"]:
        one = _open(dict(chosen), settings["low_res"], asked(settings))
        if one.name in [other.name for other in opened]:
            raise ValueError(f"evaluation.sets holds two sets named '{one.name}': each needs a name of its own")
        opened.append(one)
    return opened


def _open(chosen: dict, low_res: object, wanted: Asked) -> EvaluationSet:
    name, kind = chosen.pop("name", ""), chosen.pop("kind", "")
    if not name or "/" in name:
        raise ValueError(f"evaluation.sets: a set is named '{name}'; it needs a name, without a slash")
    if kind not in PROTOCOLS.names():
        raise ValueError(f"evaluation set '{name}': unknown kind '{kind}'{nearest(kind, PROTOCOLS.names())}")
    for key, value in chosen.items():
        if value == "" and key not in PROTOCOLS.defaults(kind):
            raise ValueError(f"evaluation set '{name}' of kind {kind} lacks {key}")
    if "low_res" not in chosen and "low_res" in PROTOCOLS.parameters(kind):
        chosen["low_res"] = low_res
    try:
        PROTOCOLS.check(kind, chosen)
        _check_types(kind, chosen)
        one = EvaluationSet(name, PROTOCOLS.create(kind, **chosen), kind, chosen)
        if hasattr(one.protocol, "check"):
            one.protocol.check(wanted)
        return one
    except FileNotFoundError as error:
        raise FileNotFoundError(f"evaluation set '{name}': {error}") from None
    except ValueError as error:
        raise ValueError(f"evaluation set '{name}': {error}") from None


def _check_types(kind: str, chosen: Mapping[str, object]) -> None:
    """ValueError for an argument that is no text, number or list where the protocol's signature wants one."""
    plugin = PROTOCOLS.get(kind)
    for name, hint in typing.get_type_hints(plugin.__init__ if inspect.isclass(plugin) else plugin).items():
        if name in chosen and not _fits(chosen[name], hint):
            value = chosen[name]
            advice = f", such as [{value}]" if _fits([value], hint) else ""
            raise ValueError(f"{kind}: {name} is {value!r}; it is {_in_words(hint)}{advice}")


def _fits(value: object, hint: object) -> bool:
    """Whether the value is of a type that protocols take: texts, numbers, and lists of them."""
    kinds = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return any(_fits(value, kind) for kind in kinds)
    if typing.get_origin(hint) is Sequence:
        return isinstance(value, list | tuple) and all(_fits(one, kinds[0]) for one in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _in_words(hint: object) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(map(_in_words, typing.get_args(hint)))
    if typing.get_origin(hint) is Sequence:
        return f"a list, each of it {_in_words(typing.get_args(hint)[0])}"
    return {str: "a text", float: "a number", int: "a whole number", bool: "true or false"}[hint]
