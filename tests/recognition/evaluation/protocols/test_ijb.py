"""IJB-B and IJB-C in miniature: InsightFace's layout, embeddings whose templates are worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from recognition.data.alignment import TEMPLATE, align
from recognition.data.decode import decode
from recognition.data.recordio import Header, RecordWriter, pack
from recognition.distributed import World
from recognition.evaluation.intervals import interval_of_share
from recognition.evaluation.listed import MISSED
from recognition.evaluation.protocol import ITEMS, Asked, Looked
from recognition.evaluation.protocols import PROTOCOLS, ijb
from recognition.evaluation.protocols._enrolled import Enrolled, identify
from recognition.evaluation.protocols._templates import Templates
from recognition.evaluation.protocols.ijb import IJB
from recognition.evaluation.results import load_results, save_results
from recognition.evaluation.runner import evaluate
from recognition.evaluation.sets import open_sets
from tests.recognition.test_evaluation import TinyModel

# template, medium, embedding: three people in galleries 10, 20 | 30, a probe of each
PICTURES = [
    (10, 1, (2.0, 0, 0)),
    (20, 2, (0, 1.0, 0)),
    (20, 3, (0, 3.0, 0)),
    (30, 4, (0, 0, 1.0)),
    (1, 7, (1.0, 0, 0)),  # two frames of a video: their mean is (0.5, 0.5, 0)
    (1, 7, (0, 1.0, 0)),
    (1, 8, (1.0, 0, 0)),  # and a still beside them: (1.5, 0.5, 0)
    (2, 9, (0.6, 0.8, 0)),
    (3, 9, (0, 0.8, 0.6)),  # the same medium in another template; nearer to 20 than to 30
]
PAIRS = [(1, 10, 1), (2, 20, 1), (3, 30, 1), (1, 20, 0), (1, 30, 0), (2, 10, 0), (2, 30, 0), (3, 10, 0), (3, 20, 0)]
ROOT = np.sqrt(2.5)
SCORES = [1.5 / ROOT, 0.8, 0.6, 0.5 / ROOT, 0, 0.6, 0, 0, 0.8]
PEOPLE = {10: 501, 20: 502, 30: 503, 1: 501, 2: 502, 3: 503}
ASKED = Asked(far=(0.2,), resamples=20)


def write(folder: Path, name: str = "ijbb", score: Sequence[float] = (1.0,) * 9, many: bool = True) -> Path:
    """The lists, and a picture of noise for each line, whose points are those of a face turned and enlarged."""
    meta, crops = folder / "meta", folder / "loose_crop"
    for made in (meta, crops):
        made.mkdir(parents=True)
    generator = np.random.default_rng(0)
    lines = []
    for i in range(len(PICTURES)):
        picture = generator.integers(0, 256, (150, 160, 3)).astype(np.uint8)
        (crops / f"{i + 1}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        points = " ".join(f"{x:.3f}" for x in face_points(i).ravel())
        lines.append(f"{i + 1}.png {points} {score[i]}")
    (meta / f"{name}_name_5pts_score.txt").write_text("\n".join(lines) + "\n")
    tids = [f"{i + 1}.png {template} {medium}" for i, (template, medium, _) in enumerate(PICTURES)]
    (meta / f"{name}_face_tid_mid.txt").write_text("\n".join(tids) + "\n")
    (meta / f"{name}_template_pair_label.txt").write_text("".join(f"{a} {b} {s}\n" for a, b, s in PAIRS))
    if many:
        galleries = ("G1", "G2") if name == "ijbc" else ("S1", "S2")
        for listed, ids in (
            (f"1N_gallery_{galleries[0]}", (10, 20, 20)),
            (f"1N_gallery_{galleries[1]}", (30,)),
            ("1N_probe_mixed", (1, 1, 2, 3)),
        ):
            rows = [f"{template},{PEOPLE[template]},some/file.jpg" for template in ids]
            (meta / f"{name}_{listed}.csv").write_text("\n".join(["TEMPLATE_ID,SUBJECT_ID,FILENAME", *rows]) + "\n")
    return folder


def face_points(i: int) -> np.ndarray:
    angle = np.deg2rad(5 * i)
    turn = 1.1 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (TEMPLATE - 56) @ turn.T + 75


def see(protocol: IJB, scale: Sequence[float] = (1.0,) * 9) -> dict[str, Looked]:
    rows = protocol.views["pictures"].rows
    embeddings = np.array([np.multiply(PICTURES[i][2], scale[i]) for i in rows])
    return {"pictures": Looked(torch.tensor(embeddings, dtype=torch.float32))}


def opened(folder: Path, name: str = "ijbb", **settings: object) -> IJB:
    found = PROTOCOLS.create(name, data=str(folder), **{"counts": "any", "ranks": (1,), **settings})
    assert isinstance(found, IJB)
    return found


@pytest.mark.parametrize("name", ["ijbb", "ijbc"])
def test_by_hand(tmp_path: Path, name: str) -> None:
    protocol = opened(write(tmp_path, name), name)
    looked = see(protocol)
    found = protocol.measure(looked, ASKED)
    assert not looked  # the pictures' embeddings may go once there are templates
    part = found["verification"]
    np.testing.assert_allclose(part[ITEMS]["score"], SCORES, atol=1e-6)
    assert part[ITEMS]["score"].dtype == np.float32 and part[ITEMS]["same"].dtype == bool
    assert (part["pairs"], part["genuine"], part["people"], part["failed"], part["templates"]) == (9, 3, 3, 0, 6)
    # impostors 0.8, 0.6, 0.316, 0, 0, 0: one of six may pass at 0.2; at 0.01 and below none, so that 0.8 passes nowhere
    assert part["tar@0.2"] | {"lo": 0, "hi": 0} == {
        "value": pytest.approx(2 / 3),
        "far": pytest.approx(1 / 6),
        "threshold": pytest.approx(0.8),
        "nearest": pytest.approx(2 / 3),
        "nearest_far": pytest.approx(1 / 6),
        "lo": 0,
        "hi": 0,
    }
    assert part["tar@0.0001"]["value"] == pytest.approx(1 / 3) == part["tar@1e-06"]["value"]
    assert next(iter(part)) == "tar@0.0001"  # the headline
    assert 0 <= part["tar@0.2"]["lo"] <= part["tar@0.2"]["hi"] <= 1
    # 18 couples: 0.949 beats 6, 0.8 beats 5 and equals 1, 0.6 beats 4, equals 1
    assert part["auc"]["value"] == pytest.approx((6 + 5.5 + 4.5) / 18)
    groups = np.stack([part[ITEMS]["person_1"], part[ITEMS]["person_2"]])
    assert ((groups[0] == groups[1]) == part[ITEMS]["same"]).all() and len(np.unique(groups)) == 3
    who = found["identification"]
    # 1 and 2 are found in the first gallery; 3 in the second, where it stands alone
    assert who["rank-1"]["value"] == 1 and who["probes"] == 3 and who["unmated"] == 0
    assert [who["gallery"], who["people"]] == [3, 3]
    assert (who["rank-1"]["lo"], who["rank-1"]["hi"]) == interval_of_share(3, 3)
    # gallery 1: 3 is the stranger, at 0.8, which only 1 is above; gallery 2: 1 and 2 at 0, and 3 at 0.6
    assert who["tpir1@0.01"]["value"] == pytest.approx((1 / 2 + 1) / 2)
    assert (who["tpir1@0.01"]["value_1"], who["tpir1@0.01"]["value_2"]) == (0.5, 1)


@pytest.mark.parametrize("found", [True, False])
def test_where_all_or_none_are_found_the_interval_is_the_exact_one(found: bool) -> None:
    """Four people, two in either gallery, each probe its template's equal, or every template alike."""
    vectors = (np.eye(4) if found else np.ones((4, 4)) / 2).astype(np.float32)
    templates = Templates(vectors, np.ones(4, bool), np.arange(4, dtype=np.int32))
    probes, *galleries = (Enrolled(rows, 10 + rows) for rows in (np.arange(4), np.array([0, 1]), np.array([2, 3])))
    part = identify(templates, probes, galleries, galleries, Asked(resamples=50), (1,), (0.1,))
    for key in ("rank-1", "tpir1@0.1"):
        assert part[key]["value"] == float(found)
        assert (part[key]["lo"], part[key]["hi"]) == interval_of_share(4 if found else 0, 4)
    assert "lo" in part["tpir1@0.1"] and part["gallery"] == part["people"] == part["probes"] == 4


