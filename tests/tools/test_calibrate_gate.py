"""tools/calibrate_gate.py: what it prints and writes, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from recognition import config as settings
from recognition import distributed
from recognition.weights import write_weights
from tests.small import write_recipe
from tests.tiny import Tiny, nameable
from tools import calibrate_gate as door

DUAL = "config.adapter = edict(name='dual_lora', rank=2)\nconfig.degradation = edict(share=0.5, sides=[7, 14])\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    with nameable():
        base = tmp_path / "base.safetensors"
        write_weights(base, Tiny().state_dict(), {})
        backbone = f"config.backbone = edict(name='tiny_of_tests', weights={str(base)!r})\n"
        yield write_recipe(tmp_path, backbone + DUAL)
    distributed.stop()


def test_the_fitted_gate_is_printed_drawn_and_written_as_a_recipe(recipe: Path, capsys: pytest.CaptureFixture) -> None:
    written = recipe.with_name("fitted.py")
    assert door.main([str(recipe), "--images", "20", "--write", str(written)]) == 0
    out = capsys.readouterr().out
    found = re.search(r'config.gate = edict\(shape="linear", midpoint=([\d.]+), slope=([\d.]+), fit=""\)', out)
    config = settings.load(written)
    assert (config.gate.midpoint, config.gate.slope) == (float(found[1]), float(found[2]))
    assert config.adapter.name == "dual_lora" and config.gate.midpoint != 1.4
    assert out.count("on average") == 4 and "median score: degraded" in out and "rule roles, 20 images" in out
    assert (recipe.parent / "runs" / "gate_small.png").read_bytes().startswith(b"\x89PNG")
    assert door.main([str(recipe), "--write", str(written)]) == 2, "a recipe is never written over"


def test_two_sets_rules_and_a_constant_gate(recipe: Path, capsys: pytest.CaptureFixture) -> None:
    records, picture = str(recipe.parent / "train.rec"), str(recipe.parent / "there" / "it.png")
    options = ["--gallery", records, "--probe", records, "--picture", picture]
    assert door.main([str(recipe), *options, "--all", "--rule", "otsu", "gate.midpoint=50.0"]) == 0
    out = capsys.readouterr().out
    assert "rule otsu, 60 images" in out and "probe (30)" in out and Path(picture).is_file()
    assert out.count("WARNING: the quality gate is 0 for all 60 images") == 1, "before it is fitted, not after"
    assert door.main([str(recipe), *options]) == 2
    assert "this scorer does not tell them apart" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["adapter.name=lora"], "neither adapter 'lora' nor margin 'cosface' reads a gate"),
        (["degradation.share=0.0", "--images", "4"], "rule 'roles' needs good and poor images"),
        (["--write", "run"], "a run's adapter was trained with its gate"),
        (["--write", "run/config.json"], "a run's adapter was trained with its gate"),
        (["--write", "elsewhere/it.py"], "beside the recipe it stands on"),
        (["--write", "it.py", "gate.shape=steps"], "would leave out ['gate.shape=steps']"),
    ],
)
def test_what_it_refuses_in_words(
    recipe: Path, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(recipe.parent)
    run = recipe.parent / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    assert door.main([recipe.name, *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (recipe.parent / "it.py").exists()


def test_one_role_alone_is_no_call() -> None:
    for arguments in (["a.py", "--gallery", "b"], ["a.py", "--images", "1"], ["a.py", "--images", "9", "--all"]):
        with pytest.raises(SystemExit):
            door.parse(arguments)
