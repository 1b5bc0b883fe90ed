"""Starts the training command as a user does, watches it, kills parts of it and reads what it left. Linux only."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader

from recognition import checkpoint
from recognition import config as settings
from recognition.model import assemble
from recognition.weights import write_weights
from tests.small import write_recipe

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = str(Path(sys.executable).with_name("torchrun"))
MARK = "LRFACE_TEST_MARK"  # in the environment of everything a command starts, orphans included
SEEN = "LRFACE_TEST_SEEN"  # folder for the witness's files
PACE = "LRFACE_TEST_PACE"  # and _1, _2: seconds that the witness adds to an update of so many processes
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # not ours to hand on
IMAGES, GLOBAL_BATCH = 30, 6
UPDATES_PER_EPOCH = IMAGES // GLOBAL_BATCH

needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in Linux's /proc")

# an objective of weight zero that writes down which images each process trains on
WITNESS = f"""
import json, os, time
import torch
from recognition.objectives import OBJECTIVES

@OBJECTIVES.register("witness")
class Witness(torch.nn.Module):
    '''Writes the keys of every batch.'''
    def forward(self, embedding, label, context):
        rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        line = dict(update=context.update, rank=int(rank), world=int(world),
                    time=time.time(), keys=context.batch.key.tolist())
        with open(os.path.join(os.environ["{SEEN}"], str(os.getpid())), "a") as file:
            file.write(json.dumps(line) + chr(10))
        time.sleep(float(os.environ.get("{PACE}_" + world, "0")))
        return embedding.sum() * 0.0

if "{SEEN}" in os.environ:  # of a training command, not of a test that reads this recipe
    from recognition.trainer import Trainer

    Trainer.picture = lambda *_: None  # to draw one takes longer than ten updates, and nobody looks