def test_weights(tmp_path: Path) -> None:
    """Detector scores and raw norms weigh in, unless told not to."""
    score = [1.0] * 6 + [3.0] + [1.0] * 2  # the still of template 1 counts three times
    scale = [1.0] * 4 + [5.0] + [1.0] * 4  # and its first frame is (5, 0, 0)
    folder = write(tmp_path, score=score)
    for settings, x, y in (
        ({}, 5 / 2 + 3, 0.5),
        ({"detector_score": False}, 5 / 2 + 1, 0.5),
        ({"keep_norm": False}, 1 / 2 + 3, 0.5),
        ({"keep_norm": False, "detector_score": False}, 1.5, 0.5),
    ):
        protocol = opened(folder, **settings)
        found = protocol.measure(see(protocol, scale), ASKED)["verification"][ITEMS]["score"][0]
        assert found == pytest.approx(x / np.hypot(x, y))
    assert protocol.views["pictures"].flip == "sum" and "F2" in protocol.rules.flip and "N0" in protocol.rules.fusion


def test_pictures_are_aligned_when_asked_for(tmp_path: Path) -> None:
    folder = write(tmp_path)
    path = folder / "meta" / "ijbb_name_5pts_score.txt"
    lines = path.read_text().splitlines()
    lines[3] = "4.png " + "7.0 " * 10 + "0.1"  # no face
    path.write_text("\n".join(lines))
    protocol = opened(folder)
    assert len(protocol.images) == 9 and protocol.unaligned == 1
    for i in (0, 8):
        picture = cv2.imread(str(folder / "loose_crop" / f"{i + 1}.png"))
        face = align(picture, np.round(face_points(i), 3).astype(np.float32))
        np.testing.assert_array_equal(decode(protocol.images[i], 112, ""), face[..., ::-1])
    assert protocol.images[3] == (folder / "loose_crop" / "4.png").read_bytes()
    assert protocol.images.where(8).endswith("9.png")
    assert protocol.measure(see(protocol), ASKED)["verification"]["unaligned"] == 1


