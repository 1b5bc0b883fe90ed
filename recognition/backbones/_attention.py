"""Fused attention, with a backward pass of products where torch's own is slow: on a CPU.

Of a training step of swin_120 in bf16 torch's backward of fused attention took 43 %, in float32 7 %: its kernel works
row by row, while windows of 25 tokens are thousands of small products. This one keeps what torch's keeps, less the
output, and computes the probabilities again.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LONG = 64  # tokens, above which torch's kernel is as fast in float32 and needs no memory for the probabilities


def attend(qkv: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(D) + bias) v for queries, keys and values (3, B, heads, N, D). Returns (B, heads, N, D).

    bias: (1, heads, N, N), added to the logits of every image; None for none. Both are taken in the dtype of autocast
    where it is on: an adapter may have given them in float32.
    """
    followed = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if qkv.device.type == "cpu" and torch.is_grad_enabled() and not followed:
        tokens, dtype = qkv.shape[-2], qkv.dtype
        if torch.is_autocast_enabled("cpu") and dtype != torch.float64:
            dtype = torch.get_autocast_dtype("cpu")
        if tokens <= LONG or dtype != torch.float32:
            return _Attention.apply(qkv.to(dtype).contiguous(), None if bias is None else bias.to(dtype))
    query, key, value = qkv.unbind(0)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(qkv, bias)
        mask = None if bias is None else bias.detach()  # torch fuses nothing where a mask is trained
        return F.scaled_dot_product_attention(*qkv.unbind(0), attn_mask=mask)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        qkv, bias = ctx.saved_tensors
        query, key, value = (part.flatten(0, 1) for part in qkv)  # (B * heads, N, D)
        gradient, scale = gradient.flatten(0, 1), qkv.shape[-1] ** -0.5
        with torch.autocast(qkv.device.type, enabled=False):
            start = query.new_zeros(1) if bias is None else bias.expand(qkv.shape[1], -1, -1, -1).flatten(0, 1)
            logits = torch.baddbmm(start, query, key.transpose(1, 2), alpha=scale)
            chance = logits.softmax(-1)
            of_chance = torch.bmm(gradient, value.transpose(1, 2))
            of_logits = torch.ops.aten._softmax_backward_data(of_chance, chance, -1, chance.dtype)
            of_qkv = of_bias = None
            if ctx.needs_input_grad[1]:
                of_bias = of_logits.unflatten(0, qkv.shape[1:3]).sum(0, keepdim=True)
            if ctx.needs_input_grad[0]:
                of_qkv = torch.empty_like(qkv)
                of_query, of_key, of_value = (part.flatten(0, 1) for part in of_qkv)
                torch.bmm(of_logits, key, out=of_query).mul_(scale)
                torch.bmm(of_logits.transpose(1, 2), query, out=of_key).mul_(scale)
                torch.bmm(chance.transpose(1, 2), gradient, out=of_value)
        return of_qkv, of_bias
