"""mixture_lora: the soft bins, two branches as dual_lora, which branch an image teaches, merging at a gate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters import ADAPTERS, attach, layers, merge
from adapters._layers import LoRAConv2d, LoRALinear, soft_bins
from recognition.backbones import BACKBONES
from recognition.gate import Gate
from recognition.weights import without_memory
from tests.tiny import Scoped, Tiny


def hats(gate: float, bins: int) -> list[float]:
    """Triangles of height one around 0, 1/(bins-1), ..., 1; for gates in [0, 1]."""
    return [max(0.0, 1 - abs(gate * (bins - 1) - i)) for i in range(bins)]


@pytest.mark.parametrize("bins", [2, 3, 4, 7])
def test_soft_bins_are_triangles_and_share_out_one(bins: int) -> None:
    gate = torch.cat([torch.linspace(0, 1, 61), torch.arange(bins) / (bins - 1)]).double()
    weight = soft_bins(gate, bins)
    wanted = torch.tensor([hats(float(g), bins) for g in gate], dtype=torch.float64)
    torch.testing.assert_close(weight, wanted, rtol=0, atol=1e-7)
    assert weight.min() >= 0 and (weight.sum(1) - 1).abs().max() < 1e-14
    assert ((weight > 0).sum(1) <= 2).all()


def test_soft_bins_outside_of_0_to_1_and_of_one_bin() -> None:
    gate = torch.tensor([-0.5, 1.25], dtype=torch.float64)
    assert soft_bins(gate, 3).tolist() == [[2.0, -1.0, 0.0], [0.0, -0.5, 1.5]]
    assert soft_bins(gate, 1).tolist() == [[1.0], [1.0]]
    value = torch.rand(50) * 3 - 1
    assert torch.equal(soft_bins(value, 2), torch.stack([1 - value, value], 1)), "to the bit"


def image_by_image(base: nn.Module, layer: nn.Module, x: Tensor, weights: list[float]) -> Tensor:
    y, r, conv = base(x), layer.rank, isinstance(base, nn.Conv2d)
    for i, weight in enumerate(weights):
        a, b = layer.lora_a[i * r : (i + 1) * r], layer.lora_b[:, i * r : (i + 1) * r]
        if conv:
            y = y + layer.scaling * weight * F.conv2d(base._conv_forward(x, a, None), b)
        else:
            y = y + layer.scaling * weight * (x @ a.T @ b.T)
    return y


@pytest.mark.parametrize("bins", [2, 3, 5])
@pytest.mark.parametrize("kind", ["windows", "rows", "conv"])
def test_layers_equal_the_branches_one_by_one_and_merge(kind: str, bins: int) -> None:
    gate, values = Gate(), torch.tensor([0.0, 0.4, 0.5, 1.0], dtype=torch.float64)
    base, shape = {
        "windows": (nn.Linear(6, 7, bias=False), (4 * 3, 5, 6)),
        "rows": (nn.Linear(6, 7), (4, 6)),
        "conv": (nn.Conv2d(6, 7, (3, 2), stride=2, padding=1, dilation=2), (4, 6, 9, 8)),
    }[kind]
    base = base.double()
    layer = (LoRAConv2d if kind == "conv" else LoRALinear)(base, 2, 1.7, gate=gate, branches=bins)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(shape, dtype=torch.float64)
    with gate.scope(values):
        found = layer(x).unflatten(0, (4, -1))
    for i, image in enumerate(x.unflatten(0, (4, -1))):
        wanted = image_by_image(base, layer, image, hats(float(values[i]), bins))
        torch.testing.assert_close(found[i], wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer.merged(float(values[i]))(image), wanted, rtol=1e-12, atol=1e-12)


def trained(name: str, steps: int = 4, **options) -> tuple[Scoped, Tensor]:
    """A model after some updates from seed 3, and its outputs on the way."""
    torch.manual_seed(3)
    backbone, gate, outputs = Tiny(), Gate(), []
    attach(backbone, ADAPTERS.create(name, rank=3, targets=["**"], head=True, **options), gate)
    model = Scoped(backbone.eval(), gate)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        x, value = torch.randn(4, 3, 16, 16), torch.rand(4) * 1.4 - 0.2
        outputs.append(model(x, value))
        optimizer.zero_grad()
        outputs[-1].square().mean().backward()
        optimizer.step()
    return model, torch.stack(outputs).detach()


def test_two_branches_are_dual_lora_through_training() -> None:
    (mixture, found), (dual, wanted) = trained("mixture_lora", branches=2), trained("dual_lora")
    assert torch.equal(found, wanted) and not torch.equal(wanted[0], wanted[-1])
    assert mixture.backbone.state_dict().keys() == dual.backbone.state_dict().keys()
    for key, tensor in dual.backbone.state_dict().items():
        assert torch.equal(mixture.backbone.state_dict()[key], tensor), key


def test_an_image_teaches_the_branches_beside_its_gate_only() -> None:
    gate = Gate()
    layer = LoRALinear(nn.Linear(6, 7), 2, gate=gate, branches=5)
    nn.init.normal_(layer.lora_b)
    for value, wanted in ((0.0, [0]), (0.3, [1, 2]), (0.5, [2]), (1.0, [4])):
        layer.zero_grad()
        with gate.scope(torch.tensor([value])):
            layer(torch.randn(1, 6)).square().sum().backward()
        taught = layer.lora_a.grad.unflatten(0, (5, 2)).abs().amax((1, 2)) > 0
        assert taught.nonzero().flatten().tolist() == wanted


def test_merging_at_a_gate_gives_that_gates_model() -> None:
    model, _ = trained("mixture_lora", branches=4)
    model, x = model.double(), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    wanted = model(x, torch.full((3,), 0.37, dtype=torch.float64))
    other = model(x, torch.full((3,), 0.9, dtype=torch.float64))
    merge(model.backbone, 0.37)
    assert (model.backbone(x) - wanted).abs().max() < 1e-12 * wanted.abs().max() * 100
    assert (other - wanted).abs().max() > 1e-3 * wanted.abs().max()


def test_options_and_counts() -> None:
    with pytest.raises(ValueError, match=r"adapter.branches is 1; it must be at least 2"):
        ADAPTERS.create("mixture_lora", branches=1)
    backbone = Tiny()
    attach(backbone, ADAPTERS.create("mixture_lora", branches=3, rank=2, ranks={"pointwise": 4}, head=True), Gate())
    assert backbone.pointwise.lora_a.shape[0] == 12 and backbone.blocks[0].attn.qkv.lora_a.shape[0] == 6
    assert backbone.head[2].gate is None and backbone.head[2].lora_a.shape[0] == 2
    for options, wanted in (({"branches": 2, "rank": 8, "head": True}, 1_441_792), ({}, 1_130_496)):
        with without_memory():
            swin = BACKBONES.create("swin_120")
            attach(swin, ADAPTERS.create("mixture_lora", **options), Gate())
        assert sum(p.numel() for p in swin.parameters() if p.requires_grad) == wanted
        assert all(layer.lora_a.shape[0] == 16 for key, layer in layers(swin) if key.endswith("qkv"))
