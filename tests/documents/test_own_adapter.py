"""CONTRIBUTING's walk: its adapter as somebody's package, by its own lines; its margin and its scorer by theirs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from iqa import SCORERS
from recognition.margins import MARGINS
from recognition.registry import Registry
from recognition.types import MarginContext
from tests.documents.collect import ROOT, of_document, python_of
from tests.training import recipe_with_base

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
STEPS = """
import sys
import pytest
from tools import train
assert "channel_scale      of the package channel-scale 0.1" in train.list_plugins()
code = pytest.main(["-p", "no:cacheprovider", "-rA", *sys.argv[2:]])
assert code == 0, code
assert train.main([sys.argv[1], "adapter.name=channel_scale", "schedule.epochs=0.4", "evaluation.sets=[]"]) == 0
"""


def block(start: str) -> str:
    found = [one.text for one in python_of(TEXT, "CONTRIBUTING.md") if one.text.startswith(start)]
    assert len(found) == 1, f"CONTRIBUTING.md has {len(found)} blocks that begin with {start}"
    return found[0]


def contract_tests() -> list[str]:
    """What CONTRIBUTING gives to pytest, word for word."""
    told = [one.text for one in of_document(TEXT, "CONTRIBUTING.md") if one.text.startswith("pytest ")]
    assert len(told) == 1, told
    return shlex.split(told[0])[1:]


def test_an_adapter_of_ones_own_is_found_kept_to_its_promises_and_trained(tmp_path: Path) -> None:
    (tmp_path / "channel_scale.py").write_text(block('"""channel_scale.py'))
    toml = tomllib.loads(re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)[1])
    (group, entries), *more = toml["project"]["entry-points"].items()
    assert group == "lrface.adapters" and not more
    about = tmp_path / "channel_scale-0.1.dist-info"  # what an installer leaves
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: channel-scale\nVersion: 0.1\n")
    lines = "".join(f"{name} = {place}\n" for name, place in entries.items())
    (about / "entry_points.txt").write_text(f"[{group}]\n{lines}")
    recipe = recipe_with_base(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(recipe), *contract_tests()],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LRFACE_ADAPTERS_ON_TWO": "channel_scale",  # the others' gradients are compared once, by the suite itself
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed >= 10 and "test_two_processes_equal_one" in done.stdout, done.stdout
    assert (tmp_path / "runs" / "small" / "model" / "adapter.safetensors").is_file()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a block registers is gone after the test."""
    for registry in (MARGINS, SCORERS):
        monkeypatch.setattr(registry, "_objects", dict(registry._objects))
        assert isinstance(registry, Registry)


def test_a_margin_of_ones_own(alone: None) -> None:
    exec(compile(block("# recognition/margins/mine.py"), "mine.py", "exec"), {"__name__": "mine"})
    margin = MARGINS.get("mine")(margin=0.5, scale=2.0)
    context = MarginContext(torch.ones(2, 1), None, torch.Generator(), 0, 3, torch.tensor([1, 5]))
    found = margin(torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.5, 1.0]]), torch.tensor([1, -1]), context)
    assert found.tolist() == [[0.0, 0.0, 2.0], [0.0, 1.0, 2.0]]


def test_a_scorer_of_ones_own(alone: None) -> None:
    exec(compile(block("# iqa/brightness.py"), "brightness.py", "exec"), {"__name__": "brightness"})
    scorer = SCORERS.get("brightness")()
    assert scorer(torch.tensor([0.25, 1.0]).view(2, 1, 1, 1).expand(2, 3, 8, 8)).tolist() == [0.25, 1.0]
