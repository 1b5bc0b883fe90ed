"""WebDataset: tars whose members of one base name are one sample, read by offset and written in one way only.

    000000000.jpg     the picture: jpg, jpeg, png, webp or bmp
    000000000.cls     its label, a whole number or a name, as text
    000000000.json    or here, under label, identity, person, subject, class ...; `identity` also names the class
    000000000.txt     or here, on one line

A set without any label takes the folder in the members' names: anna/1.jpg is of anna. Nothing is ever unpacked to the
disk, so that it does not matter where a name would lead. Tars that are compressed as a whole cannot be read by offset.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

from recognition.data.lists import LABEL_COLUMNS
from recognition.data.stored import StoredPlan, Stretches, folders_as_labels, without_pictures
from recognition.data.value_forms import label_text

PICTURE_ENDINGS = ("jpg", "jpeg", "png", "webp", "bmp")
LABEL_ENDINGS = ("cls", "json", "txt")
NAMES = ("identity", "name", "person")  # in a .json: what the class of a .cls is called
MOST_LABEL = 2**20  # bytes of a .json
BLOCK, RECORD = 512, 10240
WANTED = "wanted members x.jpg (or png, webp) with x.cls, x.json or x.txt, or folders in the names: anna/1.jpg"
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 1_000_000
_PACKED = {b"\x1f\x8b": "gunzip", b"BZ": "bunzip2", b"\xfd7": "unxz", b"\x28\xb5": "unzstd"}


class Member(NamedTuple):
    """A file in a tar: its name, and where its bytes lie."""

    name: str
    offset: int
    size: int


@dataclass(slots=True)
class _Sample:
    """What was found under one base name."""

    pictures: list[Member] = field(default_factory=list)
    labels: dict[str, Member] = field(default_factory=dict)
    twice: str = ""


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


def is_tar(path: Path) -> bool:
    """By its ending, or by what stands in its first block."""
    if path.suffix.lower() == ".tar":
        return True
    with open(path, "rb") as file:
        return file.read(BLOCK)[257:262] == b"ustar"


def plan_tars(files: Sequence[Path], source: object) -> StoredPlan:
    """The samples of all tars in the order of files and members. ValueError where there is none."""
    stretches, bad, class_names = Stretches(files), [], {}
    unlabelled: list[tuple[int, Member]] = []
    for number, file in enumerate(tqdm(files, unit="tar", desc="index", disable=None if len(files) > 1 else True)):
        _index(number, file, stretches, unlabelled, class_names, bad)
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
    plan = StoredPlan(stretches, source, _one_name_each(class_names, source))
    plan.bad = bad
    return plan


def members(path: Path) -> Iterator[Member]:
    """Every plain file of a tar, in order. ValueError saying where it is cut short, damaged, or no tar."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if (tool := _PACKED.get(file.read(2))) and path.suffix.lower() != ".tar":
            raise ValueError(f"it is compressed as a whole, so no member can be read by itself: {tool} it first")
        file.seek(0)
        try:
            yield from _members(file, size)
        except (tarfile.TarError, EOFError, OverflowError, RecursionError, UnicodeError) as error:
            raise ValueError(f"it is no tar, or damaged: {error or type(error).__name__}") from None


class _Bounded:
    """A file of which no more is asked than is there: tarfile would make room for any size that a header states."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        return self._file.read(max(min(size, self._size - self._file.tell()), 0))


def _members(file: BinaryIO, size: int) -> Iterator[Member]:
    with tarfile.open(fileobj=_Bounded(file, size), mode="r:", errors="backslashreplace") as tar:
        while (entry := tar.next()) is not None:
            tar.members = []  # else all of them are kept
            if entry.size < 0 or entry.offset_data + entry.size > size:
                raise ValueError(f"it is cut short within {entry.name}: {entry.size} bytes are announced")
            if entry.issparse() or entry.islnk() or entry.issym():
                raise ValueError(f"{entry.name} is a link or a file with holes, which WebDatasets have none of")
            if entry.isreg():
                yield Member(entry.name, entry.offset_data, entry.size)
        end = tar.offset
    file.seek(end)
    closing = file.read(BLOCK)
    if len(closing) < BLOCK:
        raise ValueError(f"it is cut short at byte {end}, behind a whole member: the end marker is missing")
    if any(closing):
        raise ValueError(f"it is damaged at byte {end}: no header of a member stands there")


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
    class_names: dict[str, set[str]],
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
                label, called = _label_of(opened, sample)
            except ValueError as error:
                bad.append((where, str(error)))
                continue
            if called:
                class_names.setdefault(label, set()).add(called)
            stretches.add(number, picture.offset, picture.size, picture.name, label)


def _sort_in(samples: dict[str, _Sample], member: Member) -> None:
    base, ending = base_and_ending(member.name)
    file = member.name.rpartition("/")[2]
    if file.startswith("._") or base.startswith("__MACOSX/") or (file.startswith("__") and "__" in file[2:]):
        return  # of macOS, and WebDataset's own remarks
    last = ending.rpartition(".")[2]
    if last in PICTURE_ENDINGS:
        samples.setdefault(base, _Sample()).pictures.append(member)
    elif last in LABEL_ENDINGS:
        sample = samples.setdefault(base, _Sample())
        sample.twice = last if last in sample.labels else sample.twice
        sample.labels[last] = member


def _problem(sample: _Sample) -> str:
    if not sample.pictures:
        return f"a label without a picture ({', '.join(member.name for member in sample.labels.values())})"
    if len(sample.pictures) > 1:
        return f"several pictures of one base name ({', '.join(member.name for member in sample.pictures[:4])})"
    return f"two members .{sample.twice} of one base name" if sample.twice else ""


def _label_of(file: BinaryIO, sample: _Sample) -> tuple[str, str]:
    """Label of a sample, and what its class is called, "" where that is not said."""
    about: dict[str, object] = {}
    if member := sample.labels.get("json"):
        about = _json(file, member)
    called = next((text for name in NAMES if (text := label_text(about.get(name)))), "")
    for ending in ("cls", "json", "txt"):
        if ending not in sample.labels:
            continue
        if ending == "json":
            label = next((text for name in LABEL_COLUMNS if (text := label_text(about.get(name)))), None)
        else:
            label = label_text(_bytes(file, sample.labels[ending]))
        if label is not None:
            return label, called
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


def _one_name_each(class_names: dict[str, set[str]], source: object) -> dict[str, str]:
    """ValueError where one label has two names."""
    for label, names in class_names.items():
        if len(names) > 1:
            raise ValueError(
                f"{source}: label {label} is called {' and '.join(sorted(names)[:2])}, wanted one name each"
            )
    return {label: name for label, (name,) in class_names.items()}


def tar_member(name: str, data: bytes) -> bytes:
    """One member as it is written, in POSIX ustar: no time, no owner, so that the same records give the same bytes.

    name: ASCII, at most 100 characters. By hand: 7 us a member against 32 by tarfile.
    """
    assert name.isascii() and len(name) <= 100
    numbers = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % len(data) + b"00000000000\0"  # mode, owner, size, time
    begin = name.encode().ljust(100, b"\0") + numbers
    end = b"0" + bytes(100) + b"ustar\0" + b"00" + bytes(BLOCK - 265)  # a plain file
    checksum = b"%06o\0 " % (sum(begin) + 8 * ord(" ") + sum(end))
    return begin + checksum + end + data + bytes(-len(data) % BLOCK)


def tar_end(size: int) -> bytes:
    """What closes a tar of `size` bytes: two empty blocks, and more up to a multiple of 10,240 as tar does."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % RECORD)
