"""WebDataset: tars whose members of one base name are one sample, read by offset and written in one way only.

    000000000.jpg     the picture: jpg, jpeg, png, webp or bmp
    000000000.cls     its label, a whole number or a name, as text
    000000000.json    or here, under label, identity, person, subject, class ...; `identity` also names the class,
                      and so does `name` where it is the same for all pictures of a label
    000000000.txt     or here, on one line

A set without any label takes the folder in the members' names: anna/1.jpg is of anna. Nothing is ever unpacked to the
disk, so that it does not matter where a name would lead. Tars that are compressed as a whole cannot be read by offset.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from recognition.data.lists import LABEL_COLUMNS
from recognition.data.stored import StoredPlan, Stretches, folders_as_labels, without_pictures
from recognition.data.tar_format import Member, members
from recognition.data.value_forms import label_text

PICTURE_ENDINGS = ("jpg", "jpeg", "png", "webp", "bmp")
LABEL_ENDINGS = ("cls", "json", "txt")
NAMES = ("identity", "person")  # in a .json: what the class of a .cls is called; `name` is often the file's
MOST_LABEL = 2**20  # bytes of a .json
WANTED = "wanted members x.jpg (or png, webp) with x.cls, x.json or x.txt, or folders in the names: anna/1.jpg"
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 1_000_000


@dataclass(slots=True)
class _Sample:
    """What was found under one base name."""

    pictures: list[Member] = field(default_factory=list)
    labels: dict[str, Member] = field(default_factory=dict)
    problem: str = ""


@dataclass(slots=True)
class _Called:
    """What classes are called, by label, two names of each at most. loose: under `name`."""

    names: dict[str, set[str]] = field(default_factory=dict)
    loose: dict[str, set[str]] = field(default_factory=dict)

    def add(self, label: str, about: dict[str, object]) -> None:
        name = next((text for key in NAMES if (text := label_text(about.get(key)))), None)
        found, name = (self.names, name) if name else (self.loose, label_text(about.get("name")))
        if name and len(here := found.setdefault(label, set())) < 2:
            here.add(name)

    def one_each(self, source: object) -> tuple[dict[str, str], list[str]]:
        """Name of each label, and notes. ValueError where a label has two, other than under `name`."""
        for label, names in self.names.items():
            if len(names) > 1:
                raise ValueError(
                    f"{source}: label {label} is called {' and '.join(sorted(names))}, wanted one name each"
                )
        loose = {label: names for label, names in self.loose.items() if label not in self.names}
        several = next(((label, sorted(names)) for label, names in loose.items() if len(names) > 1), None)
        if several:
            label, (first, second) = several
            loose = {}
            note = f"`name` in the .json is no name of a class: {first} and {second} both have label {label}"
        named = {label: name for label, (name,) in (loose | self.names).items()}
        return named, [note] if several else []


def expand_braces(pattern: str) -> list[Path]:
    """faces-{000000..000099}.tar as a hundred paths; a name without braces as itself. ValueError for other braces."""
    match = _BRACES.search(pattern)
    if match is None:
        return [Path(pattern)]
    first, last = int(match[1]), int(match[2])
    if last < first or last - first >= _MOST_SHARDS or _BRACES.search(pattern, match.end()):
        raise ValueError(f"{pattern}: wanted one {{first..last}} in it, such as faces-{{000000..000099}}.tar")
    width = len(match[1]) if match[1].startswith("0") else 0
    return [
        Path(f"{pattern[: match.start()]}{number:0{width}d}{pattern[match.end() :]}")
        for number in range(first, last + 1)
    ]


def plan_tars(files: Sequence[Path], source: object) -> StoredPlan:
    """The samples of all tars in the order of files and members. ValueError where there is none."""
    stretches, bad, called = Stretches(files), [], _Called()
    unlabelled: list[tuple[int, Member]] = []
    for number, file in enumerate(tqdm(files, unit="tar", desc="index", disable=None if len(files) > 1 else True)):
        _index(number, file, stretches, unlabelled, called, bad)
    if not len(stretches) and unlabelled:
        folders = list(folders_as_labels([member.name for _, member in unlabelled]))
        for (number, member), label in zip(unlabelled, folders, strict=True):
            if label:
                stretches.add(number, member.offset, member.size, member.name, label)
        unlabelled = [one for one, label in zip(unlabelled, folders, strict=True) if not label]
    bad += [
        (f"{files[number]}: {member.name}", "a picture without a label: no .cls, .json or .txt of its name")
        for number, member in unlabelled
    ]
    if not len(stretches):
        raise without_pictures(bad, source, WANTED)
    names, notes = called.one_each(source)
    plan = StoredPlan(stretches, source, names)
    plan.bad, plan.notes = bad, notes
    return plan


def base_and_ending(name: str) -> tuple[str, str]:
    """WebDataset's rule: the base name ends at the first dot behind the last slash."""
    folder, slash, file = name.rpartition("/")
    base, _, ending = file.partition(".")
    return f"{folder}{slash}{base}", ending.lower()


