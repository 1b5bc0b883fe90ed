"""dora: the decomposed weight, its start, its gradient with the norm held constant, merging."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters import ADAPTERS, attach, layers
from adapters.dora import DoRAConv2d, DoRALinear
from recognition.backbones import BACKBONES
from recognition.gate import Gate
from recognition.weights import without_memory
from tests.adapters.merging import assert_merges
from tests.tiny import Tiny

LAYERS = {
    "linear": (lambda: nn.Linear(6, 7), (3, 5, 6)),
    "linear_no_bias": (lambda: nn.Linear(6, 7, bias=False), (4, 6)),
    "conv": (lambda: nn.Conv2d(6, 7, (3, 2), stride=2, padding=1, dilation=2, bias=False), (3, 6, 9, 8)),
    "conv_bias": (lambda: nn.Conv2d(6, 7, 3, padding=1, padding_mode="reflect"), (2, 6, 5, 5)),
}


def layer_of(kind: str, dtype: torch.dtype = torch.float64, moved: bool = True, **options):
    """An adapted layer, away from its start where asked, the base it came from, and an input."""
    make, shape = LAYERS[kind]
    base = make().to(dtype)
    layer = (DoRALinear if isinstance(base, nn.Linear) else DoRAConv2d)(base, **{"rank": 2, **options})
    if moved:
        with torch.no_grad():
            layer.lora_b.normal_()
            layer.magnitude.mul_(torch.rand(7, dtype=dtype) + 0.5)
    return layer, base, torch.randn(shape, dtype=dtype)


def plainly(base: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """The paper's formula, one output channel after another."""
    rows = []
    for channel in range(7):
        v = base.weight[channel].detach().clone()
        for r in range(layer.lora_a.shape[0]):
            v = v + layer.scaling * layer.lora_b[channel, r].sum() * layer.lora_a[r]
        rows.append(layer.magnitude[channel] * v / (v * v).sum().sqrt().detach())
    weight = torch.stack(rows)
    return F.linear(x, weight, base.bias) if weight.dim() == 2 else base._conv_forward(x, weight, base.bias)


@pytest.mark.parametrize("kind", LAYERS)
def test_output_and_gradients_are_the_papers(kind: str) -> None:
    layer, base, x = layer_of(kind, scaling=1.7)
    found, wanted = layer(x), plainly(base, layer, x)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    trained, weigh = [layer.lora_a, layer.lora_b, layer.magnitude], torch.randn_like(found)
    for got, want in zip(
        torch.autograd.grad((found * weigh).sum(), trained),
        torch.autograd.grad((wanted * weigh).sum(), trained),
        strict=True,
    ):
        assert want.abs().max() > 1e-2
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_the_norm_is_a_constant_to_the_gradient() -> None:
    layer, base, x = layer_of("linear")
    v = base.weight.detach() + layer.lora_b @ layer.lora_a
    through = (F.linear(x, layer.magnitude[:, None] * v / v.norm(dim=1, keepdim=True), base.bias)).square().sum()
    own = torch.autograd.grad(layer(x).square().sum(), layer.lora_b)[0]
    full = torch.autograd.grad(through, layer.lora_b)[0]
    assert (own - full).abs().max() > 0.05 * full.abs().max(), "the exact gradient is another one"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_start_is_the_base_to_the_bit(kind: str, dtype: torch.dtype) -> None:
    layer, base, x = layer_of(kind, dtype, moved=False)
    with torch.no_grad():
        base.weight[2] = 0  # a dead channel has no direction
        base.weight[3] *= 1e-12
        layer = type(layer)(base, rank=2)
    assert torch.equal(layer(x), base(x))
    norm = base.weight.detach().double().flatten(1).norm(dim=1)
    torch.testing.assert_close(
        layer.magnitude.detach().double(), norm, rtol=1e-2 if dtype == torch.bfloat16 else 1e-7, atol=0
    )
    layer(x).float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in (layer.lora_b, layer.magnitude))


def test_under_autocast_the_start_is_the_base_and_the_norm_keeps_its_precision() -> None:
    layer, base, x = layer_of("linear", torch.float32, moved=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x).float(), base(x).float())
    with torch.no_grad():
        layer.lora_b.normal_()
    wanted = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (layer(x).float() - wanted).abs().max() < 0.03 * wanted.abs().max()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_merges_exactly(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    layer, base, x = layer_of(kind, dtype)
    plain = layer.merged()
    assert type(plain) is type(base) and plain.bias is layer.bias
    wanted = layer(x)
    assert (plain(x) - wanted).abs().max() <= tolerance * wanted.abs().max()
    torch.testing.assert_close(plain.weight.flatten(1).norm(dim=1), layer.magnitude, rtol=1e-5, atol=0)


def test_dropout_spares_the_base_and_the_norm() -> None:
    layer, _, _ = layer_of("linear", torch.float32, dropout=0.5)
    x = torch.randn(1, 6).expand(4000, 6)
    mean, still = layer.train()(x).mean(0), layer.eval()(x)[0]
    assert (mean - still).abs().max() < 0.1 * still.abs().max()
    with torch.no_grad():
        layer.lora_b.zero_()
    assert torch.equal(layer.train()(x), layer.eval()(x))


def test_options_reach_the_layers_and_the_magnitudes_are_not_decayed_vectors() -> None:
    backbone = Tiny()
    adapter = ADAPTERS.create("dora", rank=2, alpha=8.0, ranks={"pointwise": 4}, head_rank=1, lr_plus_ratio=8.0)
    attach(backbone, adapter, Gate())
    assert (backbone.pointwise.scaling, backbone.blocks[1].attn.qkv.scaling, backbone.head[2].scaling) == (2, 4, 8)
    assert isinstance(backbone.pointwise, DoRAConv2d) and isinstance(backbone.head[2], DoRALinear)
    assert all(layer.magnitude.ndim == 1 for _, layer in layers(backbone))
    (group,) = adapter.parameter_groups(backbone)
    assert group["lr_scale"] == 8.0 and {id(p) for p in group["params"]} == {id(x.lora_b) for _, x in layers(backbone)}


@pytest.mark.parametrize(("name", "lora"), [("r18", 492_248), ("swin_120", 565_248)])
def test_a_magnitude_for_each_output_channel(name: str, lora: int) -> None:
    with without_memory():
        backbone = BACKBONES.create(name)
        attach(backbone, ADAPTERS.create("dora", rank=8), Gate())
    magnitudes = sum(layer.weight.shape[0] for _, layer in layers(backbone))
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == lora + magnitudes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r18", "mbf", "vit_t"])
def test_merges_on_a_backbone(name: str) -> None:
    def disturb(layer):
        layer.lora_b.normal_(std=0.02)
        layer.magnitude.mul_(1.1)

    assert_merges(name, ADAPTERS.create("dora", rank=4), disturb)
