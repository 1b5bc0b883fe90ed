"""Lists of pictures with labels, in the forms that people have: one line, one picture.

    picture TAB label            or blanks, or a comma, between; the last word is the label
    number TAB label TAB picture MXNet's im2rec .lst; the label may be written 12.000000
    1 TAB picture TAB label      InsightFace's .lst of aligned pictures (0 in front: not aligned yet)
    a header, then CSV           columns by name, separated by a comma, a semicolon or a TAB

The first line decides the form, and a line of another form is an error that names it.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

from recognition.data.pictures import PICTURES, FilePlan, numbered

PICTURE_COLUMNS = ("path", "image", "file", "filename", "file_name", "image_path", "img", "img_path", "picture")
LABEL_COLUMNS = ("label", "identity", "person", "subject", "class", "person_id", "identity_id", "class_id", "cls", "id")
WANTED = (
    "wanted `picture TAB label`, `number TAB label TAB picture` as im2rec writes it, or CSV whose header names a "
    f"column for the picture ({', '.join(PICTURE_COLUMNS[:3])}) and one for the label ({', '.join(LABEL_COLUMNS[:3])})"
)
SEPARATORS = (",", ";", "\t")
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.0*)?")
Row = tuple[str, str]  # picture, label
Bad = list[tuple[str, str]]  # picture, reason


def read_list(path: str | Path) -> str:
    """The text of a list. FileNotFoundError; ValueError naming a file that is no text, such as a picture."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no list {path}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no list: it is no text in UTF-8 (byte {error.start})") from None


def plan_list(source: Path, root: Path, keep_order: bool = False) -> FilePlan:
    """The pictures of a list, in any of the forms above, by class; or in the order of the lines.

    root: folder that the pictures are relative to. Labels that are all whole numbers are numbered by value, names by
    name. A picture with two labels is bad, and so is a first line that seems to be a header.
    ValueError naming file and line.
    """
    rows = list(_rows(source, read_list(source)))
    if not rows:
        raise ValueError(f"{source} names no pictures: {WANTED}")
    rows, bad = _without_header(rows, source, root)
    rows, notes = _one_label_each(rows, source, bad)
    if not rows:
        raise ValueError(f"{source} names no pictures with one label: {bad[0][0]}: {bad[0][1]}")
    labels, names = numbered([label for _, label in rows], source)
    order = range(len(rows)) if keep_order else sorted(range(len(rows)), key=labels.__getitem__)
    plan = FilePlan(root, [root / rows[i][0] for i in order], [labels[i] for i in order], names)
    plan.bad, plan.notes = bad, notes
    return plan


def _without_header(rows: list[Row], source: Path, root: Path) -> tuple[list[Row], Bad]:
    """A header that names no known columns would become a picture of a person called `person`."""
    picture, label = rows[0]
    if os.path.splitext(label)[1].lower() in PICTURES and os.path.splitext(picture)[1].lower() not in PICTURES:
        raise ValueError(f"{source}, first line: {label!r} stands where the label should, which comes last; {WANTED}")
    words = not any(_NUMBER.fullmatch(word) for word in rows[0])
    if len(rows) == 1 or not words or os.path.isfile(root / picture) or any(label == one for _, one in rows[1:]):
        return rows, []
    reason = (
        f"there is no such file, and nothing else is of {label!r}: probably a header, whose columns are called "
        f"otherwise than {PICTURE_COLUMNS[0]}, {PICTURE_COLUMNS[1]} ... and {LABEL_COLUMNS[0]}, {LABEL_COLUMNS[1]} ..."
    )
    return rows[1:], [(f"{source}, first line: {picture}", reason)]


def _one_label_each(rows: list[Row], source: Path, bad: Bad) -> tuple[list[Row], list[str]]:
    """Rows without pictures that have two labels, which become bad; and notes."""
    label_of: dict[str, str] = {}
    several: dict[str, str] = {}
    for picture, label in rows:
        if label_of.setdefault(picture, label) != label:
            several.setdefault(picture, label)
    bad += [
        (f"{source}: {picture}", f"it has two labels, {label_of[picture]} and {label}")
        for picture, label in several.items()
    ]
    again = len(rows) - len(label_of)
    if several:
        rows = [row for row in rows if row[0] not in several]
        again = len(rows) - (len(label_of) - len(several))
    return rows, [f"{again} lines of {source} name a picture again, which will be there as often"] if again else []


