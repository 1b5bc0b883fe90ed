"""What tests of scorers start from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.iqa.scorers import tiny_base


@pytest.fixture
def base() -> nn.Module:
    return tiny_base()


@pytest.fixture
def image() -> Tensor:
    return torch.rand(3, 3, 20, 20)
