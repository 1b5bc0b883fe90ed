"""Margins: known ones against plain float64 formulas, and what any margin in the registry keeps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recognition.margins import MARGINS
from recognition.types import Margin, MarginContext

SCALE = 64.0

# name, arguments, target logit / scale as a function of the angle, whether the gradient is that function's own
KNOWN = [
    ("arcface", {}, lambda angle: (angle + 0.5).cos(), False),
    ("arcface", {"margin": 0.3, "gradient": "exact"}, lambda angle: (angle + 0.3).cos(), True),
    ("cosface", {}, lambda angle: angle.cos() - 0.4, True),
    ("cosface", {"margin": 0.35}, lambda angle: angle.cos() - 0.35, True),
    ("combined", {}, lambda angle: (angle + 0.5).cos(), True),
    ("combined", {"m1": 1.2, "m2": 0.3, "m3": 0.1}, lambda angle: (1.2 * angle + 0.3).cos() - 0.1, True),
    ("combined", {"mode": "arcface_torch"}, lambda angle: (angle + 0.5).cos(), False),
    ("combined", {"m1": 2.0, "m2": 0.5, "m3": 0.4, "mode": "arcface_torch"}, lambda angle: angle.cos() - 0.4, True),
]


def context(rows: int, classes: int) -> MarginContext:
    drawn = torch.Generator().manual_seed(5)
    norm, score = 15 + 10 * torch.rand(rows, 1, generator=drawn), torch.rand(rows, generator=drawn)
    label = torch.randint(0, classes, (rows,), generator=drawn)
    gate, measured = torch.rand(rows, generator=drawn), 1 + 14 * torch.rand(rows, generator=drawn)
    return MarginContext(norm, score, torch.Generator().manual_seed(3), 0, classes, label, gate, measured)


def logits_and_gradient(margin: Margin, cosine: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    cosine = cosine.clone().requires_grad_()
    logits = margin(cosine, label, context(*cosine.shape))
    weight = torch.linspace(0.5, 1.5, logits.numel(), dtype=logits.dtype).view_as(logits)  # a gradient unlike 1
    (logits * weight).sum().backward()
    return logits.detach(), cosine.grad / weight.to(cosine.dtype)


@pytest.mark.parametrize(("name", "arguments", "formula", "exact"), KNOWN)
def test_a_known_margin_equals_its_formula_in_float64(name, arguments, formula, exact):
    cosine = torch.rand(64, 7, dtype=torch.float64) * 1.98 - 0.99
    label = torch.randint(0, 7, (64,))
    label[::5] = -1
    rows = (label >= 0).nonzero().squeeze(1)
    angle = cosine[rows, label[rows]].acos()

    wanted, slope = cosine * SCALE, torch.full_like(cosine, SCALE)
    wanted[rows, label[rows]] = formula(angle) * SCALE
    if exact:
        through = cosine[rows, label[rows]].clone().requires_grad_()
        formula(through.acos()).sum().backward()
        slope[rows, label[rows]] = through.grad * SCALE

    margin = MARGINS.create(name, **arguments)
    logits, gradient = logits_and_gradient(margin, cosine, label)
    torch.testing.assert_close(logits, wanted, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(gradient, slope, rtol=1e-9, atol=1e-9)
    logits, gradient = logits_and_gradient(margin, cosine.float(), label)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), wanted, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "arguments", "formula", "exact"), KNOWN)
def test_a_known_margin_at_the_ends(name, arguments, formula, exact):
    """At cosine +-1 the value is the formula's; rows without a target are scale * cosine, bit for bit."""
    cosine = torch.tensor([[1.0, -0.25], [-1.0, 0.5], [0.125, -0.75]])
    margin = MARGINS.create(name, **arguments)
    logits, _ = logits_and_gradient(margin, cosine, torch.tensor([0, 0, -1]))
    ends = formula(torch.tensor([0.0, math.pi], dtype=torch.float64)).float()
    torch.testing.assert_close(logits[:2, 0], ends * SCALE, rtol=1e-5, atol=1e-4)
    assert torch.equal(logits[2], cosine[2] * SCALE)
    assert torch.equal(logits[:2, 1], cosine[:2, 1] * SCALE)


