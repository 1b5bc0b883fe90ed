"""What the page's controls do, without the page: pictures in, HTML out. Faults come back as sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from recognition.answers.pictures import Picture
from recognition.data.detection import Detector
from recognition.demo import views
from recognition.demo.compare import (
    NEAREST,
    closest,
    compare,
    curve,
    hold_together,
    operating_points,
    rates,
    thresholds,
)
from recognition.demo.faces import (
    LEAST_SIDE,
    MOST_PICTURES,
    MOST_TOGETHER,
    Face,
    handed_in,
    in_folder,
    picture_of,
    read_faces,
    sample,
)
from recognition.demo.models import Models
from recognition.types import IMAGE_SIZE

FIRST = (4, 5)  # samples that the page opens with: one person
SIDES = (IMAGE_SIZE, 14)


@dataclass(frozen=True)
class Many:
    """The pictures of the folder tab: those that could be read, and what was wrong with the others."""

    faces: tuple[Face, ...] = ()
    errors: tuple[tuple[str, str], ...] = ()


@dataclass
class Demo:
    """A model, and what visitors may ask of it."""

    models: Models
    root: Path = field(default_factory=Path)  # of the folders that may be read
    detector: Detector | None = None
    far: float = 1e-3  # that the page opens with

    def notes(self) -> list[str]:
        """What is other than was asked for."""
        points = self.points()
        far = self.rate_at(points[0][1], None) if points else self.far
        if far == self.far:
            return []
        return [f"The card holds no threshold at FAR {self.far:g}; the page opens with FAR {far:g}."]

    def points(self) -> list[tuple[str, str]]:
        """Choices of what thresholds were measured on: words and value; [] where the card holds none."""
        known = operating_points(self.models)
        if not known:
            return []
        nearest = [("faces most like these in resolution", NEAREST)] if len(known) > 1 else []
        return [*nearest, *((views.point_words(one), one) for one in known)]

    def rates(self, operating: str) -> list[tuple[str, float]]:
        """Choices of the false accept rate there: words and value."""
        points = operating_points(self.models)
        known = sorted({far for one in points for far in rates(self.models, one)}, reverse=True)
        return [(views.rate_words(far), far) for far in known if operating == NEAREST or far in self._at(operating)]

    def rate_at(self, operating: str, far: float | None) -> float | None:
        """The rate that the card holds there and that is nearest to the one that was chosen."""
        known = [value for _, value in self.rates(operating)]
        return closest(known, far or self.far)

    def take(self, value: str | None) -> Face:
        """The face that a picker hands in. ValueError with a sentence."""
        text = value if isinstance(value, str) else ""
        if text.startswith("sample:"):
            number = text.removeprefix("sample:")
            return sample(int(number) if number.isdecimal() else -1)
        pictures = self._pictures(text)[:1]
        faces, problems = read_faces(pictures, self.detector)
        if not faces:
            raise ValueError(f"{pictures[0].name}: {problems[0]}" if pictures else "no picture arrived")
        return faces[0]

    def take_many(self, value: str | None) -> Many:
        """The faces among the files that a picker hands in. ValueError with a sentence."""
        return self._many(self._pictures(value if isinstance(value, str) else ""))

    def read_folder(self, where: str | None) -> Many:
        """The faces of a folder below the root. ValueError with a sentence."""
        return self._many(in_folder(where or "", self.root))

    def show(
        self, faces: tuple[Face, Face], sides: tuple[float, float], far: float | None, operating: str | None
    ) -> tuple[str, str, str, str]:
        """Both faces, the verdicts and the curve as HTML. ValueError for a side that no slider has."""
        whole = (_side(sides[0]), _side(sides[1]))
        try:
            found = compare(self.models, faces, whole, far, operating or "")
            sides, curves = curve(self.models, found)
            marks = thresholds(self.models, found)
        except ValueError as error:
            plain = [views.face_view(face, side, None, "") for face, side in zip(faces, whole, strict=True)]
            return plain[0], plain[1], views.sentence_view(str(error)), ""
        shown = [
            views.face_view(face, side, seen, self.models.scorer)
            for face, side, seen in zip(faces, whole, found.seen, strict=True)
        ]
        return shown[0], shown[1], views.verdict_view(found), views.curve_view(found, sides, curves, marks)

    def show_many(self, many: Many, side: float, far: float | None, operating: str | None) -> str:
        """Table and matrices as HTML; "" before there are pictures. ValueError for a side that no slider has."""
        if not many.faces and not many.errors:
            return ""
        whole = _side(side)
        held = hold_together(self.models, many.faces, whole, many.errors, far, operating or "")
        return views.many_view(held, self.models, whole)

    def _at(self, operating: str) -> list[float]:
        return rates(self.models, operating)

    def _pictures(self, text: str) -> list[Picture]:
        if text.startswith("large:"):
            raise ValueError(f"more than {MOST_TOGETHER >> 20} MiB at once: hand in fewer or smaller pictures")
        return [picture_of(name, data) for name, data in handed_in(text)]

    def _many(self, pictures: list[Picture]) -> Many:
        taken, left = pictures[:MOST_PICTURES], pictures[MOST_PICTURES:]
        faces, problems = read_faces(taken, self.detector)
        errors = [(taken[row].name, problem) for row, problem in problems.items()]
        if left:
            errors.append((f"{views.count_words(len(left))} more", f"the demo takes the first {MOST_PICTURES} by name"))
        return Many(tuple(faces), tuple(errors))


def _side(value: float | None) -> int:
    """Of a slider; a visitor could send anything. ValueError."""
    try:
        whole = int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"a side of {str(value)[:20]} px; it goes from {LEAST_SIDE} to {IMAGE_SIZE}") from None
    if not LEAST_SIDE <= whole <= IMAGE_SIZE:
        raise ValueError(f"a side of {whole} px; it goes from {LEAST_SIDE} to {IMAGE_SIZE}")
    return whole
