"""Whatever a test here lets a protocol measure is also saved, and has to fit docs/results_schema.json."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable
from pathlib import Path

import pytest

from recognition.evaluation import compared, protocols, retrieval
from recognition.evaluation.protocol import EvaluationSet
from recognition.evaluation.results import about, load_results, save_results
from tests.json_schema import faults

SCHEMA = json.loads((Path(__file__).parents[4] / "docs" / "results_schema.json").read_text())


@functools.cache
def measuring() -> list[type]:
    """Every class of the protocols that has a measure of its own."""
    names = [name for _, name, _ in pkgutil.iter_modules(protocols.__path__)]
    modules = [compared, retrieval, *(importlib.import_module(f"{protocols.__name__}.{name}") for name in names)]
    classes = {
        c for module in modules for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__
    }
    return [c for c in classes if inspect.isfunction(vars(c).get("measure"))]


def checked(measure: Callable, folder: Path) -> Callable:
    """The same method, which saves what it returns and compares the file with the schema."""

    @functools.wraps(measure)
    def measured(self, looked, asked):
        found = measure(self, looked, asked)
        save_results(folder, {"set": found}, about([EvaluationSet("set", self, "kind")]))
        assert faults(json.loads((folder / "results.json").read_text()), SCHEMA, SCHEMA) == []
        assert load_results(folder)["set"].keys() == found.keys()
        return found

    return measured


@pytest.fixture(autouse=True)
def _results_fit_the_schema(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("results")
    for one in measuring():
        if list(inspect.signature(one.measure).parameters) == ["self", "looked", "asked"]:
            monkeypatch.setattr(one, "measure", checked(one.measure, folder))
