"""A run that ended at any moment goes on as if nothing had happened, on as many processes or others."""

import json
import shutil

import numpy as np
import pytest
import torch

from recognition import checkpoint, distributed
from tests.launch import run_processes
from tests.tiny import nameable
from tests.training import QUIET, relative, run_trainer, tiny_recipe, train, train_and_kill, until

EVERY_UPDATE = ("train.save_every_updates=1", "train.save_every=0.0", "train.log_every=1")
COMMON = ("schedule.epochs=2.0", "optim.name=sgd", "optim.lr=0.05", *EVERY_UPDATE, *QUIET)
VARIANTS = {  # 5 updates an epoch, 10 in all; killed before one of them
    "full": (3, ("adapter.name=full",)),
    "full, adamw": (8, ("adapter.name=full", "optim.name=adamw", "optim.lr=0.002")),
    "lora": (7, ("adapter.name=lora", "adapter.dropout=0.2")),
    "dual_lora": (5, ("adapter.name=dual_lora", "degradation.share=0.5")),
    "sampled": (6, ("adapter.name=lora", "classifier.sample_rate=0.5")),
    "sampled, adamw": (4, ("adapter.name=lora", "classifier.sample_rate=0.5", "optim.name=adamw", "optim.lr=0.002")),
    "momentum of the sample": (
        6,
        (
            "adapter.name=lora",
            "classifier.sample_rate=0.5",
            "classifier.state=sampled",
            "classifier.sampling=hard_negatives",
        ),
    ),
    "accumulate": (3, ("adapter.name=full", "optim.accumulate=2", "schedule.epochs=4.0")),
    "bf16": (4, ("adapter.name=dual_lora", "train.precision=bf16")),
    "dali": (6, ("adapter.name=dual_lora", "data.loader=dali", "degradation.share=0.5")),
    "workers": (5, ("adapter.name=lora", "data.loader=torch", "data.workers=2")),
    "saved at once": (2, ("adapter.name=lora", "train.async_save=False")),
    "every third": (9, ("adapter.name=lora", "train.save_every_updates=3")),
}


@pytest.fixture
def recipe(tmp_path):
    with nameable():
        yield tiny_recipe(tmp_path)


def assert_same(one, two):
    for these, those in ((one.tensors, two.tensors), (one.optimizer, two.optimizer)):
        assert these.keys() == those.keys()
        differ = [name for name, value in these.items() if not torch.equal(value, those[name])]
        assert not [name for name in differ if "num_batches" not in name], differ


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_killed_run_goes_on_bit_for_bit_at_any_update(recipe, variant):
    if variant == "dali":
        pytest.importorskip("nvidia.dali")
    kill_at, overrides = VARIANTS[variant]
    straight = run_processes(1, until, recipe, (*COMMON, *overrides, "run.name=straight"), None, None)[0]
    broken = (*COMMON, *overrides, "run.name=broken")
    train_and_kill(1, recipe, broken, kill_at)
    newest = checkpoint.newest(recipe.parent / "runs" / "broken" / "checkpoints")
    first = checkpoint.step_of(newest)
    assert 0 < first < kill_at
    resumed = run_processes(1, until, recipe, broken, None, None)[0]
    assert min(resumed.keys) == first + 1 and max(resumed.keys) == 10
    assert all(resumed.keys[update] == straight.keys[update] for update in resumed.keys)
    assert resumed.losses == straight.losses
    assert any("momentum" in name or "exp_avg" in name for name in straight.optimizer)
    assert_same(straight, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])  # for two, sums in any order are the same
def test_a_run_of_several_processes_killed_goes_on_bit_for_bit(recipe, processes):
    common = (*COMMON, "adapter.name=full", f"data.batch_size={6 // processes}")
    straight = run_processes(processes, until, recipe, (*common, "run.name=straight"), None, None)
    train_and_kill(processes, recipe, (*common, "run.name=broken"), 7)
    resumed = run_processes(processes, until, recipe, (*common, "run.name=broken"), None, None)
    for one, two in zip(straight, resumed, strict=True):
        assert_same(one, two)
        assert all(two.keys[update] == one.keys[update] for update in two.keys)
    assert resumed[0].losses == straight[0].losses


