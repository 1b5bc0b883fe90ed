"""What a table says of a setting, and the checks that its values go through."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from recognition.migration.found import Found
from recognition.registry import nearest

SECRET = ("key", "token", "password", "secret")


@dataclass(frozen=True)
class Made:
    """Settings of ours, as section.setting, and what there is to say of them."""

    into: Mapping[str, object]
    remark: str = ""


@dataclass(frozen=True)
class Rule:
    """A setting that becomes one of ours.

    becomes: for people. covers: prefixes of our settings; one of them on the command line makes this rule unneeded.
    remark: for the page, what is not the same. unread: it wants no value, only that the setting is there.
    """

    becomes: str
    make: Callable[[object, Found], Made]
    covers: tuple[str, ...]
    remark: str = ""
    unread: bool = False


@dataclass(frozen=True)
class Need:
    """A file that the recipe cannot do without."""

    path: str
    help: str


@dataclass(frozen=True)
class Program:
    """All that is known of a program's settings.

    dropped: setting -> why. own: what it does whatever its settings say, as (what, Made).
    needs: files of the recipe, from its settings of ours. defaults: of settings that nobody wrote.
    """

    name: str
    rules: Mapping[str, Rule]
    dropped: Mapping[str, str]
    own: Callable[[Found], list[tuple[str, Made]]]
    defaults: Mapping[str, object] = field(default_factory=dict)


def same(name: str, check: Callable[[object], object], remark: str = "") -> Rule:
    """A setting that goes over as it is, under our name."""
    return Rule(f"`{name}`", lambda value, found: Made({name: check(value)}, remark), (name,), remark)


def number(value: object) -> float:
    """A finite number. ValueError for anything else, here and below."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("it takes a number")
    return value


def whole(value: object) -> int:
    """A whole number, also one such as 2.0."""
    if number(value) != int(value):
        raise ValueError("it takes a whole number")
    return int(value)


def at_least_one(value: object) -> int:
    """A whole number from 1 on."""
    if whole(value) < 1:
        raise ValueError("it takes a whole number, 1 or more")
    return int(value)


def above_zero(value: object) -> float:
    """A number above 0."""
    if number(value) <= 0:
        raise ValueError("it takes a number above 0")
    return float(value)


def from_zero(value: object) -> float:
    """A number from 0 on."""
    if number(value) < 0:
        raise ValueError("it takes a number, 0 or more")
    return float(value)


def count(value: object) -> int:
    """A whole number from 0 on."""
    return int(from_zero(whole(value)))


def flag(value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError("it takes True or False")
    return value


def text(value: object) -> str:
    """A text that says something."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("it takes a text")
    return value


def numbers(value: object, count: int) -> list[float]:
    """So many numbers."""
    if not isinstance(value, list | tuple) or len(value) != count:
        raise ValueError(f"it takes {count} numbers")
    return [float(number(one)) for one in value]


def chosen(value: object, known: Mapping[str, object], what: str) -> str:
    """One of the names known. ValueError with the nearest."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"there is no such {what} here{nearest(str(value), known)}")
    return value


def shown(name: str, value: object) -> str:
    """A value for the table; never a password."""
    return "(hidden)" if any(part in name.lower().split("_") for part in SECRET) else repr(value)
