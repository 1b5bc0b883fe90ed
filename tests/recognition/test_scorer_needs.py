"""Recipes whose scorer looks at something else than the image: what reaches it, in training and in evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from recognition import config as settings
from recognition.data.landmarks import write_landmarks
from recognition.data.records import Records
from recognition.distributed import World
from recognition.evaluation.embed import embed
from recognition.inputs import scorer_needs, some_images
from recognition.runs import load_run
from tests.iqa.scorers import forest_file
from tests.tiny import nameable
from tests.training import QUIET, tiny_recipe, train

GATED = ("adapter.name=dual_lora", "adapter.rank=2", "degradation.share=0.5", "schedule.epochs=1.0")
ALONE = World(0, 0, 1, torch.device("cpu"))


@pytest.fixture(autouse=True)
def _names() -> Iterator[None]:
    with nameable():
        yield


def near_or_far(records: Records) -> np.ndarray:
    """Landmarks (N, 5, 2): the forest of the tests rates eyes that are near each other lower."""
    points = np.array([[40, 50], [70, 50], [56, 70], [42, 90], [70, 90]], np.float32) + np.zeros((len(records), 1, 1))
    points[::2, 1, 0] = 50
    return points


def test_the_true_level_reaches_gate_and_evaluation(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    train(recipe, *GATED, "scorer.name=oracle", "gate.midpoint=-2", "gate.slope=0.25", "evaluation.bootstrap=0")
    model, records = load_run(tmp_path / "runs" / "small"), Records(tmp_path / "train.rec")
    images = some_images(records, 4)
    seen = []
    model.quality_gate.register_forward_hook(lambda _, scores, gates: seen.append((scores[0], gates)))
    for side in (None, 112, 14):
        embed(model, images, world=ALONE, side=side)
    assert seen[1::2] and len(seen) == 6  # the gate is asked by the model, and by evaluation for what it tells
    assert [s.unique().tolist() for s, _ in seen[::2]] == [[0.0], [0.0], [-3.0]]
    assert [g.unique().tolist() for _, g in seen[1::2]] == [[1.0], [1.0], [0.25]]


def test_landmarks_reach_gate_and_evaluation(tmp_path: Path) -> None:
    recipe, forest = tiny_recipe(tmp_path), forest_file(tmp_path)
    own = (*GATED, "scorer.name=landmark_forest", f"scorer.file={forest}", "gate.midpoint=0.6", "gate.slope=1")
    with pytest.raises(FileNotFoundError, match=r"no landmarks at .*train\.landmarks\.npz"):
        train(recipe, *own, *QUIET)
    records = Records(tmp_path / "train.rec")
    write_landmarks(tmp_path / "train.rec", records.key, near_or_far(records))
    train(recipe, *own, "evaluation.flip=True", "evaluation.bootstrap=0")
    model = load_run(tmp_path / "runs" / "small")
    seen = []
    model.quality_gate.register_forward_hook(lambda _, scores, gates: seen.append(scores[0]))
    embed(model, some_images(records, 30), world=ALONE, rows=np.array([2, 3, 4]))
    assert seen[0][0] == seen[0][2] < seen[0][1], "each image is scored by its own landmarks"
    with pytest.raises(ValueError, match="only record files have them"):
        embed(model, [records.read(0)], world=ALONE)


@pytest.mark.parametrize(("adapter", "needs"), [("dual_lora", "level"), ("lora", "")])
def test_only_a_gate_needs_a_score(tmp_path: Path, adapter: str, needs: str) -> None:
    config = settings.load(tiny_recipe(tmp_path), [f"adapter.name={adapter}", "scorer.name=oracle"])
    assert scorer_needs(config) == needs
    twin = settings.load(tiny_recipe(tmp_path), ["adapter.name=dual_lora", "adapter.gated=False", "scorer.name=oracle"])
    assert scorer_needs(twin) == ""
