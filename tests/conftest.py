"""Fixtures for every test: a seed, and the optional folder of real data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
ORACLES = ROOT / "tests" / "oracles"


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
    """The optional folder of real faces and weights: LRFACE_DATA, else data/; the test is skipped without it."""
    path = Path(os.environ.get("LRFACE_DATA") or ROOT / "data")
    if not all((path / part).exists() for part in ("lfw", "weights", "small_lfw.bin")):
        pytest.skip(f"{path} holds no lfw, weights and small_lfw.bin; LRFACE_DATA can name another folder of real data")
    return path
