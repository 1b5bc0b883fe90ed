"""Trains small recipes in this process or in others, for tests; what a run made, by name."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException

from recognition import config as settings
from recognition import distributed, evaluations
from recognition.distributed import World
from recognition.evaluation import report
from recognition.model import assemble
from recognition.page import board
from recognition.trainer import Trainer
from recognition.weights import write_weights
from tests.launch import run_processes
from tests.small import write_recipe
from tests.tiny import Tiny

CPU = torch.device("cpu")
QUIET = ("evaluation.sets=[]",)
SHORT = ("schedule.epochs=0.4", *QUIET)  # two updates


def recipe_with_base(folder: Path) -> Path:
    """A small recipe that starts from weights of its own, so that every adapter can train."""
    path = write_recipe(folder)
    config = settings.load(path)
    write_weights(folder / "base.safetensors", assemble(config).model.backbone.state_dict(), {})
    path.write_text(path.read_text() + f"config.backbone.weights = {str(folder / 'base.safetensors')!r}\n")
    return path


def tiny_recipe(folder: Path) -> Path:
    """The same on the tiny backbone, whose updates take a tenth of the time. Inside tests.tiny.nameable() only."""
    path, base = write_recipe(folder), folder / "base.safetensors"
    write_weights(base, Tiny().state_dict(), {})
    path.write_text(path.read_text() + f'config.backbone = edict(name="tiny_of_tests", weights={str(base)!r})\n')
    return path


@dataclass
class Trained:
    """What one process of a run ended with."""

    tensors: dict[str, Tensor]  # weights and statistics by name; class centres of this process
    optimizer: dict[str, Tensor]  # what it keeps, by <parameter>.<key>
    losses: dict[int, float]  # by update, as logged; on the main process
    keys: dict[int, list] = field(default_factory=dict)  # records of each update, [shard, key], in order
    stopped_by: str = ""


@contextlib.contextmanager
def blank_pictures() -> Iterator[None]:
    """Pictures are written as ever, with nothing on them: to draw them takes longer than ten updates."""
    names = ("face_figure", "score_figure", "roc_figure")
    with (
        mock.patch.multiple(report, **{name: lambda *_: Figure(figsize=(1, 1)) for name in names}),
        mock.patch.multiple(board, figures=report.figures, project=lambda *_: ""),
        mock.patch.object(evaluations, "write_page", lambda path, _: path),
    ):
        yield


def run_trainer(
    recipe: Path,
    *overrides: str,
    world: World,
    at: Callable[[Trainer], None] | None = None,
    pictures: bool = False,
) -> Trained:
    """Train to the end on a started process group. at: called before every update. pictures: draw them."""
    with contextlib.nullcontext() if pictures else blank_pictures():
        return _run_trainer(recipe, overrides, world, at)


def _run_trainer(
    recipe: Path, overrides: tuple[str, ...], world: World, at: Callable[[Trainer], None] | None
) -> Trained:
    trainer = Trainer(settings.load(recipe, overrides), world)
    keys: dict[int, list] = {}
    kept = trainer.meter.__class__.next

    def listening(meter, batches):
        batch = kept(meter, batches)
        keys.setdefault(trainer.update + 1, []).extend(batch.key.tolist())
        return batch

    trainer.meter.__class__.next = listening
    update = trainer.train_update
    if at is not None:
        trainer.train_update = lambda batches: (at(trainer), update(batches))[1]
    try:
        trainer.train()
    finally:
        trainer.meter.__class__.next = kept
    found = Trained(*_tensors(trainer), {}, keys, trainer.stopped_by)
    run = trainer.run
    trainer.close()
    trainer.train_update = update = None  # a cycle, which would hold the process group
    trainer = None
    if world.is_main and (run / "metrics.jsonl").is_file():
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        found.losses = {line["update"]: line["train/loss"] for line in lines if "train/loss" in line}
    return found


def _tensors(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model, classifier = trainer.learner.model, trainer.learner.classifier
    found = {name: t.clone() for name, t in model.state_dict().items()}
    found |= {f"classifier.{name}": t.clone() for name, t in classifier.state_dict().items()}
    kept = {}
    for name, p in (*model.named_parameters(), *((f"classifier.{n}", p) for n, p in classifier.named_parameters())):
        for key, value in trainer.learner.optimizer.state.get(p, {}).items():
            kept[f"{name}.{key}"] = value.to_dense().clone() if value.is_sparse else value.clone()
    return found, kept


def train(
    recipe: Path, *overrides: str, world: World | None = None, pictures: bool = False
) -> tuple[dict[str, Tensor], dict[int, float]]:
    """Run a recipe to its end in this process; returns (final tensors by name, losses by update)."""
    alone = world is None
    world = world or distributed.start("cpu")
    try:
        found = run_trainer(recipe, *overrides, world=world, pictures=pictures)
    finally:
        if alone:
            distributed.stop()
    return found.tensors, found.losses


def in_a_process(rank: int, recipe: Path, overrides: tuple[str, ...]) -> tuple[dict[str, Tensor], dict[int, float]]:
    """train() for run_processes."""
    return train(recipe, *overrides, world=World(rank, rank, dist.get_world_size(), CPU))


def relative(one: Tensor, two: Tensor) -> float:
    """Largest difference, as a share of the largest magnitude."""
    return ((one - two).abs().max() / two.abs().max().clamp_min(1e-12)).item()


def until(rank: int, recipe: Path, overrides: tuple[str, ...], stop_at: int | None, kill_at: int | None) -> Trained:
    """For run_processes: train; before update stop_at the last process is told to stop, before kill_at all die."""

    def at(trainer: Trainer) -> None:
        if trainer.update + 1 == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if trainer.update + 1 == stop_at and rank == dist.get_world_size() - 1:
            trainer.signals.received = signal.SIGTERM

    world = World(rank, rank, dist.get_world_size(), CPU)
    return run_trainer(recipe, *overrides, world=world, at=at)


def train_and_kill(processes: int, recipe: Path, overrides: tuple[str, ...], kill_at: int) -> None:
    """Train on some processes, all of which are killed before update kill_at."""
    try:
        run_processes(processes, until, recipe, overrides, None, kill_at)
    except ProcessExitedException as error:
        assert error.signal_name == "SIGKILL", error
    else:
        raise AssertionError("the run ended before it was killed")
