"""TinyFace (Cheng, Zhu, Gong, ACCV 2018): native low-resolution faces against 153,428 distractors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recognition.data.named import NamedImages
from recognition.evaluation import retrieval
from recognition.evaluation.identification import DISTRACTOR
from recognition.evaluation.listed import Listed, check_counts, listed_there, names_under, rule_of
from recognition.evaluation.matlab import named_ids, number_of
from recognition.evaluation.protocol import Rules
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.retrieval import Retrieval

COUNTS = {"Probe": 3728, "Gallery_Match": 4443, "Gallery_Distractor": 153428}
LISTS = {"Probe": "probe", "Gallery_Match": "gallery"}  # the beginning of a mat file's two keys
FILES = {"Probe": "probe_img_ID_pairs.mat", "Gallery_Match": "gallery_match_img_ID_pairs.mat"}
PLACES = ("Testing_Set", "", "Face_Identification_Evaluation", "tinyface/Testing_Set")  # where they have been seen


@PROTOCOLS.register("tinyface")
def tinyface(
    data: str, images: str = "", lists: str = "", failures: str = "error", counts: str = "published"
) -> Retrieval:
    """TinyFace: 3,728 probes against 4,443 mates and 153,428 distractors; rank-K and mAP.

    data: the folder of the set, or what tools/align.py wrote of its Testing_Set. images: folder in it that holds Probe,
    Gallery_Match and Gallery_Distractor, such as aligned_pad_0.1_pad_high; "" = Testing_Set, or data itself where there
    is none. lists: the folder of probe_img_ID_pairs.mat and gallery_match_img_ID_pairs.mat, where they are not in data;
    without any, all pictures are taken, and a person is the number before the first underscore of a file's name.
    failures: "error", "miss" or "exclude", for pictures that are not there, or without a face. counts: "published",
    or "any" for a part of the set.
    """
    folder = Path(data) / (images or "Testing_Set")
    folder = folder if images or folder.is_dir() else Path(data)
    pictures = NamedImages(folder)
    found = {kind: _listed(pictures, kind, Path(lists or data)) for kind in LISTS}
    distractors = _under(pictures, "Gallery_Distractor")
    where = {kind: str(folder / kind) for kind in COUNTS}
    got = {kind: listed_there(pictures, names, failures) for kind, (names, _) in found.items()}
    got["Gallery_Distractor"] = len(distractors)
    check_counts({f"pictures of {kind}": (got[kind], COUNTS[kind], where[kind]) for kind in COUNTS}, counts)
    _check_people(found)
    (probes, people), (mates, mate_people) = found["Probe"], found["Gallery_Match"]
    rules = Rules(
        gallery="every picture of Gallery_Match and Gallery_Distractor by itself, all resized to 112 x 112 (bilinear)",
        tie=retrieval.TIE,
        failures=rule_of(failures, retrieval.MISS, retrieval.EXCLUDE),
        resampled="people",
    )
    return Retrieval(
        rules,
        Listed(pictures, probes, failures),
        people,
        Listed(pictures, [*mates, *distractors], failures),
        np.append(mate_people, np.full(len(distractors), DISTRACTOR)),
        {"identification": np.ones(len(probes), bool)},
        failures,
        precision=True,
    )


def _listed(pictures: NamedImages, kind: str, lists: Path) -> tuple[list[str], np.ndarray]:
    """Names of a kind, and their people: from its mat file, or from the names where there is none."""
    file = next((path for place in PLACES if (path := lists / place / FILES[kind]).is_file()), None)
    if file is None:
        names = _under(pictures, kind)
        numbers = [number_of(name) for name in names]
        if None in numbers:
            raise ValueError(
                f"{pictures.folder}/{names[numbers.index(None)]} does not begin with a person's number and an "
                f"underscore, and there is no {FILES[kind]} in {lists}: name its folder with lists"
            )
        return names, np.array(numbers, np.int64)
    names, people = named_ids(file, f"{LISTS[kind]}_set", f"{LISTS[kind]}_ids")
    if len(set(names)) < len(names):
        raise ValueError(f"{file} names a picture twice")
    return [f"{kind}/{name}" for name in names], people


def _under(pictures: NamedImages, kind: str) -> list[str]:
    """names_under, with an error where there are none."""
    names = names_under(pictures, kind)
    if not names:
        raise FileNotFoundError(
            f"{pictures.folder} holds no pictures in {kind}: it must hold {', '.join(COUNTS)}; name the folder that "
            "does with images"
        )
    return names


def _check_people(found: dict[str, tuple[list[str], np.ndarray]]) -> None:
    """That file names with numbers tell the same people apart as the lists do; they need not be the same numbers."""
    by_number: dict[int, tuple[int, str]] = {}
    by_person: dict[int, tuple[int, str]] = {}
    for names, people in found.values():
        for name, person in zip(names, people.tolist(), strict=True):
            number = number_of(name)
            if number is None:
                continue
            for known, key, value in ((by_number, number, person), (by_person, person, number)):
                other = known.setdefault(key, (value, name))
                if other[0] != value:
                    raise ValueError(
                        f"the lists and the file names disagree on who is who: {other[1]} and {name} are of one "
                        f"person by the {'names' if known is by_number else 'lists'} only"
                    )
