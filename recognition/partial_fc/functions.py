"""Steps of the classifier whose gradient autograd's own chain would get wrong or make large."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from recognition import distributed

SMALLEST_NORM = 1e-12
ROWS_AT_ONCE = 4096  # of a gradient: 8 MiB of 512 columns, in place of a second matrix of its size


def sum_over_processes(gradient: Tensor) -> Tensor:
    """Hook of a parameter that every process holds: shares of its gradient -> the true gradient."""
    if distributed.world_size() == 1:
        return gradient
    total = gradient.clone()
    dist.all_reduce(total)
    return total


class ScaleGradient(torch.autograd.Function):
    """The value as it is; its gradient times a factor."""

    @staticmethod
    def forward(ctx, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


@contextlib.contextmanager
def _bf16_on_cpu() -> Iterator[None]:
    """float32 matrices are multiplied as bf16 by processors that can, sums and products stay float32."""
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


def multiply(left: Tensor, right: Tensor, low: bool) -> Tensor:
    """left @ right. low: float32 factors are rounded to bf16 and their products summed in float32, the result's dtype.

    A CPU without bf16 instructions multiplies in float32 instead. float64 is never rounded.
    """
    if not low or left.dtype != torch.float32:
        return left @ right
    if left.is_cuda:
        return torch.mm(left.bfloat16(), right.bfloat16(), out_dtype=torch.float32)
    with _bf16_on_cpu():
        return left @ right


class Cosine(torch.autograd.Function):
    """Unit embeddings (N, D) against the rows of weight (C, D) that take part -> cosines (N, n), rounded into [-1, 1].

    One function, because autograd's own chain keeps the raw and the unit sub-matrix and makes a dense gradient of all
    rows: this keeps the unit rows only, and the gradient is sparse where rows are sampled. Rounding beyond +-1 is cut
    off with gradient 1, as it is no saturation. low: see multiply(); of its three products.
    """

    @staticmethod
    def forward(ctx, unit: Tensor, weight: Tensor, rows: Tensor | None, low: bool) -> Tensor:
        centres = (weight.detach() if rows is None else weight.detach().index_select(0, rows)).to(unit.dtype)
        norm = torch.linalg.vector_norm(centres, dim=1, keepdim=True).clamp_min_(SMALLEST_NORM)
        centres = centres / norm if rows is None else centres.div_(norm)
        ctx.save_for_backward(unit, centres, norm, rows)
        ctx.shape, ctx.dtype, ctx.low = weight.shape, weight.dtype, low
        return multiply(unit, centres.T, low).clamp_(-1.0, 1.0)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        unit, centres, norm, rows = ctx.saved_tensors
        of_unit = of_weight = None
        with torch.autocast(gradient.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                of_unit = multiply(gradient, centres, ctx.low)
            if ctx.needs_input_grad[1]:
                of_weight = multiply(gradient.T, unit, ctx.low)
                for part, unit_rows, length in zip(
                    *(t.split(ROWS_AT_ONCE) for t in (of_weight, centres, norm)), strict=True
                ):
                    radial = torch.linalg.vecdot(part, unit_rows).unsqueeze(1)
                    part.addcmul_(unit_rows, radial, value=-1.0).div_(length)
                of_weight = of_weight.to(ctx.dtype)
                if rows is not None:
                    of_weight = torch.sparse_coo_tensor(
                        rows[None], of_weight, ctx.shape, is_coalesced=True, check_invariants=False
                    )
        return of_unit, of_weight, None, None


class SoftmaxCrossEntropy(torch.autograd.Function):
    """Logits (N, n) of this process and target columns (N,) -> losses and log_total of the softmax over all processes.

    losses (N,): exact by log-sum-exp. log_total (N,): the log of the sum of exp(logit), for losses that every process
    computes in full and alike; what is not used costs nothing. A logit of -inf takes no part, if its row has another.
    Keeps one buffer of the logits' size, which becomes their gradient in backward.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        many = distributed.world_size() > 1
        highest = logits.amax(1) if logits.shape[1] else logits.new_full((len(logits),), -torch.inf)
        if many:
            dist.all_reduce(highest, dist.ReduceOp.MAX)
        share = logits - highest[:, None]
        rows = (column >= 0).nonzero().squeeze(1)
        column = column[rows]
        target = logits.new_zeros(len(logits))
        target[rows] = share[rows, column]
        both = torch.stack([target, share.exp_().sum(1)])
        if many:
            dist.all_reduce(both)
        target, total = both
        share.div_(total[:, None])
        ctx.save_for_backward(share, rows, column)
        ctx.set_materialize_grads(False)
        log_total = total.log()
        return log_total - target, log_total + highest

    @staticmethod
    def backward(ctx, of_losses: Tensor | None, of_log_total: Tensor | None) -> tuple[Tensor | None, None]:
        share, rows, column = ctx.saved_tensors
        given = [gradient for gradient in (of_losses, of_log_total) if gradient is not None]
        if not given:
            return None, None
        share.mul_(sum(given)[:, None])  # a second backward through it is refused by torch's version check
        if of_losses is not None:
            share[rows, column] -= of_losses[rows]
        return share, None
