"""Fixtures for every test: a seed, and the optional folder of real data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fuzz import memory_folder

ROOT = Path(__file__).resolve().parents[1]
ORACLES = ROOT / "tests" / "oracles"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def current_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in memory, and the current one, so that payloads name their marker in the same bytes in each run."""
    with memory_folder() as path:
        monkeypatch.chdir(path)
        yield path
        monkeypatch.undo()


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
