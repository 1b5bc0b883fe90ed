"""InsightFace's MXNet ResNets against what their symbol says, computed in float64 from the file's own arrays.

tests/mxnet/run.py holds the same against mxnet itself.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recognition.backbones import BACKBONES, iresnet
from recognition.weights import load_strictly, read_weights, without_memory
from recognition.weights.mxnet_iresnet import UNITS, rename_iresnet
from tests.weight_files import mxnet_file

WIDTHS, SIZE = (8, 16, 32, 64), 16
HERE = Path("model-0000.params")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iresnet, "WIDTHS", WIDTHS)


def arrays_of(units: tuple[int, ...] = (2, 2, 2, 2)) -> dict[str, np.ndarray]:
    """As the symbol names and shapes them, drawn."""
    draw = np.random.default_rng(2)
    made: dict[str, np.ndarray] = {}

    def norm(name: str, width: int) -> None:
        for value, kind in (("gamma", "arg"), ("beta", "arg"), ("moving_mean", "aux"), ("moving_var", "aux")):
            positive = value in ("gamma", "moving_var")
            drawn = draw.uniform(0.001, 1.5, width) if positive else draw.normal(0, 0.2, width)
            made[f"{kind}:{name}_{value}"] = drawn.astype(np.float32)

    def convolution(name: str, *shape: int) -> None:
        made[f"arg:{name}_weight"] = draw.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)

    convolution("conv0", WIDTHS[0], 3, 3, 3)
    norm("bn0", WIDTHS[0])
    made["arg:relu0_gamma"] = draw.uniform(0, 1, WIDTHS[0]).astype(np.float32)
    before = WIDTHS[0]
    for stage, count in enumerate(units):
        for number in range(count):
            name, width = f"stage{stage + 1}_unit{number + 1}", WIDTHS[stage]
            norm(f"{name}_bn1", before)
            convolution(f"{name}_conv1", width, before, 3, 3)
            norm(f"{name}_bn2", width)
            made[f"arg:{name}_relu1_gamma"] = draw.uniform(0, 1, width).astype(np.float32)
            convolution(f"{name}_conv2", width, width, 3, 3)
            norm(f"{name}_bn3", width)
            if not number:
                convolution(f"{name}_conv1sc", width, before, 1, 1)
                norm(f"{name}_sc", width)
            before = width
    norm("bn1", before)
    convolution("pre_fc1", SIZE, before * 49)
    made["arg:pre_fc1_bias"] = draw.normal(0, 0.2, SIZE).astype(np.float32)
    norm("fc1", SIZE)
    return made


def symbol(arrays: dict[str, np.ndarray], pixels: Tensor) -> Tensor:
    """The network as MXNet computes it, float64; pixels: (B, 3, 112, 112) RGB grey levels."""
    held = {name.partition(":")[2]: torch.from_numpy(array).double() for name, array in arrays.items()}

    def norm(x: Tensor, name: str, fix_gamma: bool = False) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        gamma, beta, mean, var = (held[f"{name}_{one}"] for one in ("gamma", "beta", "moving_mean", "moving_var"))
        gamma = torch.ones_like(gamma) if fix_gamma else gamma
        return (x - mean.view(shape)) / (var.view(shape) + 2e-5).sqrt() * gamma.view(shape) + beta.view(shape)

    def convolution(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = held[f"{name}_weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def slope(x: Tensor, name: str) -> Tensor:
        return torch.where(x > 0, x, x * held[f"{name}_gamma"].view(1, -1, 1, 1))

    x = slope(norm(convolution((pixels.double() - 127.5) * 0.0078125, "conv0"), "bn0"), "relu0")
    names = dict.fromkeys(found[0] for key in held if (found := re.match(r"stage\d_unit\d+", key)))
    for name in names:
        stride = 2 if name.endswith("unit1") else 1
        y = slope(norm(convolution(norm(x, f"{name}_bn1"), f"{name}_conv1"), f"{name}_bn2"), f"{name}_relu1")
        y = norm(convolution(y, f"{name}_conv2", stride), f"{name}_bn3")
        x = y + (norm(convolution(x, f"{name}_conv1sc", stride), f"{name}_sc") if stride == 2 else x)
    x = F.linear(norm(x, "bn1").flatten(1), held["pre_fc1_weight"], held["pre_fc1_bias"])
    return norm(x, "fc1", fix_gamma=True)


def test_a_file_gives_the_embeddings_of_its_symbol(tmp_path: Path) -> None:
    arrays = arrays_of()
    read = read_weights(mxnet_file(tmp_path / "model-0000.params", arrays))
    assert read.card["backbone"] == "r18" and read.card["arguments"] == {"embedding_size": SIZE}
    assert "non-commercial" in str(read.card["licence"])
    network = BACKBONES.create("r18", **read.card["arguments"]).eval()
    load_strictly(network, read.tensors, "the file")
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 112, 112)))
    wanted = symbol(arrays, pixels)
    with torch.no_grad():
        got = network.double()(pixels.double() / 127.5 - 1)
    apart = (got - wanted).abs().max() / wanted.abs().max()
    assert apart < 1e-5, f"{apart:.1e}"
    with torch.no_grad():
        assert (network(pixels.double() / 128 - 1) - wanted).abs().max() > 1e-3, "the range matters"


def test_the_eps_goes_into_small_variances_too() -> None:
    arrays = {name: torch.from_numpy(array) for name, array in arrays_of().items()}
    arrays["aux:stage2_unit1_bn3_moving_var"].fill_(1e-6)
    tensors, card = rename_iresnet(arrays, HERE)
    assert torch.allclose(tensors["layer2.0.bn3.running_var"], torch.tensor(1.1e-5), rtol=1e-6)
    assert tensors["features.weight"].eq(1).all() and card["image_range"] == [-0.99609375, 0.99609375]
    assert arrays["aux:stage2_unit1_bn3_moving_var"].max() < 2e-6, "the arrays stay what they are"


@pytest.mark.parametrize(("units", "name"), UNITS.items())
def test_every_depth_by_its_keys(units: tuple[int, ...], name: str) -> None:
    tensors, card = rename_iresnet({key: torch.from_numpy(one) for key, one in arrays_of(units).items()}, HERE)
    with without_memory():
        own = BACKBONES.create(name, **card["arguments"]).state_dict()
    shapes = {key: value.shape for key, value in own.items() if not key.endswith("num_batches_tracked")}
    assert card["backbone"] == name and {key: value.shape for key, value in tensors.items()} == shapes


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (
            "arg:stage1_unit1_se_conv1_weight",
            r"no array of InsightFace's LResNet-E-IR networks \(squeeze-and-excitation",
        ),
        ("arg:stage1_unit1_conv3_weight", "is no array of InsightFace's LResNet-E-IR"),
        ("arg:convd_weight", "is no array"),
        ("arg:stage5_unit1_bn1_gamma", "is no array"),
        ("arg:stage1_unit4_bn1_gamma", r"its stages have \[4, 2, 2, 2\] units; known are r18 \[2, 2, 2, 2\]"),
    ],
)
def test_other_networks(extra: str, words: str) -> None:
    arrays = {name: torch.from_numpy(array) for name, array in arrays_of().items()} | {extra: torch.ones(8)}
    with pytest.raises(ValueError, match=words):
        rename_iresnet(arrays, HERE)


def test_class_centres_are_left_out_and_named() -> None:
    arrays = {name: torch.from_numpy(array) for name, array in arrays_of().items()}
    tensors, card = rename_iresnet(arrays | {"arg:fc7_weight": torch.ones(5, SIZE)}, HERE)
    assert "fc7_weight" in str(card["left_out"]) and not any("fc7" in key for key in tensors)
