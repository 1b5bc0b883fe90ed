"""Reads FaceMoE's published checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

OPTIONS = {"experts": 3, "top_k": 2, "mixing": "logits", "z_loss": "code"}  # of `moe`, as the weights were trained

_EXPERT = re.compile(r"(?P<mlp>.+)\.experts\.(?P<number>0|[1-9][0-9]*)\.(?P<rest>.+)")
_ROUTER = ".router.gate.weight"


def from_facemoe(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, object]]:
    """(base, adapter, arguments of moe) out of one FaceMoE state dict, for a swin_120 with the shift mask.

    adapter: experts as they are, and `L.router.gate.weight` as `L.router.weight`. base: all others, and the first
    expert of each block as its dense MLP, so that it loads strictly into the backbone before the adapter is attached.
    arguments: OPTIONS, with as many experts as there are; no tensor tells how many of them a token takes.
    ValueError for a block whose experts and router do not belong together, and for blocks of different numbers.
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
        experts, rows = parts.get(mlp, {}), routers.get(mlp, 0)
        whole = all(names == experts.get(0) for names in experts.values())
        if not whole or len(experts) != rows or sorted(experts) != [*range(len(experts))]:
            shown = f"{sorted(experts)[:8]}{'...' if len(experts) > 8 else ''}"
            raise ValueError(
                f"block '{mlp}' holds the experts {shown} {'' if whole else 'of different parts '}and a "
                f"router for {rows}; wanted experts 0, 1, ... alike, and one router row for each"
            )
    numbers = {len(experts): mlp for mlp, experts in parts.items()}
    if len(numbers) > 1:
        told = ", ".join(f"'{mlp}' has {number}" for number, mlp in [*numbers.items()][:4])
        raise ValueError(f"its blocks have different numbers of experts, and moe has one for all: {told}")
    return base, adapter, {**OPTIONS, **({"experts": next(iter(numbers))} if numbers else {})}
