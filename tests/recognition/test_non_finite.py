"""What is not finite reaches no weight, on any process."""

import json

import pytest
import torch
import torch.distributed as dist

from recognition import checkpoint
from recognition import config as settings
from recognition.distributed import World
from recognition.trainer import Trainer
from tests.launch import run_processes
from tests.tiny import nameable
from tests.training import CPU, QUIET, run_trainer, tiny_recipe

COMMON = ("optim.name=sgd", "optim.lr=0.01", "schedule.epochs=1.0", "train.log_every=1", *QUIET)


@pytest.fixture
def recipe(tmp_path):
    with nameable():
        yield tiny_recipe(tmp_path)


def state_of(trainer):
    model, classifier, optimizer = trainer.learner.model, trainer.learner.classifier, trainer.learner.optimizer
    found = {name: t.clone() for name, t in (*model.state_dict().items(), *classifier.state_dict().items())}
    for number, kept in enumerate(optimizer.state.values()):
        found |= {f"{number}.{key}": value.clone() for key, value in kept.items() if isinstance(value, torch.Tensor)}
    return found


def spoil_image(trainer):
    """NaN in one image of this process's next batch."""
    kept = trainer.loader.batches

    def spoiled(first):
        for number, batch in enumerate(kept(first)):
            if number == 1:
                batch.image[0] = float("nan")
            yield batch

    trainer.loader.batches = spoiled


def spoil_gradient(trainer):
    """An infinite gradient of this process's class centres at the second update."""
    weight, count = trainer.learner.classifier.weight, [0]

    def hook(gradient):
        count[0] += 1
        return gradient * float("inf") if count[0] == 2 else gradient

    weight.register_hook(hook)


SPOIL = {"image": spoil_image, "gradient": spoil_gradient}


def three_updates(rank, recipe, overrides, what):
    """State before and after each of three updates; the second one is spoiled on process 1 of 2, or on the only one."""
    trainer = Trainer(settings.load(recipe, overrides), World(rank, rank, dist.get_world_size(), CPU))
    if rank == dist.get_world_size() - 1:
        SPOIL[what](trainer)
    batches = trainer.loader.batches(0)
    states = [state_of(trainer)]
    for _ in range(3):
        trainer.train_update(batches)
        states.append(state_of(trainer))
    batches.close()
    counted = trainer.learner.guard.state_dict()
    trainer.close()
    return states, counted


def same(one, two):
    return all(torch.equal(value, two[name]) for name, value in one.items()) and one.keys() == two.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "overrides"),
    [
        ("image", ("adapter.name=full",)),  # batch statistics have taken the NaN in by the time the loss is known
        ("image", ("adapter.name=norms_only", "adapter.alive=True")),
        ("gradient", ("adapter.name=full", "optim.name=adamw")),
        ("image", ("adapter.name=lora", "classifier.sample_rate=0.5")),
        ("gradient", ("adapter.name=lora", "classifier.sample_rate=0.5")),
        ("gradient", ("adapter.name=dual_lora", "train.precision=bf16")),
    ],
)
def test_one_process_alone_makes_all_skip_together(recipe, what, overrides):
    common = (*COMMON, *overrides, "data.batch_size=3")
    (one, counted), (two, _) = run_processes(2, three_updates, recipe, common, what)
    for states in (one, two):
        assert not same(states[0], states[1]) and same(states[1], states[2]) and not same(states[2], states[3])
        assert all(value.isfinite().all() for value in states[3].values())
    assert counted == {"in_a_row": 0, "total": 1}
    trained = [name for name in one[3] if not name.startswith("weight") and one[3][name].shape == two[3][name].shape]
    shared = [name for name in trained if "running" not in name and not name[0].isdigit()]
    assert shared and all(torch.equal(one[3][name], two[3][name]) for name in shared)


def test_a_skipped_update_is_told_with_its_records(recipe, world, capsys):
    def spoil_the_third(trainer):
        if trainer.update == 0:
            weight, count = trainer.learner.classifier.weight, [0]

            def hook(gradient):
                count[0] += 1
                return gradient * float("nan") if count[0] == 3 else gradient

            weight.register_hook(hook)

    found = run_trainer(recipe, *COMMON, "adapter.name=lora", world=world, at=spoil_the_third)
    assert "update 3 is skipped on all processes" in capsys.readouterr().out
    lines = (recipe.parent / "runs" / "small" / "metrics.jsonl").read_text().splitlines()
    skipped = [line for line in map(json.loads, lines) if "skipped" in line]
    assert [line["update"] for line in skipped] == [3] and skipped[0]["keys"] == found.keys[3]
    assert json.loads(lines[-1])["train/skipped_updates"] == 1
    path = checkpoint.newest(recipe.parent / "runs" / "small" / "checkpoints")
    assert json.loads((path / "state.json").read_text())["skipped"] == {"in_a_row": 0, "total": 1}


def test_a_row_of_them_ends_the_run_and_the_checkpoint_before_it_stands(recipe, world):
    def spoil_from_the_third_on(trainer):
        if trainer.update == 2:
            trainer.learner.classifier.weight.register_hook(lambda gradient: gradient * float("nan"))

    overrides = (*COMMON, "adapter.name=lora", "train.non_finite_limit=3", "schedule.epochs=4.0")
    overrides = (*overrides, "train.save_every=0.0", "train.save_every_updates=2")
    said = r"3 updates in a row.*the last one is 5 .*newest checkpoint is .*step_000000002"
    with pytest.raises(RuntimeError, match=said):
        run_trainer(recipe, *overrides, world=world, at=spoil_from_the_third_on)
    run = recipe.parent / "runs" / "small"
    assert [checkpoint.step_of(path) for path in checkpoint.complete(run / "checkpoints")] == [2]


def test_fp16_may_overflow_for_as_long_as_its_scale_shrinks(recipe, world):
    def spoil(trainer):
        if trainer.update == 0:
            trainer.learner.classifier.weight.register_hook(lambda gradient: gradient * float("nan"))

    overrides = (*COMMON, "adapter.name=lora", "train.precision=fp16", "train.non_finite_limit=2", "schedule.epochs=8")
    with pytest.raises(RuntimeError, match=r"16 updates in a row"):  # 65536 halved until it is 1
        run_trainer(recipe, *overrides, world=world, at=spoil)
