"""moe: the layer's formula and losses, the published layers' and network's figures, what trains, what is reported."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adapters import ADAPTERS, attach, layers, load
from adapters._facemoe import OPTIONS, from_facemoe
from adapters._moe import Losses, Mixture, Router, mlp_width, picks
from recognition.activation_checkpoint import checkpoint_blocks
from recognition.backbones import BACKBONES
from recognition.backbones._layers import Mlp
from recognition.config import arguments
from recognition.config import load as load_recipe
from recognition.gate import Gate
from recognition.model import FaceModel
from recognition.optim import build_optimizer
from recognition.weights import without_memory
from tests.oracles.fill import fill, images
from tests.tiny import Tiny

ROOT = Path(__file__).parents[2]


def build(gate: Gate | None = None, **options) -> tuple[Tiny, Gate]:
    backbone, gate = Tiny(), gate or Gate()
    attach(backbone, ADAPTERS.create("moe", **options), gate)
    return backbone, gate


def apart(mixture: Mixture) -> Mixture:
    """Experts that differ, and a router with clear preferences."""
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, dtype=parameter.dtype)
    return mixture


def close(found: Tensor, wanted: Tensor) -> None:
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("name", ["layer_moe_e3_k2", "layer_moe_e4_k1"])
def test_published_layers(name: str, oracles: Path) -> None:
    arrays = {key: torch.from_numpy(np.asarray(array)) for key, array in np.load(oracles / f"{name}.npz").items()}
    sides = {
        side: from_facemoe({k.replace(side, "mlp", 1): t for k, t in arrays.items() if k.startswith(f"{side}.")})[1]
        for side in ("param", "grad")
    }
    gate, losses = Gate(), Losses("code", 1e-3, 1e-2)
    mlp = Mlp(16, 32, nn.GELU())
    layer = Mixture(mlp, 16, gate, int(arrays["num_experts"]), int(arrays["k"]), "logits", losses)
    layer.load_state_dict({key.removeprefix("mlp."): tensor for key, tensor in sides["param"].items()})
    x = arrays["x"].requires_grad_(True)
    with gate.scope(None):
        y = layer(x)
        auxiliary = gate.auxiliary(y)
    close(y, arrays["y"])
    close(auxiliary, arrays["aux_loss"])
    (y.square().sum() + auxiliary).backward()
    close(x.grad, arrays["grad_x"])
    for key, gradient in sides["grad"].items():
        close(layer.get_parameter(key.removeprefix("mlp.")).grad, gradient)


@pytest.mark.parametrize("mixing", ["softmax", "logits"])
@pytest.mark.parametrize(("experts", "top_k"), [(2, 1), (3, 2), (5, 3), (3, 3)])
def test_every_token_is_mixed_of_its_own_choice(experts: int, top_k: int, mixing: str) -> None:
    layer = apart(Mixture(Mlp(6, 9, nn.GELU()).double(), 6, Gate(), experts, top_k, mixing).eval())
    x = torch.randn(4, 5, 6, dtype=torch.float64, requires_grad=True)
    wanted = torch.empty_like(x)
    for place in np.ndindex(4, 5):
        logits = [(layer.router.weight[i] @ x[place]).item() for i in range(experts)]
        chosen = sorted(range(experts), key=lambda i: -logits[i])[:top_k]
        z = torch.stack([layer.router.weight[i] @ x[place] for i in chosen])
        weight = z.exp() / z.exp().sum() if mixing == "softmax" else z
        wanted[place] = sum(w * layer.experts[i](x[place]) for w, i in zip(weight, chosen, strict=True))
    found = layer(x)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    inputs = [x, *layer.parameters()]
    for one, two in zip(
        torch.autograd.grad(found.square().sum(), inputs),
        torch.autograd.grad(wanted.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


def test_an_expert_that_is_not_chosen_has_no_part() -> None:
    layer = apart(Mixture(Mlp(6, 9, nn.GELU()), 6, Gate(), 3, 2).eval())
    x = torch.randn(7, 6)
    before = layer(x)
    left_out = [({0, 1, 2} - set(row)).pop() for row in layer.router(x).topk(2).indices.tolist()]
    with torch.no_grad():
        layer.experts[1].fc2.bias.fill_(float("inf"))
    assert (layer(x) == before).all(1).tolist() == [out == 1 for out in left_out]
    assert len(set(left_out)) > 1


@pytest.mark.parametrize("z_loss", ["paper", "code"])
def test_losses_by_their_sums(z_loss: str) -> None:
    logits = torch.randn(3, 4, 5, dtype=torch.float64)
    index = logits.topk(2, -1).indices
    tokens, n = 12, 5
    rows = logits.reshape(tokens, n).numpy()
    z = (rows**2).sum() / tokens / (n if z_loss == "code" else 1)
    p = np.exp(rows) / np.exp(rows).sum(1, keepdims=True)
    chosen = np.argsort(-rows, 1)[:, :2]
    balance = n / tokens**2 * sum(p[:, i].sum() * (chosen == i).sum() for i in range(n))
    found = Losses(z_loss, 0.3, 0.7)(logits, index)
    assert found.item() == pytest.approx(0.3 * z + 0.7 * balance, rel=1e-6)


def test_even_routing_costs_top_k() -> None:
    index = torch.tensor([[0, 1], [2, 0], [1, 2]])
    assert torch.allclose(picks(index, 3), torch.full((3,), 2 / 3))
    assert Losses("paper", 0.0, 1.0)(torch.zeros(3, 3), index).item() == pytest.approx(2)


def test_weights_of_the_losses_multiply_and_a_stage_without_training_has_none() -> None:
    assert ADAPTERS.create("moe").losses == Losses("paper", 1e-2, 1e-1)
    assert ADAPTERS.create("moe", z_weight=0.0, balance_weight=0.2, auxiliary_weight=3.0).losses.balance_weight == (
        pytest.approx(0.6)
    )
    assert ADAPTERS.create("moe", z_weight=0.0, balance_weight=0.0).losses is None
    assert ADAPTERS.create("moe", auxiliary_weight=0.0).losses is None
    assert ADAPTERS.create("moe", train="none").losses is None


def test_losses_come_out_of_the_model_in_training_only_and_reach_every_router() -> None:
    backbone, gate = build()
    model, image = FaceModel(backbone, gate, frozen_base=True), torch.randn(3, 3, 16, 16)
    each = []

    def keep(layer: Mixture, inputs: tuple[Tensor], _output: Tensor) -> None:
        logits = layer.router(*inputs)
        each.append(layer.losses(logits, logits.topk(2, -1).indices).item())

    hooks = [layer.register_forward_hook(keep) for _, layer in layers(backbone)]
    total = model(image)[1]
    assert len(each) == 2 and total.item() == pytest.approx(sum(each)) and total.item() > 0.4
    for hook in hooks:
        hook.remove()
    total.backward()
    assert all(layer.router.weight.grad.abs().max() > 0 for _, layer in layers(backbone))
    assert model.eval()(image)[1].item() == 0
    with pytest.raises(RuntimeError, match="auxiliary loss outside a scope: call the FaceModel"):
        model.train()
        backbone(image)


def trained_gradients(model: FaceModel, image: Tensor) -> dict[str, Tensor]:
    embedding, auxiliary = model(image)
    named = {key: p for key, p in model.named_parameters() if p.requires_grad}
    return dict(zip(named, torch.autograd.grad(embedding.square().sum() + auxiliary, [*named.values()]), strict=True))


def test_checkpointing_keeps_the_losses_and_their_gradients() -> None:
    backbone, gate = build(train="all")
    for _, layer in layers(backbone):
        apart(layer)
    plain, image = FaceModel(backbone, gate), torch.randn(4, 3, 16, 16)
    again = copy.deepcopy(plain)
    checkpoint_blocks(again.backbone, again.gate, again.backbone.checkpoint_blocks)
    found = []
    for model in (plain, again):
        torch.manual_seed(3)
        found.append((model(image)[1], trained_gradients(model, image)))
    assert found[0][0].item() > 0 and torch.equal(found[0][0], found[1][0])
    for key, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][key], gradient, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.slow
def test_compiles_in_training_as_one_graph_with_its_losses(uncollected: None) -> None:
    backbone, gate = build()
    for _, layer in layers(backbone):
        apart(layer)
    model = FaceModel(backbone, gate, frozen_base=True)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for batch in (3, 5):
        image = torch.randn(batch, 3, 16, 16)
        for one, two in zip(compiled(image), model(image), strict=True):
            torch.testing.assert_close(one, two)
    found, wanted = trained_gradients(compiled, image), trained_gradients(model, image)
    for one, two in zip(found.values(), wanted.values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_the_router_works_in_float32_under_autocast() -> None:
    layer = apart(Mixture(Mlp(32, 64, nn.GELU()), 32, Gate()).eval())
    x = torch.randn(50, 32)
    exact = x @ layer.router.weight.T
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer.router(x), exact, rtol=1e-5, atol=1e-5)
        assert layer(x).dtype == layer.experts[0](x).dtype == torch.bfloat16
    torch.testing.assert_close(layer(x), layer.double()(x.double()).float(), rtol=1e-4, atol=1e-4)


def test_jitter_moves_what_the_router_sees_in_training_only() -> None:
    layer = apart(Mixture(Mlp(6, 9, nn.GELU()), 6, Gate(), jitter=0.2))
    seen = []
    layer.router.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    x = torch.ones(500, 6)
    layer.train()(x), layer.eval()(x)
    assert 0.8 <= seen[0].min() < 0.82 and 1.18 < seen[0].max() <= 1.2 and torch.equal(seen[1], x)


def test_routers_are_seeded_and_equal_on_any_device_and_dtype() -> None:
    drawn = []
    for like in (torch.zeros(1), torch.zeros(1, dtype=torch.bfloat16)):
        torch.manual_seed(5)
        drawn.append(Router(400, 4, like).weight)
    assert torch.equal(drawn[0].bfloat16(), drawn[1]) and drawn[0].std().item() == pytest.approx(0.02, rel=0.1)
    assert Router(4, 2, torch.zeros(1, device="meta")).weight.is_meta


@pytest.mark.parametrize("train", ["experts", "all", "none"])
def test_what_trains(train: str) -> None:
    backbone, gate = build(train=train)
    trained = {key for key, parameter in backbone.named_parameters() if parameter.requires_grad}
    experts = {key for key, _ in backbone.named_parameters() if ".experts." in key or ".router." in key}
    everything = {key for key, _ in backbone.named_parameters()}
    assert trained == {"experts": experts, "all": everything, "none": set()}[train]
    model = FaceModel(backbone, gate, frozen_base=train != "all")
    dropout = [m for name, m in backbone.named_modules() if isinstance(m, nn.Dropout) and ".experts." in name]
    assert len(dropout) == 6 and all(m.training is (train == "all") for m in dropout)
    assert all(layer.training for _, layer in layers(model.backbone))


def test_a_first_step_parts_the_experts() -> None:
    backbone, gate = build()
    model = FaceModel(backbone, gate, frozen_base=True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    embedding, _ = model(torch.randn(8, 3, 16, 16))
    embedding.square().mean().backward()
    optimizer.step()
    one, two, three = (expert[0].weight for expert in backbone.blocks[0].mlp.experts)
    assert not torch.equal(one, two) and not torch.equal(two, three)


def test_both_stages_start_from_the_same_network() -> None:
    found = []
    for train in ("none", "all"):
        torch.manual_seed(4)
        found.append(build(train=train)[0].state_dict())
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(tensor, found[1][key]) for key, tensor in found[0].items())


def test_the_recipes_two_stages() -> None:
    first = load_recipe(ROOT / "configs" / "moe_tinyface_classifier.py")
    second = load_recipe(ROOT / "configs" / "moe_tinyface_full.py")
    backbone = Tiny()
    adapter = ADAPTERS.create("moe", **arguments(first.adapter, "adapter"))
    attach(backbone, adapter, Gate())
    classifier = nn.Linear(12, 4, bias=False)
    optimizer = build_optimizer(first, FaceModel(backbone, Gate(), frozen_base=True), classifier, adapter)
    assert [p is classifier.weight for group in optimizer.param_groups for p in group["params"]] == [True]
    assert second.adapter == {**first.adapter, "train": "all"} and second.run.seed == first.run.seed
    assert second.classifier.init == f"{first.run.root}/{first.run.name}"
    assert (first.optim.lr, first.schedule.epochs, second.optim.lr, second.schedule.epochs) == (1e-3, 10, 1e-4, 40)


def test_the_report_counts_choices_and_leaves_the_model_alone() -> None:
    backbone, gate = build(experts=3, top_k=2, train="all")
    adapter = ADAPTERS.create("moe", train="all")
    model, image = FaceModel(backbone, gate), torch.randn(3, 3, 16, 16)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    chance = torch.get_rng_state()
    with torch.no_grad():
        backbone.blocks[1].mlp.router.weight.zero_()
        backbone.blocks[1].mlp.router.weight[2] = 1e-3
        before["backbone.blocks.1.mlp.router.weight"].copy_(backbone.blocks[1].mlp.router.weight)
    report = adapter.report(backbone, lambda: model.forward(image))
    assert torch.equal(torch.get_rng_state(), chance) and [m.training for m in model.modules()] == modes
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    layer, seen = backbone.blocks[0].mlp, []
    layer.router.register_forward_hook(lambda _m, _i, logits: seen.append(logits))
    model.eval().embed(image)
    rows = seen[0].detach().reshape(-1, 3).argsort(1, descending=True)[:, :2]
    for i in range(3):
        share = (rows == i).sum().item() / rows.numel()
        assert report[f"experts/blocks.0.mlp/{i}"] == pytest.approx(share)
    assert len(report) == 7 and report["experts/largest_share"] == max(report.values()) <= 0.5


@pytest.mark.parametrize("name", ["r18", "mbf"])
def test_a_backbone_without_mlps_is_refused_in_words(name: str) -> None:
    with without_memory():
        backbone = BACKBONES.create(name)
    with pytest.raises(
        ValueError, match=r"has no MLPs .*choose a transformer such as swin_120 or vit_b, or an adapter"
    ):
        attach(backbone, ADAPTERS.create("moe"), Gate())


def test_targets_choose_mlps() -> None:
    assert [*dict(layers(build(targets=["blocks.1.**"])[0]))] == ["blocks.1.mlp"]
    assert [*dict(layers(build(targets=["**"])[0]))] == ["blocks.0.mlp", "blocks.1.mlp"]
    with pytest.raises(
        ValueError, match=r"'head' names no MLP \('head' is a Sequential\); the MLPs .*'blocks\.\*\.mlp'"
    ):
        build(targets=["head"])


def test_what_counts_as_an_mlp() -> None:
    assert mlp_width(Mlp(6, 9, nn.GELU())) == 6
    assert mlp_width(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 4))) == 4
    assert mlp_width(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 4))) is None
    assert mlp_width(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5))) is None
    assert mlp_width(nn.Linear(4, 4)) is None
    assert mlp_width(Tiny().blocks[0].attn) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": 1}, "experts is 1; it must be at least 2"),
        ({"top_k": 4}, r"top_k is 4; it must lie in 1 \.\. 3"),
        ({"jitter": 1.0}, r"jitter is 1.0; it must lie in \[0, 1\)"),
        ({"mixing": "raw"}, "mixing is 'raw'; it must be one of softmax, logits"),
        ({"z_loss": "st"}, "z_loss is 'st'; it must be one of paper, code"),
        ({"train": "router"}, "train is 'router'; it must be one of experts, all, none"),
        ({"balance_weight": -1.0}, "balance_weight is -1.0; it must be 0 or more"),
        ({"z_weight": float("nan")}, "z_weight is nan; it must be 0 or more"),
    ],
)
def test_options_outside_their_range(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"adapter.{message}"):
        ADAPTERS.create("moe", **options)


def test_published_sizes(oracles: Path) -> None:
    keys = json.loads((oracles / "moe_swin_moe.keys.json").read_text())
    with without_memory():
        backbone = BACKBONES.create("swin_120")
        attach(backbone, ADAPTERS.create("moe", train="all", **OPTIONS), Gate())
        base, adapter, chosen = from_facemoe({key: torch.empty(shape) for key, shape in keys.items()})
        dense = BACKBONES.create("swin_120")
    assert chosen == OPTIONS
    sizes = {name: p.numel() for name, p in backbone.named_parameters()}
    assert sum(sizes.values()) == 463_981_776
    assert sum(size for name, size in sizes.items() if ".experts." in name) == 375_393_024
    assert sum(size for name, size in sizes.items() if ".router." in name) == 52_992
    assert {k: t.shape for k, t in base.items()} == {
        k: t.shape for k, t in dense.state_dict().items() if not k.endswith("num_batches_tracked")
    }
    attached = {k: t.shape for k, t in backbone.state_dict().items() if ".mlp." in k}
    assert {k: t.shape for k, t in adapter.items()} == attached


def test_published_experts_that_do_not_belong_together_are_refused() -> None:
    layer = Mixture(Mlp(4, 8, nn.GELU()), 4, Gate())
    tensors = {f"b.mlp.{key.replace('router.', 'router.gate.')}": t for key, t in layer.state_dict().items()}
    base, adapter, chosen = from_facemoe(tensors)
    assert chosen == OPTIONS
    assert {f"b.mlp.{key}" for key in layer.state_dict()} == set(adapter)
    assert set(base) == {f"b.mlp.{key}" for key in layer.experts[0].state_dict()}
    for key in ("b.mlp.router.gate.weight", "b.mlp.experts.1.fc1.bias"):
        with pytest.raises(ValueError, match=r"block 'b\.mlp' holds the experts \[0, 1, 2\]"):
            from_facemoe({k: t for k, t in tensors.items() if k != key})
    with pytest.raises(ValueError, match=r"experts \[0, 2\] and a router for 3"):
        from_facemoe({k: t for k, t in tensors.items() if ".experts.1." not in k})
    huge = {**tensors, "b.mlp.router.gate.weight": torch.empty(2**40, 0)}  # rows that cost no memory
    with pytest.raises(ValueError, match=f"and a router for {2**40};"):
        from_facemoe(huge)


def test_as_many_experts_as_the_tensors_have() -> None:
    def block(name: str, experts: int) -> dict[str, Tensor]:
        layer = Mixture(Mlp(4, 8, nn.GELU()), 4, Gate(), experts)
        return {f"{name}.{key.replace('router.', 'router.gate.')}": t for key, t in layer.state_dict().items()}

    assert from_facemoe({**block("a.mlp", 4), **block("b.mlp", 4)})[2] == {**OPTIONS, "experts": 4}
    with pytest.raises(ValueError, match=r"different numbers of experts, .*'a\.mlp' has 4, 'b\.mlp' has 2"):
        from_facemoe({**block("a.mlp", 4), **block("b.mlp", 2)})


@pytest.mark.slow
def test_facemoes_swin(oracles: Path, undrawn: None) -> None:
    keys = json.loads((oracles / "moe_swin_moe.keys.json").read_text())
    base, adapter, _ = from_facemoe({key: torch.from_numpy(fill(key, tuple(shape))) for key, shape in keys.items()})
    backbone, gate = BACKBONES.create("swin_120"), Gate()
    missing, unexpected = backbone.load_state_dict(base, strict=False)
    assert not unexpected and not [key for key in missing if not key.endswith("num_batches_tracked")]
    attach(backbone, ADAPTERS.create("moe", auxiliary_weight=1.0, **OPTIONS), gate)
    load(backbone, adapter)
    model, wanted = FaceModel(backbone, gate, frozen_base=True), np.load(oracles / "moe_swin_moe.npz")
    with torch.no_grad():
        embedding, auxiliary = model.train()(torch.from_numpy(images(2, 120, 7)))
    assert np.abs(embedding.numpy() - wanted["embeddings"]).max() <= 1e-4 * np.abs(wanted["embeddings"]).max()
    assert auxiliary.item() == pytest.approx(float(wanted["aux_loss"]), rel=1e-4)


@pytest.mark.slow
def test_a_real_vit_starts_as_its_dense_self() -> None:
    backbone, gate = BACKBONES.create("vit_t").eval(), Gate()
    image = torch.from_numpy(images(2, 112, 1))
    with torch.no_grad():
        wanted = backbone(image)
        attach(backbone, ADAPTERS.create("moe"), gate)
        assert torch.equal(FaceModel(backbone, gate, frozen_base=True).eval().embed(image), wanted)
    assert len([*layers(backbone)]) == 12
