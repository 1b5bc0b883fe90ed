"""What each line of a document is: words, code, a table; and code that is neither a command nor known to be none."""

from __future__ import annotations

import ast
import difflib
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

FENCE = re.compile(r"^\s*```(\w*)")
ITEM = re.compile(r"^(\s*)(?:[-*+]|\d+[.)])\s+")
PROGRAMS = (
    "python",
    "python3",
    "torchrun",
    "make",
    "lrface",
    "pip",
    "docker",
    "tensorboard",
    "pytest",
    "git",
    "uv",
    "sbatch",
    "kubectl",
)
STARTS = re.compile(r"^(?:[A-Z_]+=\S*;? )*(?:\.venv/bin/)?(?:" + "|".join(PROGRAMS) + r")(?= )")
SHELL, PYTHON = ("", "bash", "sh", "shell", "console"), ("python", "py")
OTHERS = ("text", "toml", "ini", "json", "yaml")


@dataclass(frozen=True)
class Line:
    """kind: blank, heading, table, comment, fence, code or text. block: number of the first line of its block.

    language: of code; "" of indented code, too. depth: blanks before the words of the list item that it is in.
    """

    number: int
    text: str
    kind: str
    block: int
    language: str = ""
    depth: int = 0
    fenced: bool = False

    @property
    def indent(self) -> int:
        return len(self.text) - len(self.text.lstrip())


def read(text: str) -> list[Line]:
    """Every line of a document."""
    found: list[Line] = []
    depths: list[int] = []
    fence: str | None = None
    for number, raw in enumerate(text.splitlines(), start=1):
        last = found[-1] if found else Line(0, "", "blank", 0)
        if mark := FENCE.match(raw):
            fence = mark[1] if fence is None else None
            found.append(Line(number, raw, "fence", number, fence or ""))
            continue
        if fence is not None:
            block = last.block if last.kind == "code" else number
            found.append(Line(number, raw, "code", block, fence, fenced=True))
            continue
        item = ITEM.match(raw)
        indent = len(raw) - len(raw.lstrip())
        goes_on = last.kind == "text" and not item
        if raw.strip() and not goes_on:
            while depths and indent < depths[-1]:
                depths.pop()
        depth = depths[-1] if depths else 0
        kind = _kind(raw, indent >= depth + 4 and last.kind in ("blank", "code"), goes_on)
        if kind == "text" and item and not goes_on:
            depth = item.end()
            depths.append(depth)
        goes_on = goes_on or kind == "code"
        block = last.block if goes_on and last.kind == kind else number
        found.append(Line(number, raw, kind, block, depth=depth))
    return found


def _kind(raw: str, indented: bool, goes_on: bool) -> str:
    if not raw.strip():
        return "blank"
    if indented:
        return "code"
    starts = {"#": "heading", "|": "table", "<!--": "comment"}
    told = next((kind for start, kind in starts.items() if raw.lstrip().startswith(start)), "text")
    return "text" if goes_on and told == "heading" else told


def blocks(lines: list[Line], kind: str) -> Iterator[list[Line]]:
    """Lines of a kind that belong together; each row of a table stands alone."""
    for _, block in groupby((line for line in lines if line.kind == kind), key=lambda line: line.block):
        yield list(block)


def spans(lines: list[Line]) -> Iterator[tuple[int, str]]:
    """`code` in words, tables and headings, with its line; a line's end inside it is a blank."""
    for kind in ("text", "table", "heading"):
        for block in blocks(lines, kind):
            whole = "\n".join(line.text for line in block)
            for found in re.finditer(r"(?<!`)`([^`]+)`(?!`)", whole):
                yield block[0].number + whole[: found.start()].count("\n"), re.sub(r"\s+", " ", found[1])


def faults(text: str, covered: set[int], listed: tuple[str, ...]) -> list[str]:
    """Code that nobody would notice to be wrong: lines of a shell that are no command, words indented by a slip.

    covered: lines that commands were found in. listed: starts of blocks that are known to be no commands.
    """
    lines = read(text)
    found = []
    for line in lines:
        if line.kind == "fence" and line.language not in (*SHELL, *PYTHON, *OTHERS):
            found.append(f"{line.number}: ```{line.language} is no language that is known here")
    for block in blocks(lines, "code"):
        first = block[0].text.strip()
        if block[0].language in PYTHON or any(first.startswith(start) for start in listed):
            continue
        for line in block:
            bare = line.text.strip()
            if line.language in OTHERS:
                if line.language == "text" and re.match(r"(?:python3?|torchrun|lrface|pip|docker) ", line.text):
                    found.append(f"{line.number}: a command in a block of output: {bare}")
            elif bare and line.number not in covered and not is_python(block):
                found.append(f"{line.number}: no command, and not on the list of what else stands in blocks: {bare}")
    found += [f"{line.number}: {fault}: {line.text}" for line, fault in _slips(lines)]
    for number, span in spans(lines):
        first, *rest = span.split(" ")
        near = difflib.get_close_matches(first.lower(), PROGRAMS, 1, 0.8)
        if rest and len(first) > 2 and first not in PROGRAMS and (near or re.match(r"tools/\w+\.py", rest[0])):
            found.append(f"{number}: {first} is no program: {span}")
    return found


def is_python(block: list[Line]) -> bool:
    """Statements of Python that do something, indented."""
    try:
        body = ast.parse(textwrap.dedent("\n".join(line.text for line in block))).body
    except SyntaxError:
        return False
    wanted = (ast.Import, ast.ImportFrom, ast.Assign, ast.FunctionDef, ast.ClassDef)
    return any(isinstance(node, wanted) for node in body)


def _slips(lines: list[Line]) -> Iterator[tuple[Line, str]]:
    """Words that were meant to be code."""
    before = Line(0, "", "blank", 0)
    for line in lines:
        if line.kind == "text" and line.number == line.block:
            item = ITEM.match(line.text)
            if before.kind == "code" and not before.fenced:
                yield line, "directly behind code, and indented less"
            elif line.indent and not item and line.indent != line.depth:
                yield line, f"indented by {line.indent}: neither words nor code"
            elif re.match(r"\s*(?:python3?|torchrun|lrface|pip|docker|tensorboard) ", line.text):
                yield line, "a command that is not indented as code"
        before = line
