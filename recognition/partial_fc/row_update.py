"""Optimizer steps over some rows of a parameter."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class RowUpdate:
    """Shows an optimizer, for the time of its step, only the rows of a parameter that have a sparse gradient."""

    def __init__(self, weight: nn.Parameter, optimizer: Optimizer) -> None:
        self.weight = weight
        self._place(optimizer)
        self._handles = [
            optimizer.register_step_pre_hook(self._narrow),
            optimizer.register_step_post_hook(self._widen),
        ]
        self._open: tuple[list, int, nn.Parameter, Tensor] | None = None

    def remove(self) -> None:
        """Leave the optimizer as it was."""
        for handle in self._handles:
            handle.remove()

    def _place(self, optimizer: Optimizer) -> tuple[list, int]:
        for group in optimizer.param_groups:
            for i, parameter in enumerate(group["params"]):
                if parameter is self.weight:
                    return group["params"], i
        raise ValueError("the optimizer does not hold classifier.weight: build it over classifier.parameters() first")

    def _narrow(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if self.weight.grad is None:
            return
        gradient = self.weight.grad.coalesce()
        rows = gradient.indices()[0]
        part = nn.Parameter(self.weight.detach()[rows])
        part.grad = gradient.values()
        if self.weight in optimizer.state:
            state = optimizer.state[self.weight]
            optimizer.state[part] = {k: v[rows] if self._is_full(v) else v for k, v in state.items()}
        parameters, i = self._place(optimizer)
        parameters[i] = part
        self._open = parameters, i, part, rows

    def _widen(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if self._open is None:
            return
        (parameters, i, part, rows), self._open = self._open, None
        parameters[i] = self.weight
        with torch.no_grad():
            self.weight[rows] = part
        state = optimizer.state[self.weight]
        for name, value in optimizer.state.pop(part, {}).items():
            if isinstance(value, Tensor) and value.shape == part.shape:
                if not self._is_full(state.get(name)):
                    state[name] = torch.zeros_like(self.weight, dtype=value.dtype, requires_grad=False)
                state[name][rows] = value
            else:
                state[name] = value

    def _is_full(self, value: object) -> bool:
        return isinstance(value, Tensor) and value.shape == self.weight.shape