def pick_columns(names: list[str]) -> tuple[int, int] | None:
    """Where the picture and the label stand in a header; None where it does not name both."""
    places = {name.strip().strip('"').lower(): place for place, name in enumerate(names)}
    picture = next((places[name] for name in PICTURE_COLUMNS if name in places), None)
    label = next((places[name] for name in LABEL_COLUMNS if name in places), None)
    return None if picture is None or label is None else (picture, label)


def _rows(source: Path, text: str) -> Iterator[Row]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        return
    first = lines[0][1]
    for separator in SEPARATORS:
        if separator in first and (columns := pick_columns(first.split(separator))):
            yield from _table(source, lines, separator, columns)
            return
    if source.suffix.lower() == ".csv" and "," in first and len(first.split(",")) != 2:
        raise ValueError(f"{source}, line {lines[0][0]}: found {first[:80]!r}, which names no such columns; {WANTED}")
    form = _form(first)
    for number, line in lines:
        try:
            yield _row(line, form)
        except ValueError as error:
            raise ValueError(f"{source}, line {number}: {error}") from None


def _table(source: Path, lines: list[tuple[int, str]], separator: str, columns: tuple[int, int]) -> Iterator[Row]:
    width = len(lines[0][1].split(separator))
    reader = csv.reader((line for _, line in lines), delimiter=separator, strict=True)
    try:
        next(reader)
        for (number, line), fields in zip(lines[1:], reader, strict=True):
            picture, label = (fields[place].strip() if place < len(fields) else "" for place in columns)
            if len(fields) != width or not picture or not label:
                raise ValueError(
                    f"{source}, line {number}: found {line[:80]!r}, wanted {width} fields as in the header, those of "
                    "picture and label not empty"
                )
            yield picture, _label(label)
    except (csv.Error, ValueError) as error:
        if str(error).startswith(str(source)):
            raise
        raise ValueError(
            f"{source}, near line {lines[min(reader.line_num, len(lines)) - 1][0]}: no CSV ({error})"
        ) from None


def _form(line: str) -> str:
    """Which form a list has, by its first line."""
    fields = line.strip().split("\t")
    if len(fields) == 3 and _NUMBER.fullmatch(fields[1].strip()) and not _NUMBER.fullmatch(fields[2].strip()):
        return "im2rec"
    if len(fields) >= 3 and fields[0].strip() in ("0", "1") and not _NUMBER.fullmatch(fields[1].strip()):
        return "insightface"
    before, comma, _ = line.strip().rpartition(",")
    blanks = line.split()
    with_suffix = os.path.splitext(before)[1].lower() in PICTURES
    if comma and len(fields) == 1 and (len(blanks) == 1 or blanks[-2].endswith(",") or with_suffix):
        return "comma"  # of which the picture may hold blanks
    return "pair"


def _row(line: str, form: str) -> Row:
    fields = [field.strip() for field in line.strip().split("\t")]
    if form == "im2rec":
        if len(fields) != 3 or not all(_NUMBER.fullmatch(field) for field in fields[:2]) or not fields[2]:
            raise ValueError(
                f"found {line[:80]!r}, wanted `number TAB label TAB picture` as in the lines before it, the label a "
                "whole number"
            )
        return fields[2], _label(fields[1])
    if form == "insightface":
        if fields[0] != "1":
            raise ValueError(
                f"found {line[:80]!r}, a picture that is not aligned yet (0 in front): align it first, see "
                "tools/align.py, or wanted `1 TAB picture TAB label`"
            )
        if len(fields) < 3 or not fields[1] or not fields[2]:
            raise ValueError(f"found {line[:80]!r}, wanted `1 TAB picture TAB label` as in the lines before it")
        return fields[1], _label(fields[2])
    if form == "comma":
        fields = [field.strip() for field in line.rsplit(",", 1)]
    elif len(fields) == 1:
        fields = line.strip().rsplit(None, 1)
    if len(fields) != 2 or not all(fields):
        raise ValueError(f"found {line[:80]!r}, {WANTED}")
    return fields[0].strip(), _label(fields[1].strip())


def _label(text: str) -> str:
    """12.000000, as im2rec writes 12, is 12; a name stays what it is."""
    return text.partition(".")[0] if _NUMBER.fullmatch(text) else text
