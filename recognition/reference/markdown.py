"""Pieces of Markdown that the pages share."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

NONE = "none"
PAPER = re.compile(r"(?<![\d.])(\d{4}\.\d{4,5})(?![\d.])")  # arXiv's numbers, with or without the word


def row(*cells: object) -> str:
    """One line of a table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def filled(text: str) -> str:
    """A paragraph in lines of at most 120 characters; links stay whole."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table's lines."""
    return [row(*heads), f"|{'---|' * len(heads)}", *(row(*cells) for cells in rows)]


def cell(text: str) -> str:
    """Text of one or more lines, safe inside a table."""
    plain = " ".join(text.split())
    return plain.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def code(text: object) -> str:
    """A name or value as it is typed; in a table, a bar of a type is escaped."""
    return f"`{str(text).replace('|', chr(92) + '|')}`"


def codes(names: Iterable[object]) -> str:
    """Names one after another, or `none`."""
    return ", ".join(code(name) for name in names) or NONE


def yes(value: bool) -> str:
    """yes or no."""
    return "yes" if value else "no"


def papers(text: str) -> str:
    """Links to the arXiv papers that a text names, each once; "" where it names none."""
    numbers = dict.fromkeys(PAPER.findall(text))
    return ", ".join(f"[arXiv {number}](https://arxiv.org/abs/{number})" for number in numbers)


def globs(names: Sequence[str]) -> str:
    """Names with numbers as stars, each once and with how many it stands for; the end of a long list is counted."""
    groups: dict[str, int] = {}
    for name in names:
        shown = re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
        groups[shown] = groups.get(shown, 0) + 1
    parts = [f"`{shown}`" + (f" ({number})" if number > 1 else "") for shown, number in groups.items()]
    return ", ".join(parts if len(parts) <= 6 else [*parts[:4], f"and {len(parts) - 4} kinds more"])
