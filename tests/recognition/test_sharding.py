"""A backbone in shares of the processes: it learns what DDP learns, in half the memory, and its runs go on anywhere."""

import contextlib
import functools
import io
import signal

import cv2
import numpy as np
import pytest
import torch
from easydict import EasyDict
from safetensors.torch import load_file
from torch import nn

from recognition import checkpoint, plan, sharding
from recognition import config as settings
from recognition.checkpoint import Saver
from recognition.distributed import World, is_share, share, whole
from recognition.evaluation.embed import look_at
from recognition.evaluation.protocol import View
from recognition.trainer import Trainer
from tests.launch import run_groups
from tests.small import photos
from tests.tiny import nameable
from tests.training import CPU, QUIET, relative, run_trainer, tiny_recipe

COMMON = ("optim.name=sgd", "optim.lr=0.01", "data.batch_size=3", "train.log_every=1")
ADAMW = ("optim.name=adamw", "optim.lr=0.002", "optim.average=0.9")
VARIANTS = {
    "full": ("adapter.name=full",),
    "averaged, accumulated": ("optim.average=0.9", "optim.accumulate=2"),
    # full fine-tuning has biases whose gradient is rounding errors, which AdamW makes full steps of
    "lora, adamw": ("adapter.name=lora", *ADAMW),
    "recomputed, unfrozen late": (
        "train.checkpoint_activations=True",
        'schedule.unfreeze=[{"layers": "blocks.0", "from_epoch": 0.4}]',
    ),
    "dual_lora, recomputed": ("adapter.name=dual_lora", "degradation.share=0.5", "train.checkpoint_activations=True"),
    "a gate that learns": ("adapter.name=dual_lora", "gate.shape=learned", "optim.clip=0.5"),
    "moe": ("adapter.name=moe", "adapter.experts=2", "adapter.top_k=1"),
    "gs_lora": ("adapter.name=gs_lora", "adapter.rank=2"),
    "bf16, recomputed": ("adapter.name=lora", "train.precision=bf16", "train.checkpoint_activations=True"),
}
NEAR = {"bf16, recomputed": 2e-2}  # of the largest magnitude; else 1e-4: sums of float32 in another order
CARRIED = {"full": ADAMW, "dual_lora": ("adapter.name=dual_lora", "gate.shape=learned")}  # by checkpoints


def built(recipe, rank, size, kind, *overrides):
    world = World(rank, rank, size, CPU)
    return Trainer(settings.load(recipe, (*COMMON, *QUIET, f"train.sharding={kind}", *overrides)), world)


def updates(trainer, count=3):
    """(loss, gradient norm) of the next updates."""
    found = []
    with contextlib.closing(trainer.loader.batches(trainer.update * trainer.config.optim.accumulate)) as batches:
        for _ in range(count):
            found.append((trainer.train_update(batches).item(), float(trainer.gradient_norm)))
    return found


def state_of(trainer):
    """Whole tensors by name: weights, statistics, running means, what the optimizer keeps."""
    learner = trainer.learner
    found = {name: whole(t.detach()).clone() for name, t in learner.model.state_dict().items()}
    if learner.average is not None:
        found |= {f"average.{name}": whole(t).clone() for name, t in learner.average.tensors.items()}
    for name, p in learner.model.named_parameters():
        for key, value in learner.optimizer.state.get(p, {}).items():
            if isinstance(value, torch.Tensor):
                found[f"{name}.{key}"] = whole(value).clone()
    return found


def held_bytes(trainer):
    """Of the backbone on this process, between two updates: weights, gradients, what the optimizer keeps."""
    learner = trainer.learner
    weights = [*learner.model.backbone.parameters()]
    kept = [v for p in weights for v in learner.optimizer.state.get(p, {}).values() if v.dim()]
    return [sum(share(t).untyped_storage().nbytes() for t in some) for some in (weights, kept)]


def compared(recipe, rank, size):
    found = {}
    for name, overrides in VARIANTS.items():
        for kind in sharding.KINDS:
            trainer = built(recipe, rank, size, kind, *overrides)
            memory = plan.memory_parts(trainer)
            losses = updates(trainer)
            found[name, kind] = losses, state_of(trainer), trainer.learner.report(), held_bytes(trainer), memory
            trainer.close()
    return found


