"""Breaks the words of documents at 120 columns: python -m tests.documents.wrap docs/*.md. Only line breaks change."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

from tests.documents.lines import ITEM, Line, blocks, read

WIDTH = 120


def too_long(lines: list[Line]) -> list[Line]:
    """Lines of words beyond the width; addresses of links do not count, nor code that is as long as a line."""
    uncounted = re.compile(r"(?<=\]\()\S+?(?=\))|`[^`]{100,}`")
    return [line for line in lines if line.kind == "text" and len(uncounted.sub("", line.text)) > WIDTH]


def wrapped(text: str) -> str:
    """The same words; paragraphs and items of lists that hold a line that is too long are broken anew."""
    lines = read(text)
    long = {line.number for line in too_long(lines)}
    new = {line.number: [line.text] for line in lines}
    for block in blocks(lines, "text"):
        if any(line.number in long for line in block):
            new |= {line.number: [] for line in block} | {block[0].number: _broken(block)}
    return "\n".join(row for rows in new.values() for row in rows) + "\n"


def _broken(block: list[Line]) -> list[str]:
    item = ITEM.match(block[0].text)
    first = item[0] if item else " " * block[0].indent
    words = " ".join(line.text.strip() for line in block)[len(first.strip()) :].strip()
    kept = re.sub(r"(?<!`)`[^`]+`(?!`)", lambda code: code[0].replace(" ", "\0"), words)  # code stays in one line
    kept = re.sub(r" (?=(?:[-*+#>|=]|\d+[.)])(?:\s|$)|[#>|=])", "\0", kept)  # no line may begin with these
    options = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": " " * len(first)}
    rows = textwrap.wrap(kept, WIDTH, initial_indent=first, **options)
    rows = [row.replace("\0", " ") for row in rows]
    return rows


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        before = path.read_text()
        after = wrapped(before)
        assert before.split() == after.split(), f"{name}: words would change"
        if after != before:
            path.write_text(after)
