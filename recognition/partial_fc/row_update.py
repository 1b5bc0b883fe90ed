"""Optimizer steps over some rows of a parameter."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class RowUpdate:
    """Shows an optimizer, for the time of its step, only the rows of a parameter that have a sparse gradient.

    forget: what the optimizer keeps is of the rows of its last step only, a sparse tensor of the weight's shape; a row
    that was not among them starts from zeros. Else it is kept of all rows, dense.
    """

    def __init__(self, weight: nn.Parameter, optimizer: Optimizer, forget: bool = False) -> None:
        self.weight, self.forget = weight, forget
        self._place(optimizer)
        self._handles = [
            weight.register_post_accumulate_grad_hook(_mark_coalesced),
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
        part = nn.Parameter(self.weight.detach().index_select(0, rows))
        part.grad = gradient.values()
        if self.weight in optimizer.state:
            state = optimizer.state[self.weight]
            optimizer.state[part] = {k: take_rows(v, rows) if self._is_full(v) else v for k, v in state.items()}
        parameters, i = self._place(optimizer)
        parameters[i] = part
        self._open = parameters, i, part, rows

    def _widen(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if self._open is None:
            return
        (parameters, i, part, rows), self._open = self._open, None
        parameters[i] = self.weight
        with torch.no_grad():
            self.weight.index_copy_(0, rows, part)
        state = optimizer.state[self.weight]
        for name, value in optimizer.state.pop(part, {}).items():
            if not isinstance(value, Tensor) or value.shape != part.shape:
                state[name] = value
            elif self.forget:
                state[name] = torch.sparse_coo_tensor(
                    rows[None], value, self.weight.shape, is_coalesced=True, check_invariants=False
                )
            else:
                if not self._is_full(state.get(name)):
                    state[name] = torch.zeros_like(self.weight, dtype=value.dtype, requires_grad=False)
                state[name].index_copy_(0, rows, value)

    def _is_full(self, value: object) -> bool:
        return isinstance(value, Tensor) and value.shape == self.weight.shape


def _mark_coalesced(weight: nn.Parameter) -> None:
    """Tell a sparse gradient of one backward that its rows are sorted and differ: autograd forgets it, and to find it
    out by coalesce() costs a copy. The gradients of several are strung together, and stay as they are.
    """
    gradient = weight.grad
    if gradient is not None and gradient.is_sparse and not gradient.is_coalesced():
        rows = gradient._indices()[0]
        if (rows[1:] > rows[:-1]).all():
            gradient._coalesced_(True)


def take_rows(matrix: Tensor, rows: Tensor) -> Tensor:
    """Some rows of a matrix, (n, columns); zeros for those that a sparse one does not hold. rows: (n,) int64."""
    if not matrix.is_sparse:
        return matrix.index_select(0, rows)
    matrix = matrix.coalesce()
    held, values = matrix.indices()[0], matrix.values()
    found = values.new_zeros(len(rows), values.shape[1])
    if len(held):
        place = torch.searchsorted(held, rows).clamp_max_(len(held) - 1)
        there = (held[place] == rows).nonzero().squeeze(1)
        found[there] = values[place[there]]
    return found
