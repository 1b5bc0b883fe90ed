"""The bridge to pyiqa, against a stand-in for that package."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from iqa import SCORERS
from tests.iqa.scorers import as_input, modules, pictures, pyiqa_stand_in


def _made(**changes: object) -> nn.Module:
    """The scorer of metric blur, of a stand-in whose metrics have these attributes."""
    stand_in = pyiqa_stand_in()
    create = stand_in.create_metric

    def changed(*arguments: object, **named: object) -> nn.Module:
        metric = create(*arguments, **named)
        for name, value in changes.items():
            setattr(metric, name, value)
        return metric

    stand_in.create_metric = changed
    with modules({"pyiqa": stand_in}):
        return SCORERS.create("pyiqa", metric="blur", weights="blur.pth")


def test_lower_better_turns_the_sign() -> None:
    images = as_input(pictures(3))
    detail = 10.0 * images.diff(dim=3).abs().mean(dim=(1, 2, 3))
    falling, rising = _made(), _made(lower_better=False)
    torch.testing.assert_close(falling(images), detail - 100)
    torch.testing.assert_close(rising(images), 100 - detail)
    assert falling.range == (-100.0, 0.0) and rising.range == (0.0, 100.0)
    assert falling.metric.made_of == ("blur", "blur.pth")


@pytest.mark.parametrize(
    ("told", "wanted"),
    [("0, 1", (0, 1)), ("~-3, ~0.1", (-3, 0.1)), ("0, ~", (0, math.inf)), ("~, 2", (-math.inf, 2)), (None, None)],
)
def test_range_is_what_pyiqa_tells(told: str | None, wanted: tuple[float, float] | None) -> None:
    assert _made(score_range=told, lower_better=False).range == (wanted or (-math.inf, math.inf))


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 1, 1)])
def test_one_figure_per_image(shape: tuple[int, ...]) -> None:
    images = as_input(pictures(3))
    score = _made(forward=lambda image: torch.arange(3.0, dtype=torch.float64).reshape(shape))(images)
    assert torch.equal(score, -torch.arange(3.0)) and score.dtype == torch.float32
    with pytest.raises(ValueError, match=r"gives \(3, 2\) for 3 images; wanted \(B,\) or \(B, 1\)"):
        _made(forward=lambda image: torch.zeros(3, 2))(images)


def test_rounding_beyond_the_range_never_reaches_pyiqa() -> None:
    _made()(as_input(pictures(1)) * 1.0005)


def test_what_cannot_be_made_is_told() -> None:
    with modules({"pyiqa": None}), pytest.raises(ImportError, match=r"pip install -e '\.\[iqa\]'"):
        SCORERS.create("pyiqa", metric="blur")
    with modules({"pyiqa": pyiqa_stand_in()}):
        with pytest.raises(ValueError, match=r"no metric is named, such as scorer\.name=pyiqa:musiq"):
            SCORERS.create("pyiqa")
        with pytest.raises(ValueError, match=r"unknown metric 'blurr'.*did you mean 'blur'"):
            SCORERS.create("pyiqa", metric="blurr")
        with pytest.raises(ValueError, match="'psnr' compares with a reference picture"):
            SCORERS.create("pyiqa", metric="psnr")


def test_its_tensors_move_with_it_and_are_not_trained() -> None:
    scorer = _made()
    assert not any(p.requires_grad for p in scorer.parameters()) and not scorer.metric.training
    assert next(scorer.to("meta").parameters()).device.type == "meta"
