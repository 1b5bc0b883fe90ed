import shutil

import pytest

from recognition.checkpoint.folder import Best, complete, newest, path_of, read_best, retire, step_of, tidy
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
    assert read_best(folder, 100) is None
    Best(evaluated=20, step=10, value=0.75, figure="lfw/14/accuracy").write(folder)
    assert read_best(folder, 20) == Best(20, 10, 0.75, "lfw/14/accuracy")
    assert read_best(folder, 15) is None
