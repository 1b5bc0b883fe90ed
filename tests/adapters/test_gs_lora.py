"""gs_lora: its groups, the lasso's value and gradients in every way of training, the report."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from adapters import ADAPTERS, attach, layers, merge
from adapters.gs_lora import group_norms, unused_share
from recognition.activation_checkpoint import checkpoint_blocks
from recognition.backbones import BACKBONES
from recognition.gate import Gate
from recognition.model import FaceModel
from recognition.weights import without_memory
from tests.launch import run_processes
from tests.tiny import Tiny, TinyViT


def build(kind: type[nn.Module] = Tiny, started: bool = True, **options) -> FaceModel:
    """In training mode. started: every B away from zero."""
    torch.manual_seed(1)
    backbone, gate = kind(), Gate()
    attach(backbone, ADAPTERS.create("gs_lora", **options), gate)
    if started:
        for _, layer in layers(backbone):
            nn.init.normal_(layer.lora_b, std=0.2)
    return FaceModel(backbone, gate, frozen_base=True).train()


def draw(batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, 16, 16)


def members(model: FaceModel) -> dict[str, list[nn.Module]]:
    """Layers of each group, told by their names."""
    found: dict[str, list[nn.Module]] = {}
    for name, layer in layers(model.backbone):
        found.setdefault(".".join(name.split(".")[:2]) if name.startswith("blocks.") else name, []).append(layer)
    return found


def penalty(model: FaceModel, sparsity: float) -> Tensor:
    """The formula in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for group in members(model).values():
        squares = [m.double().square().sum() for layer in group for m in (layer.lora_a, layer.lora_b)]
        total = total + sparsity * sum(squares).sqrt()
    return total


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def gradients(model: nn.Module, image: Tensor) -> list[Tensor]:
    embedding, auxiliary = model(image)
    return list(torch.autograd.grad(embedding.square().mean() + auxiliary, trained(model)))


@pytest.mark.parametrize("targets", [None, ["**"]])
def test_the_lasso_is_its_formula(targets: list[str] | None) -> None:
    model = build(sparsity=0.3, targets=targets)
    auxiliary = model(draw())[1]
    wanted = penalty(model, 0.3)
    assert auxiliary.item() == pytest.approx(wanted.item(), rel=1e-6)
    found = torch.autograd.grad(auxiliary, trained(model))
    for one, two in zip(found, torch.autograd.grad(wanted, trained(model)), strict=True):
        assert two.abs().max() > 1e-3
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)
    again = model(draw())[1]
    assert torch.equal(again, auxiliary), "once in each forward"


def test_it_is_handed_over_in_training_only() -> None:
    model = build(sparsity=0.3)
    assert model.eval()(draw())[1].item() == 0
    assert build(sparsity=0.0)(draw())[1].item() == 0
    declared = [ADAPTERS.create("gs_lora", sparsity=sparsity).auxiliary_losses for sparsity in (0.0, 0.3)]
    assert declared == [False, True]
    with pytest.raises(RuntimeError, match="auxiliary loss outside a scope: call the FaceModel"):
        model.train().backbone(draw())


def test_gradients_are_finite_where_matrices_or_whole_groups_are_zero() -> None:
    model = build(started=False, sparsity=0.5)  # every B is zero
    first, second = members(model).values()
    with torch.no_grad():
        for layer in first:
            layer.lora_a.zero_()
    auxiliary = model(draw())[1]
    auxiliary.backward()
    for layer in first:
        assert not layer.lora_a.grad.any() and not layer.lora_b.grad.any()
    norm = math.sqrt(sum(layer.lora_a.square().sum().item() for layer in second))
    for layer in second:
        torch.testing.assert_close(layer.lora_a.grad, 0.5 * layer.lora_a / norm)
        assert not layer.lora_b.grad.any()
    assert auxiliary.item() == pytest.approx(0.5 * norm, rel=1e-6)


