"""What objectives ask of their arguments, embeddings and batches, with errors in words.

A check of an argument raises ValueError for what does not fit or is no number.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection

from torch import Tensor

from recognition.types import Batch


def check_number(objective: str, name: str, value: float, fits: Callable[[float], bool], wanted: str) -> None:
    """ValueError, '<name> is <value>; it must <wanted>', unless the value is a finite number that fits."""
    number = isinstance(value, int | float) and not isinstance(value, bool)  # True and False are none
    if not (number and abs(value) <= sys.float_info.max and fits(value)):
        raise ValueError(f"objective '{objective}': {name} is {value!r}; it must {wanted}")


def check_positive(objective: str, name: str, value: float) -> None:
    """ValueError unless the argument is a positive number."""
    check_number(objective, name, value, lambda number: number > 0, "be a positive number")


def check_share(objective: str, name: str, value: float) -> None:
    """ValueError unless the argument is a number of 0 and up."""
    check_number(objective, name, value, lambda number: number >= 0, "be 0 or a positive number")


def check_range(objective: str, name: str, value: float, low: float, high: float) -> None:
    """ValueError unless low <= value <= high."""
    check_number(objective, name, value, lambda number: low <= number <= high, f"lie in {low:g} .. {high:g}")


def check_whole(objective: str, name: str, value: int, low: int, high: int | None = None) -> None:
    """ValueError unless the argument is a whole number in low .. high."""
    wanted = f"be a whole number, {low} or more" if high is None else f"be a whole number, {low} .. {high}"
    top = sys.maxsize if high is None else high
    check_number(objective, name, value, lambda number: isinstance(number, int) and low <= number <= top, wanted)


def check_choice(objective: str, name: str, value: str, known: Collection[str]) -> None:
    """ValueError unless the argument is one of `known`."""
    if value not in known:
        raise ValueError(f"objective '{objective}': {name} is {value!r}; it must be one of {', '.join(known)}")


def check_width(objective: str, embedding: Tensor, embedding_size: int) -> None:
    """ValueError unless embeddings have as many numbers as the objective was made for."""
    if embedding.shape[1] != embedding_size:
        raise ValueError(
            f"objective '{objective}': embedding_size is {embedding_size}, but this network's embeddings have "
            f"{embedding.shape[1]} numbers; set embedding_size={embedding.shape[1]} in config.objectives"
        )


def needed(objective: str, batch: Batch, field: str) -> Tensor:
    """An optional field of the batch. RuntimeError where the loader did not fill it."""
    value = getattr(batch, field)
    if value is None:
        raise RuntimeError(
            f"objective '{objective}' looks at batch.{field}, which is None: the loader fills what it is asked for"
        )
    return value
