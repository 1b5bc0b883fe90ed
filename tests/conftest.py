"""Fixtures for every test: a seed, and the optional folder of real data."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recognition import distributed
from recognition.distributed import World
from tests.fuzz import memory_folder

ROOT = Path(__file__).resolve().parents[1]
ORACLES = ROOT / "tests" / "oracles"
EARLY = (
    *("tests/adapters/test_matrix.py", "tests/recovery/test_signals.py"),
    *("tests/tools/test_fuzz_convert.py", "tests/recovery/test_elastic.py"),
    *("tests/adapters/test_contract.py", "tests/recovery/test_two_hosts.py"),
    *("tests/documents/test_training.py", "tests/recovery/test_kills.py"),
    *("tests/documents/test_tools.py", "tests/recovery/test_restarts.py"),
    *("tests/documents/", "tests/test_installed.py", "tests/recognition/test_fuzz_records.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first and beside each, in the other process of two, one of those that mostly wait."""
    items.sort(key=lambda item: next((i for i, path in enumerate(EARLY) if item.nodeid.startswith(path)), len(EARLY)))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="module", autouse=True)
def _short_collections() -> None:
    """What was imported until now is left out of them: there is a full one in every run, of half a second otherwise."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def current_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in memory, and the current one, so that payloads name their marker in the same bytes in each run."""
    with memory_folder() as path:
        monkeypatch.chdir(path)
        yield path
        monkeypatch.undo()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """This process alone, as a process group."""
    yield distributed.start("cpu")
    distributed.stop()


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No garbage is collected meanwhile: a fifth of the time where torch makes graphs."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of new layers are left as memory has them: for networks of a hundred million, loaded strictly anyway."""
    for name in (name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)


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
