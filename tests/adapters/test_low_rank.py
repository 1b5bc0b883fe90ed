"""lora and dual_lora, and what the low-rank family shares: formula, options, the published layers' figures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from easydict import EasyDict
from torch import Tensor, nn
from torch.nn import functional as F

from adapters import ADAPTERS, attach, layers, merge
from adapters._layers import LoRAConv2d, LoRALinear
from adapters._petalface import from_petalface
from recognition.backbones import BACKBONES
from recognition.gate import Gate
from recognition.optim import build_optimizer
from recognition.weights import without_memory
from tests.tiny import Scoped, Tiny


def oracle(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and results, parameters, gradients."""
    arrays = {key: torch.from_numpy(np.asarray(array)) for key, array in np.load(path).items()}
    plain = {key: tensor for key, tensor in arrays.items() if "." not in key}
    sides = ({k.split(".", 1)[1]: t for k, t in arrays.items() if k.startswith(f"{s}.")} for s in ("param", "grad"))
    return plain, *sides


def close(found: Tensor, wanted: Tensor) -> None:
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("name", ["layer_lora", "layer_dual_lora"])
def test_published_layers(name: str, oracles: Path) -> None:
    given, parameters, wanted = oracle(oracles / f"{name}.npz")
    gate = Gate() if "alpha" in given else None
    base = nn.Linear(24, 36)
    layer = LoRALinear(base, int(given["rank"]), float(given["scale"]), gate=gate)
    plain, adapter = from_petalface({f"layer.{key}": tensor for key, tensor in parameters.items()})
    layer.load_state_dict({k.removeprefix("layer."): t for k, t in {**plain, **adapter}.items()})
    x = given["x"].requires_grad_(True)
    with (gate or Gate()).scope(given.get("alpha")):
        y = layer(x)
    close(y, given["y"])
    y.square().sum().backward()
    close(x.grad, given["grad_x"])
    plain, adapter = from_petalface({f"layer.{key}": tensor for key, tensor in wanted.items()})
    for key, gradient in {**plain, **adapter}.items():
        close(layer.get_parameter(key.removeprefix("layer.")).grad, gradient)


