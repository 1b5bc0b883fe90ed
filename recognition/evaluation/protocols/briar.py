"""Lists of templates in a form of our own: BRIAR's protocols are not public, and any template benchmark fits.

gallery.csv and probe.csv name a picture a line, under the headings COLUMNS; with POINTS the pictures are aligned to
112 px, with SCORE each weighs as much in its template. Further columns, such as a distance, split the probes in parts.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recognition.evaluation.listed import Listed
from recognition.evaluation.protocol import Asked, Looked, Rules, View
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.protocols._aligned import AlignedImages, is_aligned, no_face, opened_text
from recognition.evaluation.protocols._enrolled import Enrolled, check_asked, check_mates, identify
from recognition.evaluation.protocols._templates import (
    INTERVALS,
    Shots,
    TemplatePairs,
    Templates,
    check_kinds,
    failure_rule,
    verification,
)

COLUMNS = ("template", "subject", "media", "file")  # a medium is a picture or a video, whose frames share it
POINTS = ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4", "x5", "y5")  # all or none; pixels, InsightFace's order
SCORE = "score"


@dataclass
class _List:
    """What one of the files says: of each picture, and of each template."""

    path: Path
    names: list[str] = field(default_factory=list)
    template: list[int] = field(default_factory=list)
    medium: list[int] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)  # points and score, NaN where the file has none
    subjects: list[str] = field(default_factory=list)  # of each template, in the order of their first picture
    groups: list[str] = field(default_factory=list)


@PROTOCOLS.register("briar")
class BRIAR:
    """Template lists of one's own: probes against a gallery, verification and identification, by condition."""

    def __init__(
        self,
        data: str,
        gallery: str = "gallery.csv",
        probes: str = "probe.csv",
        pictures: str = "pictures",
        condition: str = "",
        keep_norm: bool = True,
        far: Sequence[float] = (1e-2, 1e-3, 1e-4),
        ranks: Sequence[int] = (1, 5, 20),
        fpir: Sequence[float] = (0.01, 0.1),
        failures: str = "error",
    ) -> None:
        """data: a folder with the two lists and a folder of pictures, which may also be paths of their own.

        condition: a column of the probes whose values get parts of their own, such as distance; "" = none.
        keep_norm: raw norms weigh in. far, ranks, fpir: the rates told, beside evaluation.far.
        failures: what becomes of pictures that are not there, "error", "miss" or "exclude".
        """
        folder = Path(data) / pictures
        self._far, self._ranks, self._fpir, self._failures = far, ranks, fpir, failures
        self._keep_norm = keep_norm
        lists = [_read(Path(data) / gallery, ""), _read(Path(data) / probes, condition)]
        scored = [not np.isnan(one.values[0][-1]) for one in lists]
        if scored[0] != scored[1]:
            without, having = (lists[0].path, lists[1].path)[:: 1 if scored[1] else -1]
            raise ValueError(f"{without} has no column {SCORE}, and {having} has one: both are needed, or none")
        names = [name for one in lists for name in one.names]
        values = np.concatenate([np.array(one.values) for one in lists])
        listed = Listed(folder, names, failures)
        points = self._check_points(lists, values[:, :10].reshape(-1, 5, 2), is_aligned(folder))
        image = self._images(listed, points)
        offsets = [0, len(lists[0].subjects)]
        self._shots = Shots(
            np.concatenate([np.array(one.template, np.int32) + at for one, at in zip(lists, offsets, strict=True)]),
            np.array([medium for one in lists for medium in one.medium]),
            image,
            sum(len(one.subjects) for one in lists),
            values[:, 10].astype(np.float32) if all(scored) else None,
        )
        self._failed_pictures = int(listed.failed.sum())
        self._subjects, person = np.unique([s for one in lists for s in one.subjects], return_inverse=True)
        self._person = person.astype(np.int32)
        template = np.arange(len(person), dtype=np.int32)
        self._gallery, self._probes = (
            Enrolled(template[here], person[here].astype(np.int64))
            for here in (slice(0, offsets[1]), slice(offsets[1], None))
        )
        check_asked(ranks, [self._gallery], far, fpir)
        if not np.isin(self._probes.person, self._gallery.person).any() or len(np.unique(person)) < 2:
            raise ValueError(f"no subject of {lists[1].path} is one of {lists[0].path}, or there is only one")
        self._check_shared(lists, image)
        self._conditions = np.array(lists[1].groups)
        for name, probed in self._parts():
            self._check_left(probed, f"{lists[1].path}{f', condition {name}' if name else ''}")
        self.views: Mapping[str, View] = {"pictures": self._shots.view(None)}
        self.rules = Rules(
            gallery=f"the templates of {gallery}, one or several per person; each probe is compared with all of them",
            tie="from the lowest threshold on whose FAR, or FPIR, is at most the one asked for, beside the point where "
            "it is nearest; a stranger as alike as the best mate stands before it",
            fusion=f"{'raw' if keep_norm else 'unit'} embeddings"
            f"{'' if self._shots.weight is None else ' by their scores'}; the mean over the pictures of a medium, the "
            "sum over media, then length one",
            failures=failure_rule(failures),
            resampled=f"people{INTERVALS}",
        )

    def measure(self, looked: dict[str, Looked], asked: Asked) -> dict[str, dict]:
        """{"verification": ..., "identification": ...}, and both again for each condition: "verification-500m".

        A condition in which nobody of the gallery is seen has no parts.
        """
        templates = self._shots.pooled(looked.pop("pictures"), self.views["pictures"], self._keep_norm)
        results = {}
        for condition, probes in self._parts():
            ending = f"-{condition.replace('/', '-')}" if condition else ""
            results |= self._measure(templates, probes, asked, ending)
        return results

    def _parts(self) -> Iterator[tuple[str, Enrolled]]:
        """All probes, under "", and those of each condition in which somebody of the gallery is seen."""
        yield "", self._probes
        for condition in (c for c in np.unique(self._conditions).tolist() if c):
            here = self._conditions == condition
            probes = Enrolled(self._probes.template[here], self._probes.person[here])
            if np.isin(probes.person, self._gallery.person).any():
                yield condition, probes

    def _check_left(self, probes: Enrolled, where: str) -> None:
        """ValueError where a part has nothing to measure, with failures="exclude" after those are left out."""
        present = self._shots.present if self._failures == "exclude" else np.ones(self._shots.templates, bool)
        people = [np.unique(one.person[present[one.template]]) for one in (probes, self._gallery)]
        check_kinds((people[0][:, None] == people[1]).ravel(), where, self._failures)
        check_mates(present, probes, [self._gallery], self._failures, f"{where}: ")

    @staticmethod
    def _check_shared(lists: Sequence[_List], image: np.ndarray) -> None:
        """ValueError for a picture of a probe that stands in the gallery, too: it would find itself."""
        enrolled = len(lists[0].names)
        shared = np.flatnonzero(np.isin(image[enrolled:], image[:enrolled]) & (image[enrolled:] >= 0))
        if len(shared):
            raise ValueError(
                f"{lists[1].path}, line {shared[0] + 2}: {lists[1].names[shared[0]]} is in {lists[0].path}, too (and "
                f"{len(shared) - 1} more): a probe must not be compared with its own picture; take them out of one list"
            )

    def _measure(self, templates: Templates, probes: Enrolled, asked: Asked, ending: str) -> dict[str, dict]:
        """Both parts of some probes. Those of nobody in the gallery are impostors, and strangers in the open set."""
        first = np.repeat(probes.template, len(self._gallery.template))
        second = np.tile(self._gallery.template, len(probes.template))
        pairs = TemplatePairs(first, second, self._person[first] == self._person[second], self._person)
        parts = {
            f"verification{ending}": verification(templates, pairs, asked, self._far, self._failures),
            f"identification{ending}": identify(
                templates,
                probes,
                [self._gallery],
                [self._gallery],
                asked,
                self._ranks,
                self._fpir,
                self._failures,
            ),
        }
        return {part: {**measures, "failed_pictures": self._failed_pictures} for part, measures in parts.items()}

    def _check_points(self, lists: Sequence[_List], points: np.ndarray, aligned: bool) -> np.ndarray:
        """The points (n, 5, 2), all NaN for pictures that are aligned. ValueError for those of no face, by line."""
        if aligned:
            return np.full_like(points, np.nan)
        wrong = np.flatnonzero(no_face(points) & ~np.isnan(points).all((1, 2)))
        if len(wrong):
            at = int(wrong[0])
            path, line = (lists[0].path, at) if at < len(lists[0].names) else (lists[1].path, at - len(lists[0].names))
            raise ValueError(f"{path}, line {line + 2}: its five points cannot be a face's ({', '.join(POINTS)})")
        return points

    def _images(self, listed: Listed, points: np.ndarray) -> np.ndarray:
        """Sets the images, each picture with the same points once; of each line, its position in them."""
        keys = np.column_stack([listed.rows, np.nan_to_num(points.reshape(-1, 10), nan=-1.0)])
        _, first, image = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        self.images = AlignedImages(listed.images, listed.rows[first], points[first])
        return np.where(listed.failed, -1, image.ravel()).astype(np.int64)