config.objectives = [edict(name="witness", weight=0.0)]
config.adapter = edict(name="lora")
config.optim = edict(name="sgd", lr=0.002, momentum=0.9)
config.schedule.epochs = 3.0
config.data.batch_size = 3
config.train.save_every = 0.4
config.evaluation.sets = []
"""


def write_witnessed(folder: Path) -> Path:
    """A recipe over 30 images, 3 per process and update, that starts from weights of its own."""
    path = write_recipe(folder)
    bare = path.read_text()
    write_weights(folder / "base.safetensors", assemble(settings.load(path)).model.backbone.state_dict(), {})
    path.write_text(bare + f"config.backbone.weights = {str(folder / 'base.safetensors')!r}\n" + WITNESS)
    return path


@dataclass(frozen=True)
class Process:
    """A living process of a command."""

    pid: int
    parent: int
    environment: Mapping[str, str]
    line: str

    @property
    def rank(self) -> int:
        """Global rank of a training process, or of the one it decodes for."""
        return int(self.environment["RANK"])


class Training:
    """One training command in a session of its own. As a context it leaves no process behind."""

    def __init__(
        self,
        recipe: Path,
        name: str,
        *overrides: str,
        torchrun: Sequence[str] | None = None,
        prefix: Sequence[str] = (),
        log: str = "",
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start it.

        recipe: of write_witnessed. name: of the run. torchrun: its options, None = without it. prefix: what runs the
        command, such as ip netns exec. log: name of the output's file beside the recipe, by default the run's.
        variables: of the environment, beside the inherited ones.
        """
        folder = recipe.parent
        self.run, self.log, self.mark = folder / "runs" / name, folder / f"{log or name}.log", uuid.uuid4().hex
        seen = _seen(self.run)
        seen.mkdir(exist_ok=True)
        start = [sys.executable] if torchrun is None else [TORCHRUN, *torchrun]
        line = [*prefix, *start, str(ROOT / "tools" / "train.py"), str(recipe), f"run.name={name}", *overrides]
        inherited = {key: value for key, value in os.environ.items() if key not in LAUNCHER}
        ours = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), MARK: self.mark, SEEN: str(seen)}
        with self.log.open("ab") as out:
            self._child = subprocess.Popen(
                line,
                cwd=ROOT,
                env={**inherited, **ours, **variables},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()

    @property
    def pid(self) -> int:
        """Of the first process, which leads a process group of its own."""
        return self._child.pid

    @property
    def output(self) -> str:
        """All that was printed until now."""
        return self.log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        """True until the first process has ended."""
        return self._child.poll() is None

    def processes(self) -> list[Process]:
        """Every living process that this command started, wherever it is now."""
        return [process for process in _all_processes() if process.environment.get(MARK) == self.mark]

    def workers(self) -> list[Process]:
        """The training processes in rank order, without the children that decode for them."""
        inside = {process.pid: process for process in self.processes() if "RANK" in process.environment}
        return sorted((p for p in inside.values() if p.parent not in inside), key=lambda p: p.rank)

    def worker(self, rank: int, seconds: float = 60) -> Process:
        """The training process of a rank, as soon as there is one."""
        until(lambda: rank in [worker.rank for worker in self.workers()], seconds, f"process {rank}", self)
        return next(worker for worker in self.workers() if worker.rank == rank)

    def wait_for_update(self, update: int, seconds: float = 60) -> None:
        """Until the run has logged `update`."""
        until(lambda: update in losses(self.run), seconds, f"update {update}", self)

    def signal(self, number: int) -> None:
        """Send a signal to the command's first process."""
        self._child.send_signal(number)

    def wait(self, seconds: float = 90) -> int:
        """The exit code. Fails after the deadline, with the end of the output."""
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {seconds} s:\n{self.output[-4000:]}")

    def kill_all(self) -> None:
        """SIGKILL to everything the command started, until nothing is left."""
        deadline = time.monotonic() + 20
        while living := self.processes():
            for process in living:
                kill(process)
            assert time.monotonic() < deadline, f"cannot be killed: {living}"
            time.sleep(0.02)
        self._child.wait(5)

    def assert_gone(self, seconds: float = 5) -> None:
        """Fails where a process of the command outlives it by more than a moment."""
        until(lambda: not self.processes(), seconds, "the end of every process")


def kill(process: Process, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)


def until(condition: Callable[[], bool], seconds: float, what: str, *trainings: Training) -> None:
    """Wait for a condition; fails after the deadline, or as soon as none of the commands runs any more."""
    deadline = time.monotonic() + seconds
    while not condition():
        over = bool(trainings) and not any(training.running for training in trainings) and not condition()
        if over or time.monotonic() > deadline:
            tails = "\n".join(f"--- {training.log.name}\n{training.output[-2500:]}" for training in trainings)
            pytest.fail(f"{'the command ended' if over else f'{seconds} s passed'} before {what}\n{tails}")
        time.sleep(0.02)


def losses(run: Path) -> dict[int, float]:
    """Loss of each logged update; fails where an update was logged twice."""
    path, text = run / "metrics.jsonl", ""
    with contextlib.suppress(FileNotFoundError):
        text = path.read_text()
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    found = [(line["update"], line["train/loss"]) for line in lines if "train/loss" in line]
    assert len(dict(found)) == len(found), f"an update was logged twice in {path}"
    return dict(found)


def stored(run: Path) -> dict[str, Tensor]:
    """Every tensor of the newest checkpoint, the shards of all processes put together."""
    path = checkpoint.newest(run / "checkpoints")
    assert path is not None, f"{run} has no complete checkpoint"
    folder = next(path.rglob("*.safetensors")).parent
    reader = HuggingFaceStorageReader(str(folder))
    kinds = reader.read_metadata().state_dict_metadata
    tensors = {name: torch.empty(kind.size, dtype=kind.properties.dtype) for name, kind in kinds.items()}
    with warnings.catch_warnings(action="ignore"):  # it warns that there is no process group
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def assert_same_run(one: Path, two: Path) -> int:
    """Both runs hold the same tensors and logged the same losses, bit for bit. Returns the bytes compared."""
    left, right = stored(one), stored(two)
    assert left.keys() == right.keys()
    differ = [name for name, value in left.items() if not torch.equal(value, right[name])]
    assert not differ, f"{len(differ)} of {len(left)} tensors differ, such as {differ[:3]}"
    assert losses(one) == losses(two)
    return sum(value.numel() * value.element_size() for value in left.values())


def images_of(run: Path) -> dict[int, list[list[tuple[int, int]]]]:
    """For each update, counted from 1: the (shard, key) of each process's images, in rank order.

    An update that was trained again after a restart counts as it was trained last.
    """
    lines = [json.loads(line) for path in _seen(run).iterdir() for line in path.read_text().splitlines()]
    last: dict[tuple[int, int, int], dict] = {}
    world: dict[int, int] = {}
    for line in sorted(lines, key=lambda line: line["time"]):
        last[line["update"], line["world"], line["rank"]] = line
        world[line["update"]] = line["world"]
    return {
        update + 1: [[tuple(key) for key in last[update, size, rank]["keys"]] for rank in range(size)]
        for update, size in sorted(world.items())
    }


def assert_epochs_are_whole(seen: dict[int, list[list[tuple[int, int]]]]) -> None:
    """Every image exactly once in each epoch's updates, and no update missing."""
    assert [*seen] == [*range(1, len(seen) + 1)]
    for first in range(1, len(seen) + 1, UPDATES_PER_EPOCH):
        keys = [key for update in range(first, first + UPDATES_PER_EPOCH) for part in seen[update] for key in part]
        assert len(keys) == len(set(keys)) == IMAGES, f"the epoch from update {first} on"


def _seen(run: Path) -> Path:
    return run.parent.with_name(f"seen_{run.name}")


def _all_processes() -> list[Process]:
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            variables = (folder / "environ").read_bytes()
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # gone meanwhile, or somebody else's
            continue
        if status[0] in "ZX":
            continue
        pairs = (part.partition("=") for part in variables.decode(errors="replace").split("\0") if part)
        found.append(Process(int(folder.name), int(status[1]), {name: value for name, _, value in pairs}, line))
    return found
