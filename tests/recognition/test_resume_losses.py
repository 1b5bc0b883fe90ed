"""Runs with margins and objectives go on from a checkpoint bit for bit, and on other numbers of processes as before.

What they hold, statistics and weights, is in it, and stands still in an update that is skipped.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from recognition import checkpoint
from recognition import config as settings
from recognition.data.landmarks import write_landmarks
from recognition.distributed import World
from recognition.margins import MARGINS
from recognition.objectives import OBJECTIVES
from recognition.trainer import Trainer
from recognition.types import Batch
from tests.launch import run_groups
from tests.tiny import nameable
from tests.training import CPU, QUIET, Trained, relative, run_trainer, tiny_recipe

HELD = ("classifier.margin.", "classifier.objectives.")  # statistics and weights of the losses
DEGRADED = ("degradation.share=0.5", "degradation.sides=[7, 14]")
UPDATES = ("optim.accumulate=2", "optim.lr=0.001", "train.async_save=False", "train.save_every=0.0", *DEGRADED, *QUIET)
BALANCED = ("data.sampling=balanced", "data.per_class=2")
ARGUMENTS = {  # beside the defaults, or in their place
    "derivenet": {"side": 8, "hidden": [16]},
    "distill": {"of": "both", "relational": 1.0},
    "index_diversion": {"side": 14, "reach": 2.0},
    "supcon": {"twins": True},
    "topology": {"weight": 0.1},
}
OF_MARGIN = {  # what its statistics may depend on
    "adaface": ("classifier.twins=True",),
    "curricularface": ("classifier.sample_rate=0.5",),
    "hard_samples": ("margin.of=adaface",),
    "quality_margin": ("gate.fit=roles",),
}


def objectives(*names: str) -> str:
    """The setting that chooses these objectives, for the tiny network's embeddings."""
    width = {name: {"embedding_size": 12} for name in names if "embedding_size" in OBJECTIVES.defaults(name)}
    chosen = [{"name": name, "weight": 1.0} | width.get(name, {}) | ARGUMENTS.get(name, {}) for name in names]
    return f"objectives={chosen!r}"


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    with nameable():
        path = tiny_recipe(tmp_path)
        landmarks = np.tile(np.float32([[38, 50], [74, 50], [56, 70], [42, 90], [70, 90]]), (30, 1, 1))
        write_landmarks(path.with_name("train.rec"), range(30), landmarks)
        yield path


def saved_after_one(trainer: Trainer) -> None:
    if trainer.update == 1:
        trainer.save()


def stored(recipe: Path, run: str, update: int) -> dict[str, Tensor]:
    """Tensors of a checkpoint on one process by name, but for generators."""
    found = {}
    for file in checkpoint.path_of(recipe.parent / "runs" / run / "checkpoints", update).glob("*.safetensors"):
        found |= load_file(file)
    return {name: value for name, value in found.items() if not name.startswith("random.")}


def assert_same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    differ = [name for name in one if not torch.equal(one[name], two[name]) and "num_batches" not in name]
    assert not differ, differ


def three_are_one_saved_and_two_more(recipe: Path, world: World, *overrides: str) -> dict[str, Tensor]:
    """Asserts it of a run of three updates. Returns the tensors of the checkpoint after the first one."""
    common = (*UPDATES, *overrides)
    straight = run_trainer(recipe, "run.name=straight", *common, world=world, at=saved_after_one)
    half = checkpoint.path_of(recipe.parent / "runs" / "straight" / "checkpoints", 1)
    resumed = run_trainer(recipe, "run.name=resumed", f"train.resume={half}", *common, world=world)
    assert sorted(straight.keys) == [1, 2, 3] and sorted(resumed.keys) == [2, 3]
    for update in (2, 3):
        assert resumed.keys[update] == straight.keys[update]
        assert math.isfinite(straight.losses[update]) and resumed.losses[update] == straight.losses[update]
    assert_same(straight.tensors, resumed.tensors)
    assert_same(straight.optimizer, resumed.optimizer)
    assert_same(stored(recipe, "straight", 3), stored(recipe, "resumed", 3))
    before = stored(recipe, "straight", 1)
    held = [name for name in straight.tensors if name.startswith(HELD)]
    still = [name for name in held if torch.equal(before[name], straight.tensors[name])]
    assert not still, f"moved in no update, so that nothing is shown of {still}"
    return before


