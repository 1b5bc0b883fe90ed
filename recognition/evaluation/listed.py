"""Pictures that a protocol lists by name: which are there, and what becomes of those that are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from recognition.data.named import NamedImages

FAILURES = ("error", "miss", "exclude")
COUNTS = ("published", "any")
MISSED = -2.0  # score of a pair with a failure: finite, and below every cosine


class Listed:
    """Names that a protocol asks for, in a folder of pictures or one written by tools/align.py.

    images: the folder's. rows: (n,) int64, the position of each name in them, -1 for a failure. failed: (n,) bool, the
    pictures that are not there: absent, or without a face when the folder was aligned.
    """

    def __init__(self, data_folder: str | Path | NamedImages, names: Sequence[str], failures: str = "error") -> None:
        """names: paths in the folder, with slashes; the same one may come several times.

        data_folder: pictures that are open already serve as well, for several lists of one folder.
        failures: "error", or "miss" or "exclude", which leave it to the protocol to count or leave out what failed.
        FileNotFoundError where a picture is not there and failures is "error", or none is there at all; ValueError for
        another rule.
        """
        check_failures(failures)
        self.images = data_folder if isinstance(data_folder, NamedImages) else NamedImages(data_folder)
        self.rows = self.images.rows(names)
        self.failed = self.rows < 0
        gone = list(dict.fromkeys(names[i] for i in np.flatnonzero(self.failed)))
        if gone and (failures == "error" or self.failed.all()):
            raise FileNotFoundError(self._complaint(gone, len(set(names))))

    def _complaint(self, gone: Sequence[str], listed: int) -> str:
        lost = [name for name in gone if name in self.images.failed]
        absent = [name for name in gone if name not in self.images.failed]
        said = []
        if absent:
            said.append(f"{len(absent)} of {listed} listed pictures are not in {self.images.folder}, the first is ")
            said[0] += f"{absent[0]}{self._other_ending(absent[0])}"
        if lost:
            said.append(f"no face was found in {len(lost)} of {listed} when they were aligned, the first is {lost[0]}")
        return (
            f"{'; '.join(said)}: complete the folder, or say with failures='miss' (they are never accepted or found) "
            "or failures='exclude' (they leave the denominators) what becomes of them"
        )

    def _other_ending(self, name: str) -> str:
        stem = PurePosixPath(name).with_suffix("")
        others = [n for n in self.images.names if PurePosixPath(n).with_suffix("") == stem]
        return f" (there is {others[0]})" if others else ""


def check_failures(failures: str) -> None:
    """ValueError for a word that is none of FAILURES."""
    if failures not in FAILURES:
        raise ValueError(f"failures is '{failures}'; it must be one of {', '.join(FAILURES)}")


def names_under(images: NamedImages, folder: str) -> list[str]:
    """All names in one folder of the pictures, sorted, those without a face included."""
    return sorted(name for name in {*images.names, *images.failed} if name.startswith(f"{folder}/"))


def listed_there(images: NamedImages, names: Sequence[str], failures: str) -> int:
    """How many of these names the folder has or lists as failed: one it does not know of is lost, and no failure.

    All of them with failures "error", whose complaint names the first that is not there.
    """
    if failures == "error":
        return len(names)
    there = {*images.names, *images.failed}
    return sum(name in there for name in names)


def check_counts(found: Mapping[str, tuple[int, int, str]], counts: str = "published") -> None:
    """Compare counts with the published ones: {what: (got, wanted, file or folder)}.

    counts: "published", or "any" for a subset, which compares nothing.
    ValueError naming every count that differs and its file, and for another word.
    """
    if counts not in COUNTS:
        raise ValueError(f"counts is '{counts}'; it must be one of {', '.join(COUNTS)}")
    wrong = [
        f"{where} holds {got:,} {what} where {wanted:,} are published"
        for what, (got, wanted, where) in found.items()
        if got != wanted
    ]
    if wrong and counts == "published":
        raise ValueError(f"{'; '.join(wrong)}: complete the set, or give counts='any' for a part of it")


def rule_of(failures: str, missed: str, excluded: str) -> str:
    """The phrase for Rules.failures. missed, excluded: what comes of a failure under those two rules.

    ValueError for another rule.
    """
    check_failures(failures)
    return {"error": "none allowed: every listed picture must be there", "miss": missed, "exclude": excluded}[failures]
