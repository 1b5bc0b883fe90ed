"""What margins ask of their arguments. Each check raises ValueError for what does not fit or is no number."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence


def is_number(value: object) -> bool:
    """Whether it is a finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_pair(value: object) -> bool:
    """Whether it is two finite numbers."""
    return isinstance(value, Sequence) and len(value) == 2 and all(map(is_number, value))


def check_number(name: str, value: float, fits: Callable[[float], bool], wanted: str) -> None:
    """ValueError, 'margin.<name> is <value>; it must <wanted>', unless the value is a finite number that fits."""
    if not (is_number(value) and fits(value)):
        raise ValueError(f"margin.{name} is {value!r}; it must {wanted}")


def check_positive(name: str, value: float, wanted: str = "be a positive number") -> None:
    """ValueError unless the value is a positive number."""
    check_number(name, value, lambda number: number > 0, wanted)


def check_scale(scale: float) -> None:
    """ValueError unless the softmax's scale is a positive number."""
    check_positive("scale", scale, "be a positive number, 64 in most recipes")


def check_share(name: str, value: float) -> None:
    """ValueError unless the value is a number of 0 and up."""
    check_number(name, value, lambda number: number >= 0, "be a number, 0 or more")


def check_margin(name: str, value: float, low: float, high: float) -> None:
    """ValueError unless low <= value <= high."""
    check_number(name, value, lambda number: low <= number <= high, f"lie in {low:g} .. {high:g}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"margin.{name} is '{value}'; it must be {' or '.join(map(repr, choices))}")
