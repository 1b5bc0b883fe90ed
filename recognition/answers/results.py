"""The forms of answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from recognition.answers.thresholds import Chosen


@dataclass(slots=True)
class Answers:
    """What a model makes of N pictures, in their order. Rows of pictures that could not be read are NaN."""

    names: list[str]  # N: paths, or "image 3"
    embedding: np.ndarray  # (N, D) float32, rows of length one unless asked otherwise
    norm: np.ndarray  # (N,) float32: length of the embedding before that; low for faces that tell little
    quality: np.ndarray | None  # (N,) or (N, k) float32, the scorer's raw score; None where nothing scores
    gate: np.ndarray | None  # (N,) or (N, layers) float32, 0 = low quality, 1 = high; None where it cannot be seen
    errors: dict[int, str] = field(default_factory=dict)  # by position: what is wrong with that picture
    notes: list[str] = field(default_factory=list)  # what was done that may not have been meant

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sound(self) -> np.ndarray:
        """(N,) bool: pictures with an answer."""
        return ~np.isin(np.arange(len(self)), list(self.errors))

    def about(self, row: int) -> dict[str, object]:
        """Norm, quality and gate of one picture, for tables and JSON; None where there is none."""
        if row in self.errors:
            return {"norm": None, "quality": None, "gate": None}
        return {"norm": float(self.norm[row]), "quality": _plain(self.quality, row), "gate": _plain(self.gate, row)}

    def problems(self) -> list[dict[str, str]]:
        """Name and problem of each picture without an answer."""
        return [{"name": self.names[row], "error": problem} for row, problem in sorted(self.errors.items())]


@dataclass(frozen=True, slots=True)
class Verified:
    """Are two faces one person?"""

    names: tuple[str, str]
    similarity: float | None  # cosine, -1 to 1; None where a picture could not be read
    same: bool | None  # similarity >= threshold; None without a threshold
    chosen: Chosen  # the threshold, and where it comes from
    first: dict[str, object]  # norm, quality and gate
    second: dict[str, object]
    error: str = ""

    def __bool__(self) -> bool:
        """RuntimeError where there was no threshold, so that `if model.verify(a, b)` never means "not asked"."""
        if self.same is None:
            raise RuntimeError(f"nothing was decided: {self.error or self.chosen.note}")
        return self.same


@dataclass(frozen=True, slots=True)
class Candidate:
    """A person of the gallery who may be the one asked for."""

    person: str
    similarity: float
    image: str  # the picture that is most alike; "" for the mean of several
    accepted: bool | None  # similarity >= threshold; None without one


@dataclass(frozen=True, slots=True)
class Identified:
    """Whose face is it? The candidates of one probe, the most alike first."""

    name: str
    candidates: list[Candidate]
    about: dict[str, object]  # norm, quality and gate of the probe
    error: str = ""

    @property
    def person(self) -> str | None:
        """The first candidate where it is accepted, or no threshold was given; None for nobody."""
        first = self.candidates[0] if self.candidates else None
        return first.person if first is not None and first.accepted is not False else None


@dataclass(slots=True)
class Search:
    """All probes' answers, and what holds for all of them."""

    found: list[Identified]
    chosen: Chosen
    people: int
    faces: int
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Identified]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, i: int) -> Identified:
        return self.found[i]


def _plain(values: np.ndarray | None, row: int) -> float | list[float] | None:
    return None if values is None else values[row].tolist()