@pytest.mark.parametrize("name", MARGINS.names())
def test_a_margin_goes_on(name: str, recipe: Path, world: World) -> None:
    chosen = (f"margin.name={name}", "schedule.epochs=1.2", *OF_MARGIN.get(name, ()))
    three_are_one_saved_and_two_more(recipe, world, *chosen)


def test_all_objectives_go_on_with_averaged_weights_and_layers_that_rest(recipe: Path, world: World) -> None:
    rules = "schedule.unfreeze=[{'layers': 'blocks.*', 'from_epoch': 0.67}]"  # until update 3
    chosen = (objectives(*OBJECTIVES.names()), "margin.name=adaface", "optim.average=0.5", rules)
    half = three_are_one_saved_and_two_more(recipe, world, *chosen, *BALANCED, "schedule.epochs=1.0")
    end = stored(recipe, "straight", 3)
    name = "blocks.0.mlp.0.weight"
    assert f"optimizer.model.backbone.{name}.exp_avg" in end
    assert f"optimizer.model.backbone.{name}.exp_avg" not in half  # it rested when that was written
    assert not torch.equal(end[f"average.{name}"], end[f"network.{name}"])


def going_on(rank: int, processes: int, recipe: Path) -> Trained:
    """The run on one process, and its checkpoint on others."""
    chosen = ("margin.name=adaface", objectives("index_diversion", "derivenet", "distill"), "data.batch_size=7")
    steady = ("adapter.name=lora", "adapter.dropout=0.0", "optim.name=sgd", "optim.lr=0.01", "schedule.epochs=1.4")
    straight = recipe.parent / "runs" / "straight" / "checkpoints"
    where = ("run.name=straight",)
    if processes > 1:
        where = (f"run.name=on_{processes}", f"train.resume={checkpoint.path_of(straight, 1)}")
    world = World(rank, rank, processes, CPU)
    return run_trainer(recipe, *UPDATES, *chosen, *steady, *where, world=world, at=saved_after_one)


def test_losses_go_on_where_processes_have_uneven_rows(recipe: Path) -> None:
    found = run_groups((1, 2, 3), partial(going_on, recipe=recipe))
    (straight,) = found[1]
    assert sorted(straight.keys) == [1, 2, 3]
    before = stored(recipe, "straight", 1)
    held = [name for name in straight.tensors if name.startswith(HELD)]
    assert len(held) == 7, held  # of adaface 2, of index_diversion 1, of derivenet 2 x 2
    assert not any(torch.equal(before[name], straight.tensors[name]) for name in held)
    assert any(name.startswith("classifier.objectives.") for name in straight.optimizer)
    for processes in (2, 3):
        main = found[processes][0]
        assert len({len(one.keys[2]) for one in found[processes]}) == 2  # 4 + 3 twice, 3 + 2 + 2 twice
        assert main.losses == pytest.approx({update: straight.losses[update] for update in (2, 3)}, rel=1e-4)
        for kind in ("tensors", "optimizer"):
            wanted, whole = getattr(straight, kind), dict(getattr(main, kind))
            assert wanted.keys() == whole.keys()
            for name in whole:
                parts = [getattr(one, kind)[name] for one in found[processes]]
                if name.startswith("classifier.weight"):
                    whole[name] = torch.cat(parts)
                else:
                    assert all(torch.equal(part, whole[name]) for part in parts), (processes, name)
                assert relative(whole[name].float(), wanted[name].float()) < 1e-3, (processes, name)


def state_of(trainer: Trainer) -> dict[str, Tensor]:
    learner = trainer.learner
    found = {f"model.{name}": t.clone() for name, t in learner.model.state_dict().items()}
    found |= {f"classifier.{name}": t.clone() for name, t in learner.classifier.state_dict().items()}
    for number, kept in enumerate(learner.optimizer.state.values()):
        found |= {f"{number}.{key}": value.clone() for key, value in kept.items() if isinstance(value, Tensor)}
    return found


def spoiled_picture(batches: Iterator[Batch], trainer: Trainer) -> Iterator[Batch]:
    """NaN in a picture of the second half of the second update."""
    for number, batch in enumerate(batches):
        if number == 3:
            batch.image[0] = math.nan
        yield batch