def skipped(recipe, rank, size):
    """State before and after an update in which the second process met a picture that is not finite."""
    trainer = built(recipe, rank, size, "full", *ADAMW)
    updates(trainer, 1)
    kept, before = trainer.loader.batches, state_of(trainer)

    def spoiled(first):
        for batch in kept(first):
            if rank == 1:
                batch.image[0] = float("nan")
            yield batch

    trainer.loader.batches = spoiled
    updates(trainer, 1)
    found = before, state_of(trainer), trainer.learner.guard.total
    trainer.close()
    return found


def looked(recipe, rank, size):
    """Embeddings of five pictures with a share, and whole; single ones timed; what a broken picture comes to."""
    pictures = [cv2.imencode(".png", one)[1].tobytes() for one in photos(5)]
    found = {}
    for kind in sharding.KINDS:
        trainer = built(recipe, rank, size, kind)
        model, view = trainer.learner.model, View(np.arange(5), 56, timed=2)
        world = trainer.world
        found[kind] = look_at(model, pictures, view, world=world, batch_size=1)
        with pytest.raises(ValueError) as raised:
            look_at(model, [*pictures[:3], b"no picture", pictures[4]], view, world=world, batch_size=1)
        found[kind, "broken"] = str(raised.value)
        assert not any(is_share(p) for p in model.parameters()) or all(is_share(p) for p in model.backbone.parameters())
        trainer.close()
    return found


def ran(recipe, rank, size):
    """Whole runs, with evaluations, checkpoints and a delivery, one that changes its kind midway; and a dry run."""
    overrides = (*COMMON, "schedule.epochs=1.0", "optim.average=0.5", "evaluation.every=0.5")
    world = World(rank, rank, size, CPU)
    for kind in sharding.KINDS:
        run_trainer(recipe, *overrides, f"train.sharding={kind}", f"run.name={kind}", world=world)

    def stop(trainer):
        if trainer.update == 2:
            trainer.signals.received = signal.SIGTERM

    mixed = (*overrides, "run.name=mixed")
    assert run_trainer(recipe, *mixed, "train.sharding=full", world=world, at=stop).stopped_by == "SIGTERM"
    assert not run_trainer(recipe, *mixed, world=world).stopped_by
    trainer = built(recipe, rank, size, "full", "run.name=dry")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        fit = trainer.dry_run()
    trainer.close()
    return fit, said.getvalue()


def carried(recipe, rank, size):
    """Two processes write with shares; one reads without and writes; three read with shares what the one wrote."""
    found = {}
    for name, overrides in CARRIED.items():
        folder = recipe.parent / "carried" / name
        trainer = built(recipe, rank, size, "none" if size == 1 else "full", *overrides)
        if size == 2:
            updates(trainer, 2)
            trainer.learner.share_statistics()
            found[name, "written"] = state_of(trainer)
            _save(trainer, folder / "2")
            updates(trainer, 2)
            found[name, "straight"] = state_of(trainer)
            trainer.close()
            trainer = built(recipe, rank, size, "full", *overrides)
        _read(trainer, folder / ("1" if size == 3 else "2"))
        found[name, "read"] = state_of(trainer)
        updates(trainer, 2)
        found[name, "continued"] = state_of(trainer)
        if size == 1:
            _save(trainer, folder / "1")
        trainer.close()
    return found


def _save(trainer, folder):
    learner = trainer.learner
    saver = Saver(folder, keep=0, asynchronous=True)
    saver.save(trainer.update, learner.model, learner.classifier, learner.optimizer, {"update": trainer.update})
    before = [share(p).clone() for p in learner.trained]
    assert saver.wait().path is not None
    assert all(torch.equal(share(p), b) for p, b in zip(learner.trained, before, strict=True))
    saver.close()


def _read(trainer, folder):
    learner, path = trainer.learner, checkpoint.newest(folder)
    checkpoint.check(path)
    checkpoint.read(path, learner.model, learner.classifier, learner.optimizer)
    learner.guard.passed()
    trainer.update = checkpoint.step_of(path)


def in_turn(recipe, rank, size):
    parts = (compared, skipped, looked, ran, carried) if size == 2 else (carried,)
    return {part.__name__: part(recipe, rank, size) for part in parts}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharding")


