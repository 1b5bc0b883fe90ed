"""Values of settings: what a text stands for, and whether a value is of the default's kind."""

from __future__ import annotations

import ast
import copy


def numbers(value: object) -> bool:
    """Whether it is a list of numbers, one at least."""
    return isinstance(value, list | tuple) and bool(value) and all(fits(number, 0.0) for number in value)


def parse(written: str, default: object) -> object:
    """The value that a text on a command line gives a setting with this default."""
    if isinstance(default, str):
        return written
    if isinstance(default, bool) and written.lower() in ("true", "false"):
        return written.lower() == "true"
    return literal(written)


def literal(written: str) -> object:
    """What a text on a command line stands for: a number, a list, ... or itself."""
    try:
        return ast.literal_eval(written)
    except (ValueError, SyntaxError):
        return written


def fits(value: object, default: object) -> bool:
    """Whether a setting with this default takes the value."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, list | tuple):
        return isinstance(value, list | tuple | str)  # one file name stands for a list of one
    return isinstance(value, type(default))


def as_default(value: object, default: object) -> object:
    """The value in its default's type, so that what is laid over it later is held to the same."""
    if isinstance(default, float):
        return float(value)
    if isinstance(default, list):
        return [value] if isinstance(value, str) else copy.deepcopy([*value])
    return copy.deepcopy(value)


def kind_of(default: object) -> str:
    """What a setting with this default takes, in words."""
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(default), "a section")
