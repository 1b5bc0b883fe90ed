"""Lists of templates of one's own, in miniature: fusion, strangers, conditions, points, failures, wrong lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.data.alignment import TEMPLATE, align
from recognition.data.decode import decode
from recognition.evaluation.listed import MISSED
from recognition.evaluation.protocol import ITEMS, Asked
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.protocols.briar import BRIAR, COLUMNS, POINTS
from tests.recognition.evaluation.protocols.seeing import see, write_folder

ASKED = Asked(far=(0.3,), resamples=20)
GALLERY = [("g1", "ann", "m1", "ann.jpg"), ("g2", "bob", "m2", "bob.jpg"), ("g2", "bob", "m3", "bob2.jpg")]
PROBES = [
    # a video at 20 and 40 degrees, and a still at 0: their sum points at 13.6
    ("p1", "ann", "v1", "v1/1.jpg", "100m", 1),
    ("p1", "ann", "v1", "v1/2.jpg", "100m", 1),
    ("p1", "ann", "s1", "s1.jpg", "100m", 2),
    ("p2", "bob", "v2", "v2.jpg", "500m/night", 1),
    ("p3", "eve", "v3", "v3.jpg", "500m/night", 1),  # in no gallery
    ("p4", "eve", "v3", "v3.jpg", "none", 1),
]
ANGLES = {"ann.jpg": 0, "bob.jpg": 80, "bob2.jpg": 100, "v1/1.jpg": 20, "v1/2.jpg": 40, "s1.jpg": 0}
ANGLES |= {"v2.jpg": 40, "v3.jpg": 60}


def write(folder: Path, probes: Sequence[Sequence[object]] = PROBES, heading: str = "distance,score") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows, extra in (("gallery", GALLERY, ""), ("probe", probes, heading)):
        lines = [",".join([*COLUMNS, *extra.split(",")]).rstrip(","), *(",".join(map(str, row)) for row in rows)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    write_folder(folder / "pictures", ANGLES)
    return folder


def opened(folder: Path, **settings: object) -> BRIAR:
    found = PROTOCOLS.create("briar", data=str(folder), **{"ranks": (1, 2), **settings})
    assert isinstance(found, BRIAR)
    return found


def cosine(*degrees: float) -> np.ndarray:
    return np.cos(np.deg2rad(degrees))


def first_probe(weight: float) -> float:
    """Its direction in degrees: the mean of two frames of the video, and the still."""
    angles = np.deg2rad([20, 40])
    return float(np.rad2deg(np.arctan2(np.sin(angles).mean(), np.cos(angles).mean() + weight)))


def test_by_hand(tmp_path: Path) -> None:
    folder = write(tmp_path, [row[:5] for row in PROBES], "distance")
    protocol = opened(folder, condition="distance")
    assert len(protocol.images) == 8  # a picture of two templates is embedded once
    found = protocol.measure(see(protocol), ASKED)
    assert list(found) == [
        f"{part}{condition}"
        for condition in ("", "-100m", "-500m-night")
        for part in ("verification", "identification")
    ]
    pairs = found["verification"]
    p1 = first_probe(1)
    wanted = cosine(p1, p1 - 90, 40, 50, 60, 30, 60, 30)
    np.testing.assert_allclose(pairs[ITEMS]["score"], wanted, atol=1e-6)
    assert pairs[ITEMS]["same"].tolist() == [True, False, False, True] + [False] * 4
    # impostors: 30 degrees twice, 40; genuine: p1, 50. Of six impostors one may pass, but two are equal
    assert pairs["tar@0.3"]["value"] == 0.5 and pairs["tar@0.3"]["far"] == 0
    assert pairs["tar@0.3"]["nearest"] == 0.5 and pairs["tar@0.3"]["nearest_far"] == pytest.approx(1 / 3)
    assert {key for key in pairs if key.startswith("tar@")} == {"tar@0.01", "tar@0.001", "tar@0.0001", "tar@0.3"}
    who = found["identification"]
    assert who[ITEMS]["position"].tolist() == [1, 2] and who["unmated"] == 2 and who["people"] == 2
    # the stranger is 30 degrees from bob: p1 alone is nearer to its mate
    assert who["tpir1@0.01"]["value"] == 0.5
    assert found["identification-100m"]["rank-1"]["value"] == 1 and "tpir1@0.01" not in found["identification-100m"]
    assert found["identification-500m-night"]["rank-1"]["value"] == 0
    assert found["verification-500m-night"]["pairs"] == 4 and found["verification-500m-night"]["genuine"] == 1


def test_scores_weigh_in(tmp_path: Path) -> None:
    gallery = "\n".join([",".join([*COLUMNS, "score"]), *(",".join([*row, "1"]) for row in GALLERY)])
    folder = write(tmp_path)
    (folder / "gallery.csv").write_text(gallery)
    protocol = opened(folder)
    assert list(found := protocol.measure(see(protocol), ASKED)) == ["verification", "identification"]
    assert found["verification"][ITEMS]["score"][0] == pytest.approx(cosine(first_probe(2))[0], abs=1e-6)
    with pytest.raises(ValueError, match=r"gallery.csv has no column score, and .*probe.csv has one"):
        opened(write(tmp_path))


def test_failures(tmp_path: Path) -> None:
    folder = write(tmp_path, [row[:5] for row in PROBES], "distance")
    for name in ("v2.jpg", "v1/2.jpg", "v1/1.jpg"):
        (folder / "pictures" / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"3 of 8 listed pictures"):
        opened(folder)
    protocol = opened(folder, failures="miss")
    found = protocol.measure(see(protocol), ASKED)
    np.testing.assert_allclose(
        found["verification"][ITEMS]["score"], [1, 0, MISSED, MISSED, *cosine(60, 30, 60, 30)], atol=1e-6
    )
    assert found["identification"][ITEMS]["position"].tolist() == [1, 3]
    assert (found["identification"]["failed"], found["identification"]["failed_pictures"]) == (1, 3)
    protocol = opened(folder, failures="exclude")
    found = protocol.measure(see(protocol), ASKED)
    assert found["identification"][ITEMS]["position"].tolist() == [1] and found["verification"]["pairs"] == 6


def test_points(tmp_path: Path) -> None:
    """Pictures with five points are aligned, those without are taken as they are."""
    points = TEMPLATE * 1.2 + (10, 20)
    rows = [[*row[:4], *(points.ravel().tolist() if i else [""] * 10)] for i, row in enumerate(PROBES)]
    folder = write(tmp_path, rows, ",".join(POINTS))
    picture = np.random.default_rng(0).integers(0, 256, (180, 170, 3)).astype(np.uint8)
    (folder / "pictures" / "v2.jpg").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    protocol = opened(folder)
    at = [protocol.images.where(i).rpartition("/")[2] for i in range(len(protocol.images))]
    face = decode(protocol.images[at.index("v2.jpg")], 112, "")
    np.testing.assert_array_equal(face[..., ::-1], align(picture, points))
    assert protocol.images[at.index("ann.jpg")] == (folder / "pictures" / "ann.jpg").read_bytes()
    rows[2][4:] = points[[1, 0, 2, 4, 3]].ravel().tolist()
    with pytest.raises(ValueError, match=r"probe.csv, line 4: its five points cannot be a face's"):
        opened(write(tmp_path, rows, ",".join(POINTS)))


@pytest.mark.parametrize(
    ("rows", "heading", "message"),
    [
        ([("p1", "ann", "m", "s1.jpg", "x", "y")], "distance,score", r"probe.csv, line 2: score is 'y'"),
        ([("p1", "ann", "", "s1.jpg")], "", r"line 2: template, subject, media, file must not be empty"),
        ([("p1", "ann", "m")], "", r"line 2: template, subject, media, file must not be empty"),
        ([("p1", "ann", "m", "s1.jpg"), ("p1", "bob", "m", "v2.jpg")], "", r"line 3: template p1 has .*'bob'.*'ann'"),
        ([("p1", "eve", "m", "s1.jpg")], "", r"no subject of .*probe.csv is one of .*gallery.csv"),
        ([("p1", "ann", "m", "s1.jpg", 3)], "x1", r"lacks the columns y1, x2"),
        ([], "", "names no picture"),
    ],
)
def test_wrong_lists(tmp_path: Path, rows: list, heading: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        opened(write(tmp_path, rows, heading))


def test_wrong_settings(tmp_path: Path) -> None:
    folder = write(tmp_path, [row[:5] for row in PROBES], "distance")
    with pytest.raises(ValueError, match="rank 5 of a gallery of 2"):
        opened(folder, ranks=(5,))
    with pytest.raises(ValueError, match="fpir holds 2"):
        opened(folder, fpir=(2,))
    with pytest.raises(ValueError, match=r"gallery.csv lacks the columns|probe.csv lacks the columns weather"):
        opened(folder, condition="weather")
