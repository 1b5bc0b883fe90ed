"""Two faces, or many, held against one another by the model and by its base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recognition.answers.thresholds import Chosen
from recognition.demo.faces import LEAST_SIDE, SIDES, Face
from recognition.demo.models import Models, One, Seen
from recognition.page.numbers import sides_of
from recognition.types import IMAGE_SIZE


@dataclass(frozen=True, slots=True)
class Judged:
    """What one model says of two faces."""

    one: One
    similarity: float  # cosine
    chosen: Chosen  # without a threshold its note says why

    @property
    def same(self) -> bool | None:
        """None without a threshold."""
        return None if self.chosen.threshold is None else self.similarity >= self.chosen.threshold

    @property
    def close(self) -> bool:
        """Whether the similarity lies inside the threshold's interval, so that another test set could turn it round."""
        lo, hi = self.chosen.lo, self.chosen.hi
        return lo is not None and hi is not None and lo <= self.similarity <= hi


FAR_OFF = 1.25  # between sides in pixels
NEAREST = "nearest"  # for `operating`: the card's faces that are most like these in resolution


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two faces at two resolutions."""

    faces: tuple[Face, Face]
    sides: tuple[int, int]
    seen: tuple[Seen, Seen]
    judged: list[Judged]  # of the base where there is one, and of the model
    far: float | None = None  # as asked
    nearest: bool = False  # whether thresholds follow the faces' resolution

    @property
    def of_other_faces(self) -> bool:
        """Whether the threshold was measured at other resolutions than these faces have, by more than a quarter."""
        found = sides_of(self.judged[-1].chosen.operating.partition("/")[2])
        if found is None:
            return False
        pairs = zip(sorted(found[1:]), sorted(self.sides), strict=True)
        return any(max(pair) > FAR_OFF * min(pair) for pair in pairs)


def operating_points(models: Models) -> list[str]:
    """Sets and parts at which the model's card holds thresholds, its own choice first; [] where it holds none."""
    told = models.model.thresholds
    known = [where for where, at in told.at.items() if any(one.threshold is not None for one in at.values())]
    if not known:
        return []
    first = next((where for far in rates(models, known[0]) if (where := _default(models, far)) in known), known[0])
    return [first, *(where for where in known if where != first)]


def rates(models: Models, operating: str) -> list[float]:
    """False accept rates of which the card holds a threshold there, the largest first."""
    at = models.model.thresholds.at.get(operating, {})
    return sorted((far for far, one in at.items() if one.threshold is not None), reverse=True)


def closest(known: Sequence[float], far: float) -> float | None:
    """The rate that is nearest to the one asked for, as a factor."""
    return min(known, key=lambda one: abs(np.log(one / far)), default=None)


def compare(
    models: Models, faces: tuple[Face, Face], sides: tuple[int, int], far: float | None = None, operating: str = ""
) -> Comparison:
    """Similarity and verdict of each model. far: None = no threshold. ValueError where the model has no answer.

    operating: set/part that thresholds were measured on, NEAREST, or "" for the card's own choice.
    """
    nearest = operating == NEAREST
    operating = nearest_point(models, sides, far) if nearest else operating
    seen = models.look(list(zip(faces, sides, strict=True)))
    for face, one in zip(faces, seen, strict=True):
        if isinstance(one, str):
            raise ValueError(f"{face.name}: {one}")
    judged = [
        Judged(one, _cosine(seen[0], seen[1], number), chosen_of(one, far, operating))
        for number, one in enumerate(models.shown)
    ]
    return Comparison(faces, sides, (seen[0], seen[1]), judged, far, nearest)


def nearest_point(models: Models, sides: tuple[int, int], far: float | None) -> str:
    """Where the card holds a threshold at this rate on faces whose sides are nearest to these, as factors; or ""."""
    return _nearest(_points_at(models, far), sides)


def chosen_of(one: One, far: float | None, operating: str) -> Chosen:
    """The model's threshold; without one the note says why, in one sentence."""
    told = one.model.thresholds
    if far is None or not told.at:
        return Chosen(None, far, note=f"no threshold: {told.source}, so that nothing can be decided")
    try:
        return told.choose(far, operating)
    except ValueError as error:
        return Chosen(None, far, note=f"no threshold: {error}")


