"""What could stop a run after hours, looked at before it begins: disk, memory, rights, processes, records, devices.

Every process measures for itself and hands its facts round; findings are made of the worst of each machine, the same on
all processes.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

import adapters
from recognition import checkpoint, random_state
from recognition.data.decode import decode
from recognition.distributed import World, gather_json
from recognition.machine import device_free, memory_left, readable_size, try_writing
from recognition.plan import memory_parts
from recognition.types import IMAGE_SIZE

if TYPE_CHECKING:
    from recognition.learner import Learner
    from recognition.trainer import Trainer

SAMPLE = 64  # records that each process reads
REDUCED = 1 << 20  # float32 numbers in the all-reduce: 4 MiB
WARM_UP, REPEATS = 2, 7
TIGHT = 0.65  # share of the memory from which on it is a warning: real peaks were up to 1.5 times the estimate


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the check. FAIL: the run would not come to its end as it is set up."""

    name: str
    text: str
    level: Literal["ok", "WARN", "FAIL"] = "ok"

    def __str__(self) -> str:
        return f"{self.name:<10}{'' if self.level == 'ok' else self.level + ' '}{self.text}"


class Facts(TypedDict):
    """What one process measured; sizes in bytes, times in seconds, problems in words or ""."""

    host: str
    write_problem: str
    sees_main: bool  # the file that the main process wrote
    free: int  # on the disk of the run
    shared: int  # of a checkpoint, the same on every process
    own: int  # of a checkpoint, this process's part
    memory: int  # that this machine, or this container, still has
    estimate: int  # that this process will need
    device: str  # CUDA's name; "" on the CPU
    device_free: int
    reduced: float  # what the all-reduce of 1, 2, 3, ... gave
    reduce_seconds: float
    read_problem: str
    read_seconds: float
    read_images: int
    read_bytes: int


def check(trainer: Trainer) -> list[Finding]:
    """Look at everything, by all processes together. trainer: built, before its first update.

    Nothing is left on the disk. A check that goes wrong is a finding, never an error.
    """
    config, world = trainer.config, trainer.world
    everyone: list[Facts] = gather_json(measure(trainer))
    findings = [
        judge_writing(everyone, trainer.run),
        judge_disk(everyone, trainer.run, checkpoints_to_come(trainer)),
        judge_memory(everyone),
        judge_group(everyone, backend_of(world)),
        judge_records(everyone, skips=config.data.get("on_bad_record", "error") == "skip"),
    ]
    return findings + ([judge_devices(everyone)] if world.device.type == "cuda" else [])


def measure(trainer: Trainer) -> Facts:
    """The facts of this process; all processes call it together."""
    on_cuda = trainer.world.device.type == "cuda"
    shared, own = checkpoint_bytes(trainer.learner)
    return {
        "host": socket.gethostname(),
        **try_writing(trainer.run, trainer.world),
        "shared": shared,
        "own": own,
        "memory": memory_left(),
        "estimate": sum(memory_parts(trainer).values()),
        "device": torch.cuda.get_device_name(trainer.world.device) if on_cuda else "",
        "device_free": device_free() if on_cuda else 0,
        **_try_reducing(trainer.world),
        **_try_reading(trainer),
    }


def backend_of(world: World) -> str:
    """Name of what carries this run's collectives."""
    pairs = (pair.split(":") for pair in dist.get_backend_config().split(","))  # such as cpu:gloo,cuda:nccl
    return dict(pairs)[world.device.type]


def checkpoint_bytes(learner: Learner) -> tuple[int, int]:
    """Bytes of a checkpoint's tensors: (what every process holds alike, what this process adds).

    Counted on the tensors themselves. What the optimizer will keep is seen on a step of one number.
    """
    model, classifier = learner.model, learner.classifier
    shared = [*adapters.live(model.backbone).values()]
    if model.quality_gate is not None:
        shared += model.quality_gate.state_dict().values()
    if model.average is not None:
        shared += model.average.tensors.values()
    shared += [value for name, value in classifier.state_dict().items() if name != "weight"]
    kept = _kept_by(learner.optimizer)
    of_rows = kept.pop(classifier.weight)
    own = [classifier.weight, *random_state.capture().values()]
    return _bytes(shared) + sum(kept.values()), _bytes(own) + of_rows


