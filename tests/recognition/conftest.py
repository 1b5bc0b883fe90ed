"""Fixtures of several files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.hub import Hub


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A hub on loopback, empty; tests.hub.used has huggingface_hub ask it."""
    from tests.hub import serving

    with serving() as one:
        yield one
