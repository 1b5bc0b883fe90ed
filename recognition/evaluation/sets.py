"""What is evaluated: settings checked and files opened, before anything is computed."""

from __future__ import annotations

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
OTHERS = ("every", "best", "at_start", "edc", "budget")  # keys that the trainer and the quality protocol read


def settings_with_defaults(settings: dict) -> dict:
    """The evaluation settings, whole. ValueError for a key that evaluation does not know."""
    for key in settings:
        if key not in DEFAULTS and key not in OTHERS:
            raise ValueError(f"unknown setting evaluation.{key}{nearest(key, DEFAULTS)}")
    for key, kind, what in (("far", int | float, "numbers"), ("ranks", int, "whole numbers")):
        wrong = [value for value in settings.get(key, ()) if not isinstance(value, kind) or isinstance(value, bool)]
        if wrong:
            raise ValueError(f"evaluation.{key} holds {wrong[0]!r}; it is a list of {what}")
    return {**DEFAULTS, **settings}


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
        one = _open(dict(chosen), settings["low_res"])
        if one.name in [other.name for other in opened]:
            raise ValueError(f"evaluation.sets holds two sets named '{one.name}': each needs a name of its own")
        opened.append(one)
    return opened


def _open(chosen: dict, low_res: object) -> EvaluationSet:
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
        return EvaluationSet(name, PROTOCOLS.create(kind, **chosen), kind, chosen)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"evaluation set '{name}': {error}") from None
    except ValueError as error:
        raise ValueError(f"evaluation set '{name}': {error}") from None
