"""Optimizer steps over some rows of a parameter, block by block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.sgd import sgd

from recognition.partial_fc.blocks import Memory, row_blocks

PLAIN = {"dampening": 0, "nesterov": False, "maximize": False, "foreach": None, "fused": None, "differentiable": False}


class RowUpdate:
    """Lets an optimizer move only the rows of a parameter that have a sparse gradient; all of them if it is dense.

    torch's SGD without Nesterov, as this project's optim.name=sgd makes it, is stood in for by its own fused kernel on
    blocks of rows, which passes over them once and needs no memory of the gradient's size; with a sparse gradient a
    block is gathered, moved and written back while it lies in the cache. Results are those of SGD within rounding.
    Another optimizer is shown, for the time of its step, the rows that have a gradient as if they were the parameter;
    a dense gradient is left to it.

    forget: what the optimizer keeps is of the rows of its last step only, a sparse tensor of the weight's shape; a row
    that was not among them starts from zeros. Else it is kept of all rows, dense.
    touched: bytes of weight, state and gradient that the last step of SGD read and wrote.
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
        self._done: Tensor | None = None  # the gradient, where the step is made already
        self.touched = 0
        self._memory = Memory()

    def remove(self) -> None:
        """Leave the optimizer as it was."""
        for handle in self._handles:
            handle.remove()

    def _place(self, optimizer: Optimizer) -> tuple[dict, int]:
        for group in optimizer.param_groups:
            for i, parameter in enumerate(group["params"]):
                if parameter is self.weight:
                    return group, i
        raise ValueError("the optimizer does not hold classifier.weight: build it over classifier.parameters() first")

    def _narrow(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if self.weight.grad is None:
            return
        group, i = self._place(optimizer)
        if type(optimizer) is SGD and all(group.get(name) == value for name, value in PLAIN.items()):
            self._step(optimizer, group)
            self._done, self.weight.grad = self.weight.grad, None
            return
        if not self.weight.grad.is_sparse:
            return
        gradient = self.weight.grad.coalesce()
        rows = gradient.indices()[0]
        part = nn.Parameter(self.weight.detach().index_select(0, rows))
        part.grad = gradient.values()
        if self.weight in optimizer.state:
            state = optimizer.state[self.weight]
            optimizer.state[part] = {k: take_rows(v, rows) if self._is_full(v) else v for k, v in state.items()}
        group["params"][i] = part
        self._open = group["params"], i, part, rows

    def _widen(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if self._done is not None:
            self.weight.grad, self._done = self._done, None
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

    @torch.no_grad()
    def _step(self, optimizer: Optimizer, group: dict) -> None:
        """SGD on the rows that have a gradient, block by block."""
        weight, gradient, rows = self.weight.detach(), self.weight.grad, None
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            rows, gradient = gradient.indices()[0], gradient.values()
        before = after = None
        if group["momentum"]:
            state = optimizer.state[self.weight]
            before = state.get("momentum_buffer")
            if rows is not None and self.forget:
                after = self._memory.empty(gradient.shape, gradient)
                state["momentum_buffer"] = torch.sparse_coo_tensor(
                    rows[None], after, weight.shape, is_coalesced=True, check_invariants=False
                )
            elif self._is_full(before) and before.is_sparse:
                before = state["momentum_buffer"] = before.to_dense()
            elif not self._is_full(before):
                before = state["momentum_buffer"] = torch.zeros_like(weight, dtype=gradient.dtype)
        self.touched = 0
        settings = {name: group[name] for name in ("weight_decay", "dampening", "nesterov", "maximize")}
        held = row_blocks(before, rows, self._memory) if before is not None and not before.is_sparse else None
        for part, centres in row_blocks(weight, rows, self._memory):
            momentum = None
            if held is not None:
                _, momentum = next(held)
            elif after is not None:
                momentum = torch.zeros_like(centres) if before is None else take_rows(before, rows[part])
            sgd(
                [centres],
                [gradient[part]],
                [momentum],
                fused=True,
                lr=float(group["lr"]),
                momentum=group["momentum"],
                **settings,
            )
            if rows is not None:
                weight.index_copy_(0, rows[part], centres)
            if after is not None:
                after[part] = momentum
            elif rows is not None and momentum is not None:
                before.index_copy_(0, rows[part], momentum)
            self.touched += centres.nbytes * (3 if momentum is None else 5)

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