def curve(models: Models, found: Comparison) -> tuple[list[int], dict[str, list[float]]]:
    """Sides of the second face in ascending order, its own among them, and by model the similarity at each."""
    sides = sorted({*SIDES, found.sides[1]})
    seen = models.look([(found.faces[1], side) for side in sides])
    known = [(side, one) for side, one in zip(sides, seen, strict=True) if isinstance(one, Seen)]
    values = {
        one.name: [_cosine(found.seen[0], other, number) for _, other in known]
        for number, one in enumerate(models.shown)
    }
    return [side for side, _ in known], values


@dataclass(frozen=True, slots=True)
class Held:
    """Many faces at one resolution, all against all."""

    faces: list[Face]
    seen: list[Seen]
    similarity: list[np.ndarray]  # (N, N) by model
    chosen: list[Chosen]  # by model
    errors: list[tuple[str, str]]  # name and problem of the pictures without an answer

    def nearest(self, row: int, number: int) -> tuple[int, float] | None:
        """The face that is most alike to another by model `number`, and how much; None for a face alone."""
        if len(self.faces) < 2:
            return None
        others = self.similarity[number][row].copy()
        others[row] = -np.inf
        best = int(np.argmax(others))
        return best, float(others[best])


def thresholds(models: Models, found: Comparison) -> list[dict[int, float]]:
    """Of each model its threshold by the second face's side; each holds up to the next side. {} where it has none."""
    if not found.nearest:
        ends = (LEAST_SIDE, IMAGE_SIZE)
        return [
            {} if one.chosen.threshold is None else dict.fromkeys(ends, one.chosen.threshold) for one in found.judged
        ]
    points = _points_at(models, found.far)
    lines: list[dict[int, float]] = [{} for _ in models.shown]
    where = ""
    for side in range(LEAST_SIDE, IMAGE_SIZE + 1):
        before, where = where, _nearest(points, (found.sides[0], side))
        if where == before and side != IMAGE_SIZE:
            continue
        for one, line in zip(models.shown, lines, strict=True):
            threshold = chosen_of(one, found.far, where).threshold
            if threshold is not None:
                line[side] = threshold
    return lines


def hold_together(
    models: Models,
    faces: Sequence[Face],
    side: int,
    errors: Sequence[tuple[str, str]] = (),
    far: float | None = None,
    operating: str = "",
) -> Held:
    """All faces at one side in pixels, all against all. errors: of those that could not be read. As compare()."""
    operating = nearest_point(models, (side, side), far) if operating == NEAREST else operating
    answers = models.look([(face, side) for face in faces])
    sound = [(face, one) for face, one in zip(faces, answers, strict=True) if isinstance(one, Seen)]
    wrong = [(face.name, one) for face, one in zip(faces, answers, strict=True) if isinstance(one, str)]
    similarity = []
    for number in range(len(models.shown)):
        rows = [one.embeddings[number] for _, one in sound]
        embedding = np.stack(rows) if rows else np.empty((0, 1), np.float32)
        similarity.append(embedding @ embedding.T)
    chosen = [chosen_of(one, far, operating) for one in models.shown]
    return Held([face for face, _ in sound], [one for _, one in sound], similarity, chosen, [*errors, *wrong])


def _default(models: Models, far: float) -> str:
    return chosen_of(models.shown[-1], far, "").operating


def _cosine(first: Seen, second: Seen, number: int) -> float:
    return float(first.embeddings[number] @ second.embeddings[number])


def _points_at(models: Models, far: float | None) -> list[str]:
    """Sets and parts at which the card holds a threshold at this rate."""
    return [where for where in operating_points(models) if far in rates(models, where)]


def _nearest(points: Sequence[str], sides: tuple[int, int]) -> str:
    wanted = np.log(sorted(sides))

    def away(where: str) -> float:
        found = sides_of(where.partition("/")[2])
        return np.inf if found is None else float(np.abs(np.log(sorted(found[1:])) - wanted).sum())

    return min(points, key=away, default="")
