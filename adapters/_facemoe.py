"""Reads FaceMoE's published checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

OPTIONS = {"experts": 3, "top_k": 2, "mixing": "logits", "z_loss": "code"}  # of `moe`, as the weights were trained

_EXPERT = re.compile(r"(?P<mlp>.+)\.experts\.(?P<number>\d+)\.(?P<rest>.+)")
_ROUTER = ".router.gate.weight"


def from_facemoe(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(base, adapter) out of one FaceMoE state dict, for a swin_120 with the shift mask and `moe` with OPTIONS.

    adapter: experts as they are, and `L.router.gate.weight` as `L.router.weight`. base: all others, and the first
    expert of each block as its dense MLP, so that it loads strictly into the backbone before the adapter is attached.
    ValueError for a block whose experts and router do not belong together.
    """
    base: dict[str, Tensor] = {}
    adapter: dict[str, Tensor] = {}
    parts: dict[str, dict[int, set[str]]] = {}
    routers: dict[str, int] = {}
    for key, tensor in tensors.items():
        if found := _EXPERT.fullmatch(key):
            mlp, number, rest = found["mlp"], int(found["number"]), found["rest"]
            parts.setdefault(mlp, {}).setdefault(number, set()).add(rest)
            adapter[key] = tensor
            if number == 0:
                base[f"{mlp}.{rest}"] = tensor
        elif key.endswith(_ROUTER):
            mlp = key.removesuffix(_ROUTER)
            routers[mlp] = tensor.shape[0] if tensor.dim() == 2 else 0
            adapter[f"{mlp}.router.weight"] = tensor
        else:
            base[key] = tensor
    for mlp in parts.keys() | routers.keys():
        experts = parts.get(mlp, {})
        whole = all(names == experts.get(0) for names in experts.values())
        if not whole or set(experts) != set(range(routers.get(mlp, 0))):
            raise ValueError(
                f"block '{mlp}' holds the experts {sorted(experts)} {'' if whole else 'of different parts '}and a "
                f"router for {routers.get(mlp, 0)}; wanted experts 0, 1, ... alike, and one router row for each"
            )
    return base, adapter
