"""IJB-S: faces in surveillance and drone videos looked for among stills, bookings and other videos.

Its lists are those of the distribution, read as PFE's evaluation reads them: FILES and the columns below are from that
program; nothing else of the lists is looked at. The pictures are faces cut out and aligned beforehand, PERSON/NAME.jpg,
where NAME is videos_VIDEO_FRAME or img_NUMBER for a face in the list's videos/VIDEO.mp4 or img/NUMBER.jpg.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from recognition.data.named import NamedImages
from recognition.evaluation.listed import check_counts, check_failures
from recognition.evaluation.protocol import Asked, Looked, Rules, View
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.protocols._aligned import opened_text
from recognition.evaluation.protocols._enrolled import Enrolled, check_asked, check_mates, identify
from recognition.evaluation.protocols._templates import Shots, failure_rule

FILES = {
    "metadata": "cs6_metadata.csv",
    "probes of stills and bookings": "cs6_surveillance_to_single-booking_probe.csv",
    "probes of videos": "cs6_surveillance_to_surveillance_probe.csv",
    "probes from drones": "cs6_uav_to_single-booking_probe.csv",
    "single": "galleries/cs6_surveillance_to_single_g{}.csv",
    "booking": "galleries/cs6_surveillance_to_booking_g{}.csv",
    "surveillance": "galleries/cs6_surveillance_to_surveillance_g{}.csv",
}
METADATA, GALLERY = (0, 1), (1, 2)  # columns of person and file; probes are files alone, and every list has a heading
VIDEOS = "videos"  # how files and pictures of videos begin
PUBLISHED = {"videos of persons": 3_852, "probes of videos": 376}  # as PFE's program notes
TASKS = {  # part: which probes, which galleries
    "surveillance-to-single": ("probes of stills and bookings", "single"),
    "surveillance-to-booking": ("probes of stills and bookings", "booking"),
    "multiview-to-booking": ("multiview", "booking"),
    "surveillance-to-surveillance": ("probes of videos", "surveillance"),
    "uav-to-booking": ("probes from drones", "booking"),
}

Face = tuple[int, str]  # a person in a file, under the name of its pictures: videos_4012, img_17


@PROTOCOLS.register("ijbs")
class IJBS:
    """IJB-S: surveillance and drone videos against stills, bookings and videos, closed and open set."""

    def __init__(
        self,
        data: str,
        lists: str = "protocols",
        pictures: str = "aligned",
        keep_norm: bool = True,
        ranks: Sequence[int] = (1, 5, 10),
        fpir: Sequence[float] = (0.01, 0.1),
        failures: str = "miss",
        counts: str = "published",
    ) -> None:
        """data: a folder with those of the lists and of the pictures, which may also be paths of their own.

        keep_norm: raw norms weigh in; False = embeddings of length one are averaged. ranks, fpir: the rates told.
        failures: what becomes of templates without any picture: "miss", "error" or "exclude". counts: as everywhere.
        """
        check_failures(failures)
        self._lists, folder = Path(data) / lists, Path(data) / pictures
        self._ranks, self._fpir, self._failures, self._keep_norm = ranks, fpir, failures, keep_norm
        self._templates: dict[tuple[Face, ...], int] = {}
        videos, others = self._read_metadata()
        probes = self._read_probes(videos, others, counts)
        galleries = {kind: [self._read_gallery(kind, n) for n in (1, 2)] for _, kind in TASKS.values()}
        for first, second in galleries.values():
            check_asked(ranks, [first + second], (), fpir)
        self._tasks = {part: (probes[asked], galleries[kind]) for part, (asked, kind) in TASKS.items()}
        self._shared = self._leave_out_shared()
        self.images = NamedImages(folder)
        self._shots = self._shots_of(folder)
        for part, (asked_for, (first, second)) in self._tasks.items():
            check_mates(self._shots.present, asked_for, [first + second], failures, f"{part}: ")
        self.views: Mapping[str, View] = {"pictures": self._shots.view(None)}
        self.rules = Rules(
            gallery="two galleries, one template per person: rank-K over both together, TPIR the mean of either alone; "
            "a probe that shares a file with a gallery template of its person is left out, and counted as shared",
            tie="a stranger as alike as the mate stands before it; TPIR from the lowest threshold on whose FPIR is at "
            "most the one asked for",
            fusion="the mean of the raw embeddings of all pictures, so that norms weigh in, then length one"
            if keep_norm
            else "the mean of the unit embeddings of all pictures, then length one",
            failures=failure_rule(failures),
            resampled="people",
        )

    def measure(self, looked: dict[str, Looked], asked: Asked) -> dict[str, dict]:
        """Results by task: {"surveillance-to-single": {"rank-1": ..., "tpir1@0.01": ..., ...}, ...}."""
        templates = self._shots.pooled(looked.pop("pictures"), self.views["pictures"], self._keep_norm)
        results = {}
        for part, (probes, (first, second)) in self._tasks.items():
            galleries = [first + second], [first, second]
            found = identify(templates, probes, *galleries, asked, self._ranks, self._fpir, self._failures)
            results[part] = {**found, "shared": self._shared[part]}
        return results

    def _leave_out_shared(self) -> dict[str, int]:
        """Takes probes out that are, in part, what stands in a gallery, by task; how many they were."""
        faces, shared = list(self._templates), {}
        for part, (probes, galleries) in self._tasks.items():
            stored = {face for gallery in galleries for number in gallery.template for face in faces[number]}
            kept = np.array([stored.isdisjoint(faces[number]) for number in probes.template])
            shared[part] = int((~kept).sum())
            self._tasks[part] = (Enrolled(probes.template[kept], probes.person[kept]), galleries)
        return shared

    def _read_metadata(self) -> tuple[dict[str, list[int]], dict[str, int]]:
        """Who is seen in which video, and whose the other files are: {videos_1: [person, ...]}, {img_1: person}."""
        videos: dict[str, set[int]] = {}
        others: dict[str, int] = {}
        for person, file in self._rows(FILES["metadata"], METADATA):
            if file.startswith(VIDEOS):
                videos.setdefault(file, set()).add(person)
            else:
                others.setdefault(file, person)
        return {file: sorted(people) for file, people in videos.items()}, others

    def _read_probes(self, videos: dict[str, list[int]], others: dict[str, int], counts: str) -> dict[str, Enrolled]:
        """Probes by kind; videos of several persons are a template for each."""
        found = {}
        for kind in dict.fromkeys(asked for asked, _ in TASKS.values() if asked in FILES):
            files = [file for _, file in self._rows(FILES[kind], (None, 0))]
            lost = [file for file in files if file not in videos and file not in others]
            if lost:
                raise ValueError(
                    f"{self._lists / FILES[kind]} names {len(lost)} files that {FILES['metadata']} does not know, such "
                    f"as {lost[0]}"
                )
            faces = [(person, file) for file in files for person in videos.get(file) or [others[file]]]
            found[kind] = self._enrol([(person, ((person, file),)) for person, file in dict.fromkeys(faces)])
            if kind == "probes of videos":
                told = {
                    "videos of persons": (sum(map(len, videos.values())), FILES["metadata"]),
                    kind: (len(files), FILES[kind]),
                }
                check_counts(
                    {what: (n, PUBLISHED[what], str(self._lists / f)) for what, (n, f) in told.items()}, counts
                )
        everywhere: dict[int, list[Face]] = {}
        for file, people in videos.items():
            for person in people:
                everywhere.setdefault(person, []).append((person, file))
        people = np.unique(found["probes of videos"].person).tolist()
        return {**found, "multiview": self._enrol([(person, tuple(sorted(everywhere[person]))) for person in people])}

    def _read_gallery(self, kind: str, number: int) -> Enrolled:
        """One template per person, of all files that the list gives for it."""
        faces: dict[int, list[Face]] = {}
        file = FILES[kind].format(number)
        for person, name in self._rows(file, GALLERY):
            faces.setdefault(person, []).append((person, name))
        return self._enrol([(person, tuple(dict.fromkeys(of))) for person, of in sorted(faces.items())])

    def _enrol(self, entries: Sequence[tuple[int, tuple[Face, ...]]]) -> Enrolled:
        """Templates of these faces each; the same faces are the same template wherever they are listed."""
        rows = [self._templates.setdefault(faces, len(self._templates)) for _, faces in entries]
        return Enrolled(np.array(rows, np.int32), np.array([person for person, _ in entries], np.int64))

    def _shots_of(self, folder: Path) -> Shots:
        """Which pictures each template is made of."""
        pictures: dict[Face, list[int]] = {}
        for i, name in enumerate(self.images.names):
            path = PurePosixPath(name)
            parts = path.stem.split("_")
            if path.parent.name.isdigit() and len(parts) >= 2:
                pictures.setdefault((int(path.parent.name), "_".join(parts[:2])), []).append(i)
        template, image, empty = [], [], []
        for faces, number in self._templates.items():
            here = [i for face in faces for i in pictures.get(face, ())]
            template += [number] * len(here)
            image += here
            empty += [] if here else [faces[0]]
        if empty and (self._failures == "error" or len(empty) == len(self._templates)):
            person, name = empty[0]
            raise FileNotFoundError(
                f"{len(empty)} of {len(self._templates)} templates have no picture in {folder}, the first is that of "
                f"{person}/{name}*: complete the folder, or say with failures='miss' or 'exclude' what becomes of them"
            )
        rows = np.array(template, np.int32)
        return Shots(rows, np.zeros(len(rows), np.int64), np.array(image, np.int64), len(self._templates))

    def _rows(self, file: str, columns: tuple[int | None, int]) -> Iterator[tuple[int, str]]:
        """Person and file, as its pictures are named, in each line under the heading; person 0 where there is none."""
        path, (who, what) = self._lists / file, columns
        with opened_text(path) as lines:
            next(lines, None)
            for number, line in enumerate(lines, 2):
                fields = line.rstrip("\r\n").split(",")
                try:
                    person = 0 if who is None else int(fields[who])
                    kind, name = fields[what].strip().split("/")
                except (ValueError, IndexError):
                    raise ValueError(
                        f"{path}, line {number}: wanted {'' if who is None else f'a person in column {who + 1} and '}"
                        f"a file such as videos/1.mp4 in column {what + 1}, got '{line.strip()[:80]}'"
                    ) from None
                yield person, f"{kind}_{name.rpartition('.')[0] or name}"
