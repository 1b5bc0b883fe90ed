"""Scores beside record files: found again, and never used where they are of something else."""

from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from recognition.data import scores as module
from recognition.data.landmarks import write_landmarks
from recognition.data.recordio import Header, RecordWriter, pack
from recognition.data.scores import ScorerIdentity, ShardScores

SHARP = ScorerIdentity("sharpness", '{"log": true}', 1, "")
NET = ScorerIdentity("onnx", '{"file": "sha256:aa"}', 1, "ab", "cd")


def _records(path: Path, keys: list[int], seed: int = 0) -> Path:
    with RecordWriter(path) as writer:
        for key in keys:
            writer.write(key, pack(Header(0, float(key % 2), key, 0), b"jpeg" * (key + seed)))
    return path.with_suffix(".rec")


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Seven records whose index does not rise, with scores of all but one."""
    path = _records(tmp_path / "x", [5, 9, 1, 3, 7, 2, 4])
    ShardScores(path, SHARP).write(np.array([9, 1, 5, 3, 7, 2]), np.float32([90, 10, 50, 30, np.nan, 20]))
    return path


def test_scores_come_back_by_key(shard: Path) -> None:
    held = ShardScores(shard, SHARP)
    found = held.read(np.array([3, 9, 1]))
    assert found.scores.tolist() == [30, 90, 10] and found.scores.dtype == np.float32
    assert found.known.all() and not found.problem
    bad = held.read(np.array([7, 2]))
    assert bad.known.all() and np.isnan(bad.scores[0]) and not bad.problem
    absent = held.read(np.array([4, 3]))
    assert absent.known.tolist() == [False, True] and absent.scores[1] == 30 and np.isnan(absent.scores[0])
    assert absent.problem == f"{held.path} lacks 1 of 2 images"
    with safe_open(held.path, framework="np") as opened:
        assert opened.get_tensor("key").tolist() == [1, 2, 3, 5, 7, 9]
        assert opened.metadata()["scorer"] == "sharpness" and opened.metadata()["version"] == "1"


def test_scorers_arguments_and_weights_lie_side_by_side(shard: Path) -> None:
    others = [NET, replace(NET, weights="ba"), replace(NET, base="dc"), replace(SHARP, arguments='{"log": false}')]
    for number, identity in enumerate(others):
        ShardScores(shard, identity).write(np.array([1]), np.float32([number]))
    assert len(list(shard.parent.glob("x.scores.*.safetensors"))) == 5
    for number, identity in enumerate(others):
        assert ShardScores(shard, identity).read(np.array([1])).scores == [number]
    assert ShardScores(shard, SHARP).read(np.array([1])).scores == [10]
    assert ShardScores(shard, SHARP).path.name.startswith("x.scores.sharpness-")


def test_a_renamed_set_keeps_them(shard: Path) -> None:
    for file in list(shard.parent.iterdir()):
        file.rename(file.with_name("y" + file.name.removeprefix("x")))
    assert not ShardScores(shard.with_name("y.rec"), SHARP).read(np.array([1, 2])).problem


@pytest.mark.parametrize("change", [{"version": 2}, {"arguments": "{}"}, {"weights": "a"}, {"base": "a"}])
def test_another_scorer_finds_nothing_and_is_told_why(shard: Path, change: dict) -> None:
    wanted = replace(SHARP, **change)
    held = ShardScores(shard, wanted)
    found = held.read(np.array([1, 2]))
    assert not found.known.any() and np.isnan(found.scores).all()
    name, value = next(iter(change.items()))
    assert found.problem.startswith(f"there is no {held.path}; x.scores.sharpness-")
    assert f"is of another scorer: {name} " in found.problem and f"wanted {value}" in found.problem
    ShardScores(shard, SHARP).path.rename(held.path)  # under the name of the other
    found = held.read(np.array([1, 2]))
    assert not found.known.any() and f"{held.path} was made by another scorer: {name} " in found.problem


def test_other_records_make_them_stale(shard: Path) -> None:
    _records(shard.with_suffix(""), [5, 9, 1, 3, 7, 2, 4], seed=1)
    found = ShardScores(shard, SHARP).read(np.array([1, 2]))
    assert not found.known.any() and found.problem.endswith(f"was made for other records than lie at {shard} now")


@pytest.mark.parametrize("with_checksums", [True, False])
def test_other_pictures_in_the_same_places_make_them_stale(tmp_path: Path, with_checksums: bool) -> None:
    def written(fill: bytes) -> Path:
        with RecordWriter(tmp_path / "x", checksum=with_checksums) as writer:
            for key in range(5):
                writer.write(key, pack(Header(0, 0.0, key, 0), (fill if key == 3 else b"same") * 20))
        return tmp_path / "x.rec"

    ShardScores(written(b"this"), SHARP).write(np.arange(5), np.arange(5, dtype=np.float32))
    assert not ShardScores(written(b"this"), SHARP).read(np.arange(5)).problem
    assert "other records" in ShardScores(written(b"that"), SHARP).read(np.arange(5)).problem


def test_other_landmarks_make_scores_of_landmarks_stale(shard: Path) -> None:
    places = replace(SHARP, scorer="landmark_forest", needs="landmarks")
    for points in (np.zeros((2, 5, 2)), np.ones((2, 5, 2))):
        write_landmarks(shard, [1, 2], points)
        found = ShardScores(shard, places).read(np.array([1]))
        assert not found.known.any() and ("no /" in found.problem or "other landmarks or records than" in found.problem)
        ShardScores(shard, places).write(np.array([1, 2]), np.float32([1, 2]))
        assert not ShardScores(shard, places).read(np.array([1])).problem
    assert not ShardScores(shard, SHARP).read(np.array([1])).problem, "those of images are what they were"


def _rewritten(change: Callable[[dict, dict], None]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        with safe_open(path, framework="np") as opened:
            told, tensors = opened.metadata(), {name: opened.get_tensor(name) for name in ("key", "score")}
        change(tensors, told)
        if told.get("content") == "right":
            told["content"] = module._content(tensors["key"], tensors["score"])
        path.write_bytes(save(tensors, told))

    return act


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(change(path.read_bytes())) and None


DAMAGES = {
    "empty": (_bytes(lambda raw: b""), "no sound"),
    "cut": (_bytes(lambda raw: raw[:-3]), "no sound"),
    "a bit": (_bytes(lambda raw: raw[:-9] + bytes([raw[-9] ^ 4]) + raw[-8:]), "is damaged"),
    "longer": (_bytes(lambda raw: raw + b"\0" * 4), "no sound"),
    "a pickle": (_bytes(lambda raw: pickle.dumps({"key": [1]})), "no sound"),
    "a claim": (_bytes(lambda raw: struct.pack("<Q", 2**60) + raw[8:]), "no sound"),
    "huge": (lambda path: os.truncate(path, 2**40), "more than scores of"),
    "format": (_rewritten(lambda tensors, told: told.update(format="2")), "has format 2, this version writes 1"),
    "nothing told": (_rewritten(lambda tensors, told: told.clear()), "has format none"),
    "one tensor": (_rewritten(lambda tensors, told: tensors.update(score=tensors["score"][:2])), "no scores"),
    "kinds": (_rewritten(lambda tensors, told: tensors.update(score=tensors["score"].astype("f8"))), "no scores"),
    "not rising": (
        _rewritten(
            lambda tensors, told: (tensors.update(key=tensors["key"][::-1].copy()), told.update(content="right"))
        ),
        "is damaged",
    ),
    "infinite": (
        _rewritten(lambda tensors, told: (tensors["score"].fill(np.inf), told.update(content="right"))),
        "is damaged",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_crafted_files_are_as_good_as_none(shard: Path, damage: str) -> None:
    held = ShardScores(shard, SHARP)
    act, said = DAMAGES[damage]
    act(held.path)
    tracemalloc.start()
    found = held.read(np.array([1, 2]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not found.known.any() and said in found.problem and str(held.path) in found.problem
    assert peak < 2**20
    held.write(np.array([1, 2]), np.float32([1, 2]))
    assert held.read(np.array([1, 2])).scores.tolist() == [1, 2], "written anew"


def test_parts_are_read_together_and_go_into_the_file(shard: Path) -> None:
    held = ShardScores(shard, SHARP)
    held.write_part("0-a", np.array([9, 4]), np.float32([91, 40]))
    held.write_part("0-a", np.array([9, 4, 5]), np.float32([91, 40, 51]))
    broken = held.write_part("1-b", np.array([3]), np.float32([31]))
    broken.write_bytes(b"half")
    ShardScores(shard, NET).write_part("0-a", np.array([2]), np.float32([22]))
    assert len(held.parts()) == 2
    found = held.read_parts(np.array([2, 3, 4, 5]))
    assert found.known.tolist() == [False, False, True, True] and found.scores[2:].tolist() == [40, 51]
    assert held.read(np.array([4])).problem, "a part is no sidecar"
    held.write(np.array([1]), np.float32([11]))
    assert held.parts() == [] and len(ShardScores(shard, NET).parts()) == 1
    whole = held.read(np.array([1, 2, 3, 4, 5, 9]))
    assert whole.scores.tolist() == [11, 20, 30, 40, 51, 91], "what is given, then parts, then the file"


def test_a_folder_that_takes_nothing_is_told_by_name(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = ShardScores(shard, SHARP)
    held.check_writable()
    before = sorted(shard.parent.iterdir())
    monkeypatch.setattr(Path, "open", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(OSError, match=r"x\.scores\.sharpness-"):
        held.check_writable()
    assert sorted(shard.parent.iterdir()) == before
