"""Reads launch scripts without running them: which commands there are, what their variables hold, what is not certain.

What a branch sets is known within it; behind it only what every way through sets alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from recognition.migration.shell_words import ASSIGNMENT, NAME, Lexer, Word

REDIRECTION = re.compile(r"(\d*|&)>>?(&?\d?|.*)|<<?")
LEADING = ("time", "nohup", "exec", "sudo", "env", "command", "eval", "!")
SETTING = ("export", "declare", "local", "readonly", "typeset")
READING = ("read", "mapfile", "readarray", "getopts", "let", "unset", "printf")
TESTS = ("[", "[[", "test", "false", "grep", "which", "command", "((")
HARMLESS_FILES = ("activate", ".bashrc", ".bash_profile", ".profile", "conda.sh", "setvars.sh")
ASSIGNED = re.compile(r"(?<![\w$-])([A-Za-z_]\w*)\+?=")
LOOPS = ("for", "while", "until", "select")


@dataclass(frozen=True)
class Command:
    """A command of a script: its words after assignments, and the comment above it.

    environment: what is exported, and set in front of it. within: what its being run depends on, "" = nothing.
    """

    line: int
    words: tuple[Word, ...]
    environment: dict[str, str] = field(default_factory=dict)
    heading: str = ""
    within: str = ""


@dataclass
class _Block:
    """An open if, case, loop, function, group or subshell. ends: what is known at the end of each branch."""

    kind: str
    line: int
    reason: str  # why its commands may not run, "" = they do
    before: dict[str, Word]
    ends: list[dict[str, Word]] = field(default_factory=list)
    whole: bool = False  # one of its branches is taken for certain
    pattern: bool = False  # of a case: up to the next bracket


def read_commands(text: str) -> list[Command]:
    """The commands of a script or a command line, in order; variables that it sets itself are filled in."""
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self.known: dict[str, Word] = {}
        self.lexer = Lexer(text, self.known)
        self.found: list[Command] = []
        self.blocks: list[_Block] = []
        self.exported: set[str] = set()
        self.chain = ""  # why the next command may not run: it stands behind && or ||
        self.function = False  # the next { is a function's

    def read(self) -> list[Command]:
        words: list[Word] = []
        line, heading = 1, ""
        for kind, at, word in self.lexer.tokens():
            if kind == "comment":
                heading = heading if words else word.text or heading
            elif kind == "word":
                line = at if not words else line
                words.append(word)
            elif kind == "(":
                words = self._open_bracket(words, line, heading, at)
            elif kind == ")":
                words = self._close_bracket(words, line, heading)
            else:
                self._end(words, line, heading, word.text)
                words = []
        self._end(words, line, heading, "\n")
        return self.found

    def _open_bracket(self, words: list[Word], line: int, heading: str, at: int) -> list[Word]:
        if self.lexer.text.startswith(")", self.lexer.at) and words:
            self.lexer.at += 1
            self.function = True
            return []
        if self.blocks and self.blocks[-1].pattern:
            return words
        self._end(words, line, heading, "")
        self._push("(", at)
        return []

    def _close_bracket(self, words: list[Word], line: int, heading: str) -> list[Word]:
        opened = self.blocks and self.blocks[-1].pattern
        if not opened and any(word.text == "case" for word in words):  # case X in A)
            self._keywords(words, line)
        if self.blocks and self.blocks[-1].pattern:
            self.blocks[-1].pattern = False
            return []
        self._end(words, line, heading, "")
        if self.blocks and self.blocks[-1].kind == "(":
            self._now(self.blocks.pop().before)
        return []

    def _end(self, words: list[Word], line: int, heading: str, operator: str) -> None:
        """A command is complete. operator: what stands behind it."""
        if words and self.blocks and self.blocks[-1].pattern and words[0].text != "esac":
            return
        rest = self._keywords(words, line)
        first = rest[0].text if rest else ""
        if rest:
            self._command(rest, line, heading)
        if operator in ("&&", "||"):
            doubtful = operator == "||" or first.startswith(TESTS)
            self.chain = self.chain or (f"`{operator}` in line {line}" if doubtful else "")
        elif words:
            self.chain = ""
        if operator.startswith(";;") and self.blocks and self.blocks[-1].kind == "case":
            self._branch(self.blocks[-1])
            self.blocks[-1].pattern = True

    def _keywords(self, words: list[Word], line: int) -> list[Word]:
        """What is left of a command behind if, then, do, ..."""
        rest = _without_redirections(words)
        while rest:
            word, top = rest[0].text, self.blocks[-1] if self.blocks else None
            if word in ("if", "while", "until"):
                self._push(word, line)
            elif word in ("for", "select"):
                self._push(word, line)
                self._forget([one.text for one in rest[1:2]], f"`{word}` in line {line}")
                return []
            elif word == "case":
                self._push(word, line).pattern = True
                return []
            elif word == "function":
                self.function = True
                return []
            elif word == "{":
                self._push("function" if self.function else "{", line)
                self.function = False
            elif word == "do" and top is not None and top.kind in LOOPS:
                self._forget(ASSIGNED.findall(self._body()), f"`{top.kind}` in line {top.line}")
                top.before = dict(self.known)
            elif word in ("elif", "else") and top is not None and top.kind == "if":
                self._branch(top)
                top.whole = word == "else"
            elif word in ("fi", "done", "esac", "}") and top is not None:
                self._close()
            elif word not in ("then", "do", "else", "elif", "fi", "done", "esac", "}"):
                return rest
            rest = rest[1:]
        return rest

    def _push(self, kind: str, line: int) -> _Block:
        doubt = kind in ("if", "while", "until", "case", "function")
        reason = self.chain or (f"`{kind}` in line {line}" if doubt else "")
        self.blocks.append(_Block(kind, line, reason, dict(self.known)))
        self.chain = ""
        return self.blocks[-1]

    def _branch(self, block: _Block) -> None:
        """A branch ends: the next one starts from what was known before."""
        block.ends.append(dict(self.known))
        self._now(block.before)

    def _close(self) -> None:
        """Behind a block, what every way through it leaves alike is known."""
        block = self.blocks.pop()
        if block.kind == "{" and not block.reason:
            return
        ends = [*block.ends, dict(self.known)]
        if not block.whole:
            ends.append(block.before)
        for name in {name for one in ends for name in one}:
            values = [one.get(name) for one in ends]
            if any(value != values[0] for value in values):
                self.known[name] = Word(f"${name}", f"${name}, which depends on `{block.kind}` in line {block.line},")

    def _now(self, known: dict[str, Word]) -> None:
        self.known.clear()
        self.known.update(known)

    def _body(self) -> str:
        """The text from here to the `done` of this loop."""
        rest, depth = self.lexer.text[self.lexer.at :], 1
        for found in re.finditer(r"(?<![\w/.-])(do|done)(?![\w/.-])", rest):
            depth += 1 if found[1] == "do" else -1
            if depth == 0:
                return rest[: found.start()]
        return rest

    def _forget(self, names: list[str], why: str) -> None:
        for name in names:
            self.known[name] = Word(f"${name}", f"${name}, which depends on {why},")

    def _command(self, words: list[Word], line: int, heading: str) -> None:
        environment = {
            name: "" if self.known[name].unknown else self.known[name].text
            for name in sorted(self.exported & {*self.known})
        }
        rest = words
        sets = rest[0].text in SETTING
        if sets:
            names = [word.text.partition("=")[0] for word in rest[1:]]
            self.exported |= {*names} if rest[0].text == "export" else set()
            rest = [word for word in rest[1:] if ASSIGNMENT.fullmatch(word.text)]
        if all(ASSIGNMENT.fullmatch(word.text) for word in rest):
            for word in rest:
                self._set(word, line)
            return
        while rest and (rest[0].text in LEADING or ASSIGNMENT.fullmatch(rest[0].text)):
            if (found := ASSIGNMENT.fullmatch(rest[0].text)) is not None:
                environment[found[1]] = "" if rest[0].unknown else found[3]
            rest = rest[1:]
        if rest:
            self._changed_by(rest, line)
            within = self.chain or next((block.reason for block in self.blocks if block.reason), "")
            self.found.append(Command(line, tuple(rest), environment, heading, within))

    def _set(self, word: Word, line: int) -> None:
        """NAME=value, NAME+=value or NAME=(values)."""
        found = ASSIGNMENT.fullmatch(word.text)
        assert found is not None
        name, more, value = found.groups()
        made = Word(value, word.unknown, word.items)
        if more:
            old = self.known.get(name)
            if old is None or (old.items is None) != (word.items is None):
                made = Word(f"${name}", f"${name}, which grows in line {line},")
            elif old.items is not None:
                made = Word(old.text, old.unknown, (*old.items, *(word.items or ())))
            else:
                made = Word(old.text + value, old.unknown or word.unknown)
        if self.chain and made != self.known.get(name):
            made = Word(f"${name}", f"${name}, which depends on {self.chain},")
        self.known[name] = made

    def _changed_by(self, words: list[Word], line: int) -> None:
        """Commands that set variables in ways that are not followed."""
        first, last = words[0].text, PurePosixPath(words[1].text).name if words[1:] else ""
        if first in ("source", ".") and last not in HARMLESS_FILES:
            self._forget([*self.known], f"{last}, read in line {line}")
        elif first in READING or first.startswith("(("):
            names = [name for word in words for name in NAME.findall(word.text)]
            self._forget([name for name in names if name in self.known], f"`{first[:20]}` in line {line}")


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
