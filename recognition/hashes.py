"""The hash by which a file tells which network it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

DERIVED = ("num_batches_tracked", "relative_position_index", "attn_mask")  # last part of names that hashes leave out


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a network's names, shapes and values, in hexadecimal, whatever the kind of file they lie in.

    Values count as float32 (what a network holds) or int64; buffers that follow from the rest do not count.
    """
    import torch

    digest = hashlib.sha256()
    for key in sorted(tensors):
        if key.rsplit(".", 1)[-1] in DERIVED:
            continue
        tensor = tensors[key].detach()
        plain = tensor.to("cpu", torch.float32 if tensor.is_floating_point() else torch.int64).contiguous()
        digest.update(f"{key} {tuple(plain.shape)}\n".encode())
        digest.update(plain.numpy().data if plain.numel() else b"")
    return digest.hexdigest()
