"""Evaluations during training: as often as the recipe says, and never for more than their share of the wall time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from unittest import mock

import pytest

from recognition import checkpoint, delivery, distributed, evaluations
from recognition import config as settings
from recognition.answers.thresholds import read_thresholds
from recognition.distributed import World
from recognition.evaluations import Pace
from recognition.keeper import Keeper
from recognition.types import IMAGE_SIZE
from recognition.weights import sha256
from tests.launch import run_processes
from tests.tiny import nameable
from tests.training import run_trainer, tiny_recipe

COMMON = ("adapter.name=lora", "train.save_every=0.0", "evaluation.bootstrap=0", "evaluation.every=0.4")


def test_the_share_is_kept_whatever_an_evaluation_costs() -> None:
    pace = Pace(0.1)
    pace.took(5.0, during=False)  # the one before training tells what one costs
    trained, made = 0.0, []
    for _ in range(1000):
        trained += 1.0
        pace.owed = True
        if pace.fits(trained):
            made.append(trained)
            pace.took(5.0 if len(made) % 2 else 8.0, during=True)
            assert pace.seconds <= 0.1 * (trained + pace.seconds) + 3.0  # the last one may take longer than thought
    assert made[0] == 45.0  # 5 of 50 seconds
    assert len(made) > 10 and pace.seconds == pytest.approx(0.1 * (trained + pace.seconds), abs=8)


def test_one_that_is_put_off_is_told_once_and_stays_due() -> None:
    pace, said = Pace(0.02), []
    pace.took(3.0, during=False)
    pace.put_off(said.append, 7)
    pace.put_off(said.append, 9)
    assert pace.owed and len(said) == 1
    assert "due at update 7 is put off" in said[0] and "after 147 s" in said[0]
    assert not pace.fits(146.9) and pace.fits(147.1)
    again = Pace(0.02)
    again.load_state_dict(json.loads(json.dumps(pace.state_dict())))
    assert again.owed and again.cost == 3.0 and again.seconds == 0.0


@pytest.mark.parametrize("budget", [0.0, -1.0, 1.5])
def test_a_budget_is_a_share(budget: float) -> None:
    with pytest.raises(ValueError, match=r"evaluation\.budget is .* in \(0, 1\]"):
        Pace(budget)


def _train(recipe: Path, world: World, *overrides: str) -> tuple[list[int], list[str]]:
    """Updates after which an evaluation was made, and what the run said."""
    made, said = [], []
    run = evaluations.Evaluations.run

    def listening(self, trainer, when):
        kept = trainer.logs.say
        trainer.logs.say = lambda text: (said.append(text), kept(text))
        if when == "during":
            made.append(trainer.update)
        run(self, trainer, when)
        trainer.logs.say = kept

    put_off = Pace.put_off
    with (
        mock.patch.object(evaluations.Evaluations, "run", listening),
        mock.patch.object(Pace, "put_off", lambda self, say, n: put_off(self, lambda t: (said.append(t), say(t)), n)),
    ):
        run_trainer(recipe, *COMMON, *overrides, world=world)
    return made, said


def test_a_run_puts_its_evaluations_off_and_says_so(tmp_path: Path) -> None:
    with nameable():
        recipe, world = tiny_recipe(tmp_path), distributed.start("cpu")
        free, _ = _train(recipe, world, "run.name=free", "schedule.epochs=2.0")
        late, said = _train(recipe, world, "run.name=late", "schedule.epochs=2.0", "evaluation.budget=0.02")
        distributed.stop()
    assert free == [2, 4, 6, 8] and late == []
    assert sum("put off" in text and "evaluation.budget=0.02" in text for text in said) == 1
    state = checkpoint.read_state(checkpoint.newest(tmp_path / "runs" / "late" / "checkpoints"))
    assert state.evaluation["owed"] and state.evaluation["seconds"] == 0.0 < state.evaluation["cost"]


def _by_two(rank: int, recipe: str) -> list[int]:
    """Processes whose clocks differ widely: the main one's decides, and nobody waits for the other in vain."""
    world, clock = World(rank, 0, 2, distributed.torch.device("cpu")), time.perf_counter
    with mock.patch.object(time, "perf_counter", lambda: clock() * (1 if rank == 0 else 50)):
        overrides = ("schedule.epochs=6.0", "evaluation.budget=0.6", "data.batch_size=3")
        return _train(Path(recipe), world, *overrides)[0]


def test_all_processes_evaluate_at_the_same_updates(tmp_path: Path) -> None:
    with nameable():
        recipe = tiny_recipe(tmp_path)
    first, second = run_processes(2, _by_two, str(recipe))
    assert first == second


