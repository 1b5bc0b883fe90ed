"""Every command of the documents that trains: tools/train.py and tools/compare.py, in miniature."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.documents.cases import named, of_training


@pytest.mark.parametrize("text", **named(of_training()))
def test_the_command_does_what_the_document_says(text: str, carried_out: Callable[[str], Path]) -> None:
    carried_out(text)
