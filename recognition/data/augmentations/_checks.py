"""Arguments of augmentations, checked in words."""

from __future__ import annotations

from collections.abc import Sequence


def check_probability(name: str, probability: float) -> float:
    """The probability itself. ValueError where it is none."""
    if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0 <= probability <= 1:
        raise ValueError(f"augmentation '{name}': probability is {probability!r}; it must be in [0, 1]")
    return float(probability)


def check_range(name: str, argument: str, given: Sequence[float], least: float, most: float) -> tuple[float, float]:
    """(smallest, largest) as floats. ValueError for something else, or beyond least .. most."""
    two = isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2
    if not two or any(isinstance(x, bool) or not isinstance(x, int | float) for x in given):
        raise ValueError(
            f"augmentation '{name}': {argument} is {given!r}; it must be two numbers, smallest and largest"
        )
    if not least <= given[0] <= given[1] <= most:
        raise ValueError(
            f"augmentation '{name}': {argument} is {given!r}; it must be smallest, largest within {least:g} .. {most:g}"
        )
    return float(given[0]), float(given[1])
