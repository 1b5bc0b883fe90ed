"""Faces of people who may be asked for: embeddings with names, kept in a file, brought up to date file by file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recognition.answers.pictures import Picture, problem_of
from recognition.answers.results import Answers, Candidate, Identified
from recognition.answers.search import nearest
from recognition.arrays import read_arrays
from recognition.data.gathered import read_list
from recognition.files import replacing

FORMAT = "lrface.gallery/1"
ARRAYS = ("about", "entries", "embedding")
SPACE = {  # what makes embeddings comparable, and how it is told that it differs
    "model": ("by another model", "embeddings of two models"),
    "preprocessing": ("with another preprocessing", "embeddings of pictures that went in differently"),
    "flip": ("with another flip", "embeddings with and without the mirrored face"),
}
KINDS = (np.float32, np.float16)


class Entry(NamedTuple):
    """A face of the gallery, and the file that it came from."""

    name: str
    person: str
    size: int  # bytes; -1 where it was no file
    changed: int  # ns
    sha256: str  # of the encoded bytes; of the pixels of an array


@dataclass(slots=True)
class Gallery:
    """G faces. Two galleries can be compared only where `space` is the same."""

    entries: list[Entry]
    embedding: np.ndarray  # (G, D) float32, rows of length one
    space: dict[str, object]  # model, preprocessing and flip
    errors: list[dict[str, str]] = field(default_factory=list)  # name and error of pictures left out
    computed: int = 0  # so many were embedded anew

    def __len__(self) -> int:
        return len(self.entries)

    def people(self) -> tuple[list[str], np.ndarray]:
        """The people's names, sorted, and for each face the position of its person in them, (G,) int64."""
        names, person = np.unique([entry.person for entry in self.entries], return_inverse=True)
        return names.tolist(), person.astype(np.int64)

    def save(self, path: str | Path, half: bool = False) -> Path:
        """Write it as .npz without pickles. half: float16, half the size, cosines to about 3 decimals.

        ValueError unless path ends in .npz.
        """
        path = Path(path)
        check_index(path)
        arrays = {
            "about": _as_bytes({"format": FORMAT, **self.space}),
            "entries": _as_bytes(self.entries),
            "embedding": self.embedding.astype(np.float16 if half else np.float32),
        }
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Gallery:
        """Read what save() wrote. FileNotFoundError, or ValueError for a file that is damaged or none of these."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no index {path}")
        arrays = read_arrays(path, ARRAYS, most=path.stat().st_size)
        about, embedding = _as_json(arrays["about"], path), arrays["embedding"]
        if not isinstance(about, dict) or about.pop("format", "") != FORMAT:
            raise ValueError(f"{path} is no index of format {FORMAT}: build it again")
        try:
            entries = [
                Entry(str(name), str(person), int(size), int(changed), str(sha))
                for name, person, size, changed, sha in _as_json(arrays["entries"], path)
            ]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: its list of faces is damaged ({error}): build it again") from None
        if embedding.ndim != 2 or len(embedding) != len(entries) or embedding.dtype not in KINDS or not len(entries):
            raise ValueError(
                f"{path} holds {embedding.shape} {embedding.dtype} for {len(entries)} faces: build it again"
            )
        rows = embedding.astype(np.float32)
        norm = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (np.abs(norm - 1) < 0.01).all():  # NaN fails too
            raise ValueError(f"{path}: some of its embeddings are damaged: build it again")
        return cls(entries, rows / norm, about)

    def check_space(self, space: Mapping[str, object], what: str) -> None:
        """ValueError where `what` was made in another space: its cosines with this model's embeddings mean nothing."""
        for key, reason in SPACE.items():
            mine, theirs = self.space.get(key), space.get(key)
            if mine != theirs:
                other = f"ask for flip {mine}, or " if key == "flip" else ""
                raise ValueError(
                    f"{what} was made {reason[0]} ({_short(mine)}, and this one is {_short(theirs)}): {reason[1]} "
                    f"cannot be compared; {other}name another index file, or delete it, and it is built anew"
                )

    def check_kept(self, names: Iterable[str], what: str) -> None:
        """ValueError where faces of `what` are not among these pictures any more, which may be those of another folder.

        It counts them.
        """
        there = set(names)
        gone = [entry for entry in self.entries if entry.name not in there]
        if gone:
            people = len({entry.person for entry in gone})
            raise ValueError(
                f"of the {len(self):,} faces in {what} {len(gone):,}, of {people:,} people, are not among the pictures "
                f"given ({len(there):,}), {gone[0].name} first: is it the gallery that was meant? Nothing was changed. "
                "To take them out of the index give prune=True (--prune); else name another index file"
            )


def check_given(images: object, index: str | Path | None) -> None:
    """FileNotFoundError for a folder that is not there; ValueError for a name that an index cannot have."""
    if isinstance(images, str | Path) and not Path(images).exists():
        raise FileNotFoundError(f"there is no folder {images}, which should hold the pictures of the gallery")
    if index is not None:
        check_index(index)


def check_index(path: str | Path) -> None:
    """ValueError unless an index can have this name."""
    if Path(path).suffix != ".npz":
        raise ValueError(f"an index is written as .npz, not '{Path(path).name}'")


