import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from recognition import checkpoint, distributed, learner
from recognition import config as settings
from recognition.distributed import World
from recognition.objectives import OBJECTIVES
from recognition.runs import load_run
from recognition.trainer import Trainer
from recognition.weights import write_weights
from tests.launch import run_processes
from tests.small import write_records
from tests.tiny import nameable
from tests.training import CPU, QUIET, SHORT, in_a_process, recipe_with_base, relative, tiny_recipe, train


@pytest.fixture
def recipe(tmp_path):
    with nameable():
        yield tiny_recipe(tmp_path)


@pytest.fixture
def real_recipe(tmp_path):
    """A real network, for what a tiny one would not show: sums of many layers, every pixel, CUDA's kernels."""
    return recipe_with_base(tmp_path)


def test_a_run_leaves_everything_behind_and_a_second_start_finds_it_complete(recipe, capsys):
    train(recipe, "adapter.name=dual_lora", pictures=True)
    run = recipe.parent / "runs" / "small"
    assert {p.name for p in run.iterdir()} >= {
        "config.json", "provenance.json", "metrics.jsonl", "summary.json", "checkpoints", "logs", "model", "report"
    }  # fmt: skip
    wanted = {"before", "after", "report.md", "report.html", "roc.png", "faces.png"}
    assert {p.name for p in (run / "report").iterdir()} >= wanted
    assert (run / "logs" / "projector_config.pbtxt").is_file()
    assert (run / "report" / "scores.png").stat().st_size > 1000
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    wanted = {"train/loss", "train/lr", "train/gradient_norm", "speed/images_per_second", "speed/data_wait_share"}
    assert any(wanted | {"quality/gate_mean"} <= set(line) for line in lines)
    assert lines[1]["train/lr"] == pytest.approx(2e-3)  # the first update's own, not the next one's
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["torch"] == torch.__version__ and provenance["commit"]
    state = json.loads((checkpoint.newest(run / "checkpoints") / "state.json").read_text())
    assert len(state["fingerprint"]) == 64
    capsys.readouterr()
    train(recipe, "adapter.name=dual_lora")
    assert "the run is complete" in capsys.readouterr().out


def test_a_loaded_run_is_the_trained_model(recipe):
    for adapter in ("full", "lora", "dual_lora"):
        found, _ = train(recipe, f"adapter.name={adapter}", f"run.name={adapter}", *SHORT)
        run = recipe.parent / "runs" / adapter
        loaded = load_run(run).state_dict()
        held = {n: v for n, v in found.items() if not n.startswith("classifier.") and "num_batches" not in n}
        differ = [name for name, value in held.items() if not torch.equal(loaded[name], value)]
        assert held and not differ
        base = load_run(run, base=True).backbone.state_dict()
        start = load_file(recipe.parent / "base.safetensors")
        assert all(torch.equal(base[name], value) for name, value in start.items())


def test_an_adapter_is_not_loaded_onto_another_base(recipe):
    train(recipe, "adapter.name=lora", *SHORT)
    base = load_file(recipe.parent / "base.safetensors")
    base["stem.weight"] += 0.1
    write_weights(recipe.parent / "base.safetensors", base, {})
    with pytest.raises(ValueError, match=r"SHA-256 differs"):
        load_run(recipe.parent / "runs" / "small")


@pytest.mark.parametrize("adapter", ["lora", "dual_lora"])
def test_frozen_means_frozen(recipe, adapter):
    start = load_file(recipe.parent / "base.safetensors")
    found, _ = train(recipe, f"adapter.name={adapter}", *SHORT)
    for name, value in start.items():
        assert torch.equal(found[f"backbone.{name}"], value), f"{name} moved"
    assert any(found[name].abs().sum() > 0 for name in found if name.endswith("lora_b"))


def test_full_fine_tuning_moves_weights_and_statistics(real_recipe):
    start = load_file(real_recipe.parent / "base.safetensors")
    found, losses = train(real_recipe, "adapter.name=full", "schedule.epochs=4.0", *QUIET)
    moved = [name for name, value in start.items() if not torch.equal(found[f"backbone.{name}"], value)]
    assert any(name.endswith("running_mean") for name in moved) and any(name.endswith("weight") for name in moved)
    values = list(losses.values())
    assert np.mean(values[-4:]) < 0.5 * np.mean(values[:4])


