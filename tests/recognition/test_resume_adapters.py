"""Every adapter's run goes on from a checkpoint bit for bit: what it trains, keeps and draws is in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from adapters import ADAPTERS
from recognition import checkpoint
from recognition.distributed import World
from recognition.weights import write_weights
from tests.small import write_recipe
from tests.tiny import NAMED, nameable
from tests.training import QUIET, Trained, run_trainer

NOISE = {"dropout": 0.2, "jitter": 0.1}  # an adapter's own draws, where it has some


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    with nameable():
        for name, kind in NAMED.items():
            write_weights(tmp_path / f"{name}.safetensors", kind().state_dict(), {})
        yield write_recipe(tmp_path)


def trained(world: World, recipe: Path, adapter: str, *overrides: str) -> Trained:
    """Two updates in all, each saved, on the first tiny backbone that the adapter does not refuse."""
    noise = [f"adapter.{key}={share}" for key, share in NOISE.items() if key in ADAPTERS.defaults(adapter)]
    common = ("optim.name=adamw", "schedule.epochs=0.4", "train.save_every_updates=1", "train.async_save=False", *QUIET)
    refused = []
    for name in NAMED:
        base = (f"backbone.name={name}", f"backbone.weights={recipe.with_name(f'{name}.safetensors')}")
        settings = (*common, *base, f"adapter.name={adapter}", *noise, *overrides)
        try:
            return run_trainer(recipe, *settings, world=world)
        except ValueError as error:
            refused.append(error)
    raise AssertionError(refused)


@pytest.mark.parametrize("adapter", ADAPTERS.names())
def test_two_updates_are_one_saved_and_one_more(world: World, recipe: Path, adapter: str) -> None:
    straight = trained(world, recipe, adapter, "run.name=straight")
    half = checkpoint.path_of(recipe.parent / "runs" / "straight" / "checkpoints", 1)
    resumed = trained(world, recipe, adapter, "run.name=resumed", f"train.resume={half}")
    assert sorted(straight.keys) == [1, 2] and sorted(resumed.keys) == [2]
    assert resumed.keys[2] == straight.keys[2] and resumed.losses[2] == straight.losses[2]
    kept = [name for name in straight.optimizer if not name.startswith("classifier.")]
    assert kept, "something of the network was trained"
    for one, two in ((straight.tensors, resumed.tensors), (straight.optimizer, resumed.optimizer)):
        assert one.keys() == two.keys()
        differ = [name for name in one if not torch.equal(one[name], two[name]) and "num_batches" not in name]
        assert not differ, differ
