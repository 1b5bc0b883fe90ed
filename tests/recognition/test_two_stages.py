"""Class centres first, then the network: two recipes, one trainer."""

import json

import torch
from safetensors.torch import load_file

from tests.tiny import nameable
from tests.training import SHORT, tiny_recipe, train


def test_experts_start_from_the_first_stages_centres_and_are_told(tmp_path):
    with nameable():
        recipe = tiny_recipe(tmp_path)
        start = load_file(tmp_path / "base.safetensors")
        common = (*SHORT, "backbone.drop=0.0", "data.batch_size=4", "adapter.name=moe")
        first, _ = train(recipe, *common, "run.name=first", "adapter.train=none", "schedule.epochs=2.0", "optim.lr=0.1")
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
