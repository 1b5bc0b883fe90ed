"""A base whose card is turned from RGB to BGR is another network, though its file keeps its SHA-256."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from recognition import checkpoint
from recognition.distributed import World
from recognition.runs import load_run
from recognition.weights import card_path, known, sha256, write_weights
from tests.tiny import Tiny, nameable
from tests.training import SHORT, run_trainer, tiny_recipe
from tools import export_onnx, merge_adapter

OURS = ("adapter.name=lora", "train.save_every_updates=1", "train.async_save=False", *SHORT)


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    with nameable():
        yield tiny_recipe(tmp_path)


def turn(base: Path, order: str) -> None:
    card_path(base).write_text(json.dumps({"backbone": "tiny_of_tests", "colour_order": order}))


def test_a_run_its_checkpoints_and_a_resume_notice_it(
    recipe: Path, world: World, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, run = recipe.with_name("base.safetensors"), recipe.parent / "runs" / "small"
    turn(base, "RGB")
    was = sha256(base)
    run_trainer(recipe, *OURS, world=world)
    half = checkpoint.path_of(run / "checkpoints", 1)
    picture = torch.rand(1, 3, 112, 112) * 2 - 1
    wanted = [load_run(path).embed(picture) for path in (run, half)]
    with monkeypatch.context() as inside:
        inside.chdir(half.parent)
        assert torch.equal(load_run(half.name).embed(picture), wanted[1]), "named without a folder"
    told = json.loads((run / "provenance.json").read_text())["base"]
    assert told == {"weights": str(base), "sha256": was, "tensors_sha256": known.known(base).tensors_sha256}

    turn(base, "BGR")
    assert sha256(base) == was
    for path in (run, half):
        with pytest.raises(ValueError, match=r"is the same file, but as RGB .*its card .* was changed"):
            load_run(path)
    assert merge_adapter.main([str(run), str(recipe.with_name("merged.safetensors"))]) == 2
    assert export_onnx.main([str(half)]) == 2
    assert capsys.readouterr().err.count("its card (colour_order, image_range) was changed") == 2
    go_on = (*OURS, "run.name=other", f"train.resume={half}")
    with pytest.raises(ValueError, match=r"step_000000001 was trained on another network .* its card .* was changed"):
        run_trainer(recipe, *go_on, world=world)
    (half / "adapter.json").unlink()  # a checkpoint whose card could not be written: the run's start tells it, too
    state = checkpoint.read_state(half)
    assert checkpoint.base_tensors(half, state.base_sha256) == told["tensors_sha256"]
    (run / "provenance.json").write_text("[")  # of neither: as before cards told it
    assert not checkpoint.base_tensors(half, state.base_sha256)

    turn(base, "RGB")
    assert torch.equal(load_run(run).embed(picture), wanted[0])


def test_a_base_is_read_and_hashed_once_until_something_of_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, read = tmp_path / "base.safetensors", []
    write_weights(base, Tiny().state_dict(), {"backbone": "tiny_of_tests"})
    real = known.read_weights
    monkeypatch.setattr(known, "read_weights", lambda path: read.append(path) or real(path))
    monkeypatch.chdir(tmp_path)
    assert known.known(base) == known.known(base) and len(read) == 2, "what was written just now may change unnoticed"
    monkeypatch.setattr(known, "SETTLED", -(10**18))
    first = known.known(base).tensors_sha256
    assert known.known("base.safetensors").tensors_sha256 == first and len(read) == 3
    turn(base, "BGR")
    assert known.known(base).tensors_sha256 != first and len(read) == 4