def forget_all_but_the_first_checkpoint(run):
    """Make a finished run look as if it had been killed after its first checkpoint. Returns that update."""
    first, *later = sorted((run / "checkpoints").iterdir())
    for path in later:
        shutil.rmtree(path)
    return int(first.name.removeprefix("step_"))


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_with_one(recipe):
    common = ("adapter.name=lora", "optim.name=sgd", "optim.lr=0.01", "schedule.epochs=0.8", "train.save_every=0.4")
    common = (*common, "train.keep=0", "data.batch_size=3", *QUIET)
    (straight, losses), _ = run_processes(2, in_a_process, recipe, common)
    run = recipe.parent / "runs" / "small"
    first = forget_all_but_the_first_checkpoint(run)
    resumed, again = train(recipe, *common)
    assert again.keys() == losses.keys() and first == 2
    for update in losses:
        assert again[update] == pytest.approx(losses[update], rel=1e-4)
    assert resumed["classifier.weight"].shape[0] == 6 and straight["classifier.weight"].shape[0] == 3
    assert relative(resumed["classifier.weight"][:3], straight["classifier.weight"]) < 1e-4


def test_dali_trains_on_the_same_pixels(real_recipe):
    pytest.importorskip("nvidia.dali")
    common = ("adapter.name=dual_lora", "degradation.share=0.5", "schedule.epochs=0.6", *QUIET)
    _, torch_losses = train(real_recipe, "run.name=torch", "data.loader=torch", *common)
    _, dali_losses = train(real_recipe, "run.name=dali", "data.loader=dali", "data.workers=1", *common)
    assert torch_losses == dali_losses


def test_other_records_and_a_missing_checkpoint_are_refused(recipe):
    train(recipe, *SHORT)
    with pytest.raises(ValueError, match="no complete checkpoint"):
        train(recipe, "train.resume=elsewhere", *SHORT)
    write_records(recipe.parent / "train", images=4)
    with pytest.raises(ValueError, match="other records"):
        train(recipe, *SHORT)


def test_a_continued_run_may_not_change_its_settings(recipe):
    train(recipe, "adapter.name=dual_lora", *SHORT)
    run = recipe.parent / "runs" / "small"
    before = (run / "config.json").read_text()
    for override in ("gate.midpoint=3.0", "adapter.rank=4", "optim.name=sgd", "schedule.epochs=3.0", "run.seed=4"):
        with pytest.raises(ValueError, match=rf"{override.split('=')[0]}: .*train\.resume=never"):
            train(recipe, "adapter.name=dual_lora", *SHORT, override)
    train(recipe, "adapter.name=dual_lora", "train.log_every=2", *SHORT)
    assert (run / "config.json").read_text() == before


def test_the_same_command_gives_the_same_run_with_dropout(recipe):
    common = ("adapter.name=lora", "adapter.dropout=0.3", "schedule.epochs=0.4", *QUIET)
    one, _ = train(recipe, "run.name=one", *common)
    torch.manual_seed(12345)
    two, _ = train(recipe, "run.name=two", *common)
    other, _ = train(recipe, "run.name=other", "adapter.dropout=0.0", *common[:1], *common[2:])
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


def test_arguments_of_the_base_files_card_travel_with_the_run(real_recipe):
    base = load_file(real_recipe.parent / "base.safetensors")
    write_weights(real_recipe.parent / "base.safetensors", base, {"arguments": {"embedding_size": 32}})
    path = real_recipe.with_name("bare.py")
    path.write_text(real_recipe.read_text().replace(", embedding_size=32", ""))
    found, _ = train(path, *SHORT)
    loaded = load_run(real_recipe.parent / "runs" / "small").state_dict()
    assert torch.equal(loaded["backbone.conv_sep.layers.0.weight"], found["backbone.conv_sep.layers.0.weight"])
    train(path, *SHORT)  # the same command again: the same settings


def test_starting_anew_keeps_the_earlier_run(recipe):
    train(recipe, *SHORT)
    train(recipe, "train.resume=never", *SHORT)
    assert (recipe.parent / "runs" / "small.1" / "model" / "adapter.safetensors").is_file()


def test_accumulation_equals_the_big_batch(real_recipe):
    # two updates: from there on a random network multiplies what rounding left
    common = ("adapter.name=lora", "optim.name=sgd", "optim.lr=0.01", "schedule.epochs=0.4", *QUIET)
    big, _ = train(real_recipe, "run.name=big", "data.batch_size=6", *common)
    small, _ = train(real_recipe, "run.name=parts", "data.batch_size=2", "optim.accumulate=3", *common)
    moved = {name: relative(small[name], value) for name, value in big.items() if value.is_floating_point()}
    assert max(moved.values()) < 1e-5, max(moved.items(), key=lambda item: item[1])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_train_as_one(real_recipe, processes):
    common = ("adapter.name=dual_lora", "optim.name=sgd", "optim.lr=0.01", "schedule.epochs=0.4", *QUIET)
    alone, losses = train(real_recipe, "run.name=alone", "data.batch_size=6", *common)
    several = run_processes(
        processes, in_a_process, real_recipe, ("run.name=several", f"data.batch_size={6 // processes}", *common)
    )
    for update, loss in losses.items():
        assert several[0][1][update] == pytest.approx(loss, rel=1e-5)
    # updates of zeros: measured together, as rounding in one small tensor depends on the order of three sums
    updates = [name for name in alone if name.endswith("lora_b")]
    one, other = (torch.cat([found[name].flatten() for name in updates]) for found in (several[0][0], alone))
    apart = ((one - other).norm() / other.norm()).item()
    assert apart < 1e-5
    for name, value in several[0][0].items():
        if not name.startswith("classifier."):
            assert name in updates or relative(value.float(), alone[name].float()) < 1e-5, name
            assert all(torch.equal(value, other[0][name]) for other in several[1:]), f"{name} differs among processes"
    centres = torch.cat([found["classifier.weight"] for found, _ in several])
    assert relative(centres, alone["classifier.weight"]) < 1e-5


