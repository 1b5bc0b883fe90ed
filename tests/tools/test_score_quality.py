"""tools/score_quality.py: what it writes and says, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from iqa import SCORERS
from recognition import config as settings
from recognition import distributed, scoring
from recognition.data.records import Records
from recognition.model import assemble
from tests.small import write_records
from tests.tiny import nameable
from tests.training import tiny_recipe
from tools import score_quality as door


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Path]:
    yield write_records(tmp_path / "train", people=4, images=3)
    distributed.stop()


def test_a_set_is_scored_once(records: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["train.device=cpu", "--records", str(records), "--scorer", "sharpness"]
    command += ["--argument", "measure=tenengrad", "log=False"]
    assert door.main([*command, "--check"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("stale   there is no ") and not list(records.parent.glob("*.scores.*"))
    assert door.main(command) == 0
    out = capsys.readouterr().out
    assert "12 images, 12 scored in " in out and "by 1 process(es): " in out and "sharpness (12)" in out
    (path,) = records.parent.glob("*.scores.*")
    assert f"file    {path}" in out
    assert door.main([*command, "--check"]) == 0
    assert capsys.readouterr().out == f"fresh   {path}\n"
    assert door.main(command) == 0 and "12 images, nothing to do" in capsys.readouterr().out
    scorer = SCORERS.create("sharpness", measure="tenengrad", log=False)
    found = scoring.check(
        Records(records), scoring.identify("sharpness", {"measure": "tenengrad", "log": False}, scorer)
    )
    assert found == {path: ""}
    path.write_bytes(path.read_bytes()[:-1])
    assert door.main(command) == 0
    assert f"stale   {path} is no sound .safetensors file" in capsys.readouterr().out
    assert door.main(["--records", str(records), "--scorer", "several", "train.device=cpu"]) == 0
    assert "several 2 (12)" in capsys.readouterr().out


def test_a_recipe_s_files_are_those_that_its_training_takes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The scorer looks through the base, which the tool makes without the adapter."""
    own = ["adapter.name=dual_lora", "adapter.rank=2", "scorer.name=feature_norm"]
    with nameable():
        recipe = tiny_recipe(tmp_path)
        assert door.main([str(recipe), *own]) == 0
        scorer = assemble(settings.load(recipe, own)).model.scorer
        identity = scoring.identify("feature_norm", {}, scorer)
        assert [*scoring.check(Records(tmp_path / "train.rec"), identity).values()] == [""]
        assert door.main([str(recipe), *own, "backbone.weights="]) == 2
        assert "looks through the recognition model: name a recipe with backbone.weights" in capsys.readouterr().err
        assert door.main([str(recipe), "scorer.name=oracle"]) == 2
        assert "scores of 'oracle' cannot be kept: it needs the level" in capsys.readouterr().err
        assert door.main([str(recipe), "scorer.nam=x"]) == 2


def test_an_interruption_is_told(records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "complete", interrupted)
    assert door.main(["--records", str(records), "--scorer", "sharpness", "train.device=cpu"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ([], "name a recipe, or give --records and --scorer"),
        (["--records", "x"], "--records and --scorer go together"),
        (["x.py", "--argument", "a=1"], "--argument with them"),
        (["x.py", "--threads", "0"], "--threads is 0"),
    ],
)
def test_command_lines_that_cannot_be(command: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        door.parse(command)
    assert said in capsys.readouterr().err


def test_files_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for command in (["--records", str(tmp_path / "x"), "--scorer", "sharpness"], [str(tmp_path / "x.py")]):
        assert door.main(command) == 2
        assert "x" in capsys.readouterr().err
