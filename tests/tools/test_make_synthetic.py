"""Record sets of synthetic faces: what they hold, and that nothing is overwritten."""

import csv
import json

import cv2
import numpy as np
import pytest

from recognition.data.records import Records
from recognition.data.synthetic import SyntheticFaces
from tools import make_synthetic

SMALL = ["--identities", "20", "--images", "3", "--seed", "4", "--first-identity", "7"]


def test_records_are_the_faces(tmp_path):
    assert make_synthetic.main([str(tmp_path / "set"), *SMALL]) == 0
    records, faces = Records(tmp_path / "set" / "train.rec"), SyntheticFaces(20, 3, 4, first_identity=7)
    assert (records.num_images, records.num_classes) == (60, 20)
    np.testing.assert_array_equal(records.labels, faces.labels)
    np.testing.assert_array_equal(records.key, np.arange(60))
    for i in (0, 17, 59):
        coded = np.frombuffer(records.read(i), np.uint8)
        picture = cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1].astype(float)
        assert np.abs(picture - faces[i][0]).mean() < 4  # JPEG at quality 95, grain included
    settings = json.loads((tmp_path / "set" / "synthetic.json").read_text())
    assert settings["identities"] == 20 and settings["first_identity"] == 7


def test_the_same_settings_give_the_same_bytes_and_are_made_once(tmp_path, capsys):
    for name in ("one", "two"):
        assert make_synthetic.main([str(tmp_path / name), *SMALL]) == 0
    record = tmp_path / "one" / "train.rec"
    assert record.read_bytes() == (tmp_path / "two" / "train.rec").read_bytes()
    before = record.stat().st_mtime_ns
    capsys.readouterr()
    assert make_synthetic.main([str(tmp_path / "one"), *SMALL, "--workers", "3"]) == 0
    assert "already" in capsys.readouterr().out
    assert record.stat().st_mtime_ns == before


def test_pairs_have_two_halves_and_folds_of_their_own_people(tmp_path):
    assert make_synthetic.main([str(tmp_path), *SMALL, "--identities", "40", "--pairs", "30"]) == 0
    with (tmp_path / "pairs.csv").open() as file:
        rows = [{name: int(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert list(rows[0]) == ["key_1", "key_2", "same", "fold"]
    assert len(rows) == 60 and sum(row["same"] for row in rows) == 30
    assert len({(row["key_1"], row["key_2"]) for row in rows}) == 60
    fold_of: dict[int, int] = {}
    for row in rows:
        first, second = row["key_1"] // 3, row["key_2"] // 3
        assert (first == second) == row["same"] and row["key_1"] != row["key_2"]
        for person in (first, second):
            assert fold_of.setdefault(person, row["fold"]) == row["fold"]
    assert np.bincount([row["fold"] for row in rows]).tolist() == [6] * 10


def test_nothing_is_overwritten(tmp_path, capsys):
    out = tmp_path / "set"
    assert make_synthetic.main([str(out), *SMALL]) == 0
    content = (out / "train.rec").read_bytes()
    assert make_synthetic.main([str(out), *SMALL, "--seed", "5"]) == 2
    assert "seed 4 (asked for: 5)" in capsys.readouterr().err
    assert (out / "train.rec").read_bytes() == content
    (out / "synthetic.json").unlink()
    assert make_synthetic.main([str(out), *SMALL]) == 2
    assert "not made by this program" in capsys.readouterr().err


def test_a_set_with_a_missing_file_is_not_called_complete(tmp_path, capsys):
    assert make_synthetic.main([str(tmp_path), *SMALL]) == 0
    (tmp_path / "train.rec").unlink()
    assert make_synthetic.main([str(tmp_path), *SMALL]) == 2
    assert "train.rec" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pairs", "7"], "multiple of 10"),
        (["--pairs", "1000"], "at most 60"),
        (["--identities", "0"], "at least one"),
    ],
)
def test_impossible_settings_leave_nothing_behind(tmp_path, capsys, arguments, said):
    assert make_synthetic.main([str(tmp_path / "set"), *SMALL, *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


@pytest.mark.slow
def test_processes_change_no_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(make_synthetic, "POOL_FROM", 10)
    for workers in ("1", "2"):
        assert make_synthetic.main([str(tmp_path / workers), *SMALL, "--workers", workers]) == 0
    assert (tmp_path / "1" / "train.rec").read_bytes() == (tmp_path / "2" / "train.rec").read_bytes()
