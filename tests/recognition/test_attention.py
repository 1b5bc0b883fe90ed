"""Attention with a backward pass of products: torch's numbers, less kept, and torch's own kernel where it should be."""

import pytest
import torch
from torch.nn import functional as F

from recognition.backbones._attention import LONG, attend


def torchs(qkv, bias):
    return F.scaled_dot_product_attention(*qkv.unbind(0), attn_mask=bias)


def gradients(function, qkv, bias, upstream):
    qkv, bias = qkv.clone().requires_grad_(), None if bias is None else bias.clone().requires_grad_()
    out = function(qkv, bias)
    out.backward(upstream.to(out.dtype))
    return out.detach(), qkv.grad, None if bias is None else bias.grad


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("dtype", "tokens", "limit"), [(torch.float32, 9, 1e-6), (torch.bfloat16, 80, 2e-2)])
def test_gradients_are_those_of_float64(with_bias, dtype, tokens, limit):
    qkv = torch.randn(3, 2, 4, tokens, 8).to(dtype)
    bias = torch.randn(1, 4, tokens, tokens).to(dtype) if with_bias else None
    upstream = torch.randn(2, 4, tokens, 8).to(dtype)
    wanted = gradients(torchs, qkv.double(), None if bias is None else bias.double(), upstream.double())
    found = gradients(attend, qkv, bias, upstream)
    assert torch.equal(found[0], torchs(qkv, bias))  # forward is torch's own
    for one, two in zip(found[1:], wanted[1:], strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            assert one.dtype == dtype and (one.double() - two).norm() <= limit * two.norm()


def test_what_comes_in_float32_is_taken_in_the_dtype_of_autocast():
    """As adapters give it whose last product is outside autocast's list, dora and vera."""
    qkv, bias, upstream = torch.randn(3, 2, 4, 9, 8), torch.randn(1, 4, 9, 9), torch.randn(2, 4, 9, 8)
    low = torch.bfloat16
    with torch.autocast("cpu", dtype=low):
        found = gradients(attend, qkv, bias, upstream)
    wanted = gradients(attend, qkv.to(low), bias.to(low), upstream)
    for one, two, dtype in zip(found, wanted, (low, torch.float32, torch.float32), strict=True):
        assert one.dtype == dtype and torch.equal(one, two.to(dtype))


def test_it_keeps_queries_keys_and_values_alone():
    kept = []
    qkv = torch.randn(3, 2, 4, 9, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        attend(qkv)
    assert kept == [qkv.numel()]


@pytest.mark.parametrize(("tokens", "own"), [(LONG, True), (LONG + 1, False)])
def test_long_rows_in_float32_are_torchs(tokens, own):
    out = attend(torch.randn(3, 1, 2, tokens, 4, requires_grad=True))
    assert ("_Attention" in type(out.grad_fn).__name__) == own
    with torch.no_grad():
        assert attend(torch.randn(3, 1, 2, tokens, 4)).grad_fn is None
