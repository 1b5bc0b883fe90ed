"""Several sets of pairs as one protocol: their images in one sequence, each resolution embedded in one go."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from recognition.data.lazy import LazyImages
from recognition.evaluation.compared import Compared
from recognition.evaluation.embed import place_of
from recognition.evaluation.protocol import ITEMS, Asked, Looked, Rules, View
from recognition.types import IMAGE_SIZE


class JoinedImages(LazyImages):
    """Sequences of encoded images one behind the other."""

    def __init__(self, parts: Mapping[str, Sequence[bytes]]) -> None:
        """parts: by the name that messages give them. The same sequence may come several times and is held once."""
        self._names, self._parts, self._begins = [], [], [0]
        self.offset: dict[str, int] = {}  # where each part begins
        begin_of: dict[int, int] = {}
        for name, images in parts.items():
            if id(images) not in begin_of:
                begin_of[id(images)] = self._begins[-1]
                self._names.append(name)
                self._parts.append(images)
                self._begins.append(self._begins[-1] + len(images))
            self.offset[name] = begin_of[id(images)]

    def __len__(self) -> int:
        return self._begins[-1]

    def image(self, i: int) -> bytes:
        """Image i, encoded."""
        part, row = self._find(i)
        return self._parts[part][row]

    def where(self, i: int) -> str:
        """Part and place of image i, for messages."""
        part, row = self._find(i)
        return f"{self._names[part]}, {place_of(self._parts[part], row)}"

    def _find(self, i: int) -> tuple[int, int]:
        i = i + len(self) if i < 0 else i
        if not 0 <= i < len(self):
            raise IndexError(f"image {i} of {len(self)}")
        part = int(np.searchsorted(self._begins, i, side="right")) - 1
        return part, i - self._begins[part]


class Joined:
    """Sets of pairs by name, measured apart: parts NAME, and NAME_SIDE for other resolutions than 112."""

    def __init__(self, sets: Mapping[str, Compared], rules: Rules) -> None:
        self.sets, self.rules = sets, rules
        self.images = JoinedImages({name: one.images for name, one in sets.items()})

    @property
    def views(self) -> Mapping[str, View]:
        """A view for each resolution, of the images of all sets that are needed at it."""
        wanted: dict[str, list[tuple[View, np.ndarray]]] = {}
        for name, one in self.sets.items():
            for key, view in one.views.items():
                wanted.setdefault(key, []).append((view, view.rows + self.images.offset[name]))
        return {
            key: dataclasses.replace(views[0][0], rows=np.unique(np.concatenate([rows for _, rows in views])))
            for key, views in wanted.items()
        }

    def measure(self, looked: Mapping[str, Looked], asked: Asked) -> dict[str, dict]:
        """What each set makes of its images."""
        views, results = self.views, {}
        for name, one in self.sets.items():
            offset = self.images.offset[name]
            own = {
                key: _rows_of(looked[key], np.searchsorted(views[key].rows, view.rows + offset))
                for key, view in one.views.items()
            }
            for side, found in one.measure(own, asked).items():
                items = found[ITEMS]
                moved = {key: np.where(items[key] < 0, -1, items[key] + offset) for key in ("first", "second")}
                results[part_name(name, side)] = {**found, ITEMS: {**items, **moved}}
        return results


def part_name(name: str, side: str) -> str:
    """A set's name at 112 pixels, with the resolution behind it at others: lfw, lfw_14, lfw_112-14."""
    return name if side == str(IMAGE_SIZE) else f"{name}_{side}"


def _rows_of(looked: Looked, rows: np.ndarray) -> Looked:
    score, gate = (None if values is None else values[rows] for values in (looked.score, looked.gate))
    return Looked(looked.embedding[rows], score, gate, looked.milliseconds)
