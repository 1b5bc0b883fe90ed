"""The pieces of work whose cost `tools/benchmark.py growth` follows, each in processes of its own.

A kind of work is a generator: first what is told of it, then None after each piece. It runs in a process that does
nothing else, on one thread, and is asked for a piece at a time, so that points are measured in turn.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from types import SimpleNamespace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from recognition import allocator, distributed, plan
from recognition import config as settings
from recognition.backbones import BACKBONES
from recognition.bench.limits import products
from recognition.data.order import SampleOrder
from recognition.data.records import Records
from recognition.distributed import World
from recognition.inputs import open_records
from recognition.learner import Learner
from recognition.machine import most_held
from recognition.margins import MARGINS
from recognition.partial_fc import PartialFC
from recognition.partial_fc.memory import estimate
from recognition.types import IMAGE_SIZE, Batch

SGD = {"lr": 1e-6, "momentum": 0.9, "weight_decay": 5e-4}  # the weights hardly move, however long it runs
GIVEN_BACK = 1 << 16  # bytes, so that the process's memory is that of its tensors
LIMIT_FLOPS = 4e10  # of a piece of the bare products
EMBEDDING = 512
SMALL = {"batch": 4, "classes": 256, "side": 32}  # of a work that is done first
SMALL_NETWORK = ("backbone.name=mobilefacenet_nano", "backbone.weights=", "adapter.name=full")

Told = dict[str, float | dict[str, int]]
Work = Iterator[Told | None]


def serve(pipe: Connection, rank: int, port: int, spec: dict) -> None:
    """A process of a point. spec: kind, processes, device, tight (memory is given back), and arguments of the kind.

    Sends what the work tells of itself and (bytes of memory at most, beyond what was there); then, for each word that
    comes, (seconds, seconds of processor time) of a piece, until the word is empty.
    """
    torch.set_num_threads(1)
    if spec["processes"] > 1:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        os.environ.update(zip(names, map(str, (rank, rank, spec["processes"], "127.0.0.1", port)), strict=True))
    world = distributed.start(spec["device"])
    if spec["tight"]:
        allocator.give_back(GIVEN_BACK)
    _load_libraries(spec, world)
    gc.collect()
    before = most_held(world.device, reset=True)
    pieces = KINDS[spec["kind"]](spec, world)
    told = next(pieces)
    most_held(world.device, reset=True)  # what the building took for a while is not counted
    next(pieces)
    next(pieces)  # the optimizer's state is there from the first on
    pipe.send((told, most_held(world.device) - before))
    while pipe.recv():
        wall, processor = time.perf_counter(), time.process_time()
        next(pieces)
        if world.device.type == "cuda":
            torch.cuda.synchronize(world.device)
        pipe.send((time.perf_counter() - wall, time.process_time() - processor))
    pieces.close()
    del pieces
    distributed.stop()
    os._exit(0)  # an interpreter that takes torch down in order needs a second for it


def steps(spec: dict, world: World) -> Work:
    """Training steps of a recipe over records of `classes` classes. spec: recipe, overrides, batch."""
    config = settings.load(spec["recipe"], [*spec["overrides"], f"data.batch_size={spec['batch']}"])
    records, batch = open_records(config), spec["batch"]
    learner = Learner(config, records, world, [batch] * world.world_size)
    run = SimpleNamespace(config=config, learner=learner, world=world, global_batch=batch * world.world_size)
    generator = torch.Generator().manual_seed(world.global_rank)
    image = torch.rand(batch, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator) * 2 - 1
    label = torch.randint(records.num_classes, (batch,), generator=generator)
    given = Batch(image, label, torch.zeros(batch, 2, dtype=torch.int64)).to(world.device)
    predicted = plan.memory_parts(run)
    with FlopCounterMode(display=False) as flops:
        learner.backward(given, 0, 0)
    learner.optimizer.zero_grad()
    yield {"units": batch * world.world_size, "flops": flops.get_total_flops(), "predicted": predicted}
    del flops, run
    while True:
        loss = learner.backward(given, 0, 0)
        if not learner.guard.finite(loss, learner.gradient_norm()):
            raise AssertionError("noise has a finite loss")
        learner.step(0)
        yield None


def updates(spec: dict, world: World) -> Work:
    """Updates of the class centres alone. spec: classes, rate, batch, of all processes together."""
    classes, rate, batch = spec["classes"], spec["rate"], spec["batch"]
    share = batch // world.world_size
    classifier = PartialFC(EMBEDDING, classes, MARGINS.create("cosface"), rate).to(world.device)
    optimizer = torch.optim.SGD(classifier.parameters(), **SGD)
    classifier.bind(optimizer)
    generator = torch.Generator().manual_seed(world.global_rank)
    embedding = torch.randn(share, EMBEDDING, generator=generator).to(world.device).requires_grad_()
    label = torch.randint(classes, (share,), generator=generator).to(world.device)
    rows = max(1, round(rate * len(classifier.weight)))
    world_size = world.world_size
    predicted = estimate(classes, EMBEDDING, batch, sample_rate=rate, world_size=world_size)
    yield {"units": batch, "flops": 6 * batch * rows * EMBEDDING, "predicted": predicted}
    step = 0
    while True:
        classifier(embedding, label, step=step).backward()
        optimizer.step()
        optimizer.zero_grad()
        embedding.grad = None
        step += 1
        yield None


def opening(spec: dict, world: World) -> Work:
    """Opening of a record file. spec: records."""
    yield {"units": 1}
    while True:
        held = Records(spec["records"])
        yield None
        del held


def shuffling(spec: dict, world: World) -> Work:
    """The first indices of a new epoch, which is shuffled for them. spec: images."""
    yield {"units": 1, "predicted": {"two orders": 2 * 4 * spec["images"]}}
    order, epoch = SampleOrder(spec["images"], 0, 1), 0
    while True:
        order.indices(order.positions(epoch * spec["images"]))
        epoch += 1
        yield None


def pixels(spec: dict, world: World) -> Work:
    """Forward and backward of r18's convolutions, all but its last layer, which takes one size only. spec: side."""
    trunk = BACKBONES.create("r18")
    trunk = nn.Sequential(trunk.conv1, trunk.bn1, trunk.prelu, trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)
    trunk = trunk.to(world.device, memory_format=torch.channels_last)
    image = torch.rand(spec["batch"], 3, spec["side"], spec["side"], device=world.device)
    image = image.contiguous(memory_format=torch.channels_last)
    with FlopCounterMode(display=False) as flops:
        trunk(image).mean().backward()
    yield {"units": spec["batch"], "flops": flops.get_total_flops()}
    while True:
        trunk(image).mean().backward()
        yield None


def limit(spec: dict, world: World) -> Work:
    """Bare matrix products: what nothing here can exceed."""
    yield {"units": 1, "flops": LIMIT_FLOPS}
    yield from (None for _ in products(LIMIT_FLOPS, 1, torch.float32, world.device))


KINDS: dict[str, Callable[[dict, World], Work]] = {
    "steps": steps,
    "updates": updates,
    "opening": opening,
    "shuffling": shuffling,
    "pixels": pixels,
    "limit": limit,
}


def _load_libraries(spec: dict, world: World) -> None:
    """What torch loads with the first pieces is nobody's memory: the same kind of work, small."""
    small = {name: size for name, size in SMALL.items() if name in spec}
    if "overrides" in spec:
        small["overrides"] = [*spec["overrides"], *SMALL_NETWORK]
    pieces = KINDS[spec["kind"]]({**spec, **small}, world)
    for _ in range(3):
        next(pieces)
    pieces.close()