def build(
    pictures: Sequence[Picture],
    people: Sequence[str],
    look: Callable[[np.ndarray], Answers],
    space: dict[str, object],
    before: Gallery | None = None,
) -> Gallery:
    """The gallery of these pictures; those that stand in `before` unchanged keep their embeddings.

    look: embeds the pictures at these positions. A file of the same name, size and time is taken for unchanged; else
    its bytes decide. ValueError where no picture can be used, or two have one name.
    """
    names = [picture.name for picture in pictures]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two pictures of the gallery are named {twice}: give them names of their own")
    known = {} if before is None else {entry.name: row for row, entry in enumerate(before.entries)}
    marks: dict[int, Entry] = {}
    kept: dict[int, int] = {}
    errors: dict[int, str] = {}
    for row, (picture, person) in enumerate(zip(pictures, people, strict=True)):
        old = known.get(picture.name)
        try:
            stamp = picture.stamp()
            if old is not None and stamp[0] >= 0 and before.entries[old][2:4] == stamp:
                marks[row], kept[row] = before.entries[old]._replace(person=person), old
                continue
            marks[row] = Entry(picture.name, person, *stamp, _sha256(picture))
        except (OSError, ValueError) as error:
            errors[row] = problem_of(error)
            continue
        if old is not None and before.entries[old].sha256 == marks[row].sha256:
            kept[row] = old
    fresh = np.array([row for row in marks if row not in kept], np.int64)
    rows = {row: before.embedding[old] for row, old in kept.items()}
    if len(fresh):
        answers = look(fresh)
        errors |= {int(fresh[i]): problem for i, problem in answers.errors.items()}
        rows |= {int(row): answers.embedding[i] for i, row in enumerate(fresh) if i not in answers.errors}
    if not rows:
        first = f"; {names[min(errors)]}: {errors[min(errors)]}" if errors else ""
        raise ValueError(f"none of {len(pictures)} pictures of the gallery can be used{first}")
    there = sorted(rows)
    problems = [{"name": names[row], "error": problem} for row, problem in sorted(errors.items())]
    computed = sum(row in rows for row in fresh.tolist())
    return Gallery([marks[row] for row in there], np.stack([rows[row] for row in there]), space, problems, computed)


def identified(
    answers: Answers, gallery: Gallery, threshold: float | None, k: int, fuse: str, way: str
) -> list[Identified]:
    """The candidates of every probe in `answers`. k, fuse, way: as search.nearest."""
    names, person = gallery.people()
    rows = np.flatnonzero(answers.sound)
    near = nearest(answers.embedding[rows], gallery.embedding, person, k, fuse, way)
    candidates: dict[int, list[Candidate]] = {}
    for i, row in enumerate(rows.tolist()):
        there = near.person[i] >= 0
        columns = (values[i][there].tolist() for values in (near.person, near.similarity, near.row))
        candidates[row] = [
            Candidate(
                names[one],
                similarity,
                gallery.entries[face].name if face >= 0 else "",
                None if threshold is None else similarity >= threshold,
            )
            for one, similarity, face in zip(*columns, strict=True)
        ]
    return [
        Identified(name, candidates.get(row, []), answers.about(row), answers.errors.get(row, ""))
        for row, name in enumerate(answers.names)
    ]


def people_of(pictures: Sequence[Picture], labels: str | Path | Mapping[str, str] | None = None) -> list[str]:
    """Whose picture each is: as `labels` says (a CSV of name and person, or a dict); as records say; else by its name.

    By its name: in a folder of people, anna/1.jpg is anna's; anna_1.jpg, in no folder or given by itself, too.
    ValueError for a picture that the labels leave out.
    """
    known = dict(labels) if isinstance(labels, Mapping) else {} if labels is None else read_labels(labels)
    if not known:
        return [picture.person or picture.name for picture in pictures]
    missing = [picture.name for picture in pictures if picture.name not in known]
    if missing:
        raise ValueError(f"the labels leave out {len(missing)} of {len(pictures)} pictures, {missing[0]} first")
    return [known[picture.name] for picture in pictures]


def read_labels(path: str | Path) -> dict[str, str]:
    """A CSV: a picture's name and its person in each line; a first line "name,person" is passed over.

    ValueError naming file and line for any other line, and a name that stands there twice.
    """
    found: dict[str, str] = {}
    try:
        lines = list(csv.reader(io.StringIO(read_list(path), newline="")))
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV of name,person ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line or (number == 1 and [cell.strip().lower() for cell in line] == ["name", "person"]):
            continue
        if len(line) != 2 or not all(cell.strip() for cell in line):
            raise ValueError(f"{path}, line {number}: wanted name,person, got {','.join(line)!r}")
        name, person = (cell.strip() for cell in line)
        if name in found:
            raise ValueError(f"{path}, line {number}: {name} stands there twice")
        found[name] = person
    if not found:
        raise ValueError(f"{path} names nobody")
    return found


def _sha256(picture: Picture) -> str:
    data = picture.encoded()
    return hashlib.sha256(picture.pixels().tobytes() if data is None else data).hexdigest()


def _as_bytes(value: object) -> np.ndarray:
    return np.frombuffer(json.dumps(value, ensure_ascii=False).encode(), np.uint8)


def _as_json(data: np.ndarray, path: Path) -> object:
    try:
        return json.loads(data.astype(np.uint8).tobytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({str(error)[:100]}): build it again") from None


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:40]}..."
