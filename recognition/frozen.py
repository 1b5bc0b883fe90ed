"""Weights of a frozen base in the precision that training computes in, rounded once and not in every step.

Autocast rounds the weights of Linear and Conv2d layers to its own dtype whenever it meets them, and backward keeps the
rounded ones. Where nothing trains them they may as well stay rounded: the same numbers, bit for bit, without the work,
in half the device's memory. What is evaluated and delivered has the weights as they were.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import adapters
from recognition.model import FaceModel


class FrozenWeights:
    """Frozen weights and biases of a model's Linear and Conv2d layers, rounded; the float32 ones wait on the CPU.

    Only in the backbone, and of layers that do nothing but multiply with them: those two themselves, and an adapter's
    own kinds that say so (multiplies_only = True). Left alone is what a checkpoint holds, such as experts at rest, and
    what a scorer looks through, which works outside autocast. Norms, tables and the adapter stay in float32.
    """

    def __init__(self, model: FaceModel, dtype: torch.dtype) -> None:
        """dtype: of autocast, around every forward pass from now on. model: on its device."""
        self.dtype = dtype
        self._exact = 0  # contexts that are open
        self._waiting: list[Tensor] = []
        self.parameters = [*_that_rest(model).values()]
        self._round()

    def waiting(self) -> int:
        """Bytes of float32 weights that the CPU's memory holds beside the rounded ones."""
        return sum(weight.nbytes for weight in self._waiting)

    @contextlib.contextmanager
    def exact(self) -> Iterator[None]:
        """The model has its float32 weights: for passes without autocast, and for whoever reads weights."""
        if self._exact == 0:
            for parameter, weight in zip(self.parameters, self._waiting, strict=True):
                parameter.data = weight.to(parameter.device)
            self._waiting = []
        self._exact += 1
        try:
            yield
        finally:
            self._exact -= 1
            if self._exact == 0:
                self._round()

    def _round(self) -> None:
        self._waiting = [parameter.data.cpu() for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.data = parameter.data.to(self.dtype)


def _that_rest(model: FaceModel) -> dict[str, nn.Parameter]:
    kept, seen = set(), set()
    with contextlib.suppress(RuntimeError):  # no adapter
        kept = {*adapters.attached(model.backbone).keys}
    if model.scorer is not None:
        seen = {id(parameter) for parameter in model.scorer.parameters()}
    found = {}
    for place, layer in model.backbone.named_modules():
        if type(layer) not in (nn.Linear, nn.Conv2d) and not getattr(layer, "multiplies_only", False):
            continue
        for name in ("weight", "bias"):
            parameter, key = getattr(layer, name), f"{place}.{name}" if place else name
            if parameter is None or parameter.requires_grad or id(parameter) in seen or key in kept:
                continue
            if parameter.dtype == torch.float32:
                found[key] = parameter
    return found