def checkpoints_to_come(trainer: Trainer) -> int:
    """Checkpoints that will lie on the disk at once, besides those that lie there: train.keep, the best, the next."""
    settings = trainer.config.train
    if settings.keep:
        there = len(checkpoint.complete(trainer.run / "checkpoints")) if trainer.resumed_from is not None else 0
        return max(2, settings.keep + 2 - there)
    left = trainer.schedule.total - (trainer.stored.update if trainer.stored else 0)
    by_epochs = left * trainer.images_per_update / trainer.order.epoch_size / (settings.save_every or float("inf"))
    by_updates = left / settings.save_every_updates if settings.save_every_updates else 0
    return int(by_epochs) + int(by_updates) + 2


def judge_writing(everyone: Sequence[Facts], place: Path) -> Finding:
    """Can all processes write the run's folder, and is it one and the same?"""
    for facts in everyone:
        if facts["write_problem"]:
            return Finding(
                "folder",
                f"{place} cannot be written on {facts['host']}: {facts['write_problem']}; "
                "mend its rights or name another place by run.root",
                "FAIL",
            )
    for facts in everyone:
        if not facts["sees_main"]:
            return Finding(
                "folder",
                f"{place} of {facts['host']} is another one than that of {everyone[0]['host']}, and a checkpoint is "
                "written by all; put run.root on a disk that all machines share",
                "FAIL",
            )
    return Finding("folder", f"{place} can be written")


def judge_disk(everyone: Sequence[Facts], place: Path, wanted: int) -> Finding:
    """Is there room for as many checkpoints as will lie there at once?"""
    size = everyone[0]["shared"] + sum(facts["own"] for facts in everyone)
    free = min(facts["free"] for facts in everyone)
    room = free // size
    text = f"{readable_size(free)} free at {place.parent}, a checkpoint takes {readable_size(size)}: room for {room:,}"
    if room >= wanted:
        return Finding("disk", text)
    missing = readable_size(wanted * size - free)
    advice = f"{wanted:,} are wanted (train.keep and two more); free {missing}, lower train.keep or move run.root"
    return Finding("disk", f"{text}, but {advice}", "FAIL")


def judge_memory(everyone: Sequence[Facts]) -> Finding:
    """Does what the processes of a machine, or of a CUDA device, will need fit what there is?"""
    on_cuda = bool(everyone[0]["device"])
    worst: tuple[float, str] = (-1.0, "")
    for place, facts in [(f["host"], [f]) for f in everyone] if on_cuda else _by_host(everyone).items():
        need = sum(f["estimate"] for f in facts)
        there = min(f["device_free" if on_cuda else "memory"] for f in facts)
        where = f"{facts[0]['device']} of {place}" if on_cuda else place
        told = f"{len(facts)} process(es) need about {readable_size(need)}, {where} has {readable_size(there)} left"
        worst = max(worst, (need / max(there, 1), told))
    share, text = worst
    advice = "; lower data.batch_size or classifier.sample_rate, set train.checkpoint_activations=true or use fewer "
    advice += "processes per machine"
    if share > 1:
        return Finding("memory", text + advice, "FAIL")
    return Finding("memory", text + advice, "WARN") if share > TIGHT else Finding("memory", text)


def judge_group(everyone: Sequence[Facts], backend: str) -> Finding:
    """Do the processes reach one another, and how fast?"""
    count, hosts = len(everyone), len(_by_host(everyone))
    text = f"{count} process(es) on {hosts} machine(s), {backend}"
    if count == 1:
        return Finding("group", f"{text}: nothing to exchange")
    wanted = float(sum(range(1, count + 1)))
    wrong = [(rank, facts["reduced"]) for rank, facts in enumerate(everyone) if facts["reduced"] != wanted]
    if wrong:
        rank, got = wrong[0]
        advice = f"look at the network and at {backend}'s version on {everyone[rank]['host']}"
        return Finding(
            "group", f"{text}: an all-reduce gave {got:g} on process {rank} instead of {wanted:g}; {advice}", "FAIL"
        )
    seconds = max(facts["reduce_seconds"] for facts in everyone)
    moved = 2 * (count - 1) / count * 4 * REDUCED / seconds
    return Finding(
        "group",
        f"{text}: all-reduce of {readable_size(4 * REDUCED)} right, {1000 * seconds:.2f} ms, {moved / 1e6:,.0f} MB/s "
        f"(2(n-1)/n x size / time, median of {REPEATS})",
    )


