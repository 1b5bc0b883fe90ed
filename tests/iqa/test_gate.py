"""The map from score to gate."""

from __future__ import annotations

import math

import pytest
import torch

from iqa import QualityGate


def test_linear() -> None:
    gate = QualityGate(midpoint=2.0, slope=0.25)
    score = torch.tensor([-9.0, 0.0, 1.0, 2.0, 3.0, 4.0, 9.0])
    torch.testing.assert_close(gate(score), torch.tensor([0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]))


def test_sigmoid() -> None:
    gate = QualityGate(midpoint=-50.0, slope=0.1, shape="sigmoid")
    wanted = [1 / (1 + math.exp(-0.1 * (s + 50))) for s in (-80.0, -50.0, -20.0)]
    torch.testing.assert_close(gate(torch.tensor([-80.0, -50.0, -20.0])), torch.tensor(wanted))


@pytest.mark.parametrize("shape", ["linear", "sigmoid"])
def test_never_outside_0_and_1(shape: str) -> None:
    score = torch.cat((torch.linspace(-1e3, 1e3, 4001), torch.tensor([1e38, -1e38, math.inf, -math.inf])))
    gate = QualityGate(0.3, 1e6, shape)(score)
    assert ((gate >= 0) & (gate <= 1)).all()
    assert (gate.sort().values == gate[score.argsort()]).all(), "rises with the score"


def test_several_scores_per_image_each_with_its_own_midpoint() -> None:
    gate = QualityGate([0.0, 10.0], [1.0, 0.1])
    score = torch.tensor([[0.0, 10.0], [0.25, 5.0], [9.0, -9.0]])
    torch.testing.assert_close(gate(score), torch.tensor([[0.5, 0.5], [0.75, 0.0], [1.0, 0.0]]))
    assert QualityGate(0.0, 1.0)(score).shape == (3, 2)
    with pytest.raises(ValueError, match=r"scores must be \(B, 2\), got \(3,\)"):
        gate(torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(B,\) or \(B, k\), got \(\)"):
        QualityGate(0.0, 1.0)(torch.tensor(0.0))


@pytest.mark.parametrize("slope", [0.0, -1.0, [1.0, -1.0]])
def test_slope_must_rise(slope: float | list[float]) -> None:
    with pytest.raises(ValueError, match="slope must be above 0"):
        QualityGate(0.5, slope)


@pytest.mark.parametrize(("midpoint", "slope"), [(math.nan, 1.0), (0.0, math.inf), ([], 1.0)])
def test_numbers_must_be_finite(midpoint: float, slope: float) -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        QualityGate(midpoint, slope)


def test_unknown_shape() -> None:
    with pytest.raises(ValueError, match="unknown shape 'step'; take one of linear, sigmoid"):
        QualityGate(0.5, 1.0, "step")


def test_nan_is_an_error_but_not_in_a_compiled_graph() -> None:
    gate, score = QualityGate(0.5, 1.0), torch.tensor([0.5, math.nan, math.nan])
    with pytest.raises(ValueError, match="2 of 3 scores are NaN"):
        gate(score)
    compiled = torch.compile(gate, fullgraph=True, backend="eager")
    assert torch.equal(compiled(torch.tensor([0.5, 0.6])), gate(torch.tensor([0.5, 0.6])))


def test_low_precision_scores_are_mapped_in_float32() -> None:
    score = torch.tensor([-70.25, -28.5], dtype=torch.bfloat16)
    gate = QualityGate(-50.0, 0.02)(score)
    assert gate.dtype == torch.float32
    torch.testing.assert_close(gate, 0.5 + 0.02 * (score.float() + 50))


def test_midpoint_and_slope_travel_with_the_weights() -> None:
    gate = QualityGate(0.0, 1.0)
    gate.load_state_dict(QualityGate(2.0, 0.25).state_dict())
    assert gate(torch.tensor([3.0])).item() == pytest.approx(0.75)
