"""pairs.txt and a folder: known angles, pictures that are not there, counts, and a model's way through."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from recognition.data.named import MANIFEST, MANIFEST_FORMAT
from recognition.data.pairs import PairSet
from recognition.data.recordio import Header, RecordWriter, pack
from recognition.evaluation.compared import Compared
from recognition.evaluation.protocol import ITEMS, Protocol
from recognition.evaluation.protocols.pairs_txt import pairs_txt
from recognition.evaluation.runner import evaluate
from recognition.evaluation.sets import open_sets
from tests.recognition.evaluation.protocols.seeing import ASKED, picture, see, write_folder, write_lfw
from tests.recognition.test_evaluation import ALONE, TinyModel, face

# degrees of two folds: 3 genuine and 3 impostors each; one genuine and one impostor pair are on the wrong side
ANGLES = [10, 20, 80, 70, 75, 85, 10, 15, 20, 70, 5, 85]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_lfw(tmp_path / "lfw", ANGLES, 2, 3)
    return tmp_path / "lfw"


def test_known_angles(folder: Path) -> None:
    protocol = pairs_txt(str(folder))
    assert isinstance(protocol, Protocol)
    part = protocol.measure(see(protocol), ASKED)["112"]
    items = part[ITEMS]
    np.testing.assert_allclose(items["score"], np.cos(np.deg2rad(ANGLES)), atol=1e-6)
    assert items["fold"].tolist() == [0] * 6 + [1] * 6
    # fold 0 by fold 1's threshold cos 20: 80 is wrong. Fold 1 by fold 0's, cos 20: 5 is wrong
    assert np.flatnonzero(~items["correct"]).tolist() == [2, 10]
    assert part["accuracy"]["value"] == pytest.approx(10 / 12)
    assert (part["pairs"], part["genuine"]) == (12, 6)
    assert part["failed"] == 0 and "every listed picture" in protocol.rules.failures
    names = [protocol.images.names[i] for i in items["second"]]
    assert names[:4] == ["f0_g0/f0_g0_0002.jpg", "f0_g1/f0_g1_0002.jpg", "f0_g2/f0_g2_0002.jpg", "f0_j0/f0_j0_0003.jpg"]


def test_it_is_compared_where_nothing_is_missing(folder: Path) -> None:
    protocol = pairs_txt(str(folder), low_res=[112, [112, 14]])
    plain = Compared(
        protocol.images,
        protocol.gallery,
        protocol.probe,
        protocol.sides,
        PairSet("", protocol.images, protocol.gallery, protocol.probe, protocol.same),
        protocol.fold,
    )
    scores = {"score": np.arange(len(protocol.images), dtype=np.float32), "gate": np.ones(len(protocol.images))}
    ours, theirs = (one.measure(see(one, **scores), ASKED) for one in (protocol, plain))
    assert ours.keys() == theirs.keys() == {"112", "112-14"}
    for side, part in theirs.items():
        assert {k: v for k, v in ours[side].items() if k not in (ITEMS, "failed", "resampled")} == {
            k: v for k, v in part.items() if k != ITEMS
        }
        assert ours[side][ITEMS].keys() == part[ITEMS].keys() | {"person_1", "person_2"}
        for key, values in part[ITEMS].items():
            np.testing.assert_array_equal(ours[side][ITEMS][key], values)


def test_pictures_that_are_not_there(folder: Path) -> None:
    (folder / "f0_g0/f0_g0_0002.jpg").unlink()  # a genuine pair
    (folder / "f1_i0/f1_i0_0001.jpg").unlink()  # an impostor pair
    with pytest.raises(FileNotFoundError, match=r"2 of 24 listed pictures.*f1_i0_0001.jpg"):
        pairs_txt(str(folder))
    missed = pairs_txt(str(folder), failures="miss")
    scores = {"score": np.arange(22, dtype=np.float32), "gate": np.ones(22, np.float32)}
    part = missed.measure(see(missed, **scores), ASKED)["112"]
    items = part[ITEMS]
    assert items["score"][[0, 9]].tolist() == [-2, -2] and items["first"][0] == items["second"][9] == -1
    assert (part["pairs"], part["failed"]) == (12, 2)
    assert np.flatnonzero(~items["correct"]).tolist() == [0, 2, 10]  # the impostor pair is rejected, which is right
    assert part["accuracy"]["value"] == pytest.approx(9 / 12)
    assert items["quality_1"][0] == items["quality_1"].min() and np.isfinite(items["quality_2"]).all()
    left = pairs_txt(str(folder), failures="exclude")
    part = left.measure(see(left), ASKED)["112"]
    assert (part["pairs"], part["genuine"], part["failed"]) == (10, 5, 2)
    assert part["accuracy"]["value"] == pytest.approx(4 / 5)
    assert part[ITEMS]["fold"].tolist() == [0] * 5 + [1] * 5
    assert "never accepted" in missed.rules.failures and "left out" in left.rules.failures
    with pytest.raises(ValueError, match="failures is 'skip'"):
        pairs_txt(str(folder), failures="skip")


def test_aligned_records_serve_as_a_folder(tmp_path: Path) -> None:
    faces = [f"{person}/{person}_000{shot}.jpg" for person in "ab" for shot in (1, 2)]
    with RecordWriter(tmp_path / "aligned.rec") as writer:
        for key in range(3):
            writer.write(key, pack(Header(label=0.0, id=key), picture(30 * key)))
    head = {"format": MANIFEST_FORMAT, "records": "aligned.rec"}
    found = ["aligned", "fallback", "aligned", "failed"]
    rows = [{"name": n, "key": k, "status": s} for k, (n, s) in enumerate(zip(faces, found, strict=True))]
    (tmp_path / MANIFEST).write_text("\n".join(json.dumps(row) for row in [head, *rows]))
    listed = "\n".join(["2 1", "a 1 2", "a 1 b 1", "b 1 2", "a 2 b 1"])
    (tmp_path / "pairs.txt").write_text(listed)
    with pytest.raises(FileNotFoundError, match=r"no face was found in 1 of 4 .* b/b_0002.jpg"):
        pairs_txt(str(tmp_path))
    protocol = pairs_txt(str(tmp_path), failures="miss")
    part = protocol.measure(see(protocol), ASKED)["112"]
    wanted = [np.cos(np.deg2rad(30)), np.cos(np.deg2rad(60)), -2, np.cos(np.deg2rad(30))]
    np.testing.assert_allclose(part[ITEMS]["score"], wanted, atol=1e-6)
    assert part["failed"] == 1


def test_counts_are_those_of_the_first_line(folder: Path) -> None:
    path = folder / "pairs.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(ValueError, match=r"pairs.txt holds 5 impostor pairs where 6 are published"):
        pairs_txt(str(folder))
    assert len(pairs_txt(str(folder), counts="any").fold) == 11


def test_paths_without_folds_are_mixed(tmp_path: Path) -> None:
    angles = [10] * 20 + [80] * 20
    write_folder(tmp_path, {f"{n}/{k}.jpg": angles[n] * k for n in range(40) for k in range(2)})
    rows = [f"{n}/0.jpg,{n}/1.jpg,{int(n < 20)}" for n in range(40)]
    (tmp_path / "my list.csv").write_text("\n".join(rows))
    protocol = pairs_txt(str(tmp_path), str(tmp_path / "my list.csv"))
    part = protocol.measure(see(protocol), dataclasses.replace(ASKED, resamples=0))["112"]
    assert part["accuracy"] == {"value": 1.0, "lo": None, "hi": None}
    assert np.bincount(part[ITEMS]["fold"]).tolist() == [4] * 10
    assert protocol.rules.folds.startswith("10, each with every 10th genuine and every 10th impostor pair; ")


def test_a_model_goes_through(tmp_path: Path) -> None:
    lines = ["2 3"]
    for f in range(2):
        lines += [f"p{f}{n} 1 2" for n in range(3)] + [f"p{f}{n} 1 p{f}{(n + 1) % 3} 2" for n in range(3)]
    for f in range(2):
        for n in range(3):
            (tmp_path / f"p{f}{n}").mkdir()
            for shot in (1, 2):
                (tmp_path / f"p{f}{n}/p{f}{n}_000{shot}.png").write_bytes(face(3 * f + n, shot))
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    settings = {"sets": [{"name": "own", "kind": "pairs_txt", "data": str(tmp_path)}], "low_res": [112, 14]}
    sets = open_sets(settings)
    results = evaluate(TinyModel(), {**settings, "bootstrap": 50, "far": [0.5]}, ALONE, sets)
    assert results["own"].keys() == {"112", "14"} and results["own"]["112"]["accuracy"]["value"] > 0.8
    with pytest.raises(FileNotFoundError, match=r"evaluation set 'own': there is no list of pairs"):
        open_sets({"sets": [{"name": "own", "kind": "pairs_txt", "data": str(tmp_path / "p00")}]})
