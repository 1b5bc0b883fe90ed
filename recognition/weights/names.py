"""Names of tensors: what wrappers put before them, which of them only derive from others, and what a name may be."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from recognition.pickled import Forgotten, shown
from recognition.weights.kinds import of_names, of_parts
from recognition.weights.torch_files import DTYPES

DERIVED = ("num_batches_tracked", "relative_position_index", "attn_mask")  # last part of the names dropped on reading
WRAPPERS = re.compile(r"(module\.|_orig_mod\.)*")  # of DistributedDataParallel and torch.compile
CONTAINERS = ("state_dict_backbone", "state_dict")  # arcface_torch's resume files, and the common habit
LONGEST_NAME = 300  # characters of a tensor's name


def plain_tensors(saved: Mapping[object, object], path: str | Path) -> dict[str, Tensor]:
    """A part of what torch.save wrote as tensors by name, without wrapper prefixes and derived buffers.

    path: for the messages. ValueError where it holds something else.
    """
    tensors = renamed(_named(saved, path), _unwrapped, path)
    _check(tensors, path)
    return {key: tensor for key, tensor in tensors.items() if key.rsplit(".", 1)[-1] not in DERIVED}


def state_dict(saved: object, path: str | Path) -> dict[str, Tensor]:
    """The state dict in what torch.save wrote: plain, or under one of CONTAINERS. ValueError where there is none."""
    for container in CONTAINERS:
        if isinstance(saved, dict) and isinstance(saved.get(container), dict):
            saved = saved[container]
            break
    if not isinstance(saved, dict):
        raise ValueError(f"{path}: holds a {type(saved).__name__}, wanted a state dict: names to tensors")
    return _named(saved, path)


def renamed(tensors: Mapping[str, Tensor], rename: Callable[[str], str], path: str | Path) -> dict[str, Tensor]:
    """The tensors by what `rename` makes of their names. ValueError where two become one: a tensor would be lost."""
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = rename(key)
        if name in found:
            raise ValueError(f"{path}: two of its tensors are named '{shown(name)}', with prefixes and without")
        found[name] = tensor
    return found


def listed(what: str, names: list[str], most: int = 4) -> str:
    """How many there are of what, the first of them by name; "" for none."""
    if not names:
        return ""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} {what}: {', '.join(names[:most])}{more}"


def looks_like(names: Mapping[str, Tensor]) -> str:
    """A sentence's end on what tensors by these names are of; "" where nobody knows."""
    seen = of_names(names)
    return f"; it looks like {seen}" if seen else ""


def _unwrapped(key: str) -> str:
    return key[WRAPPERS.match(key).end() :]


def _named(saved: Mapping[object, object], path: str | Path) -> dict[str, Tensor]:
    if not all(isinstance(key, str) for key in saved):
        raise ValueError(f"{path}: some of its entries have no texts as names; wanted a state dict: names to tensors")
    others = [
        f"'{shown(key)}' ({'not read here' if isinstance(value, Forgotten) else type(value).__name__})"
        for key, value in saved.items()
        if not isinstance(value, Tensor)
    ]
    if others:
        seen = of_parts(saved)
        raise ValueError(
            f"{path}: {listed('of its entries are no tensors', others)}; wanted a state dict, plain or "
            f"under one of the keys {', '.join(CONTAINERS)}" + (f"; it looks like {seen}" if seen else "")
        )
    return dict(saved)


def _check(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Names short enough for messages and comparisons; numbers of the kinds that networks have."""
    for key, tensor in tensors.items():
        if len(key) > LONGEST_NAME or not key.isprintable():
            raise ValueError(f"{path}: '{shown(key)}' is no name of a tensor: too long, or not printable")
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{path}: '{key}' is of {tensor.dtype}, which no network here has")
