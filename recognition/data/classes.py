"""From the labels in files to the classes of one training set."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recognition.data.bad_records import BadRecord
from recognition.data.record_index import take
from recognition.data.recordio import RecordReader
from recognition.data.survey import HIGH, problem_text


@dataclass(slots=True)
class Images:
    """The images of one file, and the rows of its index that are bad."""

    reader: RecordReader
    rows: np.ndarray | range  # (N,) of the index, ascending
    labels: np.ndarray  # int32 (N,), as they stand in the file
    bad: np.ndarray  # int64 (M,) of the index
    problem: np.ndarray  # uint8 (M,): index into survey.PROBLEMS
    value: np.ndarray  # float32 (M,): labels

    @classmethod
    def of(cls, reader: RecordReader) -> Images:
        """What the reader's index tells of them."""
        found = reader.index.images
        return cls(reader, found.rows, found.labels, found.bad, found.problem, found.value)

    def choose(self, mask: np.ndarray) -> None:
        """Keep the images where a mask, bool (N,), is True."""
        kept = np.flatnonzero(mask)
        self.rows = take(self.rows, kept).astype(np.uint32 if len(self.reader) < 2**32 else np.int64)
        self.labels = self.labels[kept]

    def bad_records(self, shard: int) -> Iterator[BadRecord]:
        """The bad rows in the order of the index. shard: the file's number."""
        for at in np.argsort(self.bad, kind="stable"):
            row, problem = self.bad[at], problem_text(int(self.problem[at]), float(self.value[at]))
            yield BadRecord(str(self.reader.path), shard, *self.reader.place(int(row)), problem)


def drop_high_labels(files: Sequence[Images], groups: Sequence[Hashable], most_classes: int) -> None:
    """Make images bad whose label is most_classes or more; 0 stands for the number of images of their group.

    groups: for each file, whose labels it shares. A class without an image is of no use, so a set that numbers its
    classes without gaps has at most as many classes as images; a label beyond costs class centres for nothing.
    """
    for group in dict.fromkeys(groups):
        members = [file for file, its in zip(files, groups, strict=True) if its == group]
        limit = most_classes or sum(len(file.rows) for file in members)
        for file in members:
            if file.labels.max(initial=-1) < limit:
                continue
            high = file.labels >= limit
            file.bad = np.concatenate([file.bad, take(file.rows, np.flatnonzero(high))])
            file.problem = np.concatenate([file.problem, np.full(high.sum(), HIGH, np.uint8)])
            file.value = np.concatenate([file.value, file.labels[high].astype(np.float32)])
            file.choose(~high)


def refuse_equal_labels(files: Sequence[Images], sets: Sequence[Path]) -> None:
    """ValueError where two sets use the same label and nobody said whether that is the same person.

    sets: for each file, the set whose shard it is.
    """
    seen: dict[Path, np.ndarray] = {}
    if len(set(sets)) == 1:
        return
    for name in dict.fromkeys(sets):
        labels = np.flatnonzero(used(f.labels for f, its in zip(files, sets, strict=True) if its == name))
        for other, others in seen.items():
            both = np.intersect1d(labels, others, assume_unique=True)
            if both.size:
                raise ValueError(
                    f"{other} and {name} both have label {both[0]} ({both.size} labels in common). Set "
                    "config.data.classes=shared where equal labels are the same person in both, or "
                    "config.data.classes=offset where they are other people: the labels of the later set are then "
                    "shifted by the number of classes before it"
                )
        seen[name] = labels


def shifts_of(files: Sequence[Images], groups: Sequence[Hashable]) -> tuple[list[int], int]:
    """What to add to each file's labels, and the number of classes altogether."""
    sizes: dict[Hashable, int] = {}
    for group, file in zip(groups, files, strict=True):
        sizes[group] = max(sizes.get(group, 0), int(file.labels.max()) + 1 if len(file.labels) else 0)
    begins = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    return [begins[group] for group in groups], sum(sizes.values())


def used(labels: Iterable[np.ndarray]) -> np.ndarray:
    """Which of the numbers from 0 on stand in any of these arrays: bool (the largest one + 1,)."""
    parts = list(labels)
    there = np.zeros(max((int(part.max(initial=-1)) for part in parts), default=-1) + 1, bool)
    for part in parts:
        there[part] = True
    return there
