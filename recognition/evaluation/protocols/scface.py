"""SCface (Grgic, Delac, Grgic, 2011): surveillance cameras at three distances against mugshots."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from recognition.data.named import NamedImages
from recognition.evaluation import retrieval
from recognition.evaluation.listed import Listed, check_counts, rule_of
from recognition.evaluation.protocol import Rules
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.retrieval import Retrieval

SUBJECTS, CAMERAS, DISTANCES = 130, 7, 3
DAY = 5  # cameras 1 .. 5 are visible light; 6 and 7 are those that see by night
STEM = re.compile(r"(\d{3})_(?:(frontal)|cam([1-7])_([1-3]))", re.IGNORECASE)
SPLIT = re.compile(r"test(\d+)")


@PROTOCOLS.register("scface")
def scface(
    data: str,
    people: str | Sequence[int] = "all",
    mugshots: str = "",
    failures: str = "error",
    counts: str = "published",
) -> Retrieval:
    """SCface: 2,730 pictures of seven cameras at three distances against 130 frontal mugshots; rank-K.

    data: a folder, searched with all folders in it, of faces aligned by tools/align.py or by others, found by name:
    001_frontal for mugshots, 001_cam1_1 for subject, camera and distance; the infrared mugshots are not asked for.
    people: "all"; "testN", the N subjects with the highest numbers, in the gallery and asked for; or their numbers.
    Papers that train on SCface take 50 and test on 80, drawn in their own ways, and none of them is a standard.
    mugshots: the folder in data of the mugshots, where a mugshot is found in two.
    failures: "error", "miss" or "exclude", for pictures that are not there, or without a face; numbers are published by
    "exclude". counts: "published", or "any" for a part of the set: it holds whoever has a mugshot, and what is there.
    """
    pictures = NamedImages(data)
    found = _by_stem(pictures, mugshots)
    shots = {stem: name for stem, name in found.items() if stem.endswith("frontal")}
    where = str(Path(data) / mugshots)
    if not shots:
        raise FileNotFoundError(f"{where} holds no mugshot: files such as 001_frontal.jpg are wanted")
    everyone = list(range(1, SUBJECTS + 1)) if counts == "published" else sorted(int(stem[:3]) for stem in shots)
    check_counts({"mugshots": (len(shots), SUBJECTS, where)}, counts)  # those without a face included
    chosen = _chosen(people, everyone)
    stems = [
        (f"{s:03d}_cam{c}_{d}", s, c, d) for s in chosen for c in range(1, CAMERAS + 1) for d in range(1, DISTANCES + 1)
    ]
    if counts == "any":
        stems = [entry for entry in stems if entry[0] in found]
    if not stems:
        raise FileNotFoundError(f"{data} holds no picture of a camera: files such as 001_cam1_1.jpg are wanted")
    _, subject, camera, distance = (np.array(column) for column in zip(*stems, strict=True))
    rules = Rules(
        gallery=f"one frontal mugshot each of {len(chosen)} people; all pictures are resized to 112 x 112 (bilinear)",
        tie=retrieval.TIE,
        failures=rule_of(failures, retrieval.MISS, retrieval.EXCLUDE),
        resampled="people",
    )
    times = {"day": camera <= DAY, "night": camera > DAY, "all": camera > 0}
    parts = {
        f"distance_{d}_{time}": (distance == d) & those
        for d in range(1, DISTANCES + 1)
        for time, those in times.items()
    }
    return Retrieval(
        rules,
        Listed(pictures, [found.get(stem, f"{stem}.jpg") for stem, *_ in stems], failures),
        subject,
        Listed(pictures, [found.get(f"{s:03d}_frontal", f"{s:03d}_frontal.jpg") for s in chosen], failures),
        np.array(chosen),
        {name: part for name, part in parts.items() if part.any()},
        failures,
    )


def _by_stem(pictures: NamedImages, mugshots: str) -> dict[str, str]:
    """Names of mugshots and of cameras' pictures, those without a face included, by stems such as 001_cam1_1."""
    found: dict[str, str] = {}
    for name in sorted({*pictures.names, *pictures.failed}):
        path = PurePosixPath(name)
        match = STEM.fullmatch(path.stem)
        if match is None or (match[2] and mugshots and not path.is_relative_to(mugshots)):
            continue
        if (other := found.setdefault(path.stem.lower(), name)) != name:
            raise ValueError(
                f"{pictures.folder} holds {other} and {name}: name the folder of the mugshots with mugshots, and keep "
                "one picture of each camera"
            )
    return found


def _chosen(people: str | Sequence[int], everyone: list[int]) -> list[int]:
    if people == "all":
        return everyone
    if isinstance(people, str):
        split = SPLIT.fullmatch(people)
        if not split or not 1 <= int(split[1]) <= len(everyone):
            raise ValueError(f"people is '{people}'; it must be 'all', 'testN' with N to {len(everyone)}, or numbers")
        return everyone[-int(split[1]) :]
    numbers = sorted(set(people))
    if not numbers or any(number not in everyone for number in numbers):
        raise ValueError(
            f"people is {list(people)}; numbers of subjects with a mugshot are wanted, such as {everyone[0]}"
        )
    return numbers