def settled(rank, recipe, overrides):
    """Training on processes that settled their buckets before the first update."""
    learner.SETTLED_FROM = 2
    return in_a_process(rank, recipe, overrides)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["full", "dual_lora"])
def test_settling_buckets_leaves_no_trace(recipe, adapter):
    common = (f"adapter.name={adapter}", "data.batch_size=3", "schedule.epochs=0.4", *QUIET)
    plain = run_processes(2, in_a_process, recipe, (*common, "run.name=plain"))  # of two the order of sums is no matter
    other = run_processes(2, settled, recipe, (*common, "run.name=settled"))
    for (one, losses), (two, again) in zip(plain, other, strict=True):
        assert losses == again
        assert all(torch.equal(value, two[name]) for name, value in one.items() if "num_batches" not in name)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [("adapter.name=full",), ("adapter.name=norms_only", "adapter.alive=True")])
def test_processes_agree_on_statistics_at_the_end(recipe, adapter):
    overrides = (*adapter, "data.batch_size=3", "schedule.epochs=0.4", *QUIET)
    (one, _), (two, _) = run_processes(2, in_a_process, recipe, overrides)
    held = load_run(recipe.parent / "runs" / "small").state_dict()
    for name, value in one.items():
        if "running_" in name:
            assert torch.equal(value, two[name]) and torch.equal(value, held[name]), name


def overflow_on_one(rank, recipe, overrides):
    """One update whose class gradients are infinite on process 1 only."""
    trainer = Trainer(settings.load(recipe, overrides), World(rank, rank, dist.get_world_size(), CPU))
    batches = trainer.loader.batches(0)
    if rank == 1:
        trainer.learner.classifier.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = {n: p.detach().clone() for n, p in trainer.learner.model.named_parameters() if p.requires_grad}
    scale = trainer.learner.scaler.get_scale()
    trainer.train_update(batches)
    batches.close()
    after = {n: p.detach().clone() for n, p in trainer.learner.model.named_parameters() if p.requires_grad}
    scales = (scale, trainer.learner.scaler.get_scale())
    trainer.close()
    return before, after, scales


@pytest.mark.slow
def test_an_overflow_on_one_process_skips_the_update_on_all(recipe):
    overrides = ("train.precision=fp16", "adapter.name=lora", "data.batch_size=2", *QUIET)
    for before, after, (scale, next_scale) in run_processes(2, overflow_on_one, recipe, overrides):
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert next_scale == scale / 2


def reduced_bytes(rank, recipe, overrides):
    """Bytes that DDP reduces in one update, and the bytes of what is trained."""
    trainer = Trainer(settings.load(recipe, overrides), World(rank, rank, dist.get_world_size(), CPU))
    seen = []

    def count(state, bucket):
        seen.append(bucket.buffer().nbytes)
        return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda f: f.value()[0])

    trainer.learner.network.register_comm_hook(None, count)
    batches = trainer.loader.batches(0)
    trainer.train_update(batches)
    batches.close()
    wanted = sum(p.nbytes for p in trainer.learner.trained)
    trainer.close()
    return sum(seen), wanted


@pytest.mark.slow
def test_nothing_frozen_is_reduced(recipe):
    for seen, wanted in run_processes(2, reduced_bytes, recipe, ("adapter.name=lora", "data.batch_size=2", *QUIET)):
        assert seen == wanted > 0


def test_dry_run_prints_the_plan_takes_a_step_and_writes_nothing(recipe, capsys):
    world = distributed.start("cpu")
    try:
        trainer = Trainer(settings.load(recipe, ["adapter.name=lora"]), world)
        trainer.dry_run()
        trainer.close()
        del trainer
    finally:
        distributed.stop()
    said = capsys.readouterr().out
    for word in ("30 images, 6 classes", "trainable", "%", "updates", "lr", "MiB", "one update done, loss"):
        assert word in said
    assert not (recipe.parent / "runs").exists()


