"""Bottlenecks behind the embedding and inside blocks, against their formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adapters import ADAPTERS, attach, layers, state
from adapters.bottleneck import Bottleneck
from recognition.backbones import BACKBONES
from recognition.backbones.iresnet import IResNet
from recognition.backbones.mobilefacenet import MobileFaceNet
from recognition.backbones.swin import SwinTransformer
from recognition.backbones.vit import VisionTransformer
from recognition.gate import Gate
from recognition.weights import without_memory
from tests.tiny import Tiny

SMALL = {
    "iresnet": lambda: IResNet((1, 1, 1, 1), embedding_size=8),
    "mobilefacenet": lambda: MobileFaceNet(8, width=8, middle=(8, 8, 16, 8), first_groups=8, last=16),
    "vit": lambda: VisionTransformer(16, 2, 2, embedding_size=8),
    "swin": lambda: SwinTransformer(40, 4, 8, (1, 1), (2, 2), 5, embedding_size=8),
}


def adapted(backbone: nn.Module, started: bool = True, **options) -> nn.Module:
    attach(backbone, ADAPTERS.create("bottleneck", **options), Gate())
    if started:
        with torch.no_grad():
            for _, layer in layers(backbone):
                for parameter in layer.parameters():
                    parameter += 0.3 * torch.randn(parameter.shape)
    return backbone.eval()


def by_hand(x: Tensor, small: Bottleneck, axis: int = -1) -> np.ndarray:
    """scaling * (U max(D x + d, 0) + u), in plain float64 matrices."""
    own = {key: tensor.double().numpy() for key, tensor in small.state_dict().items()}
    rows = np.moveaxis(x.detach().double().numpy(), axis, -1)
    z = np.maximum(rows @ own["down"].T + own.get("down_bias", 0), 0)
    return np.moveaxis(small.scaling * (z @ own["up"].T + own.get("up_bias", 0)), -1, axis)


def test_behind_the_embedding() -> None:
    torch.manual_seed(3)
    plain = Tiny().eval()
    torch.manual_seed(3)
    model = adapted(Tiny(), width=5, scaling=0.5)
    e = plain(x := torch.randn(4, 3, 16, 16)).detach()
    assert state(model).keys() == {"bottleneck.down", "bottleneck.up"}, "no biases, as published"
    np.testing.assert_allclose(model(x).detach(), e.double().numpy() + by_hand(e, model.bottleneck), atol=1e-6)


TOKENS, WINDOWS, MAPS = (2, 16, 16), (6, 4, 16), (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("name", "shape", "form"),
    [
        ("blocks.0", TOKENS, "serial"),
        ("blocks.0", TOKENS, "parallel"),
        ("blocks.1.attn", WINDOWS, "serial"),
        ("blocks.1.attn", WINDOWS, "parallel"),
        ("stem", MAPS, "serial"),
    ],
)
def test_around_a_module(name: str, shape: tuple[int, ...], form: str) -> None:
    axis = 1 if shape == MAPS else -1
    torch.manual_seed(3)
    plain = Tiny().eval().get_submodule(name)
    torch.manual_seed(3)
    model = adapted(Tiny(), place="blocks", form=form, scaling=0.1, modules=[name])
    module = model.get_submodule(name)
    x = torch.randn(shape)
    y = plain(x).detach()
    wanted = y.double().numpy() + by_hand(y if form == "serial" else x, module.bottleneck, axis)
    assert set(module.bottleneck.state_dict()) == {"down", "up", "down_bias", "up_bias"}
    np.testing.assert_allclose(module(x).detach(), wanted, atol=1e-5)
    assert np.abs(wanted - y.numpy()).max() > 1e-2


@pytest.mark.parametrize(
    ("family", "wanted"),
    [
        ("iresnet", ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]),
        ("vit", ["blocks.0.mlp", "blocks.1.mlp"]),
        ("swin", ["layers.0.blocks.0.mlp", "layers.1.blocks.0.mlp"]),
    ],
)
def test_in_the_mlp_of_every_block_or_around_it(family: str, wanted: list[str]) -> None:
    model = adapted(SMALL[family](), place="blocks")
    assert [name for name, _ in layers(model)] == [f"{name}.bottleneck" for name in wanted]


@pytest.mark.parametrize("options", [{}, {"place": "blocks"}, {"place": "blocks", "form": "parallel"}], ids=str)
@pytest.mark.parametrize("family", SMALL)
def test_every_family_starts_as_the_base_and_learns(family: str, options: dict) -> None:
    torch.manual_seed(5)
    plain = SMALL[family]().eval()
    torch.manual_seed(5)
    backbone = SMALL[family]()
    if options.get("form") == "parallel" and family in ("iresnet", "mobilefacenet"):
        with pytest.raises(ValueError, match=r"has a stride, so nothing of its input's shape .*form=serial"):
            adapted(backbone, **options)
        assert not list(layers(backbone)) and type(backbone) is type(plain)
        return
    model = adapted(backbone, started=False, **options)
    image = torch.rand(3, 3, model.input_size, model.input_size) * 2 - 1
    with torch.no_grad():  # a graph to keep would choose another attention kernel for the base
        assert torch.equal(model(image), plain(image))
    model(image).sum().backward()
    for name, layer in layers(model):
        assert layer.up.grad.abs().max() > 0, f"{name}: the outer layer learns first, from zero"
        assert layer.down.grad.abs().max() == 0
        nn.init.normal_(layer.up)
    assert not torch.equal(model(image), plain(image))
    model(image).sum().backward()
    assert all(layer.down.grad.abs().max() > 0 for _, layer in layers(model))


@pytest.mark.parametrize(
    ("backbone", "options", "wanted"),
    [
        ("vit_t", {}, 2 * 512 * 128),  # a quarter of 512, FS-Adapter's
        ("mobilefacenet_y1", {}, 2 * 128 * 32),
        ("vit_t", {"place": "blocks", "width": 64}, 12 * (2 * 256 * 64 + 64 + 256)),
        ("vit_t", {"place": "blocks", "width": 8, "modules": ["blocks.*.attn", "blocks.*.mlp"]}, 24 * (4096 + 264)),
        (
            "swin_120",
            {"place": "blocks", "width": 8},
            sum(n * (2 * w * 8 + 8 + w) for n, w in [(2, 384), (18, 768), (2, 1536)]),
        ),
        ("r18", {"place": "blocks", "width": 4}, sum(2 * (2 * w * 4 + 4 + w) for w in (64, 128, 256, 512))),
    ],
)
def test_trainable_parameters(backbone: str, options: dict, wanted: int) -> None:
    with without_memory():
        model = BACKBONES.create(backbone)
        attach(model, ADAPTERS.create("bottleneck", **options), Gate())
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == wanted


def test_dropout_is_the_bottlenecks_own_and_only_it_is_alive() -> None:
    model = adapted(Tiny(), place="blocks", dropout=0.5)
    for _, layer in layers(model):
        layer.train()
    assert {name for name, module in model.named_modules() if module.training} == {
        "blocks.0.mlp.bottleneck",
        "blocks.1.mlp.bottleneck",
    }
    x = torch.randn(4, 3, 16, 16)
    assert not torch.equal(model(x), model(x))
    small = Bottleneck(6, 200, 1.0, 0.25, True, -1, False)
    nn.init.ones_(small.down), nn.init.ones_(small.up)
    found = small(torch.ones(500, 6))
    assert found.mean().item() == pytest.approx(200 * 6, rel=0.02), "what is kept is scaled up"
    assert found.std().item() > 10


def test_a_sequence_runs_its_own_modules_only() -> None:
    model = adapted(Tiny(), place="blocks")
    mlp = model.blocks[0].mlp
    assert isinstance(mlp, nn.Sequential) and [type(m).__name__ for m in mlp] == ["Linear", "GELU", "Dropout", "Linear"]
    x = torch.randn(2, 16, 16)
    y = mlp[3](mlp[1](mlp[0](x)))
    torch.testing.assert_close(mlp(x), y + mlp.bottleneck(y))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"place": "middle"}, "adapter.place is 'middle'; it must be 'feature' or 'blocks'"),
        ({"place": "blocks", "form": "mixed"}, "it must be 'serial' or 'parallel'"),
        ({"form": "parallel"}, "set adapter.place=blocks"),
        ({"modules": ["stem"]}, "set adapter.place=blocks"),
        ({"width": 0}, "adapter.width is 0"),
        ({"dropout": 1.0}, "adapter.dropout is 1.0"),
        (
            {"place": "blocks", "modules": ["blocks.*.mpl"]},
            r"names no module of Tiny; nearest to it are 'blocks\.\d\.mlp",
        ),
        ({"place": "blocks", "modules": ["norm"]}, "'norm' holds no Linear and no Conv2d"),
        ({"place": "blocks", "form": "parallel", "modules": ["stem"]}, "'stem' has a stride"),
        ({"place": "blocks", "form": "parallel", "modules": ["blocks.0.mlp.0"]}, "takes 16 channels and gives 32"),
    ],
)
def test_wrong_options_are_refused_and_the_base_stays(options: dict, message: str) -> None:
    backbone = Tiny()
    with pytest.raises(ValueError, match=message):
        attach(backbone, ADAPTERS.create("bottleneck", **options), Gate())
    assert list(backbone.state_dict()) == list(Tiny().state_dict())


def test_a_part_of_that_name_is_not_overwritten() -> None:
    backbone = Tiny()
    backbone.blocks[1].bottleneck = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"'blocks\.1' has a part named bottleneck already"):
        attach(backbone, ADAPTERS.create("bottleneck", place="blocks", modules=["blocks.*"]), Gate())
    assert not hasattr(backbone.blocks[0], "bottleneck")


def test_a_seed_means_the_same_start_for_every_dtype() -> None:
    starts = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(4)
        backbone = Tiny().to(dtype)
        torch.manual_seed(4)
        attach(backbone, ADAPTERS.create("bottleneck", place="blocks"), Gate())
        starts.append(state(backbone))
    assert all(
        tensor.dtype == torch.float64 and torch.equal(starts[0][k].double(), tensor) for k, tensor in starts[1].items()
    )