def _read(path: Path, condition: str) -> _List:
    """One of the lists. FileNotFoundError without it; ValueError names the line, or the columns that it lacks."""
    found, templates, media = _List(path), {}, {}
    with opened_text(path) as file:
        reader = csv.DictReader(file)
        there = reader.fieldnames or ()
        needed = [*COLUMNS, *((condition,) if condition else ())]
        needed += POINTS if any(name in there for name in POINTS) else ()
        lacking = [name for name in needed if name not in there]
        if lacking:
            raise ValueError(f"{path} lacks the columns {', '.join(lacking)} (have: {', '.join(there) or 'none'})")
        for number, row in enumerate(reader, 2):
            values = [_number(path, number, row, name) for name in (*POINTS, SCORE)]
            if not all(row[name] for name in COLUMNS):
                raise ValueError(f"{path}, line {number}: {', '.join(COLUMNS)} must not be empty")
            template = templates.setdefault(row["template"], len(templates))
            about = (row["subject"], row[condition] if condition else "")
            if template == len(found.subjects):
                found.subjects.append(about[0])
                found.groups.append(about[1])
            elif about != (found.subjects[template], found.groups[template]):
                raise ValueError(
                    f"{path}, line {number}: template {row['template']} has subject and condition {about}, and above "
                    f"{(found.subjects[template], found.groups[template])}"
                )
            found.names.append(row["file"])
            found.template.append(template)
            found.medium.append(media.setdefault(row["media"], len(media)))
            found.values.append(values)
    if not found.names:
        raise ValueError(f"{path} names no picture")
    unknown = np.isnan(np.array(found.values)[:, -1])
    if unknown.any() and not unknown.all():
        raise ValueError(f"{path}, line {int(unknown.argmax()) + 2}: {SCORE} is empty, and in other lines it is not")
    return found


def _number(path: Path, number: int, row: Mapping[str, str], name: str) -> float:
    """A finite number of the row, a score above 0; NaN where its column is not there or empty."""
    if not row.get(name):
        return float("nan")
    try:
        value = float(row[name])
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ValueError(f"{path}, line {number}: {name} is '{row[name]}', not a number")
    if name == SCORE and value <= 0:
        raise ValueError(f"{path}, line {number}: {name} is {row[name]}; it weighs a picture, and must be above 0")
    return value