def spoiled_gradient(batches: Iterator[Batch], trainer: Trainer) -> Iterator[Batch]:
    """An infinite gradient of the class centres there: statistics have moved, and are finite."""
    for number, batch in enumerate(batches):
        if number == 3:
            handle = trainer.learner.classifier.weight.register_hook(lambda gradient: gradient * math.inf)
        if number == 4:
            handle.remove()
        yield batch


@pytest.mark.parametrize("spoiled", [spoiled_picture, spoiled_gradient])
@pytest.mark.parametrize("margin", ["adaface", "curricularface", "hard_samples"])
def test_a_skipped_update_leaves_statistics_as_they_were(margin, spoiled, recipe: Path, world: World) -> None:
    chosen = (f"margin.name={margin}", objectives("index_diversion", "derivenet"), *OF_MARGIN.get(margin, ()))
    trainer = Trainer(settings.load(recipe, (*UPDATES, *chosen, *BALANCED)), world)
    skip, moved = trainer.learner.skip, []
    trainer.learner.skip = lambda: (moved.append(state_of(trainer)), skip())
    with contextlib.closing(spoiled(trainer.loader.batches(0), trainer)) as batches:
        states = [state_of(trainer)]
        for _ in range(3):
            trainer.train_update(batches)
            states.append(state_of(trainer))
    buffers = {f"classifier.{name}" for name, _ in trainer.learner.classifier.named_buffers()}
    trainer.close()
    assert len(moved) == 1 and sum(name.startswith(HELD) for name in buffers) >= 2
    assert_same(states[1], states[2])
    for number, (one, two) in enumerate([states[:2], [states[1], moved[0]], states[2:]]):
        assert not [name for name in buffers if name.startswith(HELD) and torch.equal(one[name], two[name])], number
    assert all(value.isfinite().all() for value in states[3].values())
    assert not any(torch.equal(states[2][name], states[3][name]) for name in states[3] if "decoder" in name)


def gradients(recipe: Path, world: World, *overrides: str) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """Of one update of a dual LoRA that is no identity; the tensors after it; what octuplet gave."""
    chosen = ("adapter.name=dual_lora", "adapter.dropout=0.2", objectives("octuplet"), "data.per_class=2")
    common = ("run.name=g", *DEGRADED, *QUIET, *chosen, "data.sampling=balanced", "optim.lr=0.001")
    trainer = Trainer(settings.load(recipe, (*common, *overrides)), world)
    learner, found, values = trainer.learner, {}, []
    generator = torch.Generator().manual_seed(1)
    for name, parameter in learner.model.named_parameters():
        if "lora_b" in name and parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    learner.losses.objectives[0].register_forward_hook(lambda module, given, loss: values.append(loss.item()))
    step = learner.step

    def look(update: int) -> None:
        named = (*learner.model.named_parameters(), *learner.classifier.named_parameters())
        found.update({name: p.grad.clone() for name, p in named if p.grad is not None})
        step(update)

    learner.step = look
    with contextlib.closing(trainer.loader.batches(0)) as batches:
        trainer.train_update(batches)
    kinds = {type(block).__name__ for block in learner.model.backbone.blocks}
    assert kinds == {"CheckpointedBlock" if "train.checkpoint_activations=True" in overrides else "Block"}
    after = state_of(trainer)
    trainer.close()
    (value,) = values
    return found, after, value


def test_views_with_recomputed_blocks_and_in_bf16(recipe: Path, world: World) -> None:
    recomputed, half = "train.checkpoint_activations=True", "train.precision=bf16"
    wanted, after, value = gradients(recipe, world)
    assert value > 0 and len(wanted) > 4 and all(gradient.any() for gradient in wanted.values())
    found, again, same = gradients(recipe, world, recomputed)
    assert same == value and found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-6 * gradient.abs().max().item(), msg=name)
    assert_same(after, again)
    rough = [gradients(recipe, world, half, *more) for more in ((), (recomputed,))]
    for found, after, value in rough:
        assert found.keys() == wanted.keys() and 0 < value < math.inf
        assert all(tensor.isfinite().all() for tensor in (*found.values(), *after.values()))
        assert any(not torch.equal(found[name], gradient) for name, gradient in wanted.items())
    assert_same(rough[0][0], rough[1][0])