def two_branches(base: nn.Module, layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
    """One image through base + scaling * ((1 - g) U1 D1 + g U2 D2), every factor in float64."""
    r, conv = layer.rank, isinstance(base, nn.Conv2d)
    y = base(x)
    for weight, rows in ((1 - g, slice(0, r)), (g, slice(r, 2 * r))):
        a, b = layer.lora_a[rows], layer.lora_b[:, rows]
        if conv:
            down = F.conv2d(x, a, None, base.stride, base.padding, base.dilation)
            y = y + layer.scaling * weight * torch.einsum("or,brhw->bohw", b[:, :, 0, 0], down)
        else:
            y = y + layer.scaling * weight * torch.einsum("or,...r->...o", b, torch.einsum("ri,...i->...r", a, x))
    return y


@pytest.mark.parametrize("kind", ["tokens", "windows", "rows", "conv", "conv_same"])
def test_gated_layers_equal_two_branches_image_by_image(kind: str) -> None:
    gate, value = Gate(), torch.tensor([0.0, 0.4, 1.3], dtype=torch.float64)
    base, shape = {
        "tokens": (nn.Linear(6, 7), (3, 5, 6)),
        "windows": (nn.Linear(6, 7, bias=False), (3 * 4, 5, 6)),
        "rows": (nn.Linear(6, 7), (3, 6)),
        "conv": (nn.Conv2d(6, 7, (3, 2), stride=2, padding=1, dilation=2, bias=False), (3, 6, 9, 8)),
        "conv_same": (nn.Conv2d(6, 7, 3, padding="same"), (3, 6, 5, 5)),
    }[kind]
    base = base.double()
    kind_of_layer = LoRALinear if isinstance(base, nn.Linear) else LoRAConv2d
    layer = kind_of_layer(base, rank=2, scaling=1.7, gate=gate)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(shape, dtype=torch.float64)
    with gate.scope(value):
        found = layer(x).unflatten(0, (3, -1))
    for i, image in enumerate(x.unflatten(0, (3, -1))):
        torch.testing.assert_close(found[i], two_branches(base, layer, image, value[i]), rtol=1e-12, atol=1e-12)
        merged = layer.merged(float(value[i]))
        torch.testing.assert_close(merged(image), found[i], rtol=1e-12, atol=1e-12)


def test_adapted_layers_are_linears_and_convolutions_that_adopt_the_weight() -> None:
    linear, conv = nn.Linear(4, 5), nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect")
    for base, layer in ((linear, LoRALinear(linear, 2)), (conv, LoRAConv2d(conv, 2))):
        assert isinstance(layer, type(base))
        assert layer.weight is base.weight and layer.bias is base.bias
        assert list(layer.state_dict()) == ["weight", "bias", "lora_a", "lora_b"]
        assert "rank=2" in repr(layer)
    x = torch.randn(2, 4, 6, 6)
    layer = LoRAConv2d(conv, 2)
    assert torch.equal(layer(x), conv(x))
    nn.init.normal_(layer.lora_b)
    torch.testing.assert_close(layer.merged()(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gate", [None, Gate()])
def test_the_start(gate: Gate | None) -> None:
    layer = LoRALinear(nn.Linear(4000, 8), rank=4, gate=gate)
    assert layer.lora_a.shape == (8 if gate else 4, 4000) and not layer.lora_b.any()
    assert layer.lora_a.std().item() == pytest.approx(1 / 4, rel=0.05), "of the branch's rank, gated or not"
    assert layer.lora_a.mean().abs() < 0.01


def test_dropout_on_the_input_and_on_the_output() -> None:
    share, x = 0.4, torch.ones(400, 60)
    for place in ("input", "output"):
        layer = LoRALinear(nn.Linear(60, 50), rank=1, dropout=share, dropout_at=place)
        nn.init.ones_(layer.lora_a), nn.init.ones_(layer.lora_b)
        update = (layer(x) - F.linear(x, layer.weight, layer.bias)).detach()
        torch.testing.assert_close(update.mean(), torch.tensor(60.0), rtol=0.03, atol=0)
        zeros = (update.abs() < 1e-3).float().mean().item()
        assert zeros == pytest.approx(share if place == "output" else 0.0, abs=0.03)
        layer.eval()
        torch.testing.assert_close(layer(x), layer.merged()(x), rtol=1e-5, atol=1e-4)


def test_dropout_on_the_output_draws_for_each_branch() -> None:
    gate, x = Gate(), torch.ones(300, 10)
    layer = LoRALinear(nn.Linear(10, 40), rank=1, dropout=0.5, dropout_at="output", gate=gate)
    nn.init.ones_(layer.lora_a), nn.init.ones_(layer.lora_b)
    with gate.scope(torch.full((300,), 0.25)):
        update = (layer(x) - F.linear(x, layer.weight, layer.bias)).detach()
    # Branches of 7.5 and 2.5, each kept with probability one half and doubled.
    for value in (0.0, 5.0, 15.0, 20.0):
        assert ((update - value).abs() < 1e-2).float().mean().item() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("value", [torch.ones(3, 2), torch.ones(3, 1), torch.ones(())])
def test_a_gate_of_another_shape_is_refused(value: Tensor) -> None:
    gate = Gate()
    layer = LoRALinear(nn.Linear(4, 5), 2, gate=gate)
    with gate.scope(value), pytest.raises(ValueError, match=r"one gate per image, \(batch,\); got"):
        layer(torch.ones(3, 4))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lora", {"rank": 0}, "adapter.rank is 0"),
        ("dual_lora", {"rank": -1}, "adapter.rank is -1"),
        ("lora", {"dropout": 1.0}, r"adapter.dropout is 1.0; it must lie in \[0, 1\)"),
        ("dual_lora", {"dropout_at": "middle"}, "'middle'; it must be 'input' or 'output'"),
        ("lora", {"alpha": 8.0, "scaling": 2.0}, "set one of the two"),
        ("lora", {"head_rank": -2}, "adapter.head_rank is -2"),
        ("dora", {"head_rank": -1}, "adapter.head_rank is -1"),
        ("lora", {"scaling_rule": "rank_stabilized"}, "set adapter.alpha"),
        ("dual_lora", {"scaling_rule": "rslora", "alpha": 1.0}, "must be 'standard' or 'rank_stabilized'"),
        ("dora", {"init": "normal"}, "'normal'; it must be 'gaussian' or 'kaiming'"),
        ("mixture_lora", {"lr_plus_ratio": 0.0}, "adapter.lr_plus_ratio is 0.0; it must be above 0"),
        ("lora", {"lr_plus_ratio": float("nan")}, "adapter.lr_plus_ratio is nan"),
        ("lora", {"ranks": {"stem": 0}}, r"adapter.ranks\['stem'\] is 0; it must be a whole number"),
        ("lora", {"ranks": {"stem": 2.5}}, r"adapter.ranks\['stem'\] is 2.5"),
        ("lora", {"rnak": 4}, "unexpected keyword argument 'rnak'; it takes"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ADAPTERS.create(name, **options)


def test_alpha_is_scaling_times_rank() -> None:
    backbone = Tiny()
    attach(backbone, ADAPTERS.create("lora", rank=4, alpha=6.0, head_rank=2), Gate())
    assert backbone.pointwise.scaling == 1.5 and backbone.head[2].scaling == 3.0


@pytest.mark.parametrize("name", ["lora", "dual_lora", "mixture_lora", "dora"])
def test_scaling_rules_take_each_layers_own_rank(name: str) -> None:
    for rule, wanted in (("standard", (2.0, 0.5)), ("rank_stabilized", (4.0, 2.0))):
        backbone = Tiny()
        ranks = {"blocks.*.attn.qkv": 16}
        attach(backbone, ADAPTERS.create(name, rank=4, alpha=8.0, scaling_rule=rule, ranks=ranks), Gate())
        assert (backbone.pointwise.scaling, backbone.blocks[1].attn.qkv.scaling) == wanted
        assert backbone.blocks[1].attn.qkv.rank == 16


def test_ranks_are_laid_over_the_default_and_must_name_adapted_layers() -> None:
    backbone = Tiny()
    ranks = {"blocks.0.**": 5, "head.*": 3, "**.0.attn.*": 5}
    report = attach(backbone, ADAPTERS.create("lora", rank=2, ranks=ranks, head_rank=1), Gate())
    found = {name: backbone.get_submodule(name).lora_b.shape[1] for name in report.adapted}
    assert found == {"pointwise": 2, "blocks.0.attn.qkv": 5, "blocks.1.attn.qkv": 2, "head.2": 3}
    for wrong in ("blocks.*.attn.qvk", "blocks.0.attn.proj"):  # mistyped; there, but not adapted
        backbone = Tiny()
        with pytest.raises(ValueError, match=rf"'{re.escape(wrong)}' names no adapted layer.*'blocks\.\*\.attn\.qkv'"):
            attach(backbone, ADAPTERS.create("lora", ranks={wrong: 4}), Gate())
        assert type(backbone.pointwise) is nn.Conv2d
    with pytest.raises(
        ValueError, match=r"'blocks\.\*\*' gives 'blocks\.1\.attn\.qkv' rank 4 and 'blocks\.1\.\*\*' rank 2"
    ):
        attach(Tiny(), ADAPTERS.create("lora", ranks={"blocks.**": 4, "blocks.1.**": 2}), Gate())


@pytest.mark.parametrize("base", [nn.Linear(400, 8), nn.Conv2d(50, 8, (2, 4))])
def test_kaimings_start(base: nn.Module) -> None:
    layer = (LoRALinear if isinstance(base, nn.Linear) else LoRAConv2d)(base, rank=64, init="kaiming")
    bound = 400**-0.5  # sqrt(6 / ((1 + 5) * fan_in))
    assert 0.99 * bound < layer.lora_a.abs().max() <= bound and not layer.lora_b.any()
    assert layer.lora_a.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


@pytest.mark.parametrize("name", ["lora", "dual_lora", "mixture_lora", "dora"])
def test_lora_plus_moves_b_by_the_ratio(name: str) -> None:
    settings = {"name": "sgd", "lr": 0.01, "weight_decay": 0.1, "momentum": 0.0}
    config, moved = EasyDict(optim=settings, classifier={"lr_scale": 1.0}, schedule={"unfreeze": [], "epochs": 1.0}), {}
    for ratio in (1.0, 16.0):
        torch.manual_seed(5)
        gate, backbone = Gate(), Tiny()
        adapter = ADAPTERS.create(name, rank=2, targets=["**"], lr_plus_ratio=ratio)
        attach(backbone, adapter, gate)
        model = Scoped(backbone.eval(), gate)
        optimizer = build_optimizer(config, model, nn.Linear(2, 2), adapter)
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
        assert len(held) == len(set(held)) and {id(p) for p in trained.values()} < set(held)
        decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert all(decays[id(p)] == (0.1 if p.ndim > 1 else 0.0) for p in trained.values())
        before = {key: p.detach().clone() for key, p in trained.items()}
        model(torch.randn(3, 3, 16, 16), torch.rand(3)).square().sum().backward()
        optimizer.step()
        moved[ratio] = {key: p.detach() - before[key] for key, p in trained.items()}
    for key, step in moved[1.0].items():
        factor = 16.0 if key.endswith("lora_b") else 1.0
        torch.testing.assert_close(moved[16.0][key], factor * step, rtol=1e-4, atol=1e-6)
    assert any(step.abs().max() > 1e-4 for key, step in moved[1.0].items() if key.endswith("lora_b"))


def trained_with(name: str, options: dict, value: float) -> tuple[Scoped, Tensor]:
    """A model after five updates from seed 3 with one gate for all, and its outputs on the way."""
    torch.manual_seed(3)
    gate, backbone, outputs = Gate(), Tiny(), []
    attach(backbone, ADAPTERS.create(name, targets=["**"], **options), gate)
    model = Scoped(backbone.eval(), gate)
    for _, layer in layers(backbone):
        layer.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(5):
        x = torch.randn(4, 3, 16, 16)
        outputs.append(model(x, torch.full((4,), value)))
        optimizer.zero_grad()
        outputs[-1].square().mean().backward()
        optimizer.step()
    return model.eval(), torch.stack(outputs).detach()


@pytest.mark.parametrize("place", ["input", "output"])
def test_the_ungated_twin_is_dual_lora_at_gate_one_half(place: str) -> None:
    options = {"rank": 3, "scaling": 1.5, "head": True, "dropout": 0.2, "dropout_at": place}
    gated, wanted = trained_with("dual_lora", options, 0.5)
    twin, found = trained_with("dual_lora", {**options, "gated": False}, 0.9)  # no gate reaches it
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert (trained_with("dual_lora", options, 0.9)[1] - wanted).abs().max() > 1e-3 * wanted.abs().max()
    count = sum(p.numel() for p in gated.parameters() if p.requires_grad)
    assert count == sum(p.numel() for p in twin.parameters() if p.requires_grad)
    x = torch.randn(2, 3, 16, 16)
    wanted = twin.backbone(x)
    merge(gated.backbone, 0.5), merge(twin.backbone)
    torch.testing.assert_close(twin.backbone(x), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gated.backbone(x), wanted, rtol=1e-4, atol=1e-4)


def test_the_twins_declarations_and_plain_lora_at_twice_the_rank() -> None:
    twin, dual = (ADAPTERS.create("dual_lora", rank=4, gated=gated) for gated in (False, True))
    assert (twin.needs_gate, twin.mergeable) == (False, "exact")
    assert (dual.needs_gate, dual.mergeable) == (True, "at_gate")
    counts, spread = {}, {}
    for name, options in {
        "dual": ("dual_lora", {"rank": 8, "head": True}),
        "twin": ("dual_lora", {"rank": 8, "head": True, "gated": False}),
        "lora": ("lora", {"rank": 16, "head_rank": 8}),
    }.items():
        with without_memory():
            backbone = BACKBONES.create("swin_120")
            attach(backbone, ADAPTERS.create(options[0], **options[1]), Gate())
        counts[name] = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
        attach(tiny := Tiny(width=64), ADAPTERS.create(options[0], **options[1]), Gate())
        spread[name] = tiny.blocks[0].attn.qkv.lora_a.std().item()
    assert counts == {"dual": 1_441_792, "twin": 1_441_792, "lora": 1_441_792}
    assert spread["twin"] == pytest.approx(1 / 8, rel=0.1) and spread["lora"] == pytest.approx(1 / 16, rel=0.1)


@pytest.mark.parametrize(("name", "options"), [("lora", {"head_rank": 3}), ("dual_lora", {"rank": 3, "head": True})])
def test_the_head_gets_an_ungated_update_once(name: str, options: dict) -> None:
    for targets in (None, ["blocks.**", "head.*"]):
        backbone = Tiny()
        report = attach(backbone, ADAPTERS.create(name, targets=targets, **options), Gate())
        assert report.adapted.count("head.2") == 1
        assert backbone.head[2].gate is None and backbone.head[2].lora_a.shape[0] == 3
        assert (backbone.blocks[0].attn.qkv.gate is None) == (name == "lora")


def test_a_head_that_is_not_declared_is_refused() -> None:
    backbone = Tiny()
    backbone.head_targets = ()
    with pytest.raises(ValueError, match="Tiny declares no head_targets"):
        attach(backbone, ADAPTERS.create("dual_lora", head=True), Gate())


def test_at_gates_0_and_1_one_branch_is_at_work() -> None:
    gate, backbone = Gate(), Tiny().eval()
    base = backbone(x := torch.randn(2, 3, 16, 16))
    attach(backbone, ADAPTERS.create("dual_lora", rank=2), gate)
    for _, layer in layers(backbone):
        nn.init.normal_(layer.lora_b[:, 2:], std=0.3)
    model = Scoped(backbone.eval(), gate)
    low, high = model(x, torch.zeros(2)), model(x, torch.ones(2))
    assert torch.equal(low, base) and not torch.equal(high, base)


def test_merging_refuses_a_gate_and_weights_that_are_not_finite() -> None:
    backbone = Tiny()
    attach(backbone, ADAPTERS.create("dual_lora", rank=2), Gate())
    with pytest.raises(ValueError, match="gate_value is nan"):
        merge(backbone, float("nan"))
    with torch.no_grad():
        backbone.blocks[1].attn.qkv.lora_b[3, 1] = float("inf")
    with pytest.raises(ValueError, match=r"not finite in 'blocks\.1\.attn\.qkv'"):
        merge(backbone, 0.5)
    assert all(isinstance(layer, LoRALinear | LoRAConv2d) for _, layer in layers(backbone)), "left as it was"
    attach_again = Tiny()
    with pytest.raises(RuntimeError, match="carries no adapter"):
        merge(attach_again)
    assert list(layers(attach_again)) == []


def test_a_seed_means_the_same_start_for_every_dtype() -> None:
    starts = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(4)
        starts.append(LoRALinear(nn.Linear(5, 6, device="meta", dtype=dtype).to_empty(device="cpu"), 2).lora_a)
    assert torch.equal(starts[0].double(), starts[1])


def test_the_gate_costs_no_second_copy_of_the_input() -> None:
    gate, sizes = Gate(), []
    layer = LoRALinear(nn.Linear(96, 288).requires_grad_(False), rank=2, gate=gate)
    x = torch.randn(4 * 9, 25, 96)

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            sizes.append(tensor.numel())
        return tensor

    with gate.scope(torch.rand(4)), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    assert x.numel() <= sum(sizes) < 1.2 * x.numel(), "the input once, and the bottleneck"


def test_under_autocast_the_gate_keeps_its_precision() -> None:
    gate = Gate()
    layer = LoRALinear(nn.Linear(8, 8), rank=2, gate=gate)
    nn.init.normal_(layer.lora_b)
    x, value = torch.randn(2, 8), torch.tensor([0.2, 0.9])
    with gate.scope(value):
        wanted = layer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = layer(x)
    assert found.dtype == torch.bfloat16
    assert (found.float() - wanted).abs().max() < 0.03 * wanted.abs().max()


def test_full_keeps_what_the_backbone_holds_fixed_and_refuses_a_frozen_one() -> None:
    backbone = Tiny()
    backbone.head[3].weight.requires_grad_(False)
    attach(backbone, ADAPTERS.create("full"), Gate())
    trained = [key for key, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert trained == [key for key, _ in backbone.named_parameters() if key != "head.3.weight"]
    with pytest.raises(ValueError, match="trains nothing"):
        attach(Tiny().requires_grad_(False), ADAPTERS.create("full"), Gate())
