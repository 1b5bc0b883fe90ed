"""From the labels in files to the classes of one training set."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recognition.data.bad_records import BadRecord
from recognition.data.recordio import RecordReader
from recognition.data.survey import HIGH, IMAGE, Survey, problem_text


@dataclass(slots=True)
class Images:
    """The images of one file, and the rows of its index that are bad."""

    reader: RecordReader
    rows: np.ndarray  # int64 (N,) of the index, ascending
    labels: np.ndarray  # int64 (N,), as they stand in the file
    bad: np.ndarray  # int64 (M,) of the index
    problem: np.ndarray  # uint8 (M,): index into survey.PROBLEMS
    value: np.ndarray  # float32 (M,): labels

    @classmethod
    def of(cls, reader: RecordReader, found: Survey) -> Images:
        """What a survey found."""
        rows, bad = np.flatnonzero(found.kind == IMAGE), np.flatnonzero(found.problem)
        return cls(reader, rows, found.label[rows].astype(np.int64), bad, found.problem[bad], found.label[bad])

    def bad_records(self, shard: int) -> Iterator[BadRecord]:
        """The bad rows in the order of the index. shard: the file's number."""
        for at in np.argsort(self.bad, kind="stable"):
            row, problem = self.bad[at], problem_text(int(self.problem[at]), float(self.value[at]))
            yield BadRecord(
                str(self.reader.path), shard, int(self.reader.keys[row]), int(self.reader.offsets[row]), problem
            )


def drop_high_labels(files: Sequence[Images], groups: Sequence[Hashable], most_classes: int) -> None:
    """Make images bad whose label is most_classes or more; 0 stands for the number of images of their group.

    groups: for each file, whose labels it shares. A class without an image is of no use, so a set that numbers its
    classes without gaps has at most as many classes as images; a label beyond costs class centres for nothing.
    """
    for group in dict.fromkeys(groups):
        members = [file for file, its in zip(files, groups, strict=True) if its == group]
        limit = most_classes or sum(len(file.rows) for file in members)
        for file in members:
            high = file.labels >= limit
            file.bad = np.concatenate([file.bad, file.rows[high]])
            file.problem = np.concatenate([file.problem, np.full(high.sum(), HIGH, np.uint8)])
            file.value = np.concatenate([file.value, file.labels[high].astype(np.float32)])
            file.rows, file.labels = file.rows[~high], file.labels[~high]


def refuse_equal_labels(files: Sequence[Images], sets: Sequence[Path]) -> None:
    """ValueError where two sets use the same label and nobody said whether that is the same person.

    sets: for each file, the set whose shard it is.
    """
    seen: dict[Path, np.ndarray] = {}
    for name in dict.fromkeys(sets):
        labels = np.unique(np.concatenate([f.labels for f, its in zip(files, sets, strict=True) if its == name]))
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
