import json
import shutil

import pytest

from recognition.checkpoint.folder import (
    Best,
    best_at,
    complete,
    newest,
    path_of,
    read_best,
    read_state,
    recover,
    retire,
    step_of,
    tidy,
)
from recognition.checkpoint.manifest import digest, write_manifest


@pytest.fixture
def folder(tmp_path):
    for step in (5, 10, 15, 20):
        path = path_of(tmp_path, step)
        path.mkdir()
        (path / "state.json").write_text(f'{{"update": {step}}}')
        write_manifest(path, {"state.json": digest(path / "state.json")})
    return tmp_path


def steps(folder):
    return [step_of(path) for path in complete(folder)]


def test_the_newest_has_a_manifest_and_no_dot(folder):
    (folder / "step_000000030").mkdir()
    shutil.copytree(path_of(folder, 20), folder / ".step_000000040")
    assert newest(folder) == path_of(folder, 20) and steps(folder) == [5, 10, 15, 20]
    assert newest(folder / "nowhere") is None


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [(0, None, [5, 10, 15, 20]), (2, None, [15, 20]), (2, 5, [5, 15, 20]), (1, 20, [20]), (9, None, [5, 10, 15, 20])],
)
def test_the_newest_and_the_best_stay(folder, keep, best, left):
    assert retire(folder, keep, best) == ""
    assert steps(folder) == left
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_what_cannot_be_deleted_is_told_and_does_not_look_whole(folder, monkeypatch):
    def fail(path):
        raise PermissionError(13, "not yours", str(path))

    monkeypatch.setattr(shutil, "rmtree", fail)
    said = retire(folder, 3, None)
    assert "step_000000005" in said and "not yours" in said and "by hand" in said
    assert steps(folder) == [10, 15, 20]


def test_a_continued_run_sets_later_checkpoints_aside_and_removes_unfinished_ones(folder):
    (folder / ".step_000000025").mkdir()
    assert [step_of(path) for path in tidy(folder, 10)] == [15, 20]
    assert steps(folder) == [5, 10] and steps(folder / "set_aside_1") == [15, 20]
    assert not (folder / ".step_000000025").exists()
    assert tidy(folder, 10) == []


def test_the_best_is_of_this_past(folder):
    assert best_at(folder, 20, None) is None
    stored = {"evaluated": 15, "step": 5, "value": 0.5, "figure": ""}
    assert best_at(folder, 20, stored) == Best(15, 5, 0.5, "")
    Best(evaluated=20, step=10, value=0.75, figure="lfw/14/accuracy").write(folder)
    assert best_at(folder, 20, stored) == read_best(folder) == Best(20, 10, 0.75, "lfw/14/accuracy")
    assert best_at(folder, 15, stored) == Best(15, 5, 0.5, "")  # the file is of an evaluation that is made again
    shutil.rmtree(path_of(folder, 5))
    assert best_at(folder, 15, stored) is None


@pytest.mark.parametrize("text", ["", "[]", '{"evaluated": 1}', "[" * 99999, '{"value": NaN}'])
def test_a_damaged_best_is_an_error_in_words(folder, text):
    (folder / "best.json").write_text(text)
    with pytest.raises(ValueError, match=r"best\.json is damaged"):
        read_best(folder)


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_a_best_that_is_no_number_is_an_error_in_words(folder, value):
    (folder / "best.json").write_text(f'{{"evaluated": {value}, "step": 1, "value": {value}, "figure": ""}}')
    with pytest.raises(ValueError, match=r"best\.json is damaged"):
        read_best(folder)


def test_a_replacement_that_was_cut_off_is_undone(folder):
    path_of(folder, 20).rename(folder / ".step_000000020.replaced")
    (folder / ".step_000000020").mkdir()
    assert newest(folder) == path_of(folder, 15)
    recover(folder)
    assert newest(folder) == path_of(folder, 20)
    tidy(folder, 20)
    assert steps(folder) == [5, 10, 15, 20]


def test_other_folders_are_left_alone(folder):
    for name in ("step_000000020.bak", "step_12", "step_x"):
        shutil.copytree(path_of(folder, 20), folder / name)
    assert steps(folder) == [5, 10, 15, 20]
    retire(folder, 1, None)
    tidy(folder, 10)
    assert (folder / "step_000000020.bak").is_dir() and (folder / "step_12").is_dir()


GOOD = {
    "update": 20, "position": 120, "global_batch": 6, "world_size": 1, "fingerprint": "f", "base_sha256": "",
    "scaler": {}, "skipped": {"in_a_row": 0, "total": 0}, "train_seconds": 1.5,
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"update": 19}, {"update": True}, {"update": 20.0}, {"position": -1}, {"global_batch": 0},
        {"global_batch": 10**12}, {"global_batch": "6"}, {"fingerprint": None}, {"scaler": []}, {"skipped": {}},
        {"skipped": {"in_a_row": -5, "total": 0}}, {"train_seconds": float("nan")}, {"train_seconds": "1"},
        {"unknown": 1},
    ],
)  # fmt: skip
def test_a_state_with_a_value_that_cannot_be_is_an_error_in_words(folder, change):
    path = path_of(folder, 20) / "state.json"
    path.write_text(json.dumps(GOOD))
    assert read_state(path.parent).global_batch == 6
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(ValueError, match=r"state\.json is no state of a run"):
        read_state(path.parent)
