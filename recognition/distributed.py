"""Processes: torchrun's environment or one process alone; nccl on CUDA, gloo on the CPU; gather with gradient."""

from __future__ import annotations

import gc
import json
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from recognition import allocator


@dataclass(frozen=True, slots=True)
class World:
    """This process among all of them."""

    global_rank: int
    local_rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on the one process that writes logs and prints."""
        return self.global_rank == 0


def start(device: str = "auto", timeout_minutes: float = 30.0, deterministic: bool = False) -> World:
    """Join the process group that torchrun's environment describes, or form a group of one.

    device: "auto" (CUDA where there is one, else the CPU), "cpu" or "cuda".
    timeout_minutes: how long a collective waits for the other processes.
    deterministic: only kernels that repeat bit for bit, until stop(); an operation that has none raises RuntimeError.
    ValueError where CUDA is asked for and there is none, RuntimeError where a group is running already.
    """
    if dist.is_initialized():
        raise RuntimeError("a process group is running already: call distributed.stop() before another start()")
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"train.device is '{device}'; it must be 'auto', 'cpu' or 'cuda'")
    on_cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    if on_cuda and not torch.cuda.is_available():
        raise ValueError("train.device=cuda, but torch finds no CUDA device; set train.device=cpu or auto")
    global_rank, local_rank, world_size = (
        int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1))
    )
    here = torch.device("cuda", local_rank) if on_cuda else torch.device("cpu")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    if not on_cuda:
        allocator.keep_freed()
    else:
        torch.cuda.set_device(here)
        torch.backends.cudnn.allow_tf32 = False  # torch's default rounds "fp32" convolutions to 10 bits
    # gloo beside nccl: processes agree on flags and texts, which lie in the CPU's memory
    backend, limit = "cpu:gloo,cuda:nccl" if on_cuda else "gloo", timedelta(minutes=timeout_minutes)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # torchrun keeps one store over all its restarts: without a prefix, addresses of dead processes are found in it
        store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=limit)
        store = dist.PrefixStore(f"attempt_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        dist.init_process_group(backend, store=store, rank=global_rank, world_size=world_size, timeout=limit)
    elif "RANK" in os.environ:
        dist.init_process_group(backend, timeout=limit)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=limit)
    return World(global_rank, local_rank, world_size, here)


def stop() -> None:
    """Leave the group. Drop every DTensor, DDP module and mesh first: gloo aborts at exit while one is alive."""
    if dist.is_initialized():
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()
    torch.use_deterministic_algorithms(False)


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def global_rank() -> int:
    """Rank of this process among all; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_share(tensor: Tensor) -> bool:
    """Whether it is one tensor over all processes, of which each holds some rows (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that is in shares, by all processes together; any other tensor is itself."""
    return tensor.full_tensor() if is_share(tensor) else tensor


def share(tensor: Tensor) -> Tensor:
    """This process's rows of a tensor in shares, in the same memory, without a gradient; any other is itself."""
    if not is_share(tensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def any_process(*flags: bool) -> list[bool]:
    """For each flag: does a process, any of them, raise it? The same answer on all; one small all-reduce."""
    if world_size() == 1:
        return [*flags]
    raised = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(raised, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in raised.tolist()]


def gather_json(value: object, group: dist.ProcessGroup | None = None) -> list[object]:
    """What each process gave, in rank order, on all of them. value: JSON-able; it travels as text, never pickled."""
    if world_size() == 1:
        return [value]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(text)]), group=group)
    padded = text.new_zeros(int(max(sizes)))
    padded[: len(text)] = text
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    return [json.loads(bytes(part[: int(size)].tolist())) for part, size in zip(parts, sizes, strict=True)]


def gather(local: Tensor, counts: list[int] | None = None) -> Tensor:
    """Rows of all processes, in rank order; the gradient flows back to the process that a row came from.

    local: (n, ...), n = counts[rank]; counts: rows of each process, None where all have as many.
    The gradient of a row is the sum over processes of the gradients of their copies: with a loss that every process
    computes in full it is world_size times the true one, which DDP's averaging takes back.
    """
    if world_size() == 1:
        return local
    counts = counts or [local.shape[0]] * world_size()
    if local.shape[0] != counts[global_rank()]:
        raise ValueError(f"process {global_rank()} holds {local.shape[0]} rows, counts say {counts[global_rank()]}")
    return _Gather.apply(local, counts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, local: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        most = max(counts)
        padded = local.new_zeros(most, *local.shape[1:])
        padded[: local.shape[0]] = local
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # autograd may hand the same one to others
        dist.all_reduce(gradient)
        begin = sum(ctx.counts[: global_rank()])
        return gradient[begin : begin + ctx.counts[global_rank()]], None


def all_reduce_sum(local: Tensor) -> Tensor:
    """Sum over processes, for a value that every process then uses alike in one and the same loss.

    Backward hands each process the gradient of its own loss unchanged: as the loss is computed in full on every
    process, that is the derivative of the one loss by this process's term.
    """
    return local if world_size() == 1 else _AllReduceSum.apply(local)


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient
