"""config.adapter.weights: a recipe goes on from an adapter's folder or a finished run, or says why it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from easydict import EasyDict

import adapters
from adapters import ADAPTERS
from recognition import checkpoint, delivery, distributed
from recognition import config as settings
from recognition.model import FaceModel, assemble
from recognition.runs import load_run
from recognition.trainer import Trainer
from recognition.weights import read_weights, write_weights
from tests.small import write_recipe
from tests.tiny import NAMED, Tiny, nameable
from tests.training import QUIET, run_trainer

LORA = "adapter.name=lora"
TARGETS = list(Tiny.adapter_targets)  # what None stands for
TINY, VIT = NAMED


@pytest.fixture(autouse=True)
def _tiny() -> Iterator[None]:
    with nameable():
        yield


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Over both tiny backbones' weights: base_<name>.safetensors."""
    for name, kind in NAMED.items():
        torch.manual_seed(4)
        write_weights(tmp_path / f"base_{name}.safetensors", kind().state_dict(), {})
    return write_recipe(tmp_path, 'config.margin = edict(name="cosface")\n')


def load(recipe: Path, *overrides: str, backbone: str = TINY) -> EasyDict:
    base = recipe.with_name(f"base_{backbone}.safetensors")
    return settings.load(recipe, [f"backbone.name={backbone}", f"backbone.weights={base}", *overrides])


def finished(recipe: Path, *overrides: str, run: str = "first", backbone: str = TINY) -> FaceModel:
    """A run that has ended, everything that it trained moved away from the start; in recipe's folder."""
    config = load(recipe, *overrides, backbone=backbone)
    model = assemble(config).model
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    delivery.write_start(recipe.parent / run, config, "fingerprint")
    delivery.write_model(recipe.parent / run, config, model, "fingerprint")
    return model.eval()


def image() -> torch.Tensor:
    torch.manual_seed(5)
    return torch.rand(2, 3, 16, 16) * 2 - 1


@pytest.mark.parametrize("name", ADAPTERS.names())
def test_every_adapter_goes_on_from_its_folder(recipe: Path, name: str) -> None:
    model, backbone = None, ""
    for backbone in NAMED:
        try:
            model = finished(recipe, f"adapter.name={name}", backbone=backbone)
            break
        except ValueError:
            continue
    assert model is not None, "it fits no tiny backbone"
    start = (f"adapter.name={name}", f"adapter.weights={recipe.parent / 'first'}")
    again, anew = (assemble(load(recipe, *o, "run.seed=9", backbone=backbone)).model for o in (start, start[:1]))
    wanted, found = model.state_dict(), again.state_dict()
    assert wanted.keys() == found.keys() and all(torch.equal(wanted[key], found[key]) for key in wanted)
    trained = [{key for key, p in one.named_parameters() if p.requires_grad} for one in (again, anew)]
    assert trained[0] == trained[1]
    with torch.no_grad():
        assert torch.equal(again.eval().embed(image()), model.embed(image()))
        assert not torch.equal(anew.eval().embed(image()), model.embed(image()))


def refused(recipe: Path, words: str, *overrides: str, backbone: str = TINY) -> None:
    with pytest.raises(ValueError, match=rf"(?s){words}"):
        assemble(load(recipe, f"adapter.weights={recipe.parent / 'first'}", *overrides, backbone=backbone))


def test_another_adapter_backbone_base_or_scorer_is_refused_naming_both(recipe: Path) -> None:
    dual = ("adapter.name=dual_lora", "adapter.rank=2")
    finished(recipe, *dual, "gate.midpoint=0.8")
    refused(recipe, r"first.* another adapter .*config\.adapter asks for: name: 'lora', was 'dual_lora';", LORA)
    refused(recipe, r"rank: 8, was 2; scaling: 2\.0, was 1\.0;", "adapter.name=dual_lora", "adapter.scaling=2.0")
    refused(recipe, r"targets: \['blocks.*was None", *dual, "adapter.targets=['blocks.*.attn.qkv']")
    refused(recipe, r"another scorer .*name: 'constant', was 'sharpness'", *dual, "scorer.name=constant")
    refused(recipe, r"another gate .*shape: 'sigmoid', was 'linear'", *dual, "gate.shape=sigmoid")
    refused(recipe, r"another backbone .*drop: 0\.1, was 0\.3", *dual, "backbone.drop=0.1")
    refused(recipe, f"name: '{VIT}', was '{TINY}'", *dual, backbone=VIT)

    refused(recipe, r"another gate .*midpoint: 1\.4, was 0\.8", *dual)

    dual = (*dual, "gate.midpoint=0.8")
    other = ("adapter.dropout=0.3", "adapter.lr_plus_ratio=4.0")  # what weights say nothing of
    same = assemble(
        load(recipe, f"adapter.weights={recipe.parent / 'first'}", *dual, *other, f"adapter.targets={TARGETS}")
    )
    assert same.model.quality_gate.midpoint.item() == pytest.approx(0.8)
    path = recipe.with_name(f"base_{TINY}.safetensors")
    own = adapters.hash_tensors(read_weights(path).tensors)
    changed = {key: tensor * 1.01 for key, tensor in read_weights(path).tensors.items()}
    write_weights(path, changed, {})
    words = f"on SHA-256 {own}, and this backbone's is {adapters.hash_tensors(changed)}"
    refused(recipe, words, *dual)
    card = recipe.parent / "first" / "model" / "adapter.json"
    told = json.loads(card.read_text())
    card.write_text(json.dumps({**told, "base_tensors_sha256": "", "base_sha256": ""}))
    refused(recipe, "does not tell which base it is of; it cannot be gone on from", *dual)


