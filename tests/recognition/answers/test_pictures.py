"""What people hand in: names, folders that were aligned, files that change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recognition.answers.pictures import gather, person_of, read
from recognition.data.named import MANIFEST, MANIFEST_FORMAT
from tests.answering import faces, write_picture
from tests.small import write_records


def test_an_aligned_folder_tells_where_no_face_was_found(tmp_path: Path) -> None:
    write_records(tmp_path / "faces", people=2, images=1)
    entries = [
        {"name": "bo/1.jpg", "status": "aligned", "key": 1},
        {"name": "anna/1.jpg", "status": "aligned", "key": 0},
        {"name": "bo/2.jpg", "status": "failed", "reason": "no face"},
        {"name": "bo/3.jpg", "status": "failed", "reason": "undecodable: 3 bytes that are no picture"},
        {"name": "bo/4.jpg", "status": "failed"},
    ]
    lines = [{"format": MANIFEST_FORMAT, "records": "faces.rec"}, *entries]
    (tmp_path / MANIFEST).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    pictures = gather(tmp_path)
    assert [(one.name, one.person) for one in pictures] == [
        ("anna/1.jpg", "anna"),
        ("bo/1.jpg", "bo"),
        ("bo/2.jpg", "bo"),
        ("bo/3.jpg", "bo"),
        ("bo/4.jpg", "bo"),
    ]
    (batch,) = read(pictures, 8)
    assert batch.rows.tolist() == [0, 1] and "no face was found" in batch.problems[2]
    assert batch.problems[3] == "it failed when the folder was aligned: undecodable: 3 bytes that are no picture"
    assert batch.problems[4] == "it failed when the folder was aligned"
    (stored,) = read(gather(tmp_path / "faces.rec"), 8)
    np.testing.assert_array_equal(batch.pixels, stored.pixels)
    assert gather([tmp_path])[0].name == str(tmp_path / "anna/1.jpg")
    assert [(one.name, one.person) for one in gather(tmp_path / "faces.rec")] == [("faces:0", "0"), ("faces:1", "1")]


def test_order_is_kept_over_batches_and_chosen_rows(tmp_path: Path) -> None:
    shown = faces(5)
    paths = [write_picture(tmp_path / f"{i}.png", face) for i, face in enumerate(shown)]
    whole = np.concatenate([batch.pixels for batch in read(gather(paths), 2)])
    np.testing.assert_array_equal(whole, shown)
    some = list(read(gather(paths), 2, rows=np.array([4, 0, 2])))
    assert np.concatenate([batch.rows for batch in some]).tolist() == [4, 0, 2]
    np.testing.assert_array_equal(np.concatenate([batch.pixels for batch in some]), shown[[4, 0, 2]])
    assert list(read([], 2)) == []


def test_a_picture_too_small_for_a_face_is_a_problem(tmp_path: Path) -> None:
    whole = faces(2)[0]
    shown = [whole[:1, :1], write_picture(tmp_path / "3.png", whole[:3]), whole[:4, :4]]
    (batch,) = read(gather(shown), 8)
    assert batch.rows.tolist() == [2]
    assert batch.problems == {
        0: "1 x 1 pixels; a face takes at least 4 x 4",
        1: "3 x 112 pixels; a face takes at least 4 x 4",
    }


@pytest.mark.parametrize(
    ("name", "person"), [("anna/x_1.jpg", "anna"), ("anna_b_1.jpg", "anna_b"), ("anna.jpg", "anna"), ("_1.jpg", "_1")]
)
def test_names_of_people(name: str, person: str) -> None:
    assert person_of(name) == person
