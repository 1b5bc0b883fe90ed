"""Small networks, and weights files of them as other programs write theirs, for tests."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from torch import nn


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))


def saved(path: Path, thing: object) -> Path:
    torch.save(thing, path)
    return path


def own(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a)


def mxnet_file(path: Path, arrays: dict[str, np.ndarray], version: int = 0xF993FAC9) -> Path:
    """MXNet's list of arrays as its own writer lays it out."""
    kinds = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}
    out = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        out += struct.pack("<I", version) + (struct.pack("<i", 0) if version == 0xF993FAC9 else b"")
        out += struct.pack(f"<I{array.ndim}q", array.ndim, *array.shape)
        out += struct.pack("<iii", 1, 0, kinds[array.dtype.name]) + array.tobytes()
    out += struct.pack("<Q", len(arrays))
    for name in arrays:
        out += struct.pack("<Q", len(name)) + name.encode()
    path.write_bytes(out)
    return path
