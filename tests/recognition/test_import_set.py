"""arcface_torch's checkpoint sets as runs of ours: every row and every momentum, on any number of processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from recognition import checkpoint, distributed
from recognition import config as settings
from recognition.backbones import BACKBONES
from recognition.distributed import World
from recognition.import_set import import_set
from recognition.margins import MARGINS
from recognition.model import assemble
from recognition.optim import build_optimizer
from recognition.partial_fc import PartialFC
from recognition.trainer import Trainer
from recognition.weights.arcface_set import read_set
from tests.launch import run_processes
from tests.small import write_recipe, write_records
from tools.convert_checkpoint import main

SIZE = 32


class TheirClassifier(nn.Module):
    """PartialFC_V2's share of one rank."""

    def __init__(self, classes: int, ranks: int, rank: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.normal(0, 0.01, (classes // ranks + (rank < classes % ranks), SIZE)))


def write_set(folder: Path, classes: int, ranks: int, kind: str = "sgd") -> list[dict]:
    """Checkpoints as arcface_torch's train_v2.py saves them after some updates by made-up gradients."""
    folder.mkdir(exist_ok=True)
    saved = []
    for rank in range(ranks):
        torch.manual_seed(1)  # the replicas are alike
        backbone = BACKBONES.create("mobilefacenet_nano", embedding_size=SIZE)
        groups = [{"params": backbone.parameters()}]
        torch.manual_seed(100 + rank)
        classifier = TheirClassifier(classes, ranks, rank)
        groups.append({"params": classifier.parameters()})
        if kind == "sgd":
            optimizer = torch.optim.SGD(groups, lr=0.02, momentum=0.9, weight_decay=5e-4)
        else:
            optimizer = torch.optim.AdamW(groups, lr=0.001, weight_decay=0.1)
        plan = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=100)
        for step in range(2):
            torch.manual_seed(step)
            for parameter in backbone.parameters():
                parameter.grad = torch.randn_like(parameter) * 0.01 if parameter.requires_grad else None
            torch.manual_seed(1000 + 10 * rank + step)
            classifier.weight.grad = torch.randn_like(classifier.weight)
            optimizer.step()
            plan.step()
        for name, buffer in backbone.named_buffers():  # each rank's own, in arcface_torch
            if "running_mean" in name:
                buffer.add_(rank)
        checkpoint_ = {
            "epoch": 2,
            "global_step": 10,
            "state_dict_backbone": backbone.state_dict(),
            "state_dict_softmax_fc": classifier.state_dict(),
            "state_optimizer": optimizer.state_dict(),
            "state_lr_scheduler": plan.state_dict(),
        }
        torch.save(checkpoint_, folder / f"checkpoint_gpu_{rank}.pt")
        saved.append(checkpoint_)
    return saved


def on_processes(count: int, function, *arguments) -> list:
    """As run_processes; one process is this one."""
    if count > 1:
        return run_processes(count, function, *arguments)
    distributed.start("cpu")
    try:
        return [function(0, *arguments)]
    finally:
        distributed.stop()


@pytest.fixture(scope="module")
def a_set(tmp_path_factory) -> Callable[[Path, int, int], Path]:
    """Copies a set of SGD to a folder; each kind is made once."""
    made: dict[tuple[int, int], Path] = {}

    def copy(folder: Path, classes: int, ranks: int) -> Path:
        if (classes, ranks) not in made:
            made[classes, ranks] = tmp_path_factory.mktemp("set")
            write_set(made[classes, ranks], classes, ranks)
        return Path(shutil.copytree(made[classes, ranks], folder / "set"))

    return copy


def recipe_of(folder: Path, classes: int, *, records: bool = True) -> Path:
    """A recipe for the set; with records of as many people."""
    if records:
        write_records(folder / "train", people=classes, images=2)
    else:
        (folder / "train.rec").touch()
    path = write_recipe(folder, 'config.optim = edict(name="sgd", lr=0.02, momentum=0.9, weight_decay=5e-4)\n')
    path.write_text(path.read_text() + "config.data.batch_size = 2\nconfig.evaluation.sets = []\n")
    if not records:
        (folder / "train.rec").unlink()
    return path


def theirs(saved: list[dict], keys: tuple[str, ...]) -> dict[str, Tensor]:
    """What a run must hold: names of ours, with centres and what is kept of them in the order of the classes."""
    first = saved[0]
    backbone = BACKBONES.create("mobilefacenet_nano", embedding_size=SIZE)
    wanted = {f"network.{k}": v for k, v in first["state_dict_backbone"].items() if not k.endswith("batches_tracked")}
    wanted["classifier.weight"] = torch.cat([one["state_dict_softmax_fc"]["weight"] for one in saved])
    for number, (name, parameter) in enumerate(backbone.named_parameters()):
        for key in keys if parameter.requires_grad else ():
            wanted[f"optimizer.model.backbone.{name}.{key}"] = first["state_optimizer"]["state"][number][key]
    last = first["state_optimizer"]["param_groups"][1]["params"][0]
    for key in keys:
        rows = [one["state_optimizer"]["state"][last][key] for one in saved]
        wanted[f"optimizer.classifier.weight.{key}"] = rows[0] if key == "step" else torch.cat(rows)
    return wanted


def held(rank: int, recipe: Path, run: Path, overrides: list[str]) -> dict[str, Tensor]:
    """What this process reads from the run's newest checkpoint, its rows of the centres in their places."""
    config = settings.load(recipe, overrides)
    assembled = assemble(config)
    path = checkpoint.newest(run / "checkpoints")
    classes = next(iter(read_classes(path)))
    margin = MARGINS.create("cosface")
    classifier = PartialFC(SIZE, classes, margin)
    optimizer = build_optimizer(config, assembled.model, classifier, assembled.adapter)
    checkpoint.read(path, assembled.model, classifier, optimizer)
    found = {f"network.{k}": v.clone() for k, v in assembled.model.backbone.state_dict().items()}
    found["classifier.weight"] = classifier.weight.detach()
    named = {f"model.{k}": p for k, p in assembled.model.named_parameters()} | {"classifier.weight": classifier.weight}
    for name, parameter in named.items():
        found |= {f"optimizer.{name}.{key}": v for key, v in optimizer.state.get(parameter, {}).items()}
    return {name: value.detach().contiguous() for name, value in found.items()}


def read_classes(path: Path) -> set[int]:
    """Number of classes of a checkpoint, from the headers of its files."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    return {HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata["classifier.weight"].size[0]}


@pytest.mark.parametrize(
    ("classes", "ranks", "kind", "processes"),
    [
        (25, 3, "sgd", 1),
        pytest.param(25, 3, "sgd", 2, marks=pytest.mark.slow),
        (5, 4, "sgd", 1),
        (25, 3, "adamw", 1),
        (5, 1, "adamw", 1),
        (3, 4, "sgd", 1),
    ],
)
def test_every_row_and_momentum_comes_back(tmp_path, capsys, classes, ranks, kind, processes):
    saved = write_set(tmp_path / "set", classes, ranks, kind)
    recipe, run = recipe_of(tmp_path, classes, records=False), tmp_path / "runs" / "imported"
    overrides = [f"optim.name={kind}"]
    assert main([str(tmp_path / "set"), str(run), "--recipe", str(recipe), *overrides]) == 0
    said = capsys.readouterr().out
    assert f"{ranks} file(s), {classes} classes, 2 epochs, 10 batches: update 10" in said
    assert f"global batch {2 * ranks}" in said and "records are not here" in said
    keys = ("momentum_buffer",) if kind == "sgd" else ("step", "exp_avg", "exp_avg_sq")
    wanted = theirs(saved, keys)
    found = on_processes(processes, held, recipe, run, overrides)
    merged = dict(found[0])
    for name in (name for name, value in wanted.items() if "classifier.weight" in name and value.dim()):
        merged[name] = torch.cat([part[name] for part in found])
    for name, value in wanted.items():
        assert torch.equal(merged[name], value), name
    kept = {name for name in merged if name.startswith("optimizer.")}
    assert kept == {name for name in wanted if name.startswith("optimizer.")}


def trained(rank: int, recipe: Path, overrides: list[str]) -> tuple[int, int, int]:
    """Continue to the end: (first update, last update, global batch)."""
    world = World(rank, rank, dist.get_world_size(), torch.device("cpu"))
    trainer = Trainer(settings.load(recipe, overrides), world)
    first, batch = trainer.stored.update, trainer.global_batch
    trainer.train()
    last = trainer.update
    trainer.close()
    return first, last, batch


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_training_continues_it(tmp_path, capsys, a_set, processes):
    a_set(tmp_path, 25, 3)
    recipe, run = recipe_of(tmp_path, 25), tmp_path / "runs" / "imported"
    assert main([str(tmp_path / "set" / "checkpoint_gpu_1.pt"), str(run), "--recipe", str(recipe)]) == 0
    said = capsys.readouterr().out
    assert "not here" not in said
    assert f"go on: python tools/train.py {recipe} run.root={run.parent} run.name=imported\n" in said, "of another name"
    # 50 images in global batches of 2 for each of 3 processes, 2 epochs: 17 updates
    assert on_processes(processes, trained, recipe, ["run.name=imported"]) == [(10, 17, 6)] * processes
    assert (run / "model" / "adapter.safetensors").is_file()


def test_records_of_other_people_are_refused(tmp_path, capsys, a_set):
    a_set(tmp_path, 5, 2)
    recipe = recipe_of(tmp_path, 6)
    command = [str(tmp_path / "set"), str(tmp_path / "run"), "--recipe", str(recipe)]
    assert main(command) == 2
    assert "5 classes, config.data.records 6" in capsys.readouterr().err


def change(folder: Path, rank: int, change) -> None:
    path = folder / f"checkpoint_gpu_{rank}.pt"
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "checkpoint_gpu_1.pt").unlink(), "lacks checkpoint_gpu_1.pt"),
        (lambda f: (f / "checkpoint_gpu_0.pt").unlink(), "lacks checkpoint_gpu_0.pt"),
        (lambda f: (f / "checkpoint_gpu_1.pt").write_bytes(b"PK\x03\x04"), r"checkpoint_gpu_1\.pt.*damaged"),
        (lambda f: change(f, 1, lambda c: c.update(global_step=11)), "step 11, epoch 2.*step 10"),
        (lambda f: change(f, 1, lambda c: c.pop("state_optimizer")), "save_all_states"),
        (lambda f: torch.save([1], f / "checkpoint_gpu_2.pt"), r"checkpoint_gpu_2\.pt.*it holds list"),
        (
            lambda f: change(f, 2, lambda c: c["state_dict_softmax_fc"].update(weight=torch.ones(7, SIZE))),
            r"\[9, 8, 7\] classes.*\[8, 8, 8\]",
        ),
        (
            lambda f: change(f, 0, lambda c: c["state_dict_softmax_fc"].update(weight_mom=torch.ones(9, SIZE))),
            "weight, weight_mom; wanted PartialFC_V2",
        ),
        (
            lambda f: change(f, 1, lambda c: c["state_dict_backbone"].pop("conv_sep.layers.0.weight")),
            "different backbones",
        ),
        (
            lambda f: change(f, 0, lambda c: c["state_optimizer"]["param_groups"].pop()),
            "two groups",
        ),
        (
            lambda f: change(f, 0, lambda c: c["state_optimizer"]["state"][0].update(momentum_buffer=torch.ones(3))),
            r"'momentum_buffer' of layers\.0\.layers\.0\.weight is \(3,\)",
        ),
        (
            lambda f: change(f, 0, lambda c: c["state_optimizer"]["state"].pop(1)),
            "keeps nothing of layers.0.layers.1.weight",
        ),
        (
            lambda f: change(f, 2, lambda c: c["state_dict_softmax_fc"]["weight"].fill_(float("nan"))),
            "8 classes are zero or not finite, the first is class 17",
        ),
    ],
)
def test_sets_that_are_not_whole_are_refused(tmp_path, a_set, spoil, words):
    a_set(tmp_path, 25, 3)
    config = settings.load(recipe_of(tmp_path, 25, records=False))
    spoil(tmp_path / "set")
    distributed.start("cpu")
    try:
        with pytest.raises(ValueError, match=words):
            import_set(tmp_path / "set", tmp_path / "run", config)
    finally:
        distributed.stop()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["backbone.name=r18"], "do not fit the network IResNet"),
        (["backbone.embedding_size=64"], "of another shape"),
        (["optim.name=adamw"], "keeps momentum_buffer of .*config.optim.name=adamw keeps exp_avg"),
        (["optim.momentum=0"], "config.optim.name=sgd keeps nothing"),
        (["adapter.name=lora"], "whole backbones"),
    ],
)
def test_recipes_of_another_training_are_refused(tmp_path, a_set, overrides, words):
    a_set(tmp_path, 5, 2)
    config = settings.load(recipe_of(tmp_path, 5, records=False), overrides)
    distributed.start("cpu")
    try:
        with pytest.raises(ValueError, match=words):
            import_set(tmp_path / "set", tmp_path / "run", config)
    finally:
        distributed.stop()
    assert not (tmp_path / "run").exists()


def test_what_differs_is_said(tmp_path, capsys):
    saved = write_set(tmp_path / "set", 5, 2)
    saved[1]["state_dict_backbone"]["conv_sep.layers.0.weight"].add_(0.25)
    torch.save(saved[1], tmp_path / "set" / "checkpoint_gpu_1.pt")
    recipe, run = recipe_of(tmp_path, 5, records=False), tmp_path / "run"
    command = [str(tmp_path / "set"), str(run), "--recipe", str(recipe), "optim.lr=0.5", "optim.accumulate=4"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "optim.lr is 0.5 from here on; it was 0.02" in said and "differ by up to 2.5e-01" in said
    assert "10 batches: update 2" in said
    assert main(command) == 2
    assert "holds a run already" in capsys.readouterr().err


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("part", ["state_optimizer", "state_lr_scheduler", "epoch"])
@pytest.mark.parametrize("older", [False, True])
def test_a_payload_in_any_part_never_runs(tmp_path, capsys, part, older):
    saved = write_set(tmp_path / "set", 5, 2)
    saved[1][part] = {"state": {0: Bomb(tmp_path / "made")}} if part == "state_optimizer" else Bomb(tmp_path / "made")
    torch.save(saved[1], tmp_path / "set" / "checkpoint_gpu_1.pt", _use_new_zipfile_serialization=not older)
    recipe = recipe_of(tmp_path, 5, records=False)
    assert main([str(tmp_path / "set"), str(tmp_path / "run"), "--recipe", str(recipe)]) == 2
    assert "wants to run posix.mkdir" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_prefixes_of_wrappers_and_old_counts_of_steps(tmp_path):
    saved = write_set(tmp_path / "set", 5, 2, "adamw")
    for rank, one in enumerate(saved):
        one["state_dict_backbone"] = {f"module.{k}": v for k, v in one["state_dict_backbone"].items()}
        one["state_dict_softmax_fc"] = {f"module.{k}": v for k, v in one["state_dict_softmax_fc"].items()}
        for state in one["state_optimizer"]["state"].values():
            state["step"] = int(state["step"])
        torch.save(one, tmp_path / "set" / f"checkpoint_gpu_{rank}.pt")
    found = read_set(tmp_path / "set")
    assert torch.equal(found.centres, torch.cat([one["state_dict_softmax_fc"]["module.weight"] for one in saved]))
    assert found.centres_state["step"].item() == 2 and not any("module" in key for key in found.backbone)
