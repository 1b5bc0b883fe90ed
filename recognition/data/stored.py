"""Pictures that lie in stretches of large files, tars and databases: an index is held, the bytes stay on the disk."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from recognition.data.pictures import Plan, numbered


def as_it_is(data: bytes) -> bytes:
    """The picture in a stretch that holds nothing else."""
    return data


class Stretches:
    """An index that grows: file, offset and size of each picture, and its name within the file."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.names: list[str] = []
        self.labels: list[str] = []
        self._file, self._offset, self._size = array("I"), array("Q"), array("Q")

    def __len__(self) -> int:
        return len(self.names)

    def add(self, file: int, offset: int, size: int, name: str, label: str) -> None:
        self.names.append(name)
        self.labels.append(label)
        self._file.append(file)
        self._offset.append(offset)
        self._size.append(size)

    def where(self, i: int) -> str:
        return f"{self.files[self._file[i]]}: {self.names[i]}"

    def place(self, i: int) -> str:
        return f"{self.files[self._file[i]].name}\0{self._offset[i]}\0{self._size[i]}\0{self.names[i]}"

    def read(self, i: int) -> bytes:
        """The bytes of a stretch. ValueError where the file has become shorter."""
        with open(self.files[self._file[i]], "rb", buffering=0) as file:
            file.seek(self._offset[i])
            data = file.read(self._size[i])
        if len(data) < self._size[i]:
            raise ValueError(f"{len(data)} of {self._size[i]} bytes are there: the file is cut short")
        return data


class StoredPlan(Plan):
    """Pictures in stretches of files, in the order in which they lie there.

    class_names: what the classes of some labels are called, where the source says so. picture_of: the picture in the
    bytes of a stretch. ValueError where there is no picture.
    """

    def __init__(
        self,
        stretches: Stretches,
        source: object,
        class_names: dict[str, str] | None = None,
        picture_of: Callable[[bytes], bytes] = as_it_is,
    ) -> None:
        labels, names = numbered(stretches.labels, source)
        super().__init__(array("I", labels), [(class_names or {}).get(name, name) for name in names])
        stretches.labels = []  # a text each, which the numbers stand for now
        self._stretches, self._picture_of = stretches, picture_of

    def read(self, i: int) -> bytes:
        return self._picture_of(self._stretches.read(i))

    def name(self, i: int) -> str:
        return self._stretches.where(i)

    def place(self, i: int) -> str:
        return self._stretches.place(i)


def without_pictures(bad: Sequence[tuple[str, str]], source: object, wanted: str) -> ValueError:
    """The error for a source in which there is nothing, with what was found instead."""
    found = "".join(f"\n  {name}: {reason}" for name, reason in bad[:3])
    return ValueError(f"{source} holds no picture with a label; {wanted}" + (f". Found:{found}" if found else ""))


def folders_as_labels(names: Sequence[str]) -> Iterator[str]:
    """The folder in which each picture lies, "" for none: anna/1.jpg is of anna."""
    return (name.rpartition("/")[0] for name in names)
