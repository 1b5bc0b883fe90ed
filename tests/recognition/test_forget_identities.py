"""Forgetting through the trainer: ten people of a synthetic set are unlearned, the rest is kept, blocks fall empty."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapters import ADAPTERS
from adapters.gs_lora import group_norms, unused_share
from recognition import distributed
from recognition.backbones import BACKBONES
from recognition.config import load
from recognition.data.pairs import RecordImages
from recognition.data.records import Records
from recognition.evaluation.embed import embed
from recognition.evaluation.identification import identify
from recognition.optim import Schedule, build_optimizer
from recognition.runs import load_run
from tests.small import write_records
from tests.tiny import TinyViT
from tests.training import train

ROOT = Path(__file__).resolve().parents[2]
PEOPLE, FORGOTTEN, SEEN, NEW = 40, 10, 6, 4  # people, those to forget, pictures of each in training and beside it
TAG = "groups/unused_share"
RECIPE = """
from easydict import EasyDict as edict

config = edict()
config.run = edict(root={root!r})
config.backbone = edict(name="tiny")
config.margin = edict(name="cosface", margin=0.2, scale=16.0)
config.data = edict(records={records!r}, batch_size=30, workers=0, flip=False)
config.optim = edict(name="adamw", lr=1e-2, weight_decay=0.0)
config.schedule = edict(epochs=8.0, power=1.0)
config.train = edict(device="cpu", save_every=0.0)
"""


def measure(run: Path, pictures: Records, centres: Tensor, enrolled: Path) -> dict[str, tuple[float, float]]:
    """Of new pictures, for people forgotten and kept: the share nearest to their own class centre, and to their own
    picture among those that the model of run `enrolled` has embedded."""
    world, found = distributed.start("cpu"), {}
    first, new = (np.flatnonzero(p) for p in (pictures.key < PEOPLE, pictures.key >= PEOPLE * SEEN))
    gallery = embed(load_run(enrolled), RecordImages((pictures, first)), world=world)
    probe = embed(load_run(run), RecordImages((pictures, new)), world=world)
    label = pictures.labels[new]
    nearest = (F.normalize(probe) @ F.normalize(centres).T).argmax(1).numpy()
    for name, those in (("forgotten", label < FORGOTTEN), ("kept", label >= FORGOTTEN)):
        by_picture = identify(probe[those], label[those], gallery, pictures.labels[first], ranks=(1,))["rates"][1]
        found[name] = float((nearest == label)[those].mean()), by_picture
    distributed.stop()
    return found


@pytest.mark.slow
def test_ten_people_are_forgotten_and_the_rest_is_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES._objects, "tiny", TinyViT)
    write_records(tmp_path / "train", PEOPLE, SEEN)
    write_records(tmp_path / "all", PEOPLE, SEEN + NEW)  # begins with the same pictures
    pictures, recipe, known = Records([tmp_path / "all.rec"]), tmp_path / "tiny.py", tmp_path / "runs" / "known"
    recipe.write_text(RECIPE.format(root=str(tmp_path / "runs"), records=str(tmp_path / "train.rec")))
    centres = train(recipe, "run.name=known")[0]["classifier.weight"]
    before = measure(known, pictures, centres, known)
    assert min(*before["forgotten"], *before["kept"]) > 0.9

    forget = ("adapter.name=gs_lora", "adapter.targets=['patch_embed', 'blocks.*.mlp.*', 'head.0']")
    forget += (f"backbone.weights={known / 'model' / 'adapter.safetensors'}", f"classifier.init={known}")
    forget += ("classifier.lr_scale=0", "optim.weight_decay=0.1", "optim.lr=2e-2", "margin.name=forgetting")
    forget += (f"margin.forget={[*range(FORGOTTEN)]}", "margin.arguments={'margin': 0.2, 'scale': 16.0}")
    forget += ("margin.weight=1.0", "margin.bound=15.0")
    share = {}
    for sparsity in (0.0, 0.3):
        run = tmp_path / "runs" / f"sparsity_{sparsity}"
        tensors, _ = train(recipe, *forget, f"adapter.sparsity={sparsity}", f"run.name={run.name}")
        assert torch.equal(tensors["classifier.weight"], centres), "a learning rate of 0 moves and decays nothing"
        after = measure(run, pictures, centres, known)
        assert after["forgotten"][0] <= 0.15 and after["forgotten"][1] <= 0.3, "chance is 1 of 40"
        assert min(after["kept"]) >= 0.9
        share[sparsity] = unused_share(group_norms(load_run(run).backbone), 0.05)
        told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert share[sparsity] == next(line[TAG] for line in reversed(told) if TAG in line)
    assert share[0.0] == 0 and share[0.3] >= 0.4


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_class_centres_of_learning_rate_0_stand_still_under_any_optimizer(name):
    config = load(ROOT / "configs" / "forget_identities.py", [f"optim.name={name}", "optim.weight_decay=0.5"])
    model, classifier = torch.nn.Linear(3, 2), torch.nn.Linear(3, 5, bias=False)
    before, optimizer = classifier.weight.clone(), build_optimizer(config, model, classifier, ADAPTERS.create("full"))
    for update in range(3):
        Schedule(config.schedule, 10, 2).apply(optimizer, update)
        (model(torch.ones(4, 3)).square().sum() + classifier(torch.ones(4, 3)).square().sum()).backward()
        optimizer.step()
    assert torch.equal(classifier.weight, before) and classifier.weight.grad.any()


def test_the_recipe_forgets_ten_people_and_holds_the_centres_still():
    config = load(ROOT / "configs" / "forget_identities.py")
    assert len(config.margin.forget) == 10 and config.classifier.lr_scale == 0
    assert {s.name.split("_")[0] for s in config.evaluation.sets} == {"forgotten", "remaining"}
