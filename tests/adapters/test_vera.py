"""vera: the formula, the pair that follows from the seed, what is saved and what is not."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adapters import ADAPTERS, attach, layers, load, state
from adapters.vera import Projections, VeRAConv2d, VeRALinear
from recognition.backbones import BACKBONES
from recognition.gate import Gate
from recognition.weights import without_memory
from tests.adapters.merging import assert_merges
from tests.tiny import Tiny

PINNED = [0.6100057363510132, 0.6158815622329712, 0.030651092529296875, -0.4283972978591919]  # seed 5
PINNED += [-0.8921386003494263, -0.233262300491333]

LAYERS = {
    "linear": (lambda: nn.Linear(6, 7), (3, 5, 6)),
    "linear_no_bias": (lambda: nn.Linear(6, 7, bias=False), (4, 6)),
    "conv": (lambda: nn.Conv2d(6, 7, (3, 2), stride=2, padding=1, dilation=2, bias=False), (3, 6, 9, 8)),
    "conv_bias": (lambda: nn.Conv2d(6, 7, 3, padding=1, padding_mode="reflect"), (2, 6, 5, 5)),
}


def tiny(seed: int = 0, moved: bool = False, **options) -> Tiny:
    torch.manual_seed(1)
    backbone = Tiny()
    attach(backbone, ADAPTERS.create("vera", **{"rank": 12, "seed": seed, **options}), Gate())
    if moved:
        with torch.no_grad():
            for parameter in backbone.parameters():
                if parameter.requires_grad:
                    parameter += 0.3 * torch.randn(parameter.shape)
    return backbone.eval()


@pytest.mark.parametrize("kind", LAYERS)
def test_output_gradients_and_merged_weight_are_the_papers(kind: str) -> None:
    make, shape = LAYERS[kind]
    base, rank = make().double(), 5
    fan_in = math.prod(base.weight.shape[1:])
    pair = Projections(fan_in + 9, 20, rank, seed=4).double()
    layer = (VeRALinear if isinstance(base, nn.Linear) else VeRAConv2d)(base, pair, d_initial=0.1)
    assert layer.vera_d.tolist() == [0.1] * rank and layer.vera_b.tolist() == [0.0] * 7
    nn.init.normal_(layer.vera_b), nn.init.normal_(layer.vera_d)
    weight = base.weight.detach().clone()
    for out in range(7):  # diag(b) B diag(d) A, element by element; bounds sqrt(6 / fan_in)
        for r in range(rank):
            a = (pair.a[:fan_in, r] * math.sqrt(6 / fan_in)).view(base.weight.shape[1:])
            weight[out] = weight[out] + layer.vera_b[out] * pair.b[out, r] * math.sqrt(6 / rank) * layer.vera_d[r] * a
    x = torch.randn(shape, dtype=torch.float64)
    wanted = F.linear(x, weight, base.bias) if weight.dim() == 2 else base._conv_forward(x, weight, base.bias)
    found = layer(x)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    trained = [layer.vera_b, layer.vera_d]
    for got, want in zip(
        torch.autograd.grad(found.square().sum(), trained),
        torch.autograd.grad(wanted.square().sum(), trained),
        strict=True,
    ):
        assert want.abs().max() > 1e-2
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    merged = layer.merged()
    assert type(merged) is type(base) and merged.bias is layer.bias
    torch.testing.assert_close(merged(x), wanted, rtol=1e-12, atol=1e-12)


def test_the_pair_follows_from_the_seed_and_the_rank_alone() -> None:
    pair = Projections(3, 2, 2, seed=5)
    again = [np.random.PCG64(np.random.SeedSequence((5, which))) for which in (0, 1)]
    for matrix, stream in zip((pair.a, pair.b), again, strict=True):
        for value in matrix.flatten().tolist():
            assert value == (int(stream.random_raw()) >> 40) / 2**23 - 1
    assert pair.a.flatten().tolist() == PINNED, "files written before would mean another adapter now"
    torch.manual_seed(99)
    larger = Projections(40, 30, 2, seed=5)
    assert torch.equal(larger.a[:3], pair.a) and torch.equal(larger.b[:2], pair.b)
    assert not torch.equal(Projections(3, 2, 2, seed=6).a, pair.a) and not torch.equal(larger.a[:30], larger.b)
    wide = Projections(2000, 8, 64, seed=0).a
    assert -1 <= wide.min() < -0.9999 and 0.9999 < wide.max() < 1
    assert abs(wide.mean()) < 0.005 and wide.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.01)


def test_a_layers_matrices_do_not_hang_on_what_else_is_adapted() -> None:
    alone, among = tiny(targets=["blocks.0.attn.qkv"]), tiny(targets=["**"])
    assert among.pointwise.pair.a.shape[0] > alone.blocks[0].attn.qkv.pair.a.shape[0]
    for one, other in zip(alone.blocks[0].attn.qkv._matrices(), among.blocks[0].attn.qkv._matrices(), strict=True):
        assert torch.equal(one, other)


def test_the_pair_is_not_saved_and_a_loaded_adapter_is_equal() -> None:
    trained, x = tiny(moved=True, targets=["**"]), torch.randn(3, 3, 16, 16)
    saved = state(trained)
    assert {key.rpartition(".")[2] for key in saved} == {"vera_b", "vera_d"}
    assert not [key for key in trained.state_dict() if "pair" in key]
    fresh = tiny(targets=["**"])
    torch.manual_seed(123)
    fresh.load_state_dict(trained.state_dict() | saved)  # the base as well, the pair from the seed
    assert torch.equal(fresh(x), trained(x))
    fresh = tiny(targets=["**"])
    load(fresh, saved)
    assert torch.equal(fresh(x), trained(x))
    other = tiny(seed=1, targets=["**"])
    load(other, saved)
    assert (other(x) - trained(x)).abs().max() > 1e-2 * trained(x).abs().max()


def test_one_pair_serves_all_layers_through_copies_and_conversions() -> None:
    backbone = tiny(moved=True)
    for model in (backbone, copy.deepcopy(backbone), copy.deepcopy(backbone).double()):
        pairs = {id(layer.pair.a) for _, layer in layers(model)}
        assert len(pairs) == 1
        assert all(layer.pair.a.dtype == layer.weight.dtype for _, layer in layers(model))
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(copy.deepcopy(backbone).double()(x.double()).float(), backbone(x), rtol=1e-4, atol=1e-4)


def test_dropout_is_on_what_enters_the_update() -> None:
    layer = VeRALinear(nn.Linear(6, 7), Projections(6, 7, 4, 0), dropout=0.5)
    x = torch.randn(1, 6).expand(4000, 6)
    assert torch.equal(layer.train()(x), F.linear(x, layer.weight, layer.bias))
    nn.init.ones_(layer.vera_b)
    mean, still = layer.train()(x).mean(0), layer.eval()(x)[0]
    assert not torch.equal(layer.train()(x)[0], still)
    assert (mean - still).abs().max() < 0.1 * still.abs().max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "adapter.rank is 0"),
        ({"dropout": -0.1}, "adapter.dropout is -0.1"),
        ({"seed": -1}, "adapter.seed is -1"),
        ({"d_initial": 0.0}, "neither has a gradient"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ADAPTERS.create("vera", **options)


@pytest.mark.parametrize(("name", "wanted"), [("r18", 6_784), ("vit_t", 9_984), ("swin_120", 54_400)])
def test_rank_plus_out_parameters_a_layer(name: str, wanted: int) -> None:
    with without_memory():
        backbone = BACKBONES.create(name)
        attach(backbone, ADAPTERS.create("vera", rank=64), Gate())
    trained = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    assert trained == sum(64 + layer.weight.shape[0] for _, layer in layers(backbone)) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r18", "mbf", "vit_t"])
def test_merges_on_a_backbone(name: str) -> None:
    assert_merges(name, ADAPTERS.create("vera", rank=16), lambda layer: layer.vera_b.normal_(std=0.5))
