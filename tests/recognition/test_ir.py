"""The IR networks of AdaFace and CVLface, and CVLface's ViTs: against a plain derivation, and what their names hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from recognition.backbones import BACKBONES
from recognition.backbones.ir import IR
from recognition.backbones.vit import VisionTransformer
from recognition.weights import without_memory
from tests.recognition import ir_plain

SMALL = {
    "basic": ((2, 1, 2, 1), lambda: IR((2, 1, 2, 1), (64, 16, 16, 24), 8)),
    "narrow": ((2, 1, 2, 1), lambda: IR((2, 1, 2, 1), (16, 16, 32, 24), 8, narrow=True)),
    "excite": ((1, 2, 1, 1), lambda: IR((1, 2, 1, 1), (64, 32, 32, 16), 8, excite=True)),
}


def lively(network: nn.Module) -> nn.Module:
    """With statistics and scales that are not those of the start."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.data.uniform_(0.5, 1.5)
    return network.eval()


def own(network: nn.Module) -> dict[str, Tensor]:
    return {key: t for key, t in network.state_dict().items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("kind", SMALL)
def test_against_a_plain_derivation(kind: str) -> None:
    blocks, make = SMALL[kind]
    network, image = lively(make()), torch.rand(2, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        wanted = ir_plain.embed(own(network), image, blocks)
        torch.testing.assert_close(network.double()(image.double()), wanted, rtol=1e-9, atol=1e-9)


def test_every_trained_parameter_gets_a_gradient() -> None:
    network = SMALL["basic"][1]().train()
    network(torch.rand(3, 3, 112, 112)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("name", "blocks", "parameters"),
    # parameters counted from the layers of AdaFace's net.py: see `count`
    [("ir_18", (2, 2, 2, 2), 24_020_352), ("ir_50", (3, 4, 14, 3), 43_585_600), ("ir_101", (3, 13, 30, 3), 65_150_912)],
)
def test_names_and_sizes_are_adafaces(name: str, blocks: tuple[int, ...], parameters: int) -> None:
    with without_memory():
        network = BACKBONES.create(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters == count(blocks)
    shapes = {key: tuple(tensor.shape) for key, tensor in own(network).items()}
    assert shapes["input_layer.0.weight"] == (64, 3, 3, 3) and shapes["input_layer.2.weight"] == (64,)
    assert shapes["output_layer.3.weight"] == (512, 512 * 49) and "output_layer.4.weight" not in shapes
    assert "body.0.shortcut_layer.0.weight" not in shapes  # 64 channels stay 64: pixels are dropped, not convolved
    assert shapes[f"body.{blocks[0]}.shortcut_layer.0.weight"] == (128, 64, 1, 1)
    last = f"body.{sum(blocks) - 1}.res_layer"
    assert shapes[f"{last}.4.weight"] == (512, 512, 3, 3) and shapes[f"{last}.5.running_var"] == (512,)


def count(blocks: tuple[int, ...]) -> int:
    """Parameters from AdaFace's description: two 3x3 convolutions, three norms of two numbers a channel, a slope."""
    total, before = 3 * 64 * 9 + 3 * 64, 64
    for number, width in zip(blocks, (64, 128, 256, 512), strict=True):
        for place in range(number):
            inputs = width if place else before
            total += 2 * inputs + 9 * inputs * width + 3 * width + 9 * width * width + 2 * width
            total += (inputs * width + 2 * width) if inputs != width else 0
        before = width
    return total + 2 * 512 + 512 * 49 * 512 + 512


def test_cvlfaces_vits() -> None:
    for name, depth, hidden in (("vit_s_p8", 12, 2560), ("vit_b_p8", 24, 1536)):
        with without_memory():
            network = BACKBONES.create(name)
            masked = BACKBONES.create(name, mask_ratio=0.1)
        shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
        assert shapes["pos_embed"] == (1, 196, 512) and shapes["patch_embed.proj.weight"] == (512, 3, 8, 8)
        assert (
            shapes[f"blocks.{depth - 1}.mlp.fc1.weight"] == (hidden, 512) and f"blocks.{depth}.norm1.bias" not in shapes
        )
        assert shapes["feature.0.weight"] == (512, 512 * 196) and "blocks.0.attn.qkv.bias" not in shapes
        assert "mask_token" not in shapes and "mask_token" in masked.state_dict()
    small = VisionTransformer(16, 2, 4, 8, mask_ratio=0.0, patch=8, widening=2, keeps_token=False)
    small.train()(torch.rand(2, 3, 112, 112)).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