@pytest.fixture(scope="module")
def found(folder):
    """What groups of two processes, of one and of three found; started once."""
    with nameable():
        return run_groups((2, 1, 3), functools.partial(in_turn, tiny_recipe(folder)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_learns_what_ddp_learns(found, variant):
    near = NEAR.get(variant, 1e-4)
    for of_process in found[2]:
        (ddp, one, told, *_), (shares, two, also, *_) = (of_process["compared"][variant, k] for k in sharding.KINDS)
        for a, b in zip(ddp, shares, strict=True):
            assert a == pytest.approx(b, rel=near)
        assert one.keys() == two.keys() and told.keys() == also.keys()
        largest = {}
        for name, value in one.items():  # a bias in front of batch statistics has no gradient but rounding errors
            kind = name.rpartition(".")[2]
            largest[kind] = max(largest.get(kind, 0.0), value.float().abs().max().item())
        for name, value in one.items():
            difference = (value.float() - two[name].float()).abs().max().item()
            assert difference <= near * largest[name.rpartition(".")[2]], name
        assert told == pytest.approx(also, rel=1e-3)


def test_it_takes_half_of_the_memory(found):
    for variant, most in (("averaged, accumulated", 0.55), ("lora, adamw", 0.55)):
        for of_process in found[2]:
            (*_, ddp, _), (*_, shares, _) = (of_process["compared"][variant, kind] for kind in sharding.KINDS)
            assert all(b <= most * a for a, b in zip(ddp, shares, strict=True))


def test_the_plan_counts_shares_and_activations_alike(found):
    (*_, ddp), (*_, shares) = (found[2][0]["compared"]["full", kind] for kind in sharding.KINDS)
    assert shares["activations"] == ddp["activations"] and 0 < shares["network"] < ddp["network"]


def test_an_update_that_is_not_finite_moves_nothing(found):
    for of_process in found[2]:
        before, after, total = of_process["skipped"]
        assert total == 1 and all(torch.equal(before[name], value) for name, value in after.items())


def test_evaluations_go_in_step(found):
    for of_process in found[2]:
        of = of_process["looked"]
        assert relative(of["full"].embedding, of["none"].embedding) < 1e-5
        assert of["full"].milliseconds.shape == (2,)
        assert "image 3" in of["none", "broken"] and of["full", "broken"] == of["none", "broken"]


def test_runs_deliver_the_same(found, folder):
    paths = [folder / "runs" / kind / "model" / "adapter.safetensors" for kind in (*sharding.KINDS, "mixed")]
    one, *others = map(load_file, paths)
    for two in others:
        assert one.keys() == two.keys()
        assert all(relative(two[name], value) < 1e-2 for name, value in one.items())
    fit, said = found[2][0]["ran"]
    assert fit and "one update done" in said and found[2][1]["ran"] == (True, "")


def test_checkpoints_are_read_by_any_number_of_processes(found, folder):
    for name in CARRIED:
        two, one, three = ([p["carried"] for p in found[size]] for size in (2, 1, 3))
        for process in (*two, *one):
            _assert_same(process[name, "read"], two[0][name, "written"])
        for process in two:
            _assert_same(process[name, "continued"], process[name, "straight"])
        for process in three:
            _assert_same(process[name, "read"], one[0][name, "continued"])
        path = checkpoint.newest(folder / "carried" / name / "2")
        weights = checkpoint.network(path)
        state = two[0][name, "written"]
        for key, value in weights.items():
            own = key if key.startswith("quality_gate.") else f"backbone.{key}"
            assert torch.equal(value, state.get(f"average.{key}", state[own])), key


def _assert_same(one, two):
    assert one.keys() == two.keys()
    differ = [name for name, value in one.items() if not torch.equal(value, two[name])]
    assert not [name for name in differ if "num_batches" not in name]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("train.sharding=half",), "must be one of 'none', 'full'"),
        (("train.sharding=full", "train.compile=True"), "set one of the two"),
        (("train.sharding=full", "train.precision=fp16"), "take bf16"),
    ],
)
def test_what_cannot_be_is_refused(folder, overrides, words):
    with nameable():
        config = settings.load(tiny_recipe(folder), overrides)
    with pytest.raises(ValueError, match=words):
        sharding.wanted(config, EasyDict(scorer=None))


def test_a_scorer_that_looks_through_the_base_is_refused(folder):
    with nameable():
        config = settings.load(tiny_recipe(folder), ("train.sharding=full",))
    with pytest.raises(ValueError, match="needs the image alone"):
        sharding.wanted(config, EasyDict(scorer=EasyDict(needs="model")))


def test_without_blocks_the_children_are_the_units():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]))
    assert sharding.units(network) == ["0", "2.0", "2.1"]
