"""Tensors into a network: every name exactly once, every shape as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from recognition.weights.names import DERIVED, listed, looks_like

FILLED = ("normal_", "uniform_", "trunc_normal_")


def build_strictly(make: Callable[[], nn.Module], tensors: Mapping[str, Tensor], path: str | Path) -> nn.Module:
    """The network that `make` gives, with the tensors loaded strictly.

    It is made without memory first: sizes that a file's card tells cost nothing before its tensors bear them out.
    ValueError as of load_strictly, and where torch cannot make a network of such sizes.
    """
    try:
        with without_memory():
            plan = make()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # a text for a size; a negative or huge one
        raise ValueError(f"{path}: the network for it cannot be made: {first_line(error)}") from None
    check_fit(plan, tensors, path)
    network = make()
    load_strictly(network, tensors, path)
    return network


@contextmanager
def without_memory() -> Iterator[None]:
    """Networks made here have names and shapes, and no numbers. Nothing is drawn, from no generator."""
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Draws no weights: on the meta device they are none, but each would be a function of Python's, and the first one
    imports torch.compile's parts: a second, and 10 s for all backbones."""

    def __torch_function__(
        self, function: Callable, types: object, args: tuple = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        kwargs = kwargs or {}
        if getattr(function, "__module__", "") == nn.init.__name__ or getattr(function, "__name__", "") in FILLED:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def load_strictly(backbone: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy tensors into the backbone, every key exactly once; derived buffers stay as they are.

    path: for the message only. ValueError with all that is missing, unexpected or of another shape; the backbone is
    unchanged then.
    """
    check_fit(backbone, tensors, path)
    backbone.load_state_dict(dict(tensors), strict=False)


def check_fit(backbone: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """ValueError with all that is missing, unexpected or of another shape; path: for the message only."""
    own = {k: v for k, v in backbone.state_dict().items() if k.rsplit(".", 1)[-1] not in DERIVED}
    faults = [
        listed("missing", [k for k in own if k not in tensors]),
        listed("unexpected", [k for k in tensors if k not in own]),
        listed(
            "of another shape",
            [
                f"{k} {tuple(tensors[k].shape)} instead of {tuple(v.shape)}"
                for k, v in own.items()
                if k in tensors and tensors[k].shape != v.shape
            ],
        ),
    ]
    if any(faults):
        raise ValueError(
            f"{path}: its weights do not fit the network {type(backbone).__name__}{looks_like(tensors)}\n  "
            + "\n  ".join(fault for fault in faults if fault)
            + "\nset the backbone's name and arguments to what the file's card or source says"
        )


def first_line(error: Exception) -> str:
    """Of an error's text, not longer than a message bears."""
    return str(error).strip().split("\n")[0][:200]
