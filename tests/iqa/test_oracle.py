"""The oracle: the level is the score."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iqa import SCORERS
from recognition.data.degrade import Degradation, level_of


def test_score_is_the_logarithm_of_the_side() -> None:
    oracle = SCORERS.create("oracle")
    draw = Degradation(share=0.5).draw(3, np.arange(50))
    sides = np.where(draw.side > 0, draw.side, 112)
    np.testing.assert_allclose(oracle(torch.from_numpy(draw.level)).numpy(), np.log2(sides / 112), atol=1e-5)
    assert oracle(torch.tensor([level_of(7), level_of(112)])).tolist() == list(oracle.range)


@pytest.mark.parametrize("wrong", [torch.tensor([1.0]), torch.tensor([-0.1]), torch.tensor([0]), torch.zeros(2, 1)])
def test_other_levels_are_refused(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="takes levels" if wrong.dim() == 1 else r"\(2, 1\)"):
        SCORERS.create("oracle")(wrong)