def test_wrong_settings_are_answered_in_words(recipe):
    for override, said in (
        ("train.precision=fp8", "must be one of"),
        ("data.records=[]", "names no record file"),
        ("data.loader=mxnet", "must be auto, torch or dali"),
        ("classifier.init=zeros", "zeros is no complete checkpoint"),
        ("schedule.warmup_epochs=2.0", "only rise"),
        ("optim.accumulate=0", "at least 1"),
        ("schedule.epochs=-1.0", "above 0"),
        ("margin.margin=abc", "takes a number"),
        ("margin.scale=big", "takes a number"),
        ("objectives=['x']", "has no name"),
    ):
        with pytest.raises(ValueError, match=said):
            train(recipe, override, *QUIET)


def test_class_means_start_the_centres_at_the_embeddings(recipe):
    _, random_start = train(recipe, "adapter.name=lora", "run.name=a", *SHORT)
    _, means_start = train(recipe, "adapter.name=lora", "run.name=b", "classifier.init=class_means", *SHORT)
    assert means_start[1] < 0.7 * random_start[1]
    assert Path(recipe.parent / "runs" / "b").is_dir()


@pytest.mark.slow
def test_class_centres_of_another_run_start_this_one(recipe):
    common = ("adapter.name=lora", "schedule.epochs=0.4", "data.batch_size=3", *QUIET)
    (first, _), (second, _) = run_processes(2, in_a_process, recipe, ("run.name=first", *common))
    ended = torch.cat([first["classifier.weight"], second["classifier.weight"]])
    init = f"classifier.init={recipe.parent / 'runs' / 'first'}"
    still, _ = train(recipe, "run.name=second", init, "optim.lr=0.0", *common)  # on another number of processes
    assert torch.equal(still["classifier.weight"], ended)
    write_records(recipe.parent / "train", images=4)
    with pytest.raises(ValueError, match="class centres of other records"):
        train(recipe, "run.name=third", init, *common)


def test_a_label_out_of_range_names_the_record(recipe):
    world = distributed.start("cpu")
    try:
        trainer = Trainer(settings.load(recipe, QUIET), world)
        trainer.learner.classifier.num_classes = 3  # as if the labels had changed since the records were counted
        with contextlib.closing(trainer.loader.batches(0)) as batches, pytest.raises(ValueError, match=r"key \d+"):
            trainer.train_update(batches)
        trainer.close()
        del trainer
    finally:
        distributed.stop()


def test_a_missing_evaluation_file_is_found_before_training(recipe):
    missing = "evaluation.sets=[{'name': 'lfw', 'kind': 'bin', 'path': 'nowhere/lfw.bin'}]"
    with pytest.raises(FileNotFoundError, match=r"'lfw'.*nowhere/lfw\.bin"):
        train(recipe, missing)
    assert not (recipe.parent / "runs").exists()


def test_an_objective_is_added_with_its_weight(recipe, monkeypatch):
    class Pull(torch.nn.Module):
        """Mean squared norm of the gathered embeddings."""

        def forward(self, embedding, label, context):
            assert len(embedding) == len(label) == 6 and context.batch.image.shape[0] == 6
            return embedding.pow(2).mean()

    monkeypatch.setitem(OBJECTIVES._objects, "pull_of_this_test", Pull)
    _, alone = train(recipe, "run.name=alone", "schedule.epochs=0.2", *QUIET)
    chosen = "objectives=[{'name': 'pull_of_this_test', 'weight': 10.0}]"
    _, both = train(recipe, "run.name=both", "schedule.epochs=0.2", chosen, *QUIET)
    assert both[1] > alone[1] + 0.1


def train_on_cuda(recipe, *overrides):
    world = distributed.start("cuda")
    try:
        return train(recipe, "train.device=cuda", *overrides, world=world)
    finally:
        distributed.stop()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_on_cuda_with_nccl_and_dali(real_recipe, precision):
    _, losses = train_on_cuda(real_recipe, "data.loader=dali", f"train.precision={precision}", *QUIET)
    assert losses and all(np.isfinite(loss) for loss in losses.values())


@pytest.mark.gpu
def test_two_runs_on_cuda_are_equal_bit_for_bit(real_recipe, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    torch.use_deterministic_algorithms(True)
    try:
        one, _ = train_on_cuda(real_recipe, "run.name=one", "adapter.name=dual_lora", *QUIET)
        two, _ = train_on_cuda(real_recipe, "run.name=two", "adapter.name=dual_lora", *QUIET)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.gpu
def test_cuda_follows_the_cpu(real_recipe):
    common = ("adapter.name=lora", "schedule.epochs=0.4", "optim.name=sgd", "optim.lr=0.01", *QUIET)
    _, here = train(real_recipe, "run.name=cpu", *common)
    _, there = train_on_cuda(real_recipe, "run.name=cuda", "data.loader=torch", *common)
    assert all(there[update] == pytest.approx(loss, rel=1e-2) for update, loss in here.items())
