"""A running mean of the trained weights: smoother than the last ones, evaluated and delivered in their place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from recognition.distributed import share
from recognition.model import GATE, FaceModel


class WeightAverage:
    """Exponential moving average of the network's trained weights and moving statistics (Polyak averaging).

    After update t (1, 2, ...) the mean m becomes d m + (1 - d) w with d = min(decay, (1 + t) / (10 + t)): early, when
    the weights still run, it forgets faster. Class centres are not averaged. Of several
    processes the main one's mean of statistics counts, as theirs does. Memory: as much as what is trained.
    """

    def __init__(self, model: FaceModel, decay: float) -> None:
        """decay: in (0, 1), such as 0.999. model: as training starts with it. ValueError for another decay."""
        if not 0 < decay < 1:
            raise ValueError(f"config.optim.average is {decay}; it must lie in (0, 1), such as 0.999, or be 0 for none")
        self.decay = decay
        self._live = _moving(model)
        if not self._live:
            raise ValueError("config.optim.average: nothing of the network is trained, so there is nothing to average")
        self.tensors = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        model.average = self  # checkpoints look for it there

    @torch.no_grad()
    def start(self) -> None:
        """Begin at the weights as they are."""
        for name, tensor in self._live.items():
            self.tensors[name].copy_(tensor)

    @torch.no_grad()
    def follow(self, update: int) -> None:
        """Take in the weights after update 1, 2, ..."""
        decay = min(self.decay, (1 + update) / (10 + update))
        means, now = ([share(t.detach()) for t in held.values()] for held in (self.tensors, self._live))
        torch._foreach_lerp_(means, now, 1 - decay)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """The model has the mean's weights, for evaluations and deliveries."""
        kept = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        _put(self._live, self.tensors)
        try:
            yield
        finally:
            _put(self._live, kept)


@torch.no_grad()
def _put(live: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, tensor in live.items():
        tensor.copy_(values[name])


def _moving(model: FaceModel) -> dict[str, Tensor]:
    """What training moves, by its name in a delivered model; statistics only where the base is trained."""
    named = {name: p for name, p in model.backbone.named_parameters() if p.requires_grad}
    if model.statistics_move:
        named |= {name: b for name, b in model.backbone.named_buffers() if b.is_floating_point()}
    if model.quality_gate is not None:
        named |= {f"{GATE}{name}": p for name, p in model.quality_gate.named_parameters() if p.requires_grad}
    return named
