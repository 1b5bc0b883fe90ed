"""Fixtures for every test: a seed, and the optional folder of real data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

ORACLES = Path(__file__).parent / "oracles"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def oracles() -> Path:
    """Folder of the published programs' figures."""
    return ORACLES


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The optional folder of real faces and weights that LRFACE_DATA names; the test is skipped without it."""
    path = os.environ.get("LRFACE_DATA")
    if not path or not Path(path).is_dir():
        pytest.skip("LRFACE_DATA names no folder of real data")
    return Path(path)
