"""The map from score to gate, form by form."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from iqa import GateRange, QualityGate, make_gate
from iqa.gates import GATES

DEFAULTS = {"levels": 4, "lr_scale": 1.0, "fit": "", "sample": 2000}  # of config.gate, the other settings

ROOT = Path(__file__).parents[2]
LEARNING = ("learned", "per_layer")


def of(name: str, midpoint: float = 0.3, slope: float = 2.0, layers: int = 3, **settings: float) -> QualityGate:
    """As a recipe's config.gate makes it; slope 1 for a form that has none."""
    slope = slope if GATES.get(name).takes_slope else 1.0
    return make_gate({"shape": name, "midpoint": midpoint, "slope": slope, **DEFAULTS, **settings}, layers)


def moved(gate: QualityGate, seed: int = 0) -> QualityGate:
    """What it learns, away from the start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    return gate


def test_linear() -> None:
    gate = QualityGate(midpoint=2.0, slope=0.25)
    score = torch.tensor([-9.0, 0.0, 1.0, 2.0, 3.0, 4.0, 9.0])
    torch.testing.assert_close(gate(score), torch.tensor([0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]))


def test_sigmoid() -> None:
    gate = QualityGate(midpoint=-50.0, slope=0.1, shape="sigmoid")
    wanted = [1 / (1 + math.exp(-0.1 * (s + 50))) for s in (-80.0, -50.0, -20.0)]
    torch.testing.assert_close(gate(torch.tensor([-80.0, -50.0, -20.0])), torch.tensor(wanted))


def test_petal_is_the_published_formula_without_slope_and_bound() -> None:
    score = torch.tensor([-31.0, 0.2, 0.5, 0.8, 90.0])
    torch.testing.assert_close(QualityGate(0.5, 1.0, "petal")(score), 0.5 + (score - 0.5))
    with pytest.raises(ValueError, match=r"'petal' has no slope, got 0\.7; set gate\.slope=1"):
        QualityGate(0.5, 0.7, "petal")


def test_steps_share_the_slope_evenly() -> None:
    score = torch.tensor([-9.0, -0.01, 0.01, 0.24, 0.26, 0.49, 0.51, 0.74, 0.76, 9.0])
    wanted = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 3, 3]) / 3
    torch.testing.assert_close(QualityGate(0.5, 1.0, "steps")(score), wanted)
    switch = QualityGate(0.5, 1.0, "steps", levels=2)
    assert switch(torch.tensor([0.49, 0.51, 7.0])).tolist() == [0, 1, 1]
    other = QualityGate(0.5, 1.0, "steps", levels=3)
    other.load_state_dict(switch.state_dict())
    assert torch.equal(other(score), switch(score)), "levels travel with the weights"
    with pytest.raises(ValueError, match=r"levels is 1; it must be at least 2 \(config.gate.levels\)"):
        QualityGate(0.5, 1.0, "steps", levels=1)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def formula(name: str, score: np.ndarray, midpoint: object, slope: object, shift, growth) -> np.ndarray:
    """The learned forms, again, in float64."""
    midpoint, slope = np.asarray(midpoint, float), np.asarray(slope, float)
    now, steep = midpoint + shift / slope, slope * np.exp(growth)
    if name == "per_layer":
        return sigmoid(steep * (score[:, None] - now))
    score = score if score.ndim == 2 else score[:, None]
    return sigmoid((steep * (score - now)).mean(1))


CASES = {
    "learned": ("learned", 1.5, 0.8, 1),
    "learned, three scores": ("learned", [0.4, -50.0, 1.2], [2.0, 0.05, 1.0], 3),
    "per_layer": ("per_layer", -50.0, 0.04, 5),
}


@pytest.mark.parametrize("case", CASES)
def test_learned_forms_and_their_gradients_are_those_of_float64_differences(case: str) -> None:
    name, midpoint, slope, width = CASES[case]
    gate = moved(QualityGate(midpoint, slope, name, **({"layers": width} if name == "per_layer" else {})))
    score = torch.tensor(midpoint) + torch.randn(11, 3 if isinstance(midpoint, list) else 1) / torch.tensor(slope)
    score = score if isinstance(midpoint, list) else score[:, 0]
    numbers = [p.detach().double().numpy().copy() for p in (gate.form.shift, gate.form.growth)]
    assert all(len(n) == width for n in numbers)
    plain = score.double().numpy()
    wanted = formula(name, plain, midpoint, slope, *numbers)
    found = gate(score)
    assert found.shape == wanted.shape and found.dtype == torch.float32
    np.testing.assert_allclose(found.detach().numpy(), wanted, atol=2e-6)

    weight = torch.randn(found.shape)
    (found * weight).sum().backward()
    for which, parameter in enumerate((gate.form.shift, gate.form.growth)):
        for i in range(width):
            sides = []
            for step in (1e-6, -1e-6):
                numbers[which][i] += step
                sides.append((formula(name, plain, midpoint, slope, *numbers) * weight.double().numpy()).sum())
                numbers[which][i] -= step
            assert parameter.grad[i].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", GATES.names())
def test_every_form_keeps_its_word(name: str) -> None:
    gate = moved(of(name))
    score = torch.cat((torch.linspace(-1e3, 1e3, 4001), torch.linspace(-1, 1, 101), torch.tensor([1e38, -1e38])))
    score = score.sort().values
    value = gate(score)
    assert value.dtype == torch.float32 and value.isfinite().all()
    assert value.shape == (len(score), 3) if name == "per_layer" else value.shape == score.shape
    assert (value.diff(dim=0) >= 0).all(), "rises with the score"
    assert not gate.form.bounded or ((value >= 0) & (value <= 1)).all()
    assert torch.equal(gate(score[7:9]), value[7:9]), "each image by itself"
    assert gate.form.bounded or name == "petal", "the only one outside of 0 to 1"
    again = of(name, 7.0, 0.1, levels=9)
    again.load_state_dict(gate.state_dict())
    assert torch.equal(again(score), value), "all that matters travels with the weights"
    assert GATES.summary(name) and f"shape={name}" in gate.extra_repr()


@pytest.mark.parametrize("name", GATES.names())
def test_every_form_rises_at_the_midpoint_as_it_declares(name: str) -> None:
    gate, width = of(name, 0.3, 2.0), 0.01 if name != "steps" else 1.0
    ends = gate(torch.tensor([0.3 - width, 0.3 + width])).reshape(2, -1).double()
    rise = (ends[1] - ends[0]) / (2 * width)
    wanted = gate.slope.item() * gate.form.steepness if name != "steps" else 0.5
    torch.testing.assert_close(rise, torch.full_like(rise, wanted), rtol=1e-3, atol=0)
    assert name == "steps" or gate(torch.tensor([0.3])).flatten()[0].item() == 0.5


@pytest.mark.parametrize("name", LEARNING)
def test_a_learned_gate_begins_as_the_sigmoid_to_the_bit_and_tells_what_it_learned(name: str) -> None:
    gate, score = of(name), torch.randn(64)
    wanted = of("sigmoid")(score)
    assert torch.equal(gate(score), wanted.unsqueeze(1).expand(-1, 3) if name == "per_layer" else wanted)
    assert gate.report()[f"quality/midpoint{'_low' if name == 'per_layer' else ''}"] == pytest.approx(0.3)
    with torch.no_grad():
        gate.form.shift.fill_(-1.0), gate.form.growth.fill_(math.log(3.0))
    midpoint, slope = gate.now()
    torch.testing.assert_close(midpoint, torch.full_like(midpoint, 0.3 - 1 / 2))
    torch.testing.assert_close(slope, torch.full_like(slope, 6.0))
    torch.testing.assert_close(gate(midpoint[:1]).flatten()[0].item(), 0.5)
    assert not of("linear").report()


def test_a_learned_gate_compiles_with_its_gradient() -> None:
    gate, score = moved(of("learned")), torch.randn(6)
    compiled = torch.compile(gate, fullgraph=True, backend="aot_eager")
    found = []
    for one in (gate, compiled):
        gate.zero_grad()
        value = one(score)
        value.square().sum().backward()
        found.append([value.detach(), *(p.grad.clone() for p in gate.parameters())])
    torch.testing.assert_close(found[0], found[1])
    assert all(gradient.abs().max() > 0 for gradient in found[0][1:])


def test_runs_from_before_there_were_these_settings_had_what_the_defaults_say() -> None:
    section = runpy.run_path(str(ROOT / "configs" / "base.py"))["config"].gate
    assert {**section} == {"shape": "linear", "midpoint": 1.4, "slope": 0.7, **DEFAULTS}


def test_several_scores_per_image_each_with_its_own_midpoint() -> None:
    gate = QualityGate([0.0, 10.0], [1.0, 0.1])
    score = torch.tensor([[0.0, 10.0], [0.25, 5.0], [9.0, -9.0]])
    torch.testing.assert_close(gate(score), torch.tensor([[0.5, 0.5], [0.75, 0.0], [1.0, 0.0]]))
    assert QualityGate(0.0, 1.0)(score).shape == (3, 2)
    with pytest.raises(ValueError, match=r"scores must be \(B, 2\), got \(3,\)"):
        gate(torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(B,\) or \(B, k\), got \(\)"):
        QualityGate(0.0, 1.0)(torch.tensor(0.0))


def test_forms_say_which_scores_and_layers_they_want() -> None:
    with pytest.raises(ValueError, match=r"made for 1 score\(s\) per image and got 2"):
        QualityGate(0.0, 1.0, "learned")(torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"takes one score per image, \(B,\), got \(4, 2\)"):
        of("per_layer")(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="needs an adapter whose layers each read a gate of their own"):
        of("per_layer", layers=0)
    with pytest.raises(ValueError, match="unexpected keyword argument 'levels'"):
        QualityGate(0.0, 1.0, "linear", levels=3)


@pytest.mark.parametrize("slope", [0.0, -1.0, [1.0, -1.0]])
def test_slope_must_rise(slope: float | list[float]) -> None:
    with pytest.raises(ValueError, match="slope must be above 0"):
        QualityGate(0.5, slope)


@pytest.mark.parametrize(("midpoint", "slope"), [(math.nan, 1.0), (0.0, math.inf), ([], 1.0)])
def test_numbers_must_be_finite(midpoint: float, slope: float) -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        QualityGate(midpoint, slope)


def test_unknown_form() -> None:
    with pytest.raises(ValueError, match="unknown gate 'step'; did you mean 'steps'"):
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


@pytest.mark.parametrize(
    ("gates", "words"),
    [
        ([torch.zeros(5), torch.zeros(4)], "is 0 for all 9 images seen, all scores being far below"),
        ([torch.ones(4, 2), torch.ones(4, 2)], "is 1 for all 8 images seen, all scores being far above"),
        ([torch.full((8,), 0.25), torch.full((1,), 0.2502)], "is 0.25 for all 9 images seen: quality makes no"),
    ],
)
def test_a_gate_that_is_the_same_for_all_is_told_with_what_to_do(gates: list[Tensor], words: str) -> None:
    seen = GateRange()
    for gate in gates:
        seen.see(gate)
    assert words in seen.warning() and "tools/calibrate_gate.py" in seen.warning() and "gate.fit=" in seen.warning()


@pytest.mark.parametrize(
    "gates",
    [
        [torch.zeros(7)],  # too few to say
        [torch.zeros(8), torch.tensor([0.01])],
        [torch.stack([torch.zeros(8), torch.linspace(0, 1, 8)], 1)],  # a layer that tells images apart
        [torch.zeros(0)],
        [],
    ],
)
def test_a_gate_that_tells_images_apart_is_not_warned_of(gates: list[Tensor]) -> None:
    seen = GateRange()
    for gate in gates:
        seen.see(gate)
    assert not seen.warning()