def judge_records(everyone: Sequence[Facts], *, skips: bool) -> Finding:
    """Are the records readable, and how fast do they come? skips: bad ones are to be skipped."""
    bad = [facts for facts in everyone if facts["read_problem"]]
    if bad:
        more = f" (and {len(bad) - 1} other process(es))" if len(bad) > 1 else ""
        advice = "; tools/inspect_records.py lists all bad ones"
        text = f"on {bad[0]['host']}: {bad[0]['read_problem']}{more}{advice}"
        return Finding("reading", text, "WARN" if skips else "FAIL")
    slowest = min(everyone, key=lambda facts: facts["read_bytes"] / facts["read_seconds"])
    images, seconds, size = slowest["read_images"], slowest["read_seconds"], slowest["read_bytes"]
    return Finding(
        "reading",
        f"{images} records of {readable_size(size / images)} on {slowest['host']}: {size / seconds / 1e6:,.1f} MB/s, "
        f"{images / seconds:,.0f} images/s, from the disk or the system's cache",
    )


def judge_devices(everyone: Sequence[Facts]) -> Finding:
    """Which CUDA devices are there?"""
    names = [facts["device"] for facts in everyone]
    text = ", ".join(f"{names.count(name)} x {name}" for name in sorted(set(names)))
    if len(set(names)) > 1:
        return Finding("devices", f"{text}: all wait for the slowest", "WARN")
    return Finding("devices", text)


def _try_reducing(world: World) -> dict[str, float]:
    """Sum 1, 2, 3, ... over the processes in a tensor of REDUCED numbers, several times."""
    took, value = [], torch.empty(0)
    for _ in range(WARM_UP + REPEATS):
        value = torch.full((REDUCED,), world.global_rank + 1.0, device=world.device)
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(value)
        value[0].item()  # waits for the device
        took.append(time.perf_counter() - began)
    found = value.unique().tolist()
    return {
        "reduced": found[0] if len(found) == 1 else float("nan"),
        "reduce_seconds": statistics.median(took[WARM_UP:]),
    }


def _try_reading(trainer: Trainer) -> dict[str, object]:
    """Read and decode records from all over the set, other ones on every process; only the reading is timed."""
    records, world = trainer.records, trainer.world
    apart = records.num_images / (SAMPLE * world.world_size)
    chosen = np.unique((np.arange(world.global_rank, SAMPLE * world.world_size, world.world_size) * apart).astype(int))
    problem, seconds, size = "", 0.0, 0
    try:
        for i in chosen.tolist():
            began = time.perf_counter()
            encoded = records.read(i)
            seconds += time.perf_counter() - began
            size += len(encoded)
            decode(encoded, IMAGE_SIZE, records.where(i))
    except (OSError, ValueError) as error:
        problem = str(error)
    return {"read_problem": problem, "read_seconds": seconds, "read_images": len(chosen), "read_bytes": size}


def _kept_by(optimizer: Optimizer) -> dict[nn.Parameter, int]:
    """Bytes that an optimizer will keep for each parameter, seen on a step of two numbers with the group's settings."""
    kept = {}
    for group in optimizer.param_groups:
        probe = nn.Parameter(torch.zeros(2, dtype=group["params"][0].dtype))
        probe.grad = torch.zeros_like(probe)
        settings = {name: value for name, value in group.items() if name != "params"}
        like = type(optimizer)([{"params": [probe], **settings}])
        like.step()
        slots = [value for value in like.state[probe].values() if isinstance(value, Tensor)]
        each = sum(slot.element_size() for slot in slots if slot.shape == probe.shape)
        once = sum(slot.nbytes for slot in slots if slot.shape != probe.shape)
        kept |= {parameter: each * parameter.numel() + once for parameter in group["params"]}
    return kept


def _by_host(everyone: Sequence[Facts]) -> dict[str, list[Facts]]:
    found: dict[str, list[Facts]] = {}
    for facts in everyone:
        found.setdefault(facts["host"], []).append(facts)
    return found


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
