"""Finds the commands and the Python of every document, and of the heads of recipes."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from tests.documents.lines import FENCE, PYTHON, SHELL, STARTS, faults, read, spans

ROOT = Path(__file__).resolve().parents[2]
INLINE = re.compile(
    r"(?:python3? tools/|python3? -m |torchrun |make |lrface |pip |docker |tensorboard |pytest tests/)\S"
)


@dataclass(frozen=True)
class Command:
    """A command of a shell, as a document has it: one line, no comment, no continuation."""

    document: str
    line: int
    text: str
    comment: str = ""
    last: int = 0  # the line that it ends in

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


@dataclass(frozen=True)
class Snippet:
    """A block of Python."""

    document: str
    line: int
    text: str


def documents(root: Path = ROOT) -> list[Path]:
    """Every document that people read, in order."""
    return [
        *(root / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        *sorted((root / "docs").glob("*.md")),
        *sorted((root / "docs").glob("*/**/*.md")),
    ]


def commands(root: Path = ROOT) -> list[Command]:
    """Of all documents, then of the recipes' heads."""
    found = [one for path in documents(root) for one in of_document(path.read_text(), str(path.relative_to(root)))]
    for path in sorted((root / "configs").glob("*.py")):
        found += of_recipe(path.read_text(), str(path.relative_to(root)))
    return found


def snippets(root: Path = ROOT) -> list[Snippet]:
    """Python of all documents that uses the package."""
    return [one for path in documents(root) for one in python_of(path.read_text(), str(path.relative_to(root)))]


def unique(found: list[Command]) -> dict[str, list[Command]]:
    """Text -> the places that have it."""
    by_text: dict[str, list[Command]] = {}
    for one in found:
        by_text.setdefault(one.text, []).append(one)
    return by_text


def of_document(text: str, name: str) -> list[Command]:
    """Commands of indented and fenced blocks, and of `code` inside lines."""
    lines = read(text)
    found = [Command(name, number, tidy(one)) for number, one in spans(lines) if INLINE.match(one) and runnable(one)]
    waiting, started = "", 0
    for one in (line for line in lines if line.kind == "code" and line.language in SHELL):
        line = one.text.strip().removeprefix("$ ")
        if waiting:
            waiting += " " + line.removesuffix("\\").strip()
        elif STARTS.match(line):
            waiting, started = line.removesuffix("\\").strip(), one.number
        else:
            continue
        bare, comment = without_comment(waiting)
        if not line.endswith("\\") and not open_quote(bare):
            found.append(Command(name, started, tidy(bare), comment, one.number))
            waiting = ""
    return sorted(found, key=lambda one: one.line)


def hidden(text: str, name: str, listed: tuple[str, ...] = ()) -> list[str]:
    """Lines that look like commands and are collected as none. listed: starts of blocks that are no commands."""
    covered = {number for one in of_document(text, name) for number in range(one.line, one.last + 1)}
    return [f"{name}:{fault}" for fault in faults(text, covered, listed)]


def of_recipe(text: str, name: str) -> list[Command]:
    """Commands of a recipe's head: lines that hold one, whatever stands before it."""
    head = ast.get_docstring(ast.parse(text)) or ""
    lines = iter(enumerate(head.splitlines(), start=1))
    found = []
    for number, line in lines:
        at = re.search(r"(?:python tools/|torchrun )", line)
        if not at:
            continue
        whole = line[at.start() :].strip()
        while whole.endswith("\\"):
            whole = whole.removesuffix("\\").strip() + " " + next(lines)[1].strip()
        found.append(Command(name, number, re.sub(r"(?<=\w)[.,;:]$", "", tidy(whole))))
    return found


def python_of(text: str, name: str) -> list[Snippet]:
    """Fenced blocks of Python, and indented blocks that import lrface."""
    found: list[Snippet] = []
    fence, block, started = None, [], 0
    for number, raw in enumerate([*text.splitlines(), ""], start=1):
        mark = FENCE.match(raw)
        if mark:
            if fence in PYTHON:
                found.append(Snippet(name, started, "\n".join(block)))
            fence, block, started = (mark[1] if fence is None else None), [], number + 1
        elif fence is not None:
            block.append(raw)
        elif raw.startswith("    "):
            started = started if block else number
            block.append(raw[4:])
        else:
            if any(line.startswith("from lrface import") for line in block):
                found.append(Snippet(name, started, "\n".join(block)))
            block = []
    return found


def runnable(inline: str) -> bool:
    """Of `code` in a line: not just the options that torchrun has, and no tool that stands for all (x, COMMAND)."""
    stands_for_all = re.match(r"python tools/(x|COMMAND)\.py|lrface (x|COMMAND)\b", inline)
    return not stands_for_all and (not inline.startswith("torchrun ") or ".py" in inline)


def open_quote(text: str) -> bool:
    """A quotation that goes on in the next line."""
    quote = ""
    for letter in text:
        if letter in "'\"" and quote in ("", letter):
            quote = "" if quote else letter
    return bool(quote)


def without_comment(line: str) -> tuple[str, str]:
    """The command and what stands behind its #."""
    quote = ""
    for place, letter in enumerate(line):
        if letter in "'\"" and quote in ("", letter):
            quote = "" if quote else letter
        elif letter == "#" and not quote and line[place - 1] == " ":
            return line[:place].rstrip(), line[place:]
    return line, ""


def tidy(command: str) -> str:
    """One blank between words."""
    return re.sub(r"\s+", " ", command).strip()
