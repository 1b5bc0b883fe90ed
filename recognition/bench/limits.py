"""What no program can exceed on this machine: products of matrices, and copies of memory, as cases beside others."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

SIDE = 2048  # of the matrices: large enough for the best rate of a core, small enough to be measured in turn


@torch.no_grad()
def products(flops: float, units: int, dtype: torch.dtype, device: torch.device) -> Iterator[int]:
    """Endless bare matrix products, `units` counted for each `flops` floating-point operations.

    flops: of one piece of the work that is compared, a multiplication and an addition counted as two. The products are
    square, SIDE numbers wide, of dtype, into memory that is there already, by as many threads as torch has.
    """
    left, right, out = (torch.randn(SIDE, SIDE, device=device).to(dtype) for _ in range(3))
    done, each = 0.0, 2.0 * SIDE**3
    while True:
        while done < flops:
            torch.mm(left, right, out=out)
            done += each
        _wait(out)
        pieces = int(done // flops)
        done -= pieces * flops
        yield pieces * units


@torch.no_grad()
def copies(size: float, units: int, device: torch.device) -> Iterator[int]:
    """Endless bare copies of memory, `units` counted for each `size` bytes that are read and written elsewhere."""
    source = torch.zeros(2**26, dtype=torch.uint8, device=device)  # 64 MiB: beyond the caches of a core
    target = torch.empty_like(source)
    done = 0.0
    while True:
        while done < size:
            target.copy_(source)
            done += source.numel()
        _wait(target)
        pieces = int(done // size)
        done -= pieces * size
        yield pieces * units


def _wait(value: Tensor) -> None:
    if value.device.type == "cuda":
        torch.cuda.synchronize(value.device)
