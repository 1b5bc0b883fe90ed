"""Runs a function on several gloo processes of this machine."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.multiprocessing as multiprocessing

# one warm parent forks them all: importing these afresh costs seconds for each process
WARM = ["torch", "torch._dynamo", "torch.optim", "pytest", "tests.training"]
WARM += ["scipy.special", "scipy.sparse", "matplotlib.backends.backend_agg"]  # imported where they are used


def run_processes(world_size: int, function: Callable, *arguments) -> list:
    """What function(global_rank, *arguments) returned on each of `world_size` processes, in rank order.

    function: module-level, so that a fresh process can find it. Results travel through torch.save.
    """
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.set_forkserver_preload(WARM)
        multiprocessing.start_processes(
            _worker,
            (world_size, _free_port(), folder, function, arguments),
            nprocs=world_size,
            start_method="forkserver",
        )
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def run_groups(sizes: Sequence[int], function: Callable[[int, int], object]) -> dict[int, list]:
    """Size -> what function(global_rank, size) returned on each process of a group of that size, in rank order.

    The groups come one after another in the same processes, since starting a process costs seconds.
    """
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in sizes]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        ports = {size: probe.getsockname()[1] for size, probe in zip(sizes, probes, strict=True)}
    found = run_processes(max(sizes), _in_turn, ports, function)
    return {size: [one[size] for one in found if size in one] for size in sizes}


def _in_turn(rank: int, ports: dict[int, int], function: Callable[[int, int], object]) -> dict[int, object]:
    from recognition import distributed

    found = {}
    for size, port in ports.items():
        distributed.stop()
        os.environ.update(WORLD_SIZE=str(size), MASTER_PORT=str(port))
        if rank < size:
            distributed.start("cpu", timeout_minutes=2)
            found[size] = function(rank, size)
    return found


def _worker(rank: int, world_size: int, port: int, folder: str, function: Callable, arguments: tuple) -> None:
    from recognition import distributed
    from tests.tiny import nameable

    gc.freeze()  # what was imported: no collection is to walk it
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    distributed.start("cpu", timeout_minutes=2)
    with nameable():
        result = function(rank, *arguments)
    torch.save(result, Path(folder) / f"{rank}.pt")
    del result
    distributed.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
