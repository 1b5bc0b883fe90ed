"""SCface in miniature: parts by distance and camera, who is in the gallery, pictures that did not survive detection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.data.named import NamedImages
from recognition.evaluation.protocol import Asked
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.retrieval import Retrieval
from tests.recognition.evaluation.protocols import retrieving

PEOPLE = (1, 2, 7, 130)
MUGSHOTS = [f"mugshot_frontal_cropped_all/{p:03d}_frontal.JPG" for p in PEOPLE]
PROBES = [f"surveillance_cameras_all/{p:03d}_cam{c}_{d}.jpg" for p in PEOPLE for c in range(1, 8) for d in (1, 2, 3)]
INFRARED = [f"surveillance_cameras_all/{p:03d}_cam8.jpg" for p in PEOPLE]
PARTS = [f"distance_{d}_{time}" for d in (1, 2, 3) for time in ("day", "night", "all")]
ASKED = Asked(ranks=(1, 2), resamples=50)
VIEW = "112"


def person(name: str) -> int:
    return int(Path(name).name[:3])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    retrieving.write(tmp_path, [*MUGSHOTS, *PROBES, *INFRARED, "readme_frontal.jpg"])
    return tmp_path


def scface(folder: Path, **settings: object) -> Retrieval:
    found = PROTOCOLS.create("scface", data=str(folder), **{"counts": "any", **settings})
    assert isinstance(found, Retrieval)
    return found


def vectors() -> dict[str, list[float]]:
    names = [*MUGSHOTS, *PROBES]
    return retrieving.random_vectors(names, [PEOPLE.index(person(n)) for n in names], spread=0.9)


def measured(protocol: Retrieval) -> dict[str, dict]:
    return protocol.measure(retrieving.looked_at(protocol, vectors(), VIEW), ASKED)


def test_parts_are_counted_plainly(folder: Path) -> None:
    found = measured(scface(folder))
    assert list(found) == PARTS
    known = vectors()
    stored = [known[name] for name in MUGSHOTS]
    for part in PARTS:
        _, distance, time = part.split("_")
        cameras = {"day": "12345", "night": "67", "all": "1234567"}[time]
        chosen = [n for n in PROBES if n[-5] == distance and n[-7] in cameras]
        right = [[person(MUGSHOTS[i]) for i in retrieving.ranked(known[n], stored)].index(person(n)) for n in chosen]
        assert found[part]["items"]["position"].tolist() == [1 + at for at in right]
        assert [found[part][f"rank-{k}"]["value"] for k in (1, 2)] == [np.mean(np.array(right) < k) for k in (1, 2)]
        counts = [found[part][key] for key in ("probes", "listed", "failed", "gallery", "people")]
        assert counts == [len(chosen), len(chosen), 0, 4, 4] and "map" not in found[part]
    values = [found[part]["rank-1"]["value"] for part in PARTS]
    assert 0 < min(values) < max(values) <= 1, "the miniature must hold easy and hard parts"


def test_people_of_the_gallery(folder: Path) -> None:
    assert scface(folder, people="test2").gallery_labels.tolist() == [7, 130]
    some = scface(folder, people=[130, 2, 2])
    assert some.gallery_labels.tolist() == [2, 130] and set(some.probe_labels.tolist()) == {2, 130}
    assert measured(some)["distance_1_all"]["gallery"] == 2
    for people in ("train50", "test5", "test0"):
        with pytest.raises(ValueError, match=f"people is '{people}'; it must be 'all', 'testN' with N to 4"):
            scface(folder, people=people)
    with pytest.raises(ValueError, match=r"people is \[3\]; numbers of subjects with a mugshot"):
        scface(folder, people=[3])


def test_the_whole_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{s:03d}_frontal.jpg" for s in range(1, 131)]
    names += [f"{s:03d}_cam{c}_{d}.jpg" for s in range(1, 131) for c in range(1, 8) for d in (1, 2, 3)]
    retrieving.write(tmp_path, names)
    whole = scface(tmp_path, counts="published")
    sizes = {name: int(part.sum()) for name, part in whole.parts.items()}
    assert sizes == {f"distance_{d}_{t}": n for d in (1, 2, 3) for t, n in (("day", 650), ("night", 260), ("all", 910))}
    eighty = scface(tmp_path, counts="published", people="test80")
    assert eighty.gallery_labels.tolist() == list(range(51, 131))
    assert eighty.parts["distance_2_day"].sum() == 400
    gone = [tmp_path / f"{s:03d}_cam1_1.jpg" for s in range(1, 41)]
    for path in gone:
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"40 of 2730 listed .*001_cam1_1.jpg: .*failures='exclude'"):
        scface(tmp_path, counts="published")
    survived = scface(tmp_path, counts="published", failures="exclude")
    assert len(survived.probes.rows) == 2730 and survived.probes.failed.sum() == 40
    (tmp_path / "005_frontal.jpg").unlink()
    for failures in ("error", "miss", "exclude"):
        with pytest.raises(ValueError, match="holds 129 mugshots where 130 are published"):
            scface(tmp_path, counts="published", failures=failures)
    (tmp_path / "006_frontal.jpg").rename(tmp_path / "005_frontal.jpg")
    with monkeypatch.context() as patch:
        without_a_face(patch, ["006_frontal.jpg"])
        assert scface(tmp_path, counts="published", failures="miss").gallery.failed.sum() == 1


def without_a_face(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    """As if the folder had been aligned, and no face found in these."""
    opened = NamedImages.__init__

    def aligned(self: NamedImages, path: str | Path) -> None:
        opened(self, path)
        self.failed = frozenset(names)

    monkeypatch.setattr(NamedImages, "__init__", aligned)


def test_what_cannot_be_asked_for_is_said_before_pictures_are_embedded(folder: Path) -> None:
    with pytest.raises(ValueError, match="rank 5 of a gallery of 2 images"):
        scface(folder, people="test2").check(Asked(ranks=(1, 5)))
    scface(folder).check(ASKED)
    with pytest.raises(ValueError, match="failures is 'nope'; it must be one of error, miss, exclude"):
        scface(folder, failures="nope")


def test_a_part_without_any_probe_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    night = [n for n in PROBES if n[-5] == "2" and n[-7] in "67"]
    for name in night:
        (folder / name).unlink()
    without_a_face(monkeypatch, night)
    scface(folder, failures="miss")
    with pytest.raises(ValueError, match="no probe of part distance_2_night is left"):
        scface(folder, failures="exclude")


def test_failures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = [PROBES[0], PROBES[25], MUGSHOTS[2]]  # of persons 1, 2 and 7
    for name in lost:
        (folder / name).unlink()
    without_a_face(monkeypatch, lost)
    with pytest.raises(FileNotFoundError, match="no face was found in 2 of 84 when they were aligned"):
        scface(folder)
    missed, left = (measured(scface(folder, failures=rule)) for rule in ("miss", "exclude"))
    part = "distance_1_day"
    assert person(PROBES[0]) == 1 and PROBES[0][-5] == "1" and person(PROBES[25]) == 2 and PROBES[25][-5] == "2"
    counts = [[found[part][key] for key in ("probes", "listed", "failed", "gallery")] for found in (missed, left)]
    assert counts == [[20, 20, 1, 3], [14, 20, 1, 3]]  # person 7 cannot be found
    position = missed[part]["items"]["position"]
    assert position[0] == 4 and (position[10:15] == 4).all() and (np.delete(position, [0, *range(10, 15)]) < 4).all()
    assert left[part]["items"]["position"].tolist() == np.delete(position, [0, *range(10, 15)]).tolist()
    assert left[part]["rank-1"]["value"] > missed[part]["rank-1"]["value"]


def test_what_is_wrong_is_said(folder: Path) -> None:
    retrieving.write(folder, ["mugshot_frontal_original_all/001_frontal.jpg"])
    with pytest.raises(ValueError, match=r"mugshot_frontal_cropped_all/001_frontal.JPG and .*original_all.*mugshots"):
        scface(folder)
    chosen = scface(folder, mugshots="mugshot_frontal_cropped_all")
    assert chosen.gallery_labels.tolist() == list(PEOPLE)
    with pytest.raises(FileNotFoundError, match=r"holds no mugshot: files such as 001_frontal.jpg"):
        scface(folder, mugshots="nothing")
    for name in PROBES:
        (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match="holds no picture of a camera"):
        scface(folder, mugshots="mugshot_frontal_cropped_all")
