"""Lists of pairs as benchmarks ship them: LFW's lines of names and numbers, and lines of two paths."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath, splitext

import numpy as np

from recognition.data.named import ENDINGS, NamedImages

FORMS = ("auto", "names", "paths")
PATTERN = "{name}/{name}_{number:04d}"
HEADING = ("path1", "path2", "same")
NAMES_RULE = "Name n1 n2 for a genuine pair, or Name1 n1 Name2 n2 for an impostor pair"
PATHS_RULE = "path1 path2 same, with same 0 or 1, and in all lines or in none a fold"


@dataclass(frozen=True)
class PairList:
    """Pairs of pictures by name."""

    file: Path
    first: Sequence[str]  # (P,) without an ending where the list gives none
    second: Sequence[str]
    same: np.ndarray  # (P,) bool
    fold: np.ndarray | None = None  # (P,) int64; None where the list knows none
    stated: tuple[int, int] | None = None  # folds, and pairs of each kind in a fold, as the first line has them
    people: tuple[np.ndarray, np.ndarray] | None = None  # (P,) int64 each, who is on either side; None for paths

    def __len__(self) -> int:
        return len(self.same)

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Pairs of each kind: (there, as the first line states them); {} where it states none."""
        if self.stated is None:
            return {}
        wanted, genuine = self.stated[0] * self.stated[1], int(self.same.sum())
        return {"genuine pairs": (genuine, wanted), "impostor pairs": (len(self) - genuine, wanted)}


def read_pair_list(path: str | Path, form: str = "auto", pattern: str = PATTERN, folds: int = 10) -> PairList:
    """The pairs of one list.

    form: "names" - lines as LFW's pairs.txt has them, divided by tabs or blanks, below a first line of one or two whole
    numbers, which may be missing; "paths" - lines of path1, path2, same and where known fold, divided as the first
    line is: by commas, tabs or blanks; "auto" - "names" where the first line is one or two whole numbers, "paths" for
    any other.
    pattern: what a name and a number stand for, a path without an ending. folds: contiguous ones, for a list of names
    without a first line of numbers; lists of paths without a fold get none.
    FileNotFoundError for no file; ValueError with file and line for one that is not of the form, and for no pairs.
    """
    path = Path(path)
    if form not in FORMS:
        raise ValueError(f"form is '{form}'; it must be one of {', '.join(FORMS)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no list of pairs {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8, so no list of pairs") from None
    lines = list(enumerate(text.splitlines(), 1))
    lines = [(f"{path}, line {number}", line.strip()) for number, line in lines if line.strip()]
    header = _numbers(lines[0][1]) if lines else ()
    if form == "paths" or (form == "auto" and not header):
        return _paths(path, _divided(lines))
    rows = [(place, line.split()) for place, line in lines]
    return _names(path, rows[1:] if header else rows, header, _namer(pattern), folds)


def resolve(images: NamedImages, names: Sequence[str]) -> list[str]:
    """The names that the folder has for these, which may lack their ending; unknown ones are given back with .jpg.

    ValueError where pictures of two endings have one name.
    """
    whole = {*images.names, *images.failed}
    stems: dict[str, str] = {}
    twice: dict[str, str] = {}
    for name in sorted(whole):
        stem = splitext(name)[0]
        if stem in stems:
            twice[stem] = name
        stems.setdefault(stem, name)
    found = []
    for name in names:
        if name in twice and name not in whole:
            raise ValueError(f"{images.folder} has both {stems[name]} and {twice[name]}: which one is listed?")
        named = splitext(name)[1].lower() in ENDINGS
        found.append(name if name in whole or named else stems.get(name, f"{name}.jpg"))
    return found


def contiguous(pairs: int, folds: int) -> np.ndarray:
    """Fold of each pair, (P,) int64: contiguous ones, of which the first take the rest."""
    return np.concatenate([np.full(len(part), f) for f, part in enumerate(np.array_split(np.arange(pairs), folds))])


def _divided(lines: Sequence[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Each line's fields, divided as the first line is."""
    divider = next((d for d in (",", "\t") if lines and d in lines[0][1]), None)
    return [
        (place, [field.strip() for field in (next(csv.reader([line])) if divider == "," else line.split(divider))])
        for place, line in lines
    ]


def _numbers(line: str) -> tuple[int, ...]:
    """The whole numbers of a first line of one or two of them, else ()."""
    fields = line.split()
    return tuple(int(f) for f in fields) if len(fields) <= 2 and all(f.isdecimal() for f in fields) else ()


def _namer(pattern: str) -> Callable[[str, int], str]:
    def name_of(name: str, number: int) -> str:
        return pattern.format(name=name, number=number)

    try:
        distinct = len({name_of("a", 1), name_of("b", 1), name_of("a", 2)}) == 3
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        distinct = False
    if not distinct:
        raise ValueError(f"pattern is '{pattern}'; it must hold {{name}} and {{number}}, such as '{PATTERN}'")
    return name_of


def _names(
    path: Path, rows: Sequence[tuple[str, list[str]]], header: tuple[int, ...], name_of: Callable, folds: int
) -> PairList:
    first, second, same, people = [], [], [], []
    for place, fields in rows:
        match fields:
            case [name, a, b] if a.isdecimal() and b.isdecimal():
                one, other = (name, int(a)), (name, int(b))
            case [name_1, a, name_2, b] if a.isdecimal() and b.isdecimal():
                one, other = (name_1, int(a)), (name_2, int(b))
            case _:
                raise ValueError(f"{place}: '{' '.join(fields)}' is not {NAMES_RULE}")
        first.append(name_of(*one))
        second.append(name_of(*other))
        same.append(len(fields) == 3)
        people.append((one[0], other[0]))
    if not rows:
        raise ValueError(f"{path} holds no pairs")
    stated = None if not header else (header[0], header[1]) if len(header) == 2 else (1, header[0])
    # LFW's development lists are one block, all genuine pairs first, so that no contiguous folds can be cut of it
    count = folds if stated is None else stated[0]
    fold = contiguous(len(rows), count) if count > 1 else None
    ids = np.unique(people, return_inverse=True)[1].reshape(-1, 2).astype(np.int64)
    return PairList(path, first, second, np.array(same), fold, stated, (ids[:, 0], ids[:, 1]))


def mixed(same: np.ndarray, folds: int) -> np.ndarray:
    """Fold of each pair, (P,) int64: the n-th genuine and the n-th impostor pair are in fold n modulo folds."""
    return np.where(same, np.cumsum(same) - 1, np.cumsum(~same) - 1) % folds


def _paths(path: Path, rows: Sequence[tuple[str, list[str]]]) -> PairList:
    if rows and tuple(rows[0][1][:3]) == HEADING:
        rows = rows[1:]
    if not rows:
        raise ValueError(f"{path} holds no pairs")
    first, second, same, fold = [], [], [], []
    width = len(rows[0][1])
    for place, fields in rows:
        if len(fields) != width or width not in (3, 4) or not all(fields[:2]) or fields[2] not in ("0", "1"):
            raise ValueError(f"{place}: '{' '.join(fields)}' is not {PATHS_RULE}")
        if width == 4 and not fields[3].isdecimal():
            raise ValueError(f"{place}: the fold '{fields[3]}' is no whole number")
        first.append(normpath(fields[0]))
        second.append(normpath(fields[1]))
        same.append(fields[2] == "1")
        fold.append(int(fields[3]) if width == 4 else 0)
    known = np.array(fold, np.int64) if width == 4 else None
    return PairList(path, first, second, np.array(same), known)
