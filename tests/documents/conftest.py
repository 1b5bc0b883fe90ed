"""One miniature workspace for a session, made when the first command of a document asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.documents import workspace
from tests.documents.running import carry_out
from tests.documents.table import RUNS_FROM
from tests.tiny import nameable


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace with finished runs under every name."""
    folder = tmp_path_factory.mktemp("documents") / "work"
    folder.mkdir()
    workspace.build(folder)
    with nameable(), pytest.MonkeyPatch.context() as patch:
        for command in RUNS_FROM:
            carry_out(command, folder, patch)
    workspace.name_runs(folder)
    return folder


@pytest.fixture
def carried_out(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Runs one command in a copy of the workspace; returns the copy."""
    folder = workspace.copied(finished, tmp_path / "work")
    with nameable():
        yield lambda text: carry_out(text, folder, monkeypatch)