def test_pictures_that_are_aligned_already(tmp_path: Path) -> None:
    """What tools/align.py wrote in the place of the crops, where it found no face in the last picture."""
    folder = write(tmp_path)
    crops = folder / "loose_crop"
    entries: list[dict[str, object]] = [{"format": "lrface.align/1", "records": "faces.rec"}]
    with RecordWriter(crops / "faces.rec") as writer:
        for i in range(len(PICTURES)):
            entries.append({"name": f"{i + 1}.png", "key": i, "status": "aligned" if i < 8 else "failed"})
            if i < 8:
                writer.write(i, pack(Header(label=0.0, id=i), f"face {i}".encode()))
    (crops / "manifest.jsonl").write_text("\n".join(map(json.dumps, entries)))
    with pytest.raises(FileNotFoundError, match="no face was found in 1 of 9"):
        opened(folder)
    protocol = opened(folder, failures="miss")
    assert [protocol.images[i] for i in (0, 7)] == [b"face 0", b"face 7"] and protocol.unaligned == 0
    found = protocol.measure(see(protocol), ASKED)["verification"]
    np.testing.assert_allclose(found[ITEMS]["score"][[0, 2, 8]], [SCORES[0], MISSED, MISSED], atol=1e-6)


def test_failures(tmp_path: Path) -> None:
    """Template 1 loses a frame; template 2 and the gallery's 30 lose all."""
    folder = write(tmp_path)
    for i in (6, 8, 4):
        (folder / "loose_crop" / f"{i}.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"3 of 9 listed pictures .* the first is 4.png"):
        opened(folder)
    protocol = opened(folder, failures="miss")
    found = protocol.measure(see(protocol), ASKED)
    scores = found["verification"][ITEMS]["score"]
    # template 1 is (2, 0, 0) now
    np.testing.assert_allclose(scores, [1, MISSED, MISSED, 0, MISSED, MISSED, MISSED, 0, 0.8], atol=1e-6)
    assert found["verification"]["failed"] == 5 and found["verification"]["failed_pictures"] == 3
    assert found["verification"]["tar@0.1"]["value"] == pytest.approx(1 / 3)
    who = found["identification"]
    assert who[ITEMS]["position"].tolist() == [1, 3, 2]  # one more than the gallery holds for 2, and for 3
    assert who["rank-1"]["value"] == pytest.approx(1 / 3) and who["failed"] == 2
    assert who["tpir1@0.1"]["value_1"] == 0.5 and who["tpir1@0.1"]["value_2"] == 0
    protocol = opened(folder, failures="exclude")
    found = protocol.measure(see(protocol), ASKED)
    np.testing.assert_allclose(found["verification"][ITEMS]["score"], [1, 0, 0, 0.8], atol=1e-6)
    assert found["verification"]["genuine"] == 1 and found["verification"]["failed"] == 5
    assert found["identification"]["probes"] == 1 and found["identification"]["rank-1"]["value"] == 1


def test_what_can_be_wrong_with_the_lists(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tid_mid.txt holds 9 pictures where 227,630 are published.*8,010,270"):
        opened(write(tmp_path / "counts"), counts="published")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*ijbc_face_tid_mid.txt"):
        opened(tmp_path / "counts", "ijbc")
    with pytest.raises(ValueError, match="rank 5 of a gallery of 2"):
        opened(tmp_path / "counts", ranks=(1, 5))
    with pytest.raises(ValueError, match="flip is 'mean'"):
        opened(tmp_path / "counts", flip="mean")
    lists = {
        "template_pair_label.txt": (["1 10 1", "2 20 x", "3 30 0"], "line 2: wanted 3 whole numbers"),
        "face_tid_mid.txt": (["1.png 10 1", "2.png 20"], "line 2: wanted a name and 2 numbers, got '2.png 20'"),
        "1N_probe_mixed.csv": (["T,S", "1,501", "2;502"], "line 3: wanted TEMPLATE_ID"),
    }
    for number, (file, (lines, message)) in enumerate(lists.items()):
        folder = write(tmp_path / f"line_{number}")
        (folder / "meta" / f"ijbb_{file}").write_text("\n".join(lines) + "\n")
        with pytest.raises(ValueError, match=message):
            opened(folder)
    folder = write(tmp_path / "names")
    path = folder / "meta" / "ijbb_face_tid_mid.txt"
    path.write_text(path.read_text().replace("3.png", "33.png"))
    with pytest.raises(ValueError, match=r"same order, but: line 3: '3.png', '33.png'"):
        opened(folder)
    path.write_text(path.read_text().replace("33.png 20", "3.png 21"))
    (folder / "meta" / "ijbb_template_pair_label.txt").write_text("1 10 1\n2 44 0\n")
    with pytest.raises(ValueError, match=r"names 1 templates that .* does not know, such as 44"):
        opened(folder)
    folder = write(tmp_path / "lacks")
    (folder / "meta" / "ijbb_1N_gallery_S2.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"gallery_S2.csv: identification takes all"):
        opened(folder)
    folder = write(tmp_path / "kinds", many=False)
    (folder / "meta" / "ijbb_template_pair_label.txt").write_text("1 10 1\n2 20 1\n")
    with pytest.raises(ValueError, match="both kinds are needed"):
        opened(folder)


def test_ijbc_only_warns_of_its_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, "ijbc", many=False)
    monkeypatch.setitem(ijb.PUBLISHED, "ijbc", {"pictures": 9, "pairs": 9, "genuine pairs": 3})
    with pytest.warns(UserWarning, match="holds 6 templates, not 23,124"):
        protocol = opened(folder, "ijbc", counts="published")
    assert list(protocol.measure(see(protocol), ASKED)) == ["verification"]


def test_with_a_model(tmp_path: Path, world: World) -> None:
    settings = {
        "sets": [{"name": "b", "kind": "ijbb", "data": str(write(tmp_path)), "counts": "any", "ranks": (1,)}],
        "bootstrap": 5,
    }
    results = evaluate(TinyModel(), settings, world, open_sets(settings))
    save_results(tmp_path / "results", results)
    found = load_results(tmp_path / "results")["b"]
    assert set(found) == {"verification", "identification"} and 0 <= found["verification"]["tar@0.1"]["value"] <= 1