def test_recomputed_blocks_add_nothing_twice() -> None:
    plain, image = build(sparsity=0.3, targets=["**"]), draw()
    again = copy.deepcopy(plain)
    checkpoint_blocks(again.backbone, again.gate, again.backbone.checkpoint_blocks)
    assert torch.equal(plain(image)[1], again(image)[1])
    for one, two in zip(gradients(again, image), gradients(plain, image), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_compiles_in_training_as_one_graph_with_recomputed_blocks_and_its_lasso() -> None:
    plain, image = build(sparsity=0.3), draw()
    model = copy.deepcopy(plain)
    checkpoint_blocks(model.backbone, model.gate, model.backbone.checkpoint_blocks)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(skip_fwd_side_effects_in_bwd_under_checkpoint=True):  # as the learner sets it
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        for one, two in zip(compiled(image), plain(image), strict=True):
            torch.testing.assert_close(one, two)
        for one, two in zip(gradients(compiled, image), gradients(plain, image), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_a_copy_has_a_lasso_over_its_own_layers() -> None:
    model, image = build(sparsity=0.3), draw()
    twin, before = copy.deepcopy(model), model(image)[1]
    with torch.no_grad():
        for parameter in trained(twin):
            parameter *= 2
    assert twin(image)[1].item() == pytest.approx(2 * before.item(), rel=1e-5)
    assert torch.equal(model(image)[1], before)
    own = {id(layer) for _, layer in layers(twin.backbone)}
    lassos = [layer.lasso for _, layer in layers(twin.backbone) if layer.lasso is not None]
    assert {id(layer) for lasso in lassos for layer in lasso.layers} == own
    assert all(lasso.gate is twin.gate for lasso in lassos)


def test_nothing_of_the_groups_is_saved() -> None:
    assert {key.rpartition(".")[2] for key in build().state_dict() if "lora" in key} == {"lora_a", "lora_b"}
    assert not [key for key in build().state_dict() if "lasso" in key]


def of_one_process(rank: int, image: Tensor) -> list[Tensor]:
    model = build(sparsity=0.3)
    wrapped = DistributedDataParallel(model)
    embedding, auxiliary = wrapped(image[2 * rank : 2 * rank + 2])
    (embedding.square().mean() + auxiliary).backward()
    return [p.grad for p in trained(model)]


@pytest.mark.slow
def test_two_processes_count_it_once() -> None:
    image = draw()
    for found in run_processes(2, of_one_process, image):
        for one, two in zip(found, gradients(build(sparsity=0.3), image), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "groups", "inside", "outside"),
    [
        ("r18", 8, "layer1.0.conv1", "fc"),
        ("mobilefacenet_nano", 15, "layers.2.layers.0.layers.0", "features"),
        ("vit_t", 12, "blocks.0.mlp.fc1", "blocks.0.attn.qkv"),
        ("swin_120", 22, "layers.0.blocks.1.mlp.fc2", "layers.0.blocks.1.attn.qkv"),
    ],
)
def test_default_targets_are_the_blocks_mlps_or_what_is_adapted_there(
    name: str, groups: int, inside: str, outside: str
) -> None:
    with without_memory():
        backbone = BACKBONES.create(name)
        attach(backbone, ADAPTERS.create("gs_lora"), Gate())
    adapted = dict(layers(backbone))
    blocks = backbone.checkpoint_blocks
    assert inside in adapted and not [key for key in adapted if key.startswith(outside)]
    assert sum(layer.lasso is not None for layer in adapted.values()) == groups
    if "vit" in name or "swin" in name:
        assert len(adapted) == 2 * groups and all(".mlp." in key for key in adapted)
    else:
        assert all(key.startswith(tuple(f"{block}." for block in blocks)) for key in adapted)


def test_a_target_in_no_block_is_a_group_by_itself() -> None:
    model = build(targets=["pointwise", "blocks.0.**", "head.2"])
    assert [*group_norms(model.backbone)] == ["pointwise", "blocks.0", "head.2"]
    found = [(layer.lasso.group, len(layer.lasso.layers)) for _, layer in layers(model.backbone) if layer.lasso]
    assert found == [("pointwise", 1), ("blocks.0", 4), ("head.2", 1)]


class Mixed(Tiny):
    """A convolution's block beside those with MLPs."""

    checkpoint_blocks = ("blocks.*", "pointwise")


def test_a_block_without_an_mlp_takes_what_the_backbone_declares_for_it() -> None:
    assert [name for name, _ in layers(build(Mixed).backbone)] == [
        "pointwise",
        "blocks.0.mlp.0",
        "blocks.0.mlp.3",
        "blocks.1.mlp.0",
        "blocks.1.mlp.3",
    ]
    assert [*group_norms(build(Mixed).backbone)] == ["pointwise", "blocks.0", "blocks.1"]


class Unknown(Tiny):
    """A backbone that does not tell its blocks."""

    checkpoint_blocks = ()


class Elsewhere(Tiny):
    """Its blocks hold no target."""

    checkpoint_blocks = ("depthwise",)


def test_a_backbone_that_cannot_be_grouped_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="Unknown declares no checkpoint_blocks"):
        build(Unknown)
    words = r"no block of Elsewhere has an MLP or one of its adapter_targets \(pointwise, .*\): set adapter.targets"
    with pytest.raises(ValueError, match=words):
        build(Elsewhere)


