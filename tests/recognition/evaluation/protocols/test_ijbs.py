"""IJB-S in miniature: its lists, and angles whose templates are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.evaluation.protocol import ITEMS, Asked
from recognition.evaluation.protocols import PROTOCOLS, ijbs
from recognition.evaluation.protocols.ijbs import IJBS
from tests.recognition.evaluation.protocols.seeing import see, write_folder

# people 1, 2, 3 are in the first galleries, 4 in the second; their stills and bookings point at 0, 90, 180, 270 degrees
ANGLES = {1: 0, 2: 90, 3: 180, 4: 270}
VIDEOS = {  # file: who is seen, with the angles of the frames in which a face was found
    "videos/11.mp4": {1: (10, 30), 2: (80,)},
    "videos/12.mp4": {1: (120,), 3: ()},
    "videos/13.mp4": {4: (300,), 2: (200,)},
    "videos/21.mp4": {1: (5,)},  # galleries of videos
    "videos/22.mp4": {2: (95,)},
    "videos/23.mp4": {4: (280,)},
    "videos/31.mp4": {3: (170,)},  # a drone
}
STILLS = {"img/901.png": (3, 150), "img/902.png": (1, 100)}  # from a drone
ASKED = Asked(resamples=20)


def write(folder: Path) -> Path:
    lists = folder / "protocols"
    (lists / "galleries").mkdir(parents=True)
    pictures = {}
    metadata = ["SUBJECT_ID,FILENAME,FACE_X"]
    for file, people in VIDEOS.items():
        number = file.removeprefix("videos/").removesuffix(".mp4")
        for person, angles in people.items():
            metadata += [f"{person},{file},{frame}" for frame in range(3)]
            pictures |= {f"{person}/videos_{number}_{frame}.jpg": angle for frame, angle in enumerate(angles)}
    for file, (person, angle) in STILLS.items():
        metadata.append(f"{person},{file},0")
        pictures[f"{person}/img_{file[4:7]}.jpg"] = angle
    for person, angle in ANGLES.items():
        pictures |= {f"{person}/img_{person}.jpg": angle, f"{person}/img_{person}1.jpg": angle - 10}
        pictures[f"{person}/img_{person}2.jpg"] = angle + 10  # still 1, bookings 11 and 12
    (lists / "cs6_metadata.csv").write_text("\n".join(metadata) + "\n")
    probes = ["videos/11.mp4", "videos/12.mp4", "videos/13.mp4"]
    for name, files in (
        ("surveillance_to_single-booking", probes),
        ("surveillance_to_surveillance", probes),
        ("uav_to_single-booking", ["videos/31.mp4", *STILLS]),
    ):
        (lists / f"cs6_{name}_probe.csv").write_text("\n".join(["FILENAME", *files]) + "\n")
    videos = {1: "videos/21.mp4", 2: "videos/22.mp4", 3: "videos/12.mp4", 4: "videos/23.mp4"}
    for number, people in ((1, (1, 2, 3)), (2, (4,))):
        for kind, of in (
            ("single", {p: [f"img/{p}.png"] for p in people}),
            ("booking", {p: [f"img/{p}1.png", f"img/{p}2.png"] for p in people}),
            ("surveillance", {p: [videos[p]] for p in people}),
        ):
            rows = [f"{p}7,{p},{file},1" for p, files in of.items() for file in files]
            path = lists / "galleries" / f"cs6_surveillance_to_{kind}_g{number}.csv"
            path.write_text("\n".join(["TEMPLATE_ID,SUBJECT_ID,FILENAME,X", *rows]) + "\n")
    write_folder(folder / "aligned", pictures)
    return folder


def opened(folder: Path, **settings: object) -> IJBS:
    found = PROTOCOLS.create("ijbs", data=str(folder), **{"counts": "any", "ranks": (1, 2), **settings})
    assert isinstance(found, IJBS)
    return found


def test_by_hand(tmp_path: Path) -> None:
    protocol = opened(write(tmp_path))
    found = protocol.measure(see(protocol), ASKED)
    assert set(found) == set(ijbs.TASKS)
    # probes: 1 at 20 and 2 at 80 in video 11; 1 at 120 and 3 without a picture in 12; 2 at 200 and 4 at 300 in 13
    single = found["surveillance-to-single"]
    assert single[ITEMS]["person"].tolist() == [1, 2, 1, 3, 2, 4]
    # 20: 1 first. 80: 2 first. 120: 90, 180, then 0. nothing. 200: 180, 270 (70) before 90. 300: 270 first
    assert single[ITEMS]["position"].tolist() == [1, 1, 3, 5, 3, 1]
    assert single["rank-1"]["value"] == 0.5 and single["rank-2"]["value"] == 0.5
    assert (single["probes"], single["gallery"], single["people"], single["failed"]) == (6, 4, 4, 1)
    # first gallery: the stranger 4 at 300 comes within 60 degrees of 0: 0.5. Mates above it at rank 1: 20, 80 of five
    # second: strangers 1, 2, 3 against 270: 200 comes nearest, 70 degrees; 4 is 30 away
    at = single["tpir1@0.01"]
    assert (at["value_1"], at["value_2"]) == (2 / 5, 1) and at["value"] == pytest.approx(0.7)
    assert at["lo"] <= 0.7 <= at["hi"]
    # bookings of 10 degrees to either side point the same way
    assert found["surveillance-to-booking"][ITEMS]["position"].tolist() == single[ITEMS]["position"].tolist()
    # all videos of a person, those of galleries too: 1 at 10, 30, 120, 5; 2 at 80, 200, 95; 3 at 170; 4 at 300, 280
    views = found["multiview-to-booking"]
    assert views[ITEMS]["person"].tolist() == [1, 2, 3, 4] and views[ITEMS]["position"].tolist() == [1, 1, 1, 1]
    # videos 5, 95, none, 280: probe 120 is 25 from 95; 200 is 80 from 280, 105 from 95. Of person 3 video 12 is in the
    # gallery and among the probes, and is not asked for
    videos = found["surveillance-to-surveillance"]
    assert videos[ITEMS]["person"].tolist() == [1, 2, 1, 2, 4] and videos["shared"] == 1 and single["shared"] == 0
    assert videos[ITEMS]["position"].tolist() == [1, 1, 2, 2, 1] and videos["failed"] == 1
    # drone: 3 at 170, 3 at 150, 1 at 100: 90 first, then 180
    assert found["uav-to-booking"][ITEMS]["person"].tolist() == [3, 3, 1]
    assert found["uav-to-booking"][ITEMS]["position"].tolist() == [1, 1, 3]


def test_norms_weigh_in(tmp_path: Path) -> None:
    """Frames at 10 and 30 degrees of lengths 1 and 3."""
    folder = write(tmp_path)
    for keep_norm, share in ((True, 3.0), (False, 1.0)):
        protocol = opened(folder, keep_norm=keep_norm)
        long = protocol.images.names.index("1/videos_11_1.jpg")
        looked = see(protocol, lambda i, long=long: 3.0 if i == long else 1.0)
        found = protocol.measure(looked, ASKED)["surveillance-to-single"][ITEMS]["similarity"][0]
        angles = np.deg2rad([10, 30])
        x, y = (np.array([1, share]) @ wave(angles) for wave in (np.cos, np.sin))
        assert found == pytest.approx(x / np.hypot(x, y), abs=1e-6)


def test_templates_without_pictures(tmp_path: Path) -> None:
    folder = write(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"1 of \d+ templates have no picture in .*aligned.* 3/videos_12\*"):
        opened(folder, failures="error")
    protocol = opened(folder, failures="exclude")
    found = protocol.measure(see(protocol), ASKED)
    assert found["surveillance-to-single"][ITEMS]["person"].tolist() == [1, 2, 1, 2, 4]
    assert found["surveillance-to-surveillance"]["rank-1"]["value"] == pytest.approx(3 / 5)
    with pytest.raises(ValueError, match="failures is 'skip'"):
        opened(folder, failures="skip")


def test_what_can_be_wrong_with_the_lists(tmp_path: Path) -> None:
    folder = write(tmp_path)
    with pytest.raises(ValueError, match=r"metadata.csv holds 10 videos of persons where 3,852 .* 376 are published"):
        opened(folder, counts="published")
    with pytest.raises(ValueError, match="rank 10 of a gallery of 4"):
        opened(folder, ranks=(1, 10))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*elsewhere/cs6_metadata.csv"):
        opened(folder, lists="elsewhere")
    probes = folder / "protocols" / "cs6_uav_to_single-booking_probe.csv"
    probes.write_text("FILENAME\nvideos/99.mp4\n")
    with pytest.raises(ValueError, match=r"names 1 files that cs6_metadata.csv does not know, such as videos_99"):
        opened(folder)
    gallery = folder / "protocols" / "galleries" / "cs6_surveillance_to_single_g1.csv"
    gallery.write_text("A,B,C\n1,1,img/1.png\n1,1\n")
    probes.write_text("FILENAME\nvideos/31.mp4\n")
    with pytest.raises(
        ValueError, match=r"g1.csv, line 3: wanted a person in column 2 and a file such as videos/1.mp4"
    ):
        opened(folder)
