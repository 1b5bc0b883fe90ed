"""When a run saves, what it keeps, and what it does when it cannot."""

import json
import os
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file

from recognition import checkpoint, distributed
from recognition import config as settings
from recognition.checkpoint import SaveError
from recognition.runs import load_run
from recognition.trainer import Trainer
from recognition.weights import write_weights
from tests.disk import fill, small_disk
from tests.tiny import nameable
from tests.training import QUIET, run_trainer, tiny_recipe, train

LORA = ("adapter.name=lora", "optim.name=sgd", "optim.lr=0.01")


@pytest.fixture
def recipe(tmp_path):
    with nameable():
        yield tiny_recipe(tmp_path)


@pytest.fixture
def world():  # for one test alone: others here start a group of their own
    yield distributed.start("cpu")
    distributed.stop()


def steps(recipe, name="small"):
    return [checkpoint.step_of(path) for path in checkpoint.complete(recipe.parent / "runs" / name / "checkpoints")]


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (("train.save_every=0.4",), [2, 4, 6, 8, 10]),  # 5 updates an epoch
        (("train.save_every=0.0", "train.save_every_updates=3"), [3, 6, 9, 10]),
        (("train.save_every=0.0",), [10]),
        (("train.save_every=1.0", "train.save_every_updates=4"), [4, 5, 8, 10]),
    ],
)
def test_saves_come_by_epochs_and_by_updates(recipe, overrides, wanted):
    train(recipe, *LORA, "schedule.epochs=2.0", "train.keep=0", *overrides, *QUIET)
    assert steps(recipe) == wanted


def test_saves_come_by_time(recipe, world, monkeypatch):
    passed = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: passed[0])

    def a_minute_later(trainer):
        passed[0] += 60

    overrides = ("train.save_every=0.0", "train.save_every_minutes=3.5", "train.keep=0", "schedule.epochs=2.0")
    run_trainer(recipe, *LORA, *overrides, *QUIET, world=world, at=a_minute_later)
    assert steps(recipe) == [4, 8, 10]


def test_the_newest_stay_and_the_best_one(recipe, monkeypatch):
    import recognition.evaluations as engine

    figures = iter([0.5, 0.9, 0.7, 0.8, 0.6])
    monkeypatch.setattr(engine, "headline", lambda results, figure: next(figures))
    train(recipe, *LORA, "schedule.epochs=5.0", "evaluation.every=1.0", "evaluation.at_start=False", "train.keep=2")
    assert steps(recipe) == [10, 20, 25]
    best = json.loads((recipe.parent / "runs" / "small" / "checkpoints" / "best.json").read_text())
    assert best == {"evaluated": 25, "step": 10, "value": 0.9, "figure": ""}


def test_a_better_evaluation_between_saves_makes_a_checkpoint(recipe, monkeypatch):
    import recognition.evaluations as engine

    figures = iter([0.5, 0.9, 0.7, 0.8])
    monkeypatch.setattr(engine, "headline", lambda results, figure: next(figures))
    overrides = ("evaluation.every=0.4", "evaluation.at_start=False", "train.save_every=0.0", "schedule.epochs=1.6")
    train(recipe, *LORA, *overrides, "train.keep=1")
    assert steps(recipe) == [4, 8]


def test_the_figure_to_keep_is_named(recipe):
    overrides = ("schedule.epochs=0.4", "evaluation.at_start=False")
    train(recipe, *LORA, *overrides, "evaluation.best=small/14/accuracy")
    run = recipe.parent / "runs" / "small"
    best = json.loads((run / "checkpoints" / "best.json").read_text())
    results = json.loads((run / "report" / "after" / "results.json").read_text())
    assert best["value"] == results["sets"]["small"]["parts"]["14"]["accuracy"]["value"] and best["step"] == 2
    with pytest.raises(ValueError, match=r"evaluation\.best.*did you mean 'small/14/accuracy'"):
        train(recipe, *LORA, *overrides, "evaluation.best=small/14/acuracy", "run.name=wrong")


