"""Frozen weights kept rounded: training to the bit as without, what is read elsewhere as the file had it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import adapters
from adapters import ADAPTERS
from recognition import config as settings
from recognition import evaluations, learner, plan, start
from recognition.backbones import BACKBONES
from recognition.distributed import World
from recognition.frozen import FrozenWeights
from recognition.gate import Gate
from recognition.hashes import hash_tensors
from recognition.inputs import open_records
from recognition.learner import Learner
from recognition.model import FaceModel
from tests.tiny import Tiny, TinyViT, nameable
from tests.training import QUIET, run_trainer, tiny_recipe

HALF = "train.precision=bf16"
FREEZING = sorted(name for name in ADAPTERS.names() if ADAPTERS.create(name).freezes_base)


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    with nameable():
        yield tiny_recipe(tmp_path)


def a_model(adapter: str, **options: object) -> FaceModel:
    """A tiny backbone with an adapter that has moved a little, in training mode."""
    torch.manual_seed(0)
    backbone, gate = (TinyViT() if adapter == "prompt" else Tiny()), Gate()
    made = ADAPTERS.create(adapter, **options)
    adapters.attach(backbone, made, gate)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))
    return FaceModel(backbone, gate, nn.Identity() if made.needs_gate else None, frozen_base=True).train()


def one_step(model: FaceModel, dtype: torch.dtype) -> list[torch.Tensor]:
    """Embedding and gradients of a step under autocast."""
    torch.manual_seed(1)
    image, score = torch.randn(4, 3, 16, 16), torch.rand(4)
    with torch.autocast("cpu", dtype=dtype):
        embedding, auxiliary = model(image, score if model.needs_gate else None)
    (embedding.float().square().mean() + auxiliary).backward()
    return [embedding.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("adapter", FREEZING)
def test_a_step_is_the_same_to_the_bit(adapter):
    plain = a_model(adapter)
    rounded = copy.deepcopy(plain)
    frozen = FrozenWeights(rounded, torch.bfloat16)
    assert frozen.parameters
    for one, two in zip(one_step(plain, torch.bfloat16), one_step(rounded, torch.bfloat16), strict=True):
        assert torch.equal(one, two)
    own = adapters.state(rounded.backbone)
    assert all(t.dtype != torch.bfloat16 and torch.equal(t, own[n]) for n, t in adapters.state(plain.backbone).items())


@pytest.mark.parametrize(
    ("name", "adapter"), [("swin_nano", "dual_lora"), ("mobilefacenet_nano", "dual_lora"), ("swin_nano", "vera")]
)
def test_a_step_of_a_real_network_is_the_same_to_the_bit(name, adapter):
    dtype = torch.bfloat16
    backbone, gate = BACKBONES.create(name), Gate()
    made = ADAPTERS.create(adapter)
    adapters.attach(backbone, made, gate)
    plain = FaceModel(backbone, gate, nn.Identity() if made.needs_gate else None, frozen_base=True).train()
    rounded = copy.deepcopy(plain)
    frozen = FrozenWeights(rounded, dtype)
    weights = [m.weight for m in rounded.backbone.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert all(weight.dtype == dtype for weight in weights) and len(frozen.parameters) >= len(weights)
    for one, two in zip(one_step(plain, dtype), one_step(rounded, dtype), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_weights_come_back(dtype):
    model = a_model("dual_lora")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frozen = FrozenWeights(model, dtype)
    own = model.backbone.state_dict()
    assert own["blocks.0.attn.qkv.weight"].dtype == own["head.2.bias"].dtype == own["stem.weight"].dtype == dtype
    for kept in ("norm.weight", "norm.running_mean", "blocks.0.norm1.weight", "blocks.0.attn.qkv.lora_a"):
        assert own[kept].dtype == torch.float32
    for _ in range(2):
        with frozen.exact():
            with frozen.exact():
                pass
            after = model.state_dict()
            assert all(t.dtype == before[n].dtype and torch.equal(t, before[n]) for n, t in after.items())
            assert hash_tensors(after) == hash_tensors(before)
        assert model.backbone.state_dict()["stem.weight"].dtype == dtype
    with pytest.raises(KeyError), frozen.exact():
        raise KeyError
    assert model.backbone.state_dict()["stem.weight"].dtype == dtype


def test_what_is_read_as_numbers_is_left_alone():
    dora = a_model("dora")
    FrozenWeights(dora, torch.bfloat16)
    assert dora.backbone.pointwise.weight.dtype == torch.float32  # its norms are of these
    assert dora.backbone.stem.weight.dtype == torch.bfloat16
    resting = a_model("moe", train="none")
    FrozenWeights(resting, torch.bfloat16)
    assert all(tensor.dtype != torch.bfloat16 for tensor in adapters.state(resting.backbone).values())
    seen = a_model("lora")
    seen.scorer = nn.ModuleList([seen.backbone.stem])
    FrozenWeights(seen, torch.bfloat16)
    assert seen.backbone.stem.weight.dtype == torch.float32
    assert seen.backbone.depthwise.weight.dtype == torch.bfloat16


def test_a_merge_is_of_the_weights_as_they_were():
    plain = a_model("lora")
    rounded = copy.deepcopy(plain)
    adapters.merge(plain.backbone)
    with FrozenWeights(rounded, torch.bfloat16).exact():
        adapters.merge(rounded.backbone)
        merged = rounded.backbone.state_dict()
        assert all(torch.equal(t, merged[n]) for n, t in plain.backbone.state_dict().items())


@pytest.mark.parametrize("more", [("adapter.name=moe",), ("optim.average=0.5", "classifier.init=class_means")])
def test_a_run_is_that_of_weights_that_are_rounded_in_each_step(recipe, world: World, monkeypatch, more):
    """Losses, class centres, checkpoints, evaluations during and after, the delivered file."""
    found = {}
    seen: dict[str, set] = {"dtypes": set()}
    evaluate, class_means = evaluations.evaluate, start.class_means

    def look(model, *given, **named):
        seen["dtypes"] |= {p.dtype for p in model.backbone.parameters()}
        return evaluate(model, *given, **named)

    def look_too(model, *given):
        seen["dtypes"] |= {p.dtype for p in model.backbone.parameters()}
        return class_means(model, *given)

    monkeypatch.setattr(evaluations, "evaluate", look)
    monkeypatch.setattr(start, "class_means", look_too)
    common = ("adapter.name=dual_lora", HALF, "schedule.epochs=0.6", "evaluation.every=0.2", "optim.lr=0.01", *more)
    for name in ("kept", "plain"):
        if name == "plain":
            monkeypatch.setattr(learner, "FrozenWeights", lambda *_: None)
        result = run_trainer(recipe, f"run.name={name}", *common, world=world)
        run = recipe.parent / "runs" / name
        adapter = load_file(run / "model" / "adapter.safetensors")
        figures = [line for line in (run / "metrics.jsonl").read_text().splitlines() if "after/" in line]
        found[name] = (result.losses, adapter, result.optimizer, figures)
    kept, plain = found["kept"], found["plain"]
    assert kept[0] == plain[0] and kept[0] and kept[3] and len(kept[3]) == len(plain[3])
    for one, two in zip(kept[1:3], plain[1:3], strict=True):
        assert one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())
    assert seen["dtypes"] == {torch.float32}


def test_learner_keeps_them_where_it_should(recipe, world: World):
    def made(*overrides: str) -> Learner:
        config = settings.load(recipe, [*QUIET, *overrides])
        return Learner(config, open_records(config), world, [6])

    assert made("adapter.name=lora").frozen is None  # float32
    assert made("adapter.name=full", HALF).frozen is None  # nothing is frozen
    held = made("adapter.name=lora", "train.precision=fp16")
    assert held.model.backbone.stem.weight.dtype == torch.float16
    whole = plan.network(made("adapter.name=lora"), 1)
    numbers = sum(parameter.numel() for parameter in held.frozen.parameters)
    assert numbers and plan.network(held, 1) == whole + 2 * numbers  # on a CPU both, of 2 and of 4 bytes
    held.world = replace(world, device=torch.device("cuda"))
    assert plan.network(held, 1) == whole - 2 * numbers  # on the device the rounded ones alone
    held.world = world
    with held.shown():
        assert held.model.backbone.stem.weight.dtype == torch.float32
