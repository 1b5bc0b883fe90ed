"""A low-rank Linear as one operation, and the dropout that keeps bits: same numbers as single products, less kept."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adapters._layers import LoRALinear
from adapters._product import dropout
from recognition.gate import Gate, per_image

BYTES = {torch.float64: 8, torch.float32: 4, torch.bfloat16: 2}


def layer(gated: bool, **options: object) -> LoRALinear:
    made = LoRALinear(nn.Linear(12, 20).requires_grad_(False), 3, 0.7, gate=Gate() if gated else None, **options)
    nn.init.normal_(made.lora_b)
    return made


def run(one: LoRALinear, x: torch.Tensor, gate: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Output and gradients of x, A and B."""
    one.zero_grad()
    x = x.clone().requires_grad_()
    if gate is None:
        out = one(x)
    else:
        with one.gate.scope(gate):
            out = one(x)
    out.float().square().sum().backward()
    return out.detach(), x.grad, one.lora_a.grad.clone(), one.lora_b.grad.clone()


def plain(one: LoRALinear, x: torch.Tensor, gate: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """The same as products one by one, in float64."""
    x, a, b = (t.detach().double().requires_grad_() for t in (x, one.lora_a, one.lora_b))
    z = F.linear(x, a)
    z = z * one.scaling if gate is None else per_image(z, one._mix(gate.double()))
    out = F.linear(x, one.weight.double(), one.bias.double()) + F.linear(z, b)
    out.square().sum().backward()
    return out.detach(), x.grad, a.grad, b.grad


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shape", [(4, 12), (4, 5, 12), (4, 2, 5, 12)])
def test_it_equals_single_products_in_float64(gated, shape):
    one, x, gate = layer(gated), torch.randn(shape), torch.rand(4) if gated else None
    for found, wanted in zip(run(one, x, gate), plain(one, x, gate), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(one, x, gate)
    assert found[0].dtype == torch.bfloat16 and found[2].dtype == torch.float32
    for low, wanted in zip(found, plain(one, x, gate), strict=True):
        assert (low.double() - wanted).norm() < 2e-2 * wanted.norm()


@pytest.mark.parametrize("shape", [(12,), (0, 12), (0, 5, 12)])
def test_a_lone_row_and_none_at_all_are_as_to_a_plain_linear(shape):
    one, x = layer(gated=False), torch.randn(shape)
    for found, wanted in zip(run(one, x, None), plain(one, x, None), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_keeps_its_input_alone(dtype):
    one, x, kept = layer(gated=True), torch.randn(4, 50, 12, requires_grad=True), {}
    own = {p.untyped_storage().data_ptr() for p in one.parameters()}
    x = x * 1  # else the caller keeps it

    def pack(t):
        if t.untyped_storage().data_ptr() not in own and t.dim() == 3:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16),
        one.gate.scope(torch.rand(4)),
    ):
        out = one(x)
    assert out.dtype == dtype and [*kept.values()] == [BYTES[dtype] * x.numel()]


def test_a_gate_that_learns_and_a_base_that_trains_have_their_gradients():
    one, gate = layer(gated=True), torch.rand(4, requires_grad=True)
    with one.gate.scope(gate):
        one(torch.randn(4, 5, 12)).square().sum().backward()
    assert gate.grad.abs().min() > 0
    one = layer(gated=False)
    one.weight.requires_grad_()
    one(torch.randn(4, 12)).square().sum().backward()
    assert one.weight.grad is not None and one.lora_a.grad is not None


def test_dropout_has_torchs_draws_values_and_gradients_and_keeps_bytes():
    x, kept = torch.randn(40, 6), []
    found = []
    for function in (F.dropout, dropout):
        torch.manual_seed(3)
        own = x.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.nbytes), t)[1], lambda t: t):
            out = function(own, 0.3, True)
        out.square().sum().backward()
        found.append((out.detach(), own.grad))
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True)) and (found[0][0] == 0).any()
    assert kept == [4 * x.numel(), x.numel()]
    assert dropout(x, 0.3, False) is x and torch.equal(dropout(x, 0.0, True), x)