def whole(processes):
    """Class centres and their momentum of all processes, merged."""
    momentum = "classifier.weight.momentum_buffer"
    return {
        "classifier.weight": torch.cat([found.tensors["classifier.weight"] for found in processes]),
        momentum: torch.cat([found.optimizer[momentum] for found in processes]),
    }


@pytest.mark.slow
def test_one_two_three_one_processes(recipe):
    common = (*COMMON, "adapter.name=lora", "optim.lr=0.01", "train.keep=0", "data.batch_size=6")
    straight = run_processes(1, until, recipe, (*common, "run.name=straight"), None, None)
    reference = straight[0]
    run = recipe.parent / "runs" / "moving"
    keys, legs = {}, ((1, 3), (2, 5), (3, 8), (1, None))
    before, end = None, 0
    for processes, stop_at in legs:
        found = run_processes(processes, until, recipe, (*common, "run.name=moving"), stop_at, None)
        assert {one.stopped_by for one in found} == ({"SIGTERM"} if stop_at else {""})
        assert min(found[0].keys) == end + 1
        end = max(found[0].keys)
        assert end == (stop_at or 10)
        for update in found[0].keys:  # process r of W takes every W-th of the global batch
            batch = [None] * 6
            for rank, one in enumerate(found):
                batch[rank::processes] = one.keys[update]
            keys[update] = batch
        if before is not None:  # what this leg started from is what the last one ended with, bit for bit
            stored = run_processes(3 if processes != 3 else 2, stored_centres, run, newest_before(run, found[0].keys))
            for name, value in before.items():
                assert torch.equal(torch.cat([part[name] for part in stored]), value), name
        before = whole(found)
    assert keys == reference.keys  # the very images of the run on one process, update by update
    for epoch in range(2):
        seen = [tuple(key) for update in range(5 * epoch + 1, 5 * epoch + 6) for key in keys[update]]
        assert len(seen) == len(set(seen)) == 30
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {line["update"]: line["train/loss"] for line in lines if "train/loss" in line}
    assert losses.keys() == reference.losses.keys()
    for update, loss in reference.losses.items():
        assert losses[update] == pytest.approx(loss, rel=1e-4), update
    for name, value in before.items():
        assert relative(value, whole(straight)[name]) < 1e-3, name


def newest_before(run, keys):
    return str(checkpoint.path_of(run / "checkpoints", min(keys) - 1))


def stored_centres(rank, run, path):
    """Class centres and momentum of a checkpoint, as this process of several reads them."""
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import HuggingFaceStorageReader
    from torch.distributed.tensor import DTensor, Shard

    from recognition.partial_fc import class_range

    begin, end = class_range(6, dist.get_world_size(), rank)
    mesh = dist.device_mesh.DeviceMesh.from_group(dist.group.WORLD, "cpu")
    names = {"classifier.weight": "classifier.weight"}
    names |= {"classifier.weight.momentum_buffer": "optimizer.classifier.weight.momentum_buffer"}
    state = {
        name: DTensor.from_local(
            torch.zeros(end - begin, 12), mesh, [Shard(0)], run_check=False, shape=torch.Size((6, 12)), stride=(12, 1)
        )
        for name in names.values()
    }
    dcp.load(state, storage_reader=HuggingFaceStorageReader(path))
    found = {name: state[stored].to_local().clone() for name, stored in names.items()}
    del state, mesh
    return found


def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_offered(recipe):
    common = ("adapter.name=lora", "schedule.epochs=0.6", *EVERY_UPDATE, *QUIET)
    straight, losses = train(recipe, *common)
    folder = recipe.parent / "runs" / "small" / "checkpoints"
    assert [checkpoint.step_of(path) for path in checkpoint.complete(folder)] == [2, 3]
    newest = checkpoint.newest(folder)
    rng = np.random.default_rng(0)
    for file in sorted(newest.iterdir()):
        whole_file = file.read_bytes()
        flipped = bytearray(whole_file)
        flipped[rng.integers(len(flipped))] ^= 4
        file.write_bytes(flipped)
        with pytest.raises(checkpoint.DamagedError) as refused:
            train(recipe, *common)
        assert str(newest) in str(refused.value)
        assert f"train.resume={checkpoint.path_of(folder, 2)}" in str(refused.value)
        file.write_bytes(whole_file)
    (newest / "state.json").write_text("{}")
    again, more = train(recipe, *common, f"train.resume={checkpoint.path_of(folder, 2)}")  # as offered
    assert more == losses
    assert all(torch.equal(value, again[name]) for name, value in straight.items() if "num_batches" not in name)
    assert (folder / "set_aside_1" / "step_000000003").is_dir()


