"""What every margin and objective says of arguments of a wrong kind, and what margins on another margin hand on."""

from __future__ import annotations

import inspect
import math
from types import SimpleNamespace

import pytest
from torch import Tensor, nn

from recognition.margins import MARGINS, _wrapped
from recognition.objectives import OBJECTIVES
from recognition.types import MarginContext

NO_NUMBER = ("abc", "0.5", True, [0.5], math.nan, 10**400)
WRONG = {  # by annotation, without "| None"; nothing is said here of flags
    "float": NO_NUMBER,
    "int": (*NO_NUMBER, 8.5),
    "tuple[float, float]": ("ab", 0.5, (0.5,), ["a", "b"], [None, 0.3], [True, False], {"a": 1, "b": 2}),
    "Sequence[int]": ("abc", 5, ["a"], [None], [[1]], [True]),
    "Sequence[str]": ("abc", 5, ["a"], [None], [["hr_hr"]]),
    "Mapping[str, object]": ("abc", 5, ["margin"], {1: 2}, {"margin": "x"}, {"scale": None}),
    "str": ("abc", 5, ["arcface"]),
    "Literal": ("abc", 5, ["exact"]),
}
CASES = [
    pytest.param(registry, name, argument, id=f"{name}-{argument.name}")
    for registry in (MARGINS, OBJECTIVES)
    for name in registry.names()
    for argument in inspect.signature(registry.get(name)).parameters.values()
    if argument.annotation != "bool"
]


@pytest.mark.parametrize(("registry", "name", "argument"), CASES)
def test_what_is_of_a_wrong_kind_is_told_in_words_that_name_the_argument(registry, name, argument):
    kind = argument.annotation.removesuffix(" | None")
    wrong = WRONG["Literal" if kind.startswith("Literal") else kind]
    for value in wrong if kind != argument.annotation else (*wrong, None):
        with pytest.raises(ValueError, match=rf"\b{argument.name}\b.* (is|holds|unknown) "):
            registry.create(name, **{argument.name: value})
    if kind != argument.annotation:
        registry.create(name, **{argument.name: None})


@pytest.mark.parametrize("name", MARGINS.names())
def test_the_scale_is_to_be_seen_from_outside(name):
    given = {"scale": 20.0}
    wraps = "of" in inspect.signature(MARGINS.get(name)).parameters
    assert MARGINS.create(name, **({"arguments": given} if wraps else given)).scale == 20.0


def test_sphereface_on_norms_has_scale_0():
    assert MARGINS.create("sphereface", scale=0).scale == 0.0
    assert MARGINS.create("forgetting", of="sphereface", arguments={"mode": "annealed"}).scale == 0.0


class Choosy(nn.Module):
    """A margin that has every optional part but weigh and reduce."""

    scale, needs_gate, fields = 5.0, True, ("twin",)

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        return cosine

    def check(self, num_classes: int) -> None:
        if num_classes < 3:
            raise ValueError(f"{num_classes} are too few")

    def extra(self, context: MarginContext) -> Tensor:
        return context.norm.mean()


@pytest.mark.parametrize("name", ["forgetting", "hard_samples"])
def test_optional_parts_of_the_other_margin_are_handed_on(name, monkeypatch):
    plain = MARGINS.create(name)
    assert plain.scale == 64.0 and not any(hasattr(plain, part) for part in ("extra", "reduce", "needs_gate", "fields"))
    with monkeypatch.context() as patch:
        patch.setattr(_wrapped, "MARGINS", SimpleNamespace(create=lambda name: Choosy()))
        margin = MARGINS.create(name, of="choosy")
    assert margin.scale == 5.0 and margin.needs_gate and margin.fields == ("twin",)
    assert margin.extra == margin.margin.extra and not hasattr(margin, "reduce")
    margin.check(3)
    with pytest.raises(ValueError, match="2 are too few"):
        margin.check(2)
