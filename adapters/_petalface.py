"""Reads the adapter tensors of PETALface's published checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

OPTIONS = {"scaling": 1.0, "dropout": 0.1, "dropout_at": "output"}  # of lora and dual_lora, as they were trained

_SIDES = {"down": "lora_a", "up": "lora_b"}
_MARK = ".trainable_lora_"


def from_petalface(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(base, adapter) out of one PETALface state dict: the adapter's tensors renamed, all others as they are.

    `L.trainable_lora_{down,up}.weight` and, in gated layers, `..._{down2,up2}.weight` become `L.lora_a` and `L.lora_b`;
    the second pair is the branch of gate 1 and comes second on the bottleneck.
    ValueError for a layer whose pairs are incomplete.
    """
    base: dict[str, Tensor] = {}
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        layer, mark, rest = key.partition(_MARK)
        if mark:
            found.setdefault(layer, {})[rest.removesuffix(".weight")] = tensor
        else:
            base[key] = tensor
    adapter: dict[str, Tensor] = {}
    for layer, parts in found.items():
        if set(parts) not in ({"down", "up"}, {"down", "up", "down2", "up2"}):
            raise ValueError(
                f"layer '{layer}' holds {', '.join(f'trainable_lora_{p}' for p in sorted(parts))}; "
                "wanted down and up, or down, up, down2 and up2"
            )
        for axis, (side, name) in enumerate(_SIDES.items()):
            pair = [parts[part] for part in (side, f"{side}2") if part in parts]
            adapter[f"{layer}.{name}"] = torch.cat(pair, axis)
    return base, adapter