def test_a_checkpoint_has_a_card(tmp_path: Path) -> None:
    with nameable():
        recipe, world = tiny_recipe(tmp_path), distributed.start("cpu")
        run_trainer(recipe, *COMMON, "schedule.epochs=0.8", "train.save_every=0.4", "train.keep=0", world=world)
        distributed.stop()
    run = tmp_path / "runs" / "small"
    first, last = checkpoint.complete(run / "checkpoints")
    checkpoint.manifest.verify(last)  # the card is among the files that are sealed
    cards = [json.loads((folder / "adapter.json").read_text()) for folder in (first, last)]
    assert [list(card["results"]) for card in cards] == [["before"], ["before", "during"]]
    assert "thresholds" not in cards[0]  # those of the base are not this model's
    assert cards[1]["thresholds"]["at"] == cards[1]["results"]["during"]["small"]["112"]["thresholds"]
    assert cards[1]["evaluated"] == {"before": 0, "during": 2} and cards[1]["thresholds"]["update"] == 2
    assert "in training, at update 2" in (last / "README.md").read_text()
    assert "at update 2 of training" in read_thresholds(last).choose(0.1).note
    delivered = json.loads((run / "model" / "adapter.json").read_text())
    assert list(delivered["results"]) == ["before", "after"]
    assert delivered["thresholds"]["at"] == delivered["results"]["after"]["small"]["112"]["thresholds"]
    accuracy = cards[0]["results"]["before"]["small"][str(IMAGE_SIZE)]["accuracy"]
    assert 0 <= accuracy["value"] <= 1
    text = (last / "README.md").read_text()
    assert "base, SHA-256 of the file" in text and "## Licence" in text and "small, accuracy" in text


@pytest.mark.filterwarnings("ignore:the model card tells no results of before")
def test_a_card_that_cannot_be_written_costs_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nameable():
        recipe, world = tiny_recipe(tmp_path), distributed.start("cpu")
        base = tmp_path / "base.safetensors"
        was = sha256(base)

        def change(trainer):
            if trainer.update == 1:
                base.write_bytes(base.read_bytes()[:-4] + b"\1\2\3\4")  # another file of that name
                (trainer.run / "report" / "before" / "results.json").write_text("{")
            if trainer.update == 3:
                monkeypatch.setattr(delivery, "card_texts", mock.Mock(side_effect=OSError("no room")))

        overrides = (*COMMON, "schedule.epochs=0.8", "train.save_every=0.4", "train.keep=0", "evaluation.every=0")
        run_trainer(recipe, *overrides, world=world, at=change)
        distributed.stop()
    first, last = checkpoint.complete(tmp_path / "runs" / "small" / "checkpoints")
    cards = [json.loads((folder / "adapter.json").read_text()) for folder in (first, tmp_path / "runs/small/model")]
    assert [card["base_sha256"] for card in cards] == [was, was] and cards[0]["results"] == {}
    assert not (last / "adapter.json").exists()
    assert "WARNING: the checkpoint of update 4 has no model card" in capsys.readouterr().out


def test_what_was_found_later_is_not_told_of_an_earlier_model(tmp_path: Path) -> None:
    common = (*COMMON, "schedule.epochs=1.2", "train.save_every=0.4", "train.keep=0", "train.async_save=False")
    with nameable():
        recipe, world = tiny_recipe(tmp_path), distributed.start("cpu")
        run_trainer(recipe, *common, world=world)
        back = tmp_path / "runs" / "small" / "checkpoints" / "step_000000002"

        def die(trainer):
            if trainer.update == 5:
                assert set(trainer.evaluations.results) == {"before"}
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_trainer(recipe, *common, "evaluation.every=0", f"train.resume={back}", world=world, at=die)
        distributed.stop()
    card = json.loads((back.parent / "step_000000004" / "adapter.json").read_text())
    assert list(card["results"]) == ["before", "during"]  # of update 4, the same again; "after" was of update 6


def test_pictures_that_cannot_be_drawn_cost_no_model(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with nameable():
        recipe, world = tiny_recipe(tmp_path), distributed.start("cpu")

        def spoil(trainer):
            (trainer.run / "logs" / "projector_config.pbtxt").write_text("}{")

        run_trainer(recipe, *COMMON, "schedule.epochs=0.4", world=world, at=spoil, pictures=True)
        distributed.stop()
    run = tmp_path / "runs" / "small"
    assert (run / "model" / "adapter.safetensors").is_file() and (run / "report" / "report.html").is_file()
    assert "the faces of this run is not kept" in capsys.readouterr().out


def test_keeping_the_best_counts_and_no_evaluation_is_made_unasked(tmp_path: Path) -> None:
    with nameable():
        recipe, world = tiny_recipe(tmp_path), distributed.start("cpu")
        compare = Keeper.compare

        def slow(self, *arguments):
            compare(self, *arguments)
            time.sleep(0.3)

        with mock.patch.object(Keeper, "compare", slow):
            run_trainer(recipe, *COMMON, "schedule.epochs=0.8", "train.save_every=0.6", world=world)
        state = checkpoint.read_state(checkpoint.newest(tmp_path / "runs" / "small" / "checkpoints"))
        assert state.evaluation["seconds"] > 0.3
        owed = evaluations.Evaluations(settings.load(recipe, ("evaluation.every=0",)).evaluation, world)
        owed.pace.owed = True
        distributed.stop()
    assert not owed.may_come(1e9)
