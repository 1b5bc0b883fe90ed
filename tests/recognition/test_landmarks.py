"""Landmarks beside record files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from recognition.data.landmarks import landmark_path, read_landmarks, write_landmarks
from recognition.data.recordio import Header, RecordWriter, pack
from recognition.data.records import Records


def _records(path: Path, keys: list[int]) -> Path:
    with RecordWriter(path) as writer:
        for key in keys:
            writer.write(key, pack(Header(0, float(key % 2), key, 0), b"jpeg" * key))
    return path


def _points(keys: np.ndarray) -> np.ndarray:
    """Tells the key in every number."""
    return np.asarray(keys, np.float32)[:, None, None] + np.linspace(0, 0.9, 10).reshape(5, 2)


def test_each_image_gets_its_own(tmp_path: Path) -> None:
    """Two shards with keys in different orders; landmarks of records that hold_out leaves out do no harm."""
    for shard, keys in enumerate(([1, 2, 3, 4], [9, 7, 8])):
        path = _records(tmp_path / f"x-0000{shard}-of-00002", keys)
        assert write_landmarks(path, keys[::-1], _points(keys[::-1])).name == f"x-0000{shard}-of-00002.landmarks.npz"
    records = Records(tmp_path / "x")
    got = read_landmarks(records)
    assert got.shape == (7, 5, 2) and got.dtype == np.float32
    np.testing.assert_allclose(got, _points(records.key))
    held = Records(tmp_path / "x", hold_out=2)
    np.testing.assert_allclose(read_landmarks(held), _points(held.key))


def test_stale_landmarks_are_refused(tmp_path: Path) -> None:
    path = _records(tmp_path / "x", [1, 2, 3])
    write_landmarks(path, [1, 2, 3], _points([1, 2, 3]))
    _records(tmp_path / "x", [1, 2, 4])
    with pytest.raises(ValueError, match=r"x\.landmarks\.npz was made for other records than .*x\.rec holds now: find"):
        read_landmarks(Records(tmp_path / "x"))


def test_a_renamed_set_keeps_them(tmp_path: Path) -> None:
    write_landmarks(_records(tmp_path / "x", [1, 2]), [1, 2], _points([1, 2]))
    for file in list(tmp_path.iterdir()):
        file.rename(file.with_name("y" + file.name.removeprefix("x")))
    assert read_landmarks(Records(tmp_path / "y")).shape == (2, 5, 2)


def test_absent_ones_are_told(tmp_path: Path) -> None:
    path = _records(tmp_path / "x", [1, 2, 3])
    with pytest.raises(FileNotFoundError, match=r"no landmarks at .*x\.landmarks\.npz"):
        read_landmarks(Records(path))
    write_landmarks(path, [3, 1], _points([3, 1]))
    with pytest.raises(ValueError, match="lacks 1 of 3 images, key 2 first"):
        read_landmarks(Records(path))
    write_landmarks(path, [], np.zeros((0, 5, 2)))
    with pytest.raises(ValueError, match="lacks 3 of 3 images, key 1 first"):
        read_landmarks(Records(path))


def test_damaged_files_are_told(tmp_path: Path) -> None:
    path = _records(tmp_path / "x", [1, 2])
    file = write_landmarks(path, [1, 2], _points([1, 2]))
    whole = file.read_bytes()
    for content in (b"", b"x", whole[:-30], whole.replace(b"fingerprint", b"fingerprinT")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f"{file} holds no landmarks")):
            read_landmarks(Records(path))


def test_what_cannot_be_written(tmp_path: Path) -> None:
    path = _records(tmp_path / "x", [1, 2])
    with pytest.raises(ValueError, match=r"\(N, 5, 2\) for keys \(N,\), got \(2, 10\) for \(2,\)"):
        write_landmarks(path, [1, 2], np.zeros((2, 10)))
    with pytest.raises(ValueError, match="must be finite"):
        write_landmarks(path, [1, 2], np.full((2, 5, 2), np.nan))
    with pytest.raises(ValueError, match="1 of 2 keys stand there more than once"):
        write_landmarks(path, [1, 1], _points([1, 1]))
    assert not landmark_path(path.with_suffix(".rec")).exists()