def test_straight_through_and_exact_differ_in_the_gradient_only():
    cosine, label = torch.rand(16, 5) * 1.8 - 0.9, torch.arange(16) % 5
    straight, exact = (MARGINS.create("arcface", gradient=g) for g in ("straight_through", "exact"))
    (a, slope_a), (b, slope_b) = (logits_and_gradient(m, cosine, label) for m in (straight, exact))
    assert torch.equal(a, b)
    torch.testing.assert_close(slope_a, torch.full_like(slope_a, SCALE))
    angle = cosine[torch.arange(16), label].acos()
    wanted = SCALE * (angle + 0.5).sin() / angle.sin()
    torch.testing.assert_close(slope_b[torch.arange(16), label], wanted, rtol=1e-4, atol=1e-3)


def test_beyond_pi_nothing_is_folded():
    cosine = torch.tensor([[-0.9], [-0.99], [-1.0]])
    logits, gradient = logits_and_gradient(MARGINS.create("arcface"), cosine, torch.zeros(3, dtype=torch.int64))
    assert logits[0] < logits[1] < logits[2]  # rises again
    torch.testing.assert_close(gradient, torch.full_like(gradient, SCALE))  # and still pulls


@pytest.mark.parametrize("name", MARGINS.names())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 6])
def test_any_margin_is_finite_everywhere(name, dtype, rows):
    """Value and gradient, at cosine +-1 on the target and beside it, for a batch of one, in bf16."""
    for value in (1.0, -1.0, 0.0, 0.3):
        cosine = torch.full((rows, 4), value, dtype=dtype)
        cosine[:, 2] = -value
        for target in (0, 2, -1):
            margin = MARGINS.create(name)
            logits, gradient = logits_and_gradient(margin, cosine, torch.full((rows,), target))
            assert logits.shape == cosine.shape and logits.dtype == torch.float32
            assert logits.isfinite().all(), f"value at cosine {value}, target {target}"
            assert gradient.isfinite().all(), f"gradient at cosine {value}, target {target}"


@pytest.mark.parametrize("name", MARGINS.names())
def test_any_margin_computes_in_float32(name):
    cosine, label = (torch.rand(5, 6) * 1.9 - 0.95).bfloat16(), torch.tensor([0, 3, -1, 5, 2])
    low, high = (MARGINS.create(name)(c, label, context(5, 6)) for c in (cosine, cosine.float()))
    assert low.dtype == torch.float32 and torch.equal(low, high)


@pytest.mark.parametrize("name", MARGINS.names())
def test_any_margin_treats_no_column_as_target_where_the_label_is_minus_one(name):
    cosine = torch.rand(4, 1).mul(1.8).sub(0.9).expand(4, 6).clone()
    logits = MARGINS.create(name)(cosine, torch.tensor([-1, 2, -1, 0]), context(4, 6))
    assert torch.equal(logits[[0, 2]], logits[[0, 2], :1].expand(2, 6))


@pytest.mark.parametrize("name", MARGINS.names())
def test_any_margin_takes_an_empty_share_of_the_classes(name):
    logits = MARGINS.create(name)(torch.zeros(3, 0), torch.full((3,), -1), context(3, 9))
    assert logits.shape == (3, 0)


@pytest.mark.parametrize("name", MARGINS.names())
def test_any_margin_leaves_its_input_alone(name):
    cosine, label = torch.rand(4, 6), torch.tensor([1, 2, -1, 0])
    before = cosine.clone(), label.clone()
    MARGINS.create(name)(cosine, label, context(4, 6))
    assert torch.equal(cosine, before[0]) and torch.equal(label, before[1])


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("arcface", {"scale": 0.0}, r"margin.scale is 0.0; it must be a positive number"),
        ("arcface", {"margin": -0.5}, r"margin.margin is -0.5; it must lie in 0 .. 3.14"),
        ("arcface", {"gradient": "true"}, r"margin.gradient is 'true'; it must be 'straight_through' or 'exact'"),
        ("cosface", {"margin": 3.0}, r"margin.margin is 3.0; it must lie in 0 .. 2"),
        ("cosface", {"scale": math.nan}, r"margin.scale is nan"),
        ("combined", {"mode": "legacy"}, r"margin.mode is 'legacy'; it must be 'exact' or 'arcface_torch'"),
        ("combined", {"m1": 1.5, "mode": "arcface_torch"}, r"cannot do m1=1.5, m3=0.*set margin.mode=exact"),
    ],
)
def test_wrong_arguments_are_named(name, arguments, words):
    with pytest.raises(ValueError, match=words):
        MARGINS.create(name, **arguments)
