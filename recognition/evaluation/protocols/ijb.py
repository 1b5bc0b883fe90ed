"""IJB-B and IJB-C: templates compared one to one, and looked for in galleries where those lists are there.

Layout (InsightFace's): meta/{ijbb,ijbc}_face_tid_mid.txt, _template_pair_label.txt and _name_5pts_score.txt,
loose_crop/ with the pictures that they name, and for identification meta/{ijbb_1N_gallery_S1,ijbc_1N_gallery_G1}.csv,
the same with 2, and _1N_probe_mixed.csv: a line of headings, then template and subject in the first two columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from recognition.evaluation.listed import Listed, check_counts, listed_there
from recognition.evaluation.protocol import Asked, Looked, Rules, View
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.protocols._aligned import (
    AlignedImages,
    check_scores,
    is_aligned,
    no_face,
    opened_text,
    read_named,
    read_numbers,
)
from recognition.evaluation.protocols._enrolled import Enrolled, check_asked, check_mates, identify
from recognition.evaluation.protocols._templates import (
    INTERVALS,
    Shots,
    TemplatePairs,
    check_kinds,
    failure_rule,
    people_of_pairs,
    verification,
)
from recognition.evaluation.templates import rows_of

PUBLISHED = {
    "ijbb": {"pictures": 227_630, "templates": 12_115, "pairs": 8_010_270, "genuine pairs": 10_270},
    "ijbc": {"pictures": 469_375, "pairs": 15_658_489, "genuine pairs": 19_557},  # of templates no source is sure
}
LIKELY = {"ijbc": 23_124}  # templates: 3,531 in both galleries and 19,593 probes, in a comment of InsightFace's
GALLERIES = {"ijbb": ("1N_gallery_S1", "1N_gallery_S2"), "ijbc": ("1N_gallery_G1", "1N_gallery_G2")}
PROBES = "1N_probe_mixed"
FLIPS = {
    "sum": "each picture and its mirror image, their raw embeddings added [F2]",
    "concat": "each picture and its mirror image, their embeddings one behind the other [F1]",
    "none": "no mirror images [F0]",
}


class IJB:
    """The protocol of either benchmark, in any of the scripts' forms N0/N1, D0/D1, F0/F1/F2."""

    def __init__(
        self,
        data: str,
        name: str,
        *,
        flip: str,
        keep_norm: bool,
        detector_score: bool,
        far: Sequence[float],
        ranks: Sequence[int],
        fpir: Sequence[float],
        failures: str,
        counts: str,
    ) -> None:
        """name: "ijbb" or "ijbc", of files and counts. The others: as of the functions below."""
        if flip not in FLIPS:
            raise ValueError(f"flip is '{flip}'; it must be one of {', '.join(FLIPS)}")
        self._meta, self._name, folder = Path(data) / "meta", name, Path(data) / "loose_crop"
        self._far, self._ranks, self._fpir, self._failures = far, ranks, fpir, failures
        self._keep_norm = keep_norm
        names, self._template_ids, template, medium = self._read_templates()
        points, score = self._read_points(names)
        if detector_score:
            check_scores(self._file("name_5pts_score.txt"), score)
        self._pairs = self._read_pairs(template, counts, len(names))
        self._searches = self._read_searches()
        check_asked(ranks, self._searches[:-1], far, fpir)
        listed = Listed(folder, names, failures)
        there = listed_there(listed.images, names, failures)
        check_counts({"pictures": (there, PUBLISHED[name]["pictures"], str(folder))}, counts)
        # pictures whose points cannot be a face's are taken whole: nearly all of a loose crop is the face
        wrong = no_face(points)
        self.unaligned = 0 if is_aligned(folder) else int(wrong.sum())
        points[wrong | is_aligned(folder)] = np.nan
        self.images = AlignedImages(listed.images, listed.rows, points)
        self._shots = Shots(
            template,
            medium,
            np.where(listed.failed, -1, np.arange(len(names))),
            len(self._template_ids),
            score if detector_score else None,
        )
        self._failed_pictures = int(listed.failed.sum())
        self._check_left()
        self.views: Mapping[str, View] = {"pictures": self._shots.view(flip)}
        self.rules = Rules(
            gallery="verification: either template of a pair; identification: two galleries of one template per person",
            tie="conservative: from the lowest threshold on whose FAR is at most the one asked for; nearest: at the "
            "point whose FAR is nearest to it, even above (InsightFace's script); in a gallery, a stranger as alike as "
            "the mate stands before it",
            flip=FLIPS[flip],
            fusion=f"{'raw embeddings [N1]' if keep_norm else 'unit embeddings [N0]'}, "
            f"{'weighted by the detector score [D1]' if detector_score else 'unweighted [D0]'}; the mean over the "
            "frames of a video, the sum over media, then length one",
            failures=failure_rule(failures),
            resampled=f"people: templates that genuine pairs connect, and the subjects of the galleries{INTERVALS}",
        )

    def _check_left(self) -> None:
        """ValueError where pictures that are not there leave nothing to measure."""
        present = self._shots.present if self._failures == "exclude" else np.ones(self._shots.templates, bool)
        left = self._pairs.same[present[self._pairs.first] & present[self._pairs.second]]
        check_kinds(left, str(self._file("template_pair_label.txt")), self._failures)
        if self._searches:
            *galleries, probes = self._searches
            check_mates(present, probes, galleries, self._failures)

    def measure(self, looked: dict[str, Looked], asked: Asked) -> dict[str, dict]:
        """{"verification": ..., "identification": ...}, the latter where its lists are there."""
        templates = self._shots.pooled(looked.pop("pictures"), self.views["pictures"], self._keep_norm)
        results = {"verification": verification(templates, self._pairs, asked, self._far, self._failures)}
        if self._searches:
            *galleries, probes = self._searches
            results["identification"] = identify(
                templates, probes, galleries, galleries, asked, self._ranks, self._fpir, self._failures
            )
        counted = {"failed_pictures": self._failed_pictures, "unaligned": self.unaligned}
        counted["templates"] = len(self._template_ids)
        return {part: {**measures, **counted} for part, measures in results.items()}

    def _file(self, what: str) -> Path:
        return self._meta / f"{self._name}_{what}"

    def _read_templates(self) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
        """Names of pictures, template ids (T,) in order, and of each picture the template's number and the medium."""
        names, ids = read_named(self._file("face_tid_mid.txt"), 2)
        unique, template = np.unique(ids[:, 0].astype(np.int64), return_inverse=True)
        return names, unique, template.astype(np.int32), ids[:, 1].astype(np.int64)

    def _read_points(self, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Points (n, 5, 2) and detector scores (n,) of these pictures, which the file has in the same order."""
        path = self._file("name_5pts_score.txt")
        found, values = read_named(path, 11)
        if found != names:
            at = next((i for i, (a, b) in enumerate(zip(names, found, strict=False)) if a != b), None)
            other = self._file("face_tid_mid.txt")
            detail = (
                f"{len(found)} and {len(names)} lines" if at is None else f"line {at + 1}: '{found[at]}', '{names[at]}'"
            )
            raise ValueError(f"{path} and {other} must name the same pictures in the same order, but: {detail}")
        return values[:, :10].astype(np.float32).reshape(-1, 5, 2), values[:, 10].astype(np.float32)

    def _read_pairs(self, template: np.ndarray, counts: str, pictures: int) -> TemplatePairs:
        path = self._file("template_pair_label.txt")
        lines = read_numbers(path, 3)
        first, second = (self._rows(lines[:, side], path) for side in (0, 1))
        same = lines[:, 2] == 1
        lists = self._file("face_tid_mid.txt")
        got = {
            "pictures": (pictures, lists),
            "templates": (len(self._template_ids), lists),
            "pairs": (len(same), path),
            "genuine pairs": (int(same.sum()), path),
        }
        wanted = PUBLISHED[self._name]
        check_counts({what: (got[what][0], number, str(got[what][1])) for what, number in wanted.items()}, counts)
        likely = LIKELY.get(self._name, len(self._template_ids))
        if counts == "published" and len(self._template_ids) != likely:
            warnings.warn(f"{lists} holds {len(self._template_ids):,} templates, not {likely:,}", stacklevel=2)
        check_kinds(same, str(path))
        return TemplatePairs(first, second, same, people_of_pairs(first, second, same, len(self._template_ids)))

    def _read_searches(self) -> tuple[Enrolled, ...]:
        """The galleries and the probes; () where none of the three lists is there."""
        paths = [self._file(f"{what}.csv") for what in (*GALLERIES[self._name], PROBES)]
        there = [path.is_file() for path in paths]
        if any(there) and not all(there):
            missing = ", ".join(str(path) for path, found in zip(paths, there, strict=True) if not found)
            raise FileNotFoundError(f"there is no file {missing}: identification takes all of its lists, or none")
        return tuple(self._read_enrolled(path) for path in paths) if all(there) else ()

    def _read_enrolled(self, path: Path) -> Enrolled:
        """Templates of people: a line each, or one for each of a template's pictures."""
        people: dict[int, int] = {}
        with opened_text(path) as file:
            lines = file.read().splitlines()
        for number, line in enumerate(lines[1:], 2):
            try:
                template, person = (int(field) for field in line.split(",")[:2])
            except ValueError:
                raise ValueError(f"{path}, line {number}: wanted TEMPLATE_ID,SUBJECT_ID,..., got '{line}'") from None
            if people.setdefault(template, person) != person:
                raise ValueError(f"{path}, line {number}: template {template} is of {people[template]} and of {person}")
        ids = np.array(list(people), np.int64)
        return Enrolled(self._rows(ids, path), np.array(list(people.values()), np.int64))

    def _rows(self, ids: np.ndarray, path: Path) -> np.ndarray:
        rows = rows_of(self._template_ids, ids)
        if len(rows) and rows.min() < 0:
            lost = np.unique(ids[rows < 0])
            file = self._file("face_tid_mid.txt")
            raise ValueError(f"{path} names {len(lost)} templates that {file} does not know, such as {lost[0]}")
        return rows


@PROTOCOLS.register("ijbb")
def ijbb(
    data: str,
    flip: str = "sum",
    keep_norm: bool = True,
    detector_score: bool = True,
    far: Sequence[float] = (1e-4, 1e-6, 1e-5, 1e-3, 1e-2, 1e-1),
    ranks: Sequence[int] = (1, 5, 10),
    fpir: Sequence[float] = (0.01, 0.1),
    failures: str = "error",
    counts: str = "published",
) -> IJB:
    """IJB-B: templates one to one, TAR at FAR; and one to many where its lists are there. N1D1F2.

    data: the folder with meta/ and loose_crop/. flip: "sum", "concat" or "none". keep_norm: raw norms weigh in.
    detector_score: so do the detector's. far, ranks, fpir: the rates that are told, beside evaluation.far; the first of
    them is the headline. failures, counts: as everywhere.
    """
    return IJB(
        data,
        "ijbb",
        flip=flip,
        keep_norm=keep_norm,
        detector_score=detector_score,
        far=far,
        ranks=ranks,
        fpir=fpir,
        failures=failures,
        counts=counts,
    )


@PROTOCOLS.register("ijbc")
def ijbc(
    data: str,
    flip: str = "sum",
    keep_norm: bool = True,
    detector_score: bool = True,
    far: Sequence[float] = (1e-4, 1e-6, 1e-5, 1e-3, 1e-2, 1e-1),
    ranks: Sequence[int] = (1, 5, 10),
    fpir: Sequence[float] = (0.01, 0.1),
    failures: str = "error",
    counts: str = "published",
) -> IJB:
    """IJB-C: templates one to one, TAR at FAR; and one to many where its lists are there. N1D1F2.

    Arguments as of `ijbb`.
    """
    return IJB(
        data,
        "ijbc",
        flip=flip,
        keep_norm=keep_norm,
        detector_score=detector_score,
        far=far,
        ranks=ranks,
        fpir=fpir,
        failures=failures,
        counts=counts,
    )
