"""Words of launch scripts: quotes, variables, arrays, continued lines, comments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

NAME = re.compile(r"[A-Za-z_]\w*")
ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::?-([^${}]*))?\})")
ARRAY = re.compile(r"\$\{([A-Za-z_]\w*)\[[@*]\]\}")
CUT_OFF = re.compile(r"\\[ \t]+(\r?\n|$)")
LONGEST = 10_000  # words of an array: X=("${X[@]}" "${X[@]}") doubles
OPERATOR = re.compile(r";;&?|;&|&&|\|\||\|&|[;&|\n]")


@dataclass(frozen=True)
class Word:
    """A word of a command. unknown: the part of it that only a shell would tell, "" = none. items: of an array."""

    text: str
    unknown: str = ""
    items: tuple[Word, ...] | None = None


class Lexer:
    """Reads a script from its beginning; `known` is asked at each variable, so it may change between words."""

    def __init__(self, text: str, known: Mapping[str, Word], line: int = 1) -> None:
        self.text, self.known, self.line, self.at = text, known, line, 0
        self.word: list[str] | None = None
        self.unknown = ""
        self.done: list[Word] = []

    def tokens(self) -> Iterator[tuple[str, int, Word]]:
        """("word" | "end" | "comment" | "(" | ")", line, word or the operator that ends)"""
        while self.at < len(self.text):
            start, char = self.line, self.text[self.at]
            if self.word is None and char == "#":
                yield "comment", start, Word(self._comment())
                continue
            if char in "()":
                kind = self._bracket()
            elif char in " \t\r" or (char in "\n;&|" and not self._redirects()):
                kind = self._gap()
            else:
                self._piece(char)
                kind = ""
            for word in self._taken(bool(kind)):
                yield "word", start, word
            if kind.strip():
                yield ("end" if kind[0] not in "()" else kind[0]), start, Word(kind)
            elif kind == "\n":
                yield "end", start, Word("\n")
        for word in self._taken(True):
            yield "word", self.line, word

    def _taken(self, ended: bool) -> list[Word]:
        if ended:
            self._flush()
        done, self.done = self.done, []
        return done

    def _flush(self) -> None:
        """The word so far is complete."""
        if self.word is not None:
            self.done.append(Word("".join(self.word), self.unknown))
        self.word, self.unknown = None, ""

    def _comment(self) -> str:
        end = self.text.find("\n", self.at)
        end = len(self.text) if end < 0 else end
        found = self.text[self.at : end].strip("# \t\r")
        self.at = end
        return found

    def _redirects(self) -> bool:
        """Whether the & here is of a redirection, 2>&1 or &>."""
        before = bool(self.word) and self.word[-1].endswith(">")
        return self.text[self.at] == "&" and (before or self.text.startswith("&>", self.at))

    def _gap(self) -> str:
        """What ends the word here: " " or an operator."""
        found = OPERATOR.match(self.text, self.at)
        self.at += len(found[0]) if found else 1
        self.line += bool(found) and found[0] == "\n"
        return found[0] if found else " "

    def _bracket(self) -> str:
        """An array, arithmetic, what a redirection reads from, or a bracket of its own."""
        so_far = "".join(self.word or [])
        if self.text[self.at] == ")":
            self.at += 1
            return ")"
        if so_far.endswith("=") and ASSIGNMENT.fullmatch(so_far):
            inside, line = self._enclosed(), self.line
            items = [word for kind, _, word in Lexer(inside, self.known, line).tokens() if kind == "word"]
            if len(items) > LONGEST:
                raise ValueError(f"line {line}: an array of more than {LONGEST:,} words")
            self.line += inside.count("\n")
            first = items[0] if items else Word("")
            self.done.append(Word(f"{so_far}{first.text}", first.unknown, tuple(items)))
            self.word = None
            return " "
        if self.text.startswith("((", self.at) or so_far.endswith((">", "<")):
            inside = self._enclosed()
            self.line += inside.count("\n")
            self._flush()
            self.done += [] if so_far.endswith((">", "<")) else [Word(f"({inside})")]
            return " "
        self.at += 1
        return "("

    def _enclosed(self) -> str:
        """What stands between the bracket here and the one that closes it, which it goes behind."""
        start, depth, at = self.at + 1, 0, self.at
        while at < len(self.text):
            char = self.text[at]
            if char in "'\"":
                at = closing(self.text, at, self.line)
            depth += (char == "(") - (char == ")")
            at += 2 if char == "\\" else 1
            if depth == 0:
                self.at = at
                return self.text[start : at - 1]
        raise ValueError(f"line {self.line}: a bracket is opened and never closed")

    def _piece(self, char: str) -> None:
        """One character, quotation or variable of a word."""
        text, at = self.text, self.at
        if char == "\\" and at + 1 < len(text):
            self._escaped(text[at + 1])
        elif char in "'\"":
            end = closing(text, at, self.line)
            inside = text[at + 1 : end]
            self.line += inside.count("\n")
            self.at = end + 1
            if char == '"' and (array := ARRAY.fullmatch(inside)):
                self._array(array)
                return
            if char == '"':
                inside, hidden = filled(inside.replace("\\\n", "").replace('\\"', '"'), self.known)
                self.unknown = self.unknown or hidden
            self.word = [*(self.word or []), inside]
        elif char in "$`":
            self.at = end_of_variable(text, at)
            array = ARRAY.fullmatch(text, at, self.at)
            if array:
                self._array(array)
            else:
                inside, hidden = filled(text[at : self.at], self.known)
                self._split([inside] if inside == text[at : self.at] else re.split(r"[ \t\n]+", inside), hidden)
        else:
            self.word = [*(self.word or []), char]
            self.at += 1

    def _escaped(self, after: str) -> None:
        if CUT_OFF.match(self.text, self.at):
            raise ValueError(
                f"line {self.line}: a blank stands behind the backslash at its end, so the command ends there: take "
                "the blank out"
            )
        if after in "\r\n":
            self.at += 3 if self.text[self.at + 1 : self.at + 3] == "\r\n" else 2
            self.line += 1
            return
        self.word = [*(self.word or []), after]
        self.at += 2

    def _array(self, found: re.Match) -> None:
        """`"${NAME[@]}"`: a word for each item."""
        word = self.known.get(found[1])
        if word is None or word.items is None:
            self.word = [*(self.word or []), found[0]]
            self.unknown = self.unknown or (word.unknown if word and word.unknown else found[0])
            return
        for number, item in enumerate(word.items):
            if number:
                self._flush()
            self.word = [*(self.word or []), item.text]
            self.unknown = self.unknown or item.unknown

    def _split(self, pieces: list[str], unknown: str) -> None:
        """A variable outside of quotes: its blanks part words, but not behind NAME=."""
        if ASSIGNMENT.fullmatch("".join(self.word or [])):
            self.word, self.unknown = [*(self.word or []), " ".join(pieces)], self.unknown or unknown
            return
        telling = [bool(unknown) and ("$" in piece or "`" in piece) for piece in pieces]
        for number, piece in enumerate(pieces):
            if number:
                self._flush()
            if piece:
                self.word = [*(self.word or []), piece]
                self.unknown = self.unknown or (unknown if telling[number] or not any(telling) else "")


def closing(text: str, start: int, line: int = 1) -> int:
    """Where the quote that opens at `start` closes. ValueError where it does not."""
    at = start + 1
    while at < len(text) and text[at] != text[start]:
        at += 2 if text[at] == "\\" and text[start] == '"' else 1
    if at >= len(text):
        raise ValueError(f"line {line}: a quote is opened and never closed")
    return at


def end_of_variable(text: str, start: int) -> int:
    """Behind the variable or command substitution that begins here."""
    if text.startswith("$(", start):
        depth = 0
        for at in range(start + 1, len(text)):
            depth += (text[at] == "(") - (text[at] == ")")
            if depth == 0:
                return at + 1
        return len(text)
    for opening, end in (("${", "}"), ("`", "`")):
        if text.startswith(opening, start):
            at = text.find(end, start + len(opening))
            return len(text) if at < 0 else at + 1
    name = NAME.match(text, start + 1)
    return name.end() if name else min(start + 2, len(text))


def filled(text: str, known: Mapping[str, Word]) -> tuple[str, str]:
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

    found = VARIABLE.sub(fill, text)
    if len(found) > 10 * LONGEST:
        raise ValueError(f"a variable of more than {10 * LONGEST:,} characters")
    rest = re.search(r"`[^`]*`|\$\([^)]*\)|\$[\d@*#?!]|\$\{[^}]*\}", VARIABLE.sub("", text))
    return found, unknown or (rest[0] if rest else "")
