"""Visual prompt tokens against a forward written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from adapters import ADAPTERS, attach, layers
from adapters.prompt import PromptTokens
from recognition.backbones import BACKBONES
from recognition.backbones.swin import SwinTransformer
from recognition.backbones.vit import VisionTransformer
from recognition.gate import Gate
from recognition.model import FaceModel
from recognition.weights import without_memory
from tests.tiny import Tiny, TinyViT

DEPTH = 3


def vit(**options) -> VisionTransformer:
    torch.manual_seed(6)
    model = VisionTransformer(16, DEPTH, 2, embedding_size=8, **options)
    for _, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def adapted(backbone: nn.Module, **options) -> nn.Module:
    attach(backbone, ADAPTERS.create("prompt", **options), Gate())
    return backbone.eval()


def images(number: int = 2, side: int = 112, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(number, 3, side, side, dtype=dtype) * 2 - 1


def attend(x: Tensor, block: nn.Module) -> Tensor:
    """A block with attention written out: x (B, N, 16)."""
    normed = block.norm1(x)
    query, key, value = (normed @ block.attn.qkv.weight.T).chunk(3, -1)  # (B, N, 16), heads beside each other
    mixed = []
    for head in (slice(0, 8), slice(8, 16)):
        logits = query[..., head] @ key[..., head].mT / 8**0.5
        mixed.append(logits.softmax(-1) @ value[..., head])
    x = x + block.attn.proj(torch.cat(mixed, -1))
    return x + block.mlp.fc2(block.mlp.act(block.mlp.fc1(block.norm2(x))))


@pytest.mark.parametrize("deep", [False, True], ids=["shallow", "deep"])
def test_equal_to_concatenated_tokens(deep: bool) -> None:
    plain, model = vit().double(), adapted(vit(), tokens=5, deep=deep).double()
    prompts = [layer.tokens.detach() for _, layer in layers(model)]
    assert [name for name, _ in layers(model)] == [f"blocks.{i}.prompt" for i in range(DEPTH if deep else 1)]
    image = images()
    x = plain.patch_embed(image) + plain.pos_embed  # (2, 144, 16)
    if deep:
        for prompt, block in zip(prompts, plain.blocks, strict=True):
            x = attend(torch.cat([prompt.expand(2, 5, 16), x], 1), block)[:, 5:]
    else:
        x = torch.cat([prompts[0].expand(2, 5, 16), x], 1)
        for block in plain.blocks:
            x = attend(x, block)
        assert x.shape[1] == 149
        x = x[:, 5:]
    wanted = plain.feature(plain.norm(x).flatten(1))
    torch.testing.assert_close(model(image), wanted, rtol=0, atol=1e-12 * wanted.abs().max().item())
    assert (wanted - plain(image)).abs().max() > 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("deep", [False, True], ids=["shallow", "deep"])
def test_prompts_of_zeros_take_attention_too_so_the_start_is_declared_another(deep: bool) -> None:
    assert not ADAPTERS.get("prompt").identity_at_start
    plain, model = vit().double(), adapted(vit(), deep=deep).double()
    for _, layer in layers(model):
        nn.init.zeros_(layer.tokens)
    image = images()
    assert (model(image) - plain(image)).abs().max() > 1e-5 * plain(image).abs().max()


def test_the_head_sees_the_patches_in_training_too_and_no_token_is_masked() -> None:
    backbone = adapted(vit(mask_ratio=0.5, drop_path=0.5), tokens=3)
    model, seen = FaceModel(backbone, Gate(), frozen_base=True).train(), []
    backbone.norm.register_forward_hook(lambda _m, inputs, _out: seen.append(inputs[0].shape))
    image = images(dtype=torch.float32)
    assert torch.equal(model(image)[0], model(image)[0])
    assert seen[0] == (2, 144, 16)
    assert [name for name, module in backbone.named_modules() if module.training] == ["blocks.0.prompt"]


@pytest.mark.parametrize(
    ("backbone", "options", "wanted"),
    [
        ("vit_t", {"tokens": 10}, 10 * 256),
        ("vit_t", {"tokens": 10, "deep": True}, 12 * 10 * 256),
        ("vit_b", {"tokens": 50, "deep": True}, 24 * 50 * 512),
    ],
)
def test_trainable_parameters(backbone: str, options: dict, wanted: int) -> None:
    with without_memory():
        model = BACKBONES.create(backbone)
        attach(model, ADAPTERS.create("prompt", **options), Gate())
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == wanted


def test_a_start_in_vpts_range_and_the_same_for_every_dtype() -> None:
    bound = (6 / (3 * 9 * 9 + 16)) ** 0.5
    torch.manual_seed(1)
    single = adapted(vit(), tokens=100)
    torch.manual_seed(1)
    double = adapted(vit().double(), tokens=100)
    tokens = single.blocks[0].prompt.tokens
    assert 0.98 * bound < tokens.max() < bound and -bound < tokens.min() < -0.98 * bound
    assert abs(tokens.std().item() - bound / 3**0.5) < 0.05 * bound
    assert torch.equal(tokens.double(), double.blocks[0].prompt.tokens)


def test_dropout_on_prompts() -> None:
    prompt = PromptTokens(50, 40, 1.0, dropout=0.5)
    x = torch.randn(3, 7, 40)
    first = prompt(x)
    assert torch.equal(first[:, 50:], x) and not torch.equal(first[0], first[1])
    dropped = (first[:, :50] == 0).float().mean().item()
    assert dropped == pytest.approx(0.5, abs=0.05)
    assert torch.equal(prompt.eval()(x)[:, :50], prompt.tokens.expand(3, -1, -1))


def test_one_block_takes_its_prompts_and_drops_them() -> None:
    backbone = TinyViT()
    backbone.blocks = backbone.blocks[:1]
    for deep in (False, True):
        model = adapted(TinyViT(), deep=deep)
        assert model(images(2, 16, torch.float32)).shape == (2, 12)
    attach(backbone, ADAPTERS.create("prompt", tokens=2), Gate())
    assert backbone.eval()(images(2, 16, torch.float32)).shape == (2, 12)


class Stages(TinyViT):
    """Blocks of two stages."""

    checkpoint_blocks = ("blocks.*", "more.*")

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.ModuleList([nn.Identity()])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BACKBONES.create("r18"), "does not fit IResNet: its blocks hold convolutions"),
        (lambda: BACKBONES.create("mobilefacenet_y1"), "does not fit MobileFaceNet: its blocks hold convolutions"),
        (
            lambda: SwinTransformer(40, 4, 8, (1, 1), (2, 2), 5, embedding_size=8),
            "does not fit SwinTransformer: it has no pos_embed .* windows, as Swin's, have no room .* take a vit",
        ),
        (Tiny, "does not fit Tiny: it has no pos_embed"),
        (Stages, r"stand in several stages \(blocks.0, more.0\)"),
    ],
)
def test_on_another_backbone_the_error_says_why(make, message: str) -> None:
    backbone = make()
    keys = list(backbone.state_dict())
    with pytest.raises(ValueError, match=message):
        attach(backbone, ADAPTERS.create("prompt"), Gate())
    assert list(backbone.state_dict()) == keys


@pytest.mark.parametrize(
    ("options", "message"), [({"tokens": 0}, "adapter.tokens is 0"), ({"dropout": -0.1}, "adapter.dropout is -0.1")]
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ADAPTERS.create("prompt", **options)