def test_an_evaluation_that_was_cut_off_is_made_again(recipe, world, monkeypatch):
    import recognition.evaluations as engine

    overrides = (*LORA, "schedule.epochs=2.0", "evaluation.every=1.0", "evaluation.at_start=False")
    made, kept = [], engine.evaluate

    def evaluate(*arguments, **named):
        made.append(1)
        if len(made) == 1:
            raise KeyboardInterrupt
        return kept(*arguments, **named)

    monkeypatch.setattr(engine, "evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        run_trainer(recipe, *overrides, world=world)
    run_trainer(recipe, *overrides, world=world)
    assert len(made) == 3  # cut off, again, at the end
    lines = (recipe.parent / "runs" / "small" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines if "during/small/112/accuracy" in line] == [5]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_full_disk_does_not_stop_a_run_and_loses_nothing(recipe, tmp_path, capsys, asynchronous):
    common = (*LORA, "schedule.epochs=4.0", "train.save_every=0.0", "train.save_every_updates=2", "train.log_every=1")
    common = (*common, f"train.async_save={asynchronous}", "evaluation.every=1.0", "evaluation.at_start=False")
    straight, losses = train(recipe, *common, "run.name=straight")
    with small_disk(tmp_path / "disk", "4m") as disk:

        def fill_and_free(trainer):
            if trainer.update == 5:
                trainer.keeper.wait()
                fill(disk, leave=8192)
            if trainer.update == 15:
                (disk / "ballast").unlink()

        world = distributed.start("cpu")
        found = run_trainer(recipe, *common, "run.name=full", f"run.root={disk}", world=world, at=fill_and_free)
        distributed.stop()
        run = disk / "full"
        for path in checkpoint.complete(run / "checkpoints"):
            checkpoint.manifest.verify(path)
        assert steps_in(run)[-2:] == [18, 20]
        assert (run / "model" / "adapter.safetensors").is_file()
    said = capsys.readouterr().out
    assert "WARNING: no checkpoint of update 8: " in said and "No space left on device" in said
    assert "step_000000005" in said  # what stands meanwhile
    assert all(torch.equal(value, found.tensors[name]) for name, value in straight.items() if "num_batch" not in name)
    assert found.losses.items() <= losses.items() and 20 in found.losses


def steps_in(run):
    return [checkpoint.step_of(path) for path in checkpoint.complete(run / "checkpoints")]


def test_a_run_may_be_told_to_stop_where_it_cannot_save(recipe, tmp_path):
    common = (*LORA, "schedule.epochs=4.0", "train.save_every=0.0", "train.save_every_updates=2", *QUIET)
    with small_disk(tmp_path / "disk", "4m") as disk:

        def fill_it(trainer):
            if trainer.update == 5:
                trainer.keeper.wait()
                fill(disk)

        world = distributed.start("cpu")
        overrides = (*common, f"run.root={disk}", "train.on_save_error=stop")
        with pytest.raises(SaveError, match=r"train\.on_save_error=stop"):
            run_trainer(recipe, *overrides, world=world, at=fill_it)
        distributed.stop()
        (disk / "ballast").unlink()
        assert steps_in(disk / "small") == [2, 4]
        _, losses = train(recipe, *overrides)
        assert max(losses) == 20


def test_strict_kernels_are_asked_for_and_given_back(recipe, tmp_path):
    common = (*LORA, "schedule.epochs=0.4", "train.deterministic=True", "classifier.sample_rate=0.5", *QUIET)
    found = []
    for name in ("one", "two"):
        world = distributed.start("cpu", deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
        found.append(run_trainer(recipe, *common, f"run.name={name}", world=world))
        distributed.stop()
        assert not torch.are_deterministic_algorithms_enabled()
    assert all(torch.equal(value, found[1].tensors[name]) for name, value in found[0].tensors.items())


def test_a_checkpoint_holds_the_whole_state(recipe, world):
    config = settings.load(recipe, [*LORA, "schedule.epochs=0.4", "optim.accumulate=2", *QUIET])
    trainer = Trainer(config, world)
    trainer.train()
    path = checkpoint.newest(trainer.run / "checkpoints")
    state = json.loads((path / "state.json").read_text())
    assert state["update"] == 1 and state["position"] == 12 and state["global_batch"] == 6
    assert state["world_size"] == 1 and len(state["fingerprint"]) == 64 and state["train_seconds"] > 0
    assert state["skipped"] == {"in_a_row": 0, "total": 0} and "scaler" in state
    saved = json.loads((trainer.run / "config.json").read_text())
    assert saved["optim"]["accumulate"] == 2 and os.path.isfile(path / "manifest.json")
    trainer.close()
    del trainer


def test_a_checkpoint_can_be_used_as_a_model_before_the_run_has_ended(recipe):
    overrides = ("adapter.name=dual_lora", "schedule.epochs=0.6", "train.save_every_updates=1", "train.keep=0")
    found, _ = train(recipe, *overrides, "evaluation.at_start=False")
    run = recipe.parent / "runs" / "small"
    shutil.rmtree(run / "model")
    for path, same in ((run / "checkpoints" / "step_000000003", True), (run / "checkpoints" / "step_000000001", False)):
        held = load_run(path).state_dict()
        names = [name for name in held if "lora" in name]
        assert names and all(torch.equal(held[name], found[name]) for name in names) == same
    best = load_run(run / "checkpoints" / "best").state_dict()  # the only evaluation was the one at the end
    assert all(torch.equal(value, found[name]) for name, value in best.items())
    with pytest.raises(FileNotFoundError, match="name one of its checkpoints"):
        load_run(run)
    (run / "checkpoints" / "best.json").unlink()
    with pytest.raises(FileNotFoundError, match="no best checkpoint"):
        load_run(run / "checkpoints" / "best")
    damaged = run / "checkpoints" / "step_000000001" / "state.json"
    damaged.write_text(damaged.read_text().replace("1", "2"))
    with pytest.raises(checkpoint.DamagedError, match=r"state\.json"):
        load_run(damaged.parent)


def test_other_base_weights_are_not_continued(recipe):
    overrides = ("adapter.name=lora", "schedule.epochs=0.4", *QUIET)
    train(recipe, *overrides)
    path = recipe.parent / "base.safetensors"
    tensors = load_file(path)
    tensors["stem.weight"] += 0.1
    write_weights(path, tensors, {})
    with pytest.raises(ValueError, match=r"base\.safetensors is now \(SHA-256 differs\)"):
        train(recipe, *overrides)
    with pytest.raises(ValueError, match="SHA-256 differs"):
        load_run(checkpoint.newest(recipe.parent / "runs" / "small" / "checkpoints"))
