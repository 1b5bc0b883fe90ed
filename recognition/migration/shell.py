"""Reads launch scripts without running them: words, variables, continued lines, comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

NAME = re.compile(r"[A-Za-z_]\w*")
ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::?-([^${}]*))?\})")
REDIRECTION = re.compile(r"(\d*|&)>>?(&?\d?|.*)|<<?")
LEADING = ("do", "then", "else", "time", "nohup", "exec", "sudo", "srun", "{", "(")


@dataclass(frozen=True)
class Word:
    """A word of a command. unknown: the part of it that only a shell would tell, "" = none."""

    text: str
    unknown: str = ""


@dataclass(frozen=True)
class Command:
    """A command of a script: its words after assignments, and the comment above it."""

    line: int
    words: tuple[Word, ...]
    environment: dict[str, str] = field(default_factory=dict)
    heading: str = ""


def read_commands(text: str) -> list[Command]:
    """The commands of a script or a command line, in order; variables that it sets itself are filled in."""
    found: list[Command] = []
    known: dict[str, Word] = {}
    words: list[Word] = []
    line, heading = 1, ""
    for kind, at, word in _tokens(text, known):
        if kind == "comment":
            heading = heading if words else word.text or heading
        elif kind == "word":
            line = at if not words else line
            words.append(word)
        elif words:
            found += _command(line, words, known, heading)
            words = []
    return found + (_command(line, words, known, heading) if words else [])


def _command(line: int, words: list[Word], known: dict[str, Word], heading: str) -> list[Command]:
    environment: dict[str, str] = {}
    rest = _without_redirections(words)
    if rest and rest[0].text == "export":
        rest = rest[1:]
    while rest and (rest[0].text in LEADING or ASSIGNMENT.fullmatch(rest[0].text)):
        if (found := ASSIGNMENT.fullmatch(rest[0].text)) is not None:
            environment[found[1]] = found[2]
            word = Word(found[2], rest[0].unknown)
            if len(rest) == 1 or all(ASSIGNMENT.fullmatch(one.text) for one in rest):
                known[found[1]] = word
        rest = rest[1:]
    return [Command(line, tuple(rest), environment, heading)] if rest else []


def _without_redirections(words: list[Word]) -> list[Word]:
    kept: list[Word] = []
    skip = False
    for word in words:
        found = REDIRECTION.fullmatch(word.text)
        if skip:
            skip = False
        elif found is None:
            kept.append(word)
        else:
            skip = not found[2]  # the file is the next word
    return kept


def _tokens(text: str, known: dict[str, Word]) -> Iterator[tuple[str, int, Word]]:
    """("word" | "end" | "comment", line, word)"""
    at, line = 0, 1
    word: list[str] | None = None
    unknown = ""
    while at < len(text):
        char = text[at]
        if word is None and char == "#":
            end = text.find("\n", at)
            end = len(text) if end < 0 else end
            yield "comment", line, Word(text[at:end].strip("# \t\r"))
            at = end
            continue
        if char == "\\" and at + 1 < len(text):
            if text[at + 1] in "\r\n":
                at += 3 if text[at + 1 : at + 3] == "\r\n" else 2
                line += 1
                continue
            word = [*(word or []), text[at + 1]]
            at += 2
        elif char in "'\"":
            end = _closing(text, at)
            inside = text[at + 1 : end]
            if char == '"':
                inside, hidden = _filled(inside.replace("\\\n", "").replace('\\"', '"'), known)
                unknown = unknown or hidden
            word = [*(word or []), inside]
            line += text.count("\n", at, end)
            at = end + 1
        elif char == "$" or char == "`":
            end = _end_of_variable(text, at)
            inside, hidden = _filled(text[at:end], known)
            unknown = unknown or hidden
            word = [*(word or []), inside]
            at = end
        elif char in " \t\r\n;&|":
            if char == "&" and word and word[-1].endswith(">"):  # 2>&1
                word = [*word, char]
                at += 1
                continue
            if word is not None:
                yield "word", line, Word("".join(word), unknown)
                word, unknown = None, ""
            if char in "\n;&|":
                yield "end", line, Word("")
            line += char == "\n"
            at += 1
        else:
            word = [*(word or []), char]
            at += 1
    if word is not None:
        yield "word", line, Word("".join(word), unknown)


def _closing(text: str, start: int) -> int:
    """Where the quote that opens at `start` closes. ValueError where it does not."""
    at = start + 1
    while at < len(text) and text[at] != text[start]:
        at += 2 if text[at] == "\\" and text[start] == '"' else 1
    if at >= len(text):
        raise ValueError(f"line {text.count(chr(10), 0, start) + 1}: a quote is opened and never closed")
    return at


def _end_of_variable(text: str, start: int) -> int:
    for opening, closing in (("$((", "))"), ("$(", ")"), ("${", "}"), ("`", "`")):
        if text.startswith(opening, start):
            end = text.find(closing, start + len(opening))
            return len(text) if end < 0 else end + len(closing)
    name = NAME.match(text, start + 1)
    return name.end() if name else min(start + 2, len(text))


def _filled(text: str, known: dict[str, Word]) -> tuple[str, str]:
    """(text with its variables, the first thing in it that nobody can know here)"""
    unknown = ""

    def fill(match: re.Match) -> str:
        nonlocal unknown
        word = known.get(match[1] or match[2])
        if word is None and match[3] is not None:
            return match[3]
        if word is None or word.unknown:
            unknown = unknown or (word.unknown if word else match[0])
        return word.text if word else match[0]

    filled = VARIABLE.sub(fill, text)
    rest = re.search(r"`[^`]*`|\$\([^)]*\)|\$[\d@*#?!]|\$\{[^}]*\}", VARIABLE.sub("", text))
    return filled, unknown or (rest[0] if rest else "")
