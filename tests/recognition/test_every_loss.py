"""Every margin and every objective of the registries trains a network, as the loop runs it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recognition.data.landmarks import write_landmarks
from recognition.distributed import World
from recognition.margins import MARGINS
from recognition.objectives import OBJECTIVES
from tests.tiny import nameable
from tests.training import QUIET, run_trainer, tiny_recipe

SHORT = ("schedule.epochs=0.4", "degradation.share=0.5", "optim.lr=0.001", *QUIET)  # two updates
WIDTH = {"embedding_size": 12}  # of the tiny network, for objectives that must know


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    with nameable():
        yield tiny_recipe(tmp_path)


@pytest.mark.parametrize("name", MARGINS.names())
def test_a_margin_trains_with_all_classes_and_with_sampled_ones(name, recipe, world: World):
    start = load_file(recipe.with_name("base.safetensors"))["stem.weight"]
    for rate in (1.0, 0.5):
        chosen = (f"run.name=rate{rate}", f"margin.name={name}", f"classifier.sample_rate={rate}")
        found = run_trainer(recipe, *chosen, *SHORT, world=world)
        assert len(found.losses) == 2 and all(map(math.isfinite, found.losses.values()))
        assert not torch.equal(found.tensors["backbone.stem.weight"], start)
        assert all(value.isfinite().all() for value in found.tensors.values())


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_an_objective_trains_beside_a_classifier_and_alone(name, recipe, world: World):
    landmarks = np.tile(np.float32([[38, 50], [74, 50], [56, 70], [42, 90], [70, 90]]), (30, 1, 1))
    write_landmarks(recipe.with_name("train.rec"), range(30), landmarks)
    width = WIDTH if "embedding_size" in OBJECTIVES.defaults(name) else {}
    chosen = f"objectives=[{ ({'name': name, 'weight': 1.0} | width)!r}]"
    batches = ("data.sampling=balanced", "data.per_class=2", chosen)
    for alone in ((), ("classifier.weight=0",)):
        if alone and name == "unpg":
            with pytest.raises((ValueError, RuntimeError), match=r"classifier.weight"):
                run_trainer(recipe, "run.name=alone", *batches, *SHORT, *alone, world=world)
            continue
        found = run_trainer(recipe, f"run.name={len(alone)}", *batches, *SHORT, *alone, world=world)
        assert len(found.losses) == 2 and all(map(math.isfinite, found.losses.values()))