def test_tensors_and_gates_that_do_not_fit_are_refused(recipe: Path) -> None:
    finished(recipe, "adapter.name=dual_lora")
    folder = recipe.parent / "first" / "model"
    saved = adapters.read_folder(folder)
    gate = {f"quality_gate.{key}": tensor for key, tensor in saved.gate.items()}
    missing = dict(list(saved.tensors.items())[1:])
    adapters.write_folder(folder, {**missing, **gate}, saved.card)
    refused(recipe, r"first.*'.*lora_a' is missing", "adapter.name=dual_lora")
    wide = {**gate, "quality_gate.midpoint": torch.zeros(2)}
    adapters.write_folder(folder, {**saved.tensors, **wide}, saved.card)
    refused(recipe, r"another gate .*midpoint: \[\], was \[2\]", "adapter.name=dual_lora")
    adapters.write_folder(folder, saved.tensors, saved.card)  # without a gate: the recipe's
    config = load(recipe, "adapter.name=dual_lora", f"adapter.weights={folder}", "gate.midpoint=0.3")
    assert assemble(config).model.quality_gate.midpoint.item() == pytest.approx(0.3)
    shutil.rmtree(folder)
    refused(recipe, "first is no adapter: wanted a folder", "adapter.name=dual_lora")


def test_experts_go_on_under_another_training_but_a_whole_network_not_as_experts(recipe: Path) -> None:
    moe = ("adapter.name=moe", "adapter.experts=2")
    model = finished(recipe, *moe, backbone=VIT)
    start = (f"adapter.weights={recipe.parent / 'first'}", "adapter.auxiliary_weight=1.0")
    for train in ("none", "all", "experts"):
        again = assemble(load(recipe, *moe, *start, f"adapter.train={train}", backbone=VIT)).model
        assert all(torch.equal(t, model.state_dict()[key]) for key, t in again.state_dict().items())
    refused(recipe, "top_k: 1, was 2", *moe, "adapter.top_k=1", backbone=VIT)
    shutil.rmtree(recipe.parent / "first")
    whole = finished(recipe, *moe, "adapter.train=all", backbone=VIT)
    refused(recipe, "holds a whole network, and the adapter of the recipe keeps", *moe, backbone=VIT)
    again = assemble(load(recipe, *moe, *start, "adapter.train=all", "backbone.weights=", backbone=VIT)).model
    assert all(torch.equal(t, whole.state_dict()[key]) for key, t in again.state_dict().items())


def test_a_run_that_started_from_a_folder_stands_without_it(recipe: Path) -> None:
    first = finished(recipe, LORA)
    second = finished(recipe, LORA, f"adapter.weights={recipe.parent / 'first'}", run="second")
    with torch.no_grad():
        begun = load_run(recipe.parent / "second", base=True).embed(image())
        assert torch.equal(begun, first.embed(image())), "what the second run started from"
        shutil.rmtree(recipe.parent / "first")
        assert torch.equal(load_run(recipe.parent / "second").embed(image()), second.embed(image()))
    with pytest.raises(ValueError, match="first is no adapter"):
        load_run(recipe.parent / "second", base=True)
    assert "weights" not in adapters.read_folder(recipe.parent / "second").arguments
    path = recipe.parent / "second" / "config.json"
    config = json.loads(path.read_text())
    del config["adapter"]["weights"]  # as written before there was the setting
    path.write_text(json.dumps(config))
    assert settings.from_json(path).adapter.weights == ""


def test_a_trained_run_goes_on_in_another_and_that_one_resumes_without_reading_it_again(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "picture", lambda *_: None)  # the slowest part of it
    base, runs = recipe.with_name(f"base_{TINY}.safetensors"), recipe.parent / "runs"
    common = (f"backbone.name={TINY}", f"backbone.weights={base}", LORA, "schedule.epochs=0.4", *QUIET)
    common = (*common, "train.save_every_updates=1")
    world, begun = distributed.start("cpu"), {}

    def look(trainer: Trainer) -> None:
        begun.setdefault(trainer.update, adapters.state(trainer.learner.model.backbone))

    first = run_trainer(recipe, *common, "run.name=first", world=world)
    start = f"adapter.weights={runs / 'first'}"
    second = run_trainer(recipe, *common, start, "run.name=second", world=world, at=look)
    assert all(torch.equal(tensor, first.tensors[f"backbone.{key}"]) for key, tensor in begun[0].items())
    half = f"train.resume={checkpoint.path_of(runs / 'second' / 'checkpoints', 1)}"
    (runs / "first" / "model" / "adapter.json").unlink()  # nothing can be made of the folder now
    third = run_trainer(recipe, *common, start, half, "run.name=third", world=world)
    assert sorted(third.keys) == [2]
    assert all(torch.equal(t, third.tensors[key]) for key, t in second.tensors.items() if "num_batches" not in key)
    with pytest.raises(ValueError, match=r"other settings: adapter\.weights: '', was '.*first'"):
        run_trainer(recipe, *common, half, "run.name=fourth", world=world)
    with (runs / "first" / "model" / "adapter.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    with pytest.raises(ValueError, match=r"another file than .*first is now \(SHA-256 differs\)"):
        run_trainer(recipe, *common, start, half, "run.name=fourth", world=world)
    distributed.stop()