def test_never_starts_anew_and_keeps_the_old_run_but_a_restart_by_torchrun_goes_on(recipe, monkeypatch, capsys):
    common = ("adapter.name=lora", "schedule.epochs=0.4", *EVERY_UPDATE, *QUIET)
    train(recipe, *common)
    train(recipe, *common, "train.resume=never")
    runs = recipe.parent / "runs"
    assert (runs / "small.1" / "checkpoints").is_dir()
    shutil.rmtree(runs / "small" / "model")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # under torchrun, which is to be this process's parent
    train(recipe, *common, "train.resume=never")
    assert (runs / "small.2").is_dir()
    shutil.rmtree(runs / "small" / "model")
    capsys.readouterr()
    train(recipe, *common, "train.resume=never")  # it starts the same worker again
    assert "continuing" in capsys.readouterr().out and not (runs / "small.3").exists()


def test_another_runs_checkpoint_starts_a_run_of_its_own(recipe, capsys):
    common = ("adapter.name=lora", "schedule.epochs=0.6", *EVERY_UPDATE, *QUIET)
    straight, _ = train(recipe, *common, "run.name=first")
    runs = recipe.parent / "runs"
    path = checkpoint.path_of(runs / "first" / "checkpoints", 2)
    forked, losses = train(recipe, *common, "run.name=second", f"train.resume={path}")
    assert sorted(losses) == [3]
    assert all(torch.equal(value, forked[name]) for name, value in straight.items() if "num_batches" not in name)
    assert checkpoint.newest(runs / "first" / "checkpoints") == checkpoint.path_of(runs / "first" / "checkpoints", 3)
    capsys.readouterr()
    train(recipe, *common, "run.name=third", f"train.resume={runs / 'first'}")
    assert f"continuing {checkpoint.path_of(runs / 'first' / 'checkpoints', 3)}" in capsys.readouterr().out


def test_a_checkpoint_that_is_not_there_is_an_error(recipe):
    for wanted in ("nowhere", str(recipe.parent), str(recipe)):
        with pytest.raises(ValueError, match="no complete checkpoint"):
            train(recipe, f"train.resume={wanted}", *QUIET)


def test_two_of_a_name_do_not_train_at_once(recipe):
    import subprocess
    import sys

    lock = recipe.parent / "runs" / ".small.lock"
    hold = f"from recognition.files import alone\nwith alone({str(lock)!r}, 'x'): print('held', flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError, match=rf"is being trained already, by process {other.pid} on"):
        train(recipe, "adapter.name=lora", *QUIET)
    assert not (recipe.parent / "runs" / "small").exists()
    other.kill()  # it gives the lock back by dying
    other.communicate()
    train(recipe, "adapter.name=lora", "schedule.epochs=0.2", *QUIET)


def test_the_best_checkpoint_outlives_a_kill_between_two_saves(recipe, monkeypatch):
    import recognition.evaluations as engine

    figures = iter([0.9, 0.5, 0.6, 0.5, 0.6, 0.55])  # of updates 3, 5, 8; after the kill 5 again, 8, 10
    monkeypatch.setattr(engine, "evaluate", lambda *_, **__: {})
    monkeypatch.setattr(engine, "save_results", lambda *_: None)
    monkeypatch.setattr(engine.report, "write_report", lambda *_: "")
    monkeypatch.setattr(engine.report, "figures", lambda _: {})
    monkeypatch.setattr(engine, "headline", lambda results, figure: next(figures))
    overrides = ("adapter.name=lora", "schedule.epochs=2.0", "train.keep=1", "evaluation.every=0.5")
    overrides = (*overrides, "evaluation.at_start=False")

    def die(trainer):
        if trainer.update == 9:
            raise KeyboardInterrupt

    world = distributed.start("cpu")
    with pytest.raises(KeyboardInterrupt):
        run_trainer(recipe, *overrides, world=world, at=die)
    folder = recipe.parent / "runs" / "small" / "checkpoints"
    run_trainer(recipe, *overrides, world=world)
    distributed.stop()
    assert [checkpoint.step_of(path) for path in checkpoint.complete(folder)] == [3, 10]
    assert checkpoint.read_best(folder).step == 3