def test_the_report_tells_norms_and_the_share_of_unused_groups() -> None:
    model = build(TinyViT, epsilon=0.05)
    with torch.no_grad():
        for parameter in trained(model.backbone.blocks[1]):
            parameter *= 1e-3
    norms, squares = group_norms(model.backbone), {}
    for group, inside in members(model).items():
        squares[group] = sum(m.double().square().sum().item() for layer in inside for m in trained(layer)[-2:])
    assert norms == pytest.approx({group: math.sqrt(square) for group, square in squares.items()}, rel=1e-6)
    assert norms["blocks.1"] < 0.05 < norms["blocks.0"]
    assert unused_share(norms, 0.05) == pytest.approx(1 / 3) and unused_share(norms, 0.0) == 0
    adapter = model.backbone._attached.adapter
    told = adapter.report(model.backbone, lambda: pytest.fail("no image has to be looked at"))
    assert told == {f"groups/{group}": norm for group, norm in norms.items()} | {"groups/unused_share": 1 / 3}


def test_a_network_without_groups_has_no_norms() -> None:
    backbone, gate = Tiny(), Gate()
    with pytest.raises(RuntimeError, match="carries no adapter"):
        group_norms(backbone)
    attach(backbone, ADAPTERS.create("lora"), gate)
    with pytest.raises(ValueError, match="carries a LoRA, whose layers stand in no groups: use gs_lora"):
        group_norms(backbone)


def test_what_was_learned_is_merged_before_the_next_task() -> None:
    model, image = build().eval(), draw()
    wanted = model.embed(image)
    merge(model.backbone)
    torch.testing.assert_close(model.embed(image), wanted, rtol=1e-4, atol=1e-5)
    attach(model.backbone, ADAPTERS.create("gs_lora"), model.gate)
    torch.testing.assert_close(model.embed(image), wanted, rtol=1e-4, atol=1e-5)


def test_ranks_and_lora_plus_go_to_the_layers() -> None:
    adapter, backbone = ADAPTERS.create("gs_lora", rank=2, ranks={"blocks.1.**": 5}, lr_plus_ratio=4.0), Tiny()
    attach(backbone, adapter, Gate())
    assert [layer.rank for _, layer in layers(backbone)] == [2, 2, 5, 5]
    (group,) = adapter.parameter_groups(backbone)
    assert group["lr_scale"] == 4 and len(group["params"]) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": -0.1}, "adapter.sparsity is -0.1; it must be 0 or more"),
        ({"sparsity": math.nan}, "adapter.sparsity is nan"),
        ({"epsilon": math.inf}, "adapter.epsilon is inf; it must be 0 or more"),
        ({"rank": 0}, "adapter.rank is 0; it must be at least 1"),
        ({"init": "zeros"}, "adapter.init is 'zeros'; it must be 'gaussian' or 'kaiming'"),
    ],
)
def test_options_outside_their_range(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ADAPTERS.create("gs_lora", **options)
