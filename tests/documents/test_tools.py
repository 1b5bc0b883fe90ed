"""Every command of the documents that is no training, in miniature."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.documents.cases import named, of_other_tools


@pytest.mark.parametrize("text", **named(of_other_tools()))
def test_the_command_does_what_the_document_says(text: str, carried_out: Callable[[str], Path]) -> None:
    carried_out(text)
