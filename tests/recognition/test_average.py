"""The running mean of trained weights: its formula, what is evaluated and delivered, resuming; layers that rest."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from recognition import config as settings
from recognition.average import WeightAverage
from recognition.checkpoint import network
from recognition.distributed import World
from recognition.model import assemble
from tests.launch import run_processes
from tests.tiny import nameable
from tests.training import CPU, QUIET, in_a_process, run_trainer, tiny_recipe, train

LORA = ("adapter.name=lora", "optim.average=0.5", "optim.lr=0.01", *QUIET)


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    with nameable():
        yield tiny_recipe(tmp_path)


def test_the_mean_is_that_of_a_loop(recipe):
    model = assemble(settings.load(recipe, ["adapter.name=lora"])).model
    average = WeightAverage(model, 0.9)
    assert all("lora" in name for name in average.tensors)
    parameter = next(p for p in model.backbone.parameters() if p.requires_grad)
    wanted = parameter.detach().double().clone()
    for update in range(1, 6):
        with torch.no_grad():
            parameter.normal_()
        average.follow(update)
        decay = min(0.9, (1 + update) / (10 + update))
        wanted = decay * wanted + (1 - decay) * parameter.detach().double()
    live = parameter.detach().clone()
    with average.shown():
        torch.testing.assert_close(parameter.detach().double(), wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(parameter, live)


def test_statistics_are_averaged_where_they_move(recipe):
    names = {
        n: {*WeightAverage(assemble(settings.load(recipe, [f"adapter.name={n}"])).model, 0.9).tensors}
        for n in ("full", "lora")
    }
    assert "norm.running_mean" in names["full"] and not any("running" in name for name in names["lora"])
    assert not any("num_batches" in name for name in names["full"])


def test_what_is_delivered_is_the_mean_and_a_resumed_run_goes_on_with_it(recipe, world: World):
    common = (*LORA, "schedule.epochs=0.6", "train.save_every_updates=1", "train.keep=0")
    seen = []
    run_trainer(recipe, "run.name=one", *common, world=world, at=lambda trainer: seen.append(trainer.learner.average))
    runs = recipe.parent / "runs"
    delivered = load_file(runs / "one/model/adapter.safetensors")
    assert delivered.keys() == seen[0].tensors.keys()
    assert all(torch.equal(delivered[name], mean) for name, mean in seen[0].tensors.items())
    assert any(not torch.equal(delivered[name], tensor) for name, tensor in seen[0]._live.items())
    checkpoints = runs / "one/checkpoints"
    assert all(torch.equal(delivered[name], tensor) for name, tensor in network(checkpoints / "step_000000003").items())
    run_trainer(recipe, "run.name=two", f"train.resume={checkpoints}/step_000000001", *common, world=world)
    again = load_file(runs / "two/model/adapter.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in delivered.items())


def test_on_two_processes_as_on_one(recipe, world: World):
    common = (*LORA, "schedule.epochs=0.4", "adapter.dropout=0.0")
    train(recipe, "run.name=one", *common, world=world)
    run_processes(2, in_a_process, recipe, ("run.name=two", "data.batch_size=3", *common))
    one, two = (load_file(recipe.parent / f"runs/{name}/model/adapter.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_wrong_decay_is_told(recipe):
    with pytest.raises(ValueError, match=r"optim.average is 1.5; it must lie in \(0, 1\)"):
        WeightAverage(assemble(settings.load(recipe)).model, 1.5)


def test_layers_that_rest_stand_still_with_their_moments(recipe, world: World):
    rules = "schedule.unfreeze=[{'layers': 'blocks.*', 'from_epoch': 0.4}]"  # updates 1, 2 of 4
    moved = []

    def at(trainer) -> None:
        network = trainer.learner.model.backbone
        moved.append({name: p.detach().clone() for name, p in network.named_parameters()})
        states = trainer.learner.optimizer.state
        assert all((p in states) == (trainer.update > 2) for p in network.blocks.parameters() if trainer.update)

    run_trainer(recipe, rules, "schedule.epochs=0.8", *QUIET, world=world, at=at)
    for update, (before, after) in enumerate(itertools.pairwise(moved)):
        for name, value in before.items():
            still = name.startswith("blocks.") and update < 2
            assert torch.equal(after[name], value) == still, (update, name)


def statistics(rank: int, recipe: Path, overrides: tuple[str, ...]) -> dict:
    found = {}

    def at(trainer) -> None:
        if trainer.update == 2:
            trainer.learner.share_statistics()
            found.update({name: t.clone() for name, t in trainer.learner.average.tensors.items()})

    run_trainer(recipe, *overrides, world=World(rank, rank, dist.get_world_size(), CPU), at=at)
    return found


def test_averaged_statistics_are_the_same_on_all_processes(recipe):
    common = ("optim.average=0.5", "data.batch_size=3", "schedule.epochs=0.6", *QUIET)
    one, two = run_processes(2, statistics, recipe, common)
    assert any("running_var" in name for name in one)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_statistics_of_layers_that_rest_stand_still(recipe, world: World):
    rules = "schedule.unfreeze=[{'layers': 'norm', 'from_epoch': 0.4}]"
    seen = []

    def at(trainer) -> None:
        seen.append(trainer.learner.model.backbone.norm.running_var.clone())

    run_trainer(recipe, rules, "schedule.epochs=0.8", *QUIET, world=world, at=at)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[2]) and not torch.equal(seen[2], seen[3])
