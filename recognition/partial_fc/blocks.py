"""Blocks of large matrices that stay in a core's cache while they are worked on, and memory for what is as large."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 21  # bytes: the second cache of a core; a device that is no CPU is better off with a few large pieces
BLOCK_ELSEWHERE = 1 << 27
ALIGNMENT = 64  # bytes, as torch's own
IN_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
LARGE = 1 << 18  # bytes: from here on the C library may hand back what is left; numpy asks for large pages at 4 MiB


def row_blocks(
    matrix: Tensor, rows: Tensor | None, memory: Memory, dtype: torch.dtype | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """The rows of a matrix that take part, block by block: which of them, and (rows of the block, columns).

    rows: (n,) int64, gathered into memory that the next block overwrites; None = all, which are views. dtype: of the
    blocks, which are copies then; None = the matrix's.
    """
    count, size = len(matrix) if rows is None else len(rows), rows_at_once(matrix)
    gathered = None if rows is None else memory.empty((min(size, count), matrix.shape[1]), matrix)
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        if rows is None:
            block = matrix[part]
        else:
            block = torch.index_select(matrix, 0, rows[part], out=gathered[: part.stop - start])
        yield part, block.to(dtype or matrix.dtype)


def rows_at_once(matrix: Tensor) -> int:
    """How many rows a block has."""
    return max(1, _block(matrix) // max(1, matrix.shape[1] * matrix.element_size()))


def images_at_once(logits: Tensor) -> int:
    """How many rows of (N, n) logits are worked on at once."""
    return max(1, _block(logits) // max(1, logits.shape[1] * logits.element_size()))


def _block(like: Tensor) -> int:
    return BLOCK * torch.get_num_threads() if like.device.type == "cpu" else BLOCK_ELSEWHERE


class Memory:
    """Large buffers that come again in every step: what the last tensor in it has left is given out anew.

    To touch 200 MiB for the first time takes a CPU as long as to multiply a fifth of them, and the C library hands
    back what large tensors leave. It holds no more than was in use at one time; a size that does not fit what is there
    frees it. On other devices torch keeps memory itself.
    """

    def __init__(self) -> None:
        self._left: list[np.ndarray] = []

    def __deepcopy__(self, memo: dict) -> Memory:
        return Memory()

    def empty(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Whatever stands in it, of like's dtype and device."""
        size, kind = math.prod(shape) * like.element_size(), IN_NUMPY.get(like.dtype)
        if like.device.type != "cpu" or size < LARGE or kind is None:
            return like.new_empty(shape)
        fitting = [i for i, held in enumerate(self._left) if size <= held.nbytes - ALIGNMENT <= size + size // 4]
        if fitting:
            memory = self._left.pop(fitting[0])
        else:
            self._left.clear()
            memory = np.empty(size + ALIGNMENT, np.uint8)  # of pages of 2 MiB where the system has them
        offset = -memory.ctypes.data % ALIGNMENT
        lent = memory[offset : offset + size].view(kind).reshape(shape)
        weakref.finalize(lent, self._left.append, memory).atexit = False  # torch holds it while a tensor does
        return torch.from_numpy(lent)
