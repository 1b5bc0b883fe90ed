"""quality_margin: the forms of which it is the general one, and what it and laplacian_margin must be given."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recognition.margins import MARGINS
from recognition.types import Margin, MarginContext
from tests.recognition.test_margins_adaptive import inputs


def logits_and_gradient(margin: Margin, cosine: Tensor, label: Tensor, context: MarginContext) -> tuple[Tensor, Tensor]:
    at = cosine.clone().requires_grad_()
    logits = margin(at, label, context)
    logits.sum().backward()
    return logits.detach(), at.grad


def test_adaface_is_a_case_of_quality_margin():
    cosine, label, context = inputs(64, 5)
    margin = MARGINS.create("adaface", momentum=1.0).double()
    wanted = logits_and_gradient(margin, cosine, label, context)
    z = 0.333 * (context.norm.detach()[:, 0].clamp(0.001, 100) - margin.mean) / (margin.deviation + 1e-3)
    context.gate = (z.clamp(-1, 1) + 1) / 2
    got = logits_and_gradient(MARGINS.create("quality_margin"), cosine, label, context)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert (wanted[1] == 0).any()  # a clipped one


@pytest.mark.parametrize("gradient", ["exact", "straight_through"])
def test_the_clipped_line_of_the_laplacian_is_a_case_of_quality_margin(gradient):
    cosine, label, context = inputs(64, 5)
    cosine = cosine * 0.99  # between the two margins' edges
    wanted = logits_and_gradient(
        MARGINS.create("laplacian_margin", gradient=gradient, strength=1.5), cosine, label, context
    )
    margins = (1.5 / context.measured).clamp(0.35, 0.5)
    assert len(margins.unique()) > 10
    context.gate = (0.5 - margins) / 0.15
    margin = MARGINS.create("quality_margin", angular=(0.5, 0.35), additive=(0.0, 0.0), gradient=gradient)
    for a, b in zip(logits_and_gradient(margin, cosine, label, context), wanted, strict=True):
        inside = (cosine.acos() < math.pi - 0.51) & (cosine.abs() < 0.999)
        torch.testing.assert_close(a[inside], b[inside], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3 if a is wanted[0] else 80)


@pytest.mark.parametrize("name", ["quality_margin", "laplacian_margin"])
def test_what_a_margin_looks_at_must_be_there(name):
    cosine, label, context = inputs(3, 4)
    context.gate = context.measured = None
    with pytest.raises(RuntimeError, match=f"margin '{name}' needs"):
        MARGINS.create(name)(cosine, label, context)