def _index(
    number: int,
    file: Path,
    stretches: Stretches,
    unlabelled: list[tuple[int, Member]],
    called: _Called,
    bad: list[tuple[str, str]],
) -> None:
    """Add one tar's samples. What is wrong with the tar itself is bad, behind the samples before it."""
    samples: dict[str, _Sample] = {}
    try:
        for member in members(file):
            _sort_in(samples, member)
    except ValueError as error:
        bad.append((str(file), str(error)))
    with open(file, "rb") as opened:
        for base, sample in samples.items():
            where = f"{file}: {base}"
            if problem := _problem(sample):
                bad.append((where, problem))
                continue
            picture = sample.pictures[0]
            if not sample.labels:
                unlabelled.append((number, picture))
                continue
            try:
                label, about = _label_of(opened, sample)
            except ValueError as error:
                bad.append((where, str(error)))
                continue
            called.add(label, about)
            stretches.add(number, picture.offset, picture.size, picture.name, label)


def _sort_in(samples: dict[str, _Sample], member: Member) -> None:
    base, ending = base_and_ending(member.name)
    file = member.name.rpartition("/")[2]
    if file.startswith("._") or base.startswith("__MACOSX/") or (file.startswith("__") and "__" in file[2:]):
        return  # of macOS, and WebDataset's own remarks
    last = ending.rpartition(".")[2]
    if last not in PICTURE_ENDINGS and last not in LABEL_ENDINGS:
        return
    sample = samples.setdefault(base, _Sample())
    if member.problem:
        sample.problem = f"{member.name} is {member.problem}"
    elif last in PICTURE_ENDINGS:
        sample.pictures.append(member)
    else:
        sample.problem = f"two members .{last} of one base name" if last in sample.labels else sample.problem
        sample.labels[last] = member


def _problem(sample: _Sample) -> str:
    if sample.problem:
        return sample.problem
    if not sample.pictures:
        return f"a label without a picture ({', '.join(member.name for member in sample.labels.values())})"
    if len(sample.pictures) > 1:
        return f"several pictures of one base name ({', '.join(member.name for member in sample.pictures[:4])})"
    return ""


def _label_of(file: BinaryIO, sample: _Sample) -> tuple[str, dict[str, object]]:
    """Label of a sample, and what its .json says, {} where there is none."""
    about: dict[str, object] = {}
    if member := sample.labels.get("json"):
        about = _json(file, member)
    for ending in ("cls", "json", "txt"):
        if ending not in sample.labels:
            continue
        if ending == "json":
            label = next((text for name in LABEL_COLUMNS if (text := label_text(about.get(name)))), None)
        else:
            label = label_text(_bytes(file, sample.labels[ending]))
        if label is not None:
            return label, about
        if ending == "cls":
            raise ValueError(f"{sample.labels[ending].name} holds no label, a whole number or a name")
    raise ValueError(f"no label in {', '.join(member.name for member in sample.labels.values())}")


def _json(file: BinaryIO, member: Member) -> dict[str, object]:
    try:
        about = json.loads(_bytes(file, member))
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise ValueError(f"{member.name} is no JSON object")
    return about


def _bytes(file: BinaryIO, member: Member) -> bytes:
    if member.size > MOST_LABEL:
        raise ValueError(f"{member.name} has {member.size} bytes, which is no label")
    file.seek(member.offset)
    return file.read(member.size)
