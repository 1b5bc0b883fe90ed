"""Class centres first, then the network: two recipes, one trainer."""

import json

import pytest
import torch

from recognition.backbones import BACKBONES
from recognition.weights import write_weights
from tests.small import write_recipe
from tests.training import QUIET, train


@pytest.mark.slow
def test_experts_start_from_the_first_stages_centres_and_are_told(tmp_path):
    recipe = write_recipe(tmp_path)
    torch.manual_seed(0)
    base = BACKBONES.create("vit_t", embedding_size=32)
    write_weights(tmp_path / "vit.safetensors", base.state_dict(), {})
    common = ("backbone.name=vit_t", "backbone.embedding_size=32", f"backbone.weights={tmp_path / 'vit.safetensors'}")
    common = (*common, "schedule.epochs=0.4", "data.batch_size=4", "adapter.name=moe", *QUIET)
    first, _ = train(recipe, *common, "run.name=first", "adapter.train=none")
    start = base.state_dict()
    same = [name for name in start if f"backbone.{name}" in first]
    assert same and all(torch.equal(first[f"backbone.{name}"], start[name]) for name in same)
    init = f"classifier.init={tmp_path / 'runs' / 'first'}"
    second, losses = train(recipe, *common, "run.name=second", "adapter.train=all", init)
    anew, other = train(recipe, *common, "run.name=anew", "adapter.train=all")
    assert losses[1] < other[1]  # centres that have learned
    assert any(not torch.equal(second[name], first[name]) for name in first if name.startswith("backbone."))
    assert anew.keys() == second.keys()
    lines = [json.loads(line) for line in (tmp_path / "runs" / "second" / "metrics.jsonl").read_text().splitlines()]
    told = [line for line in lines if "experts/largest_share" in line]
    assert len(told) == len(losses) and 1 / 3 <= told[0]["experts/largest_share"] <= 1
