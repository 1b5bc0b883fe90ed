"""A tiny backbone with every kind of place that a gate must reach: feature maps, windows, tokens, a head with norms."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from recognition.backbones import BACKBONES
from recognition.registry import Found


class Attention(nn.Module):
    """Softmax attention inside windows: (B * windows, n, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        weight = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return self.proj((weight @ v).transpose(1, 2).flatten(2))


class DropPath(nn.Module):
    """Drops a whole image's residual branch."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.share == 0:
            return x
        kept = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.share
        return x * kept / (1 - self.share)


class Block(nn.Module):
    """Windows of 2 x 2 tokens, then a token-wise MLP. x: (B, side * side, width)."""

    def __init__(self, width: int, side: int, drop: float) -> None:
        super().__init__()
        self.side = side
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads=2)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(drop), nn.Linear(2 * width, width))
        self.drop_path = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        half = self.side // 2
        windows = self.norm1(x).unflatten(1, (half, 2, half, 2)).transpose(2, 3).flatten(3, 4).flatten(0, 2)
        z = self.attn(windows)  # (B * windows, 4, width), windows grouped by image
        z = z.unflatten(0, (-1, half, half)).unflatten(3, (2, 2)).transpose(2, 3).flatten(1, 4)
        x = x + self.drop_path(z)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Tiny(nn.Module):
    """(B, 3, 16, 16) in [-1, 1] -> (B, 12): a strided stem, a grouped and a 1 x 1 convolution, two blocks, a head."""

    embedding_size = 12
    input_size = 16
    adapter_targets = ("pointwise", "blocks.*.attn.qkv")
    head_targets = ("head.2",)
    checkpoint_blocks = ("blocks.*",)

    def __init__(self, width: int = 16, drop: float = 0.3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, width, 3, padding=2, dilation=2)
        self.blocks = nn.Sequential(Block(width, 4, drop), Block(width, 4, drop))
        self.head = nn.Sequential(
            nn.BatchNorm1d(16 * width),
            nn.Dropout(drop),
            nn.Linear(16 * width, self.embedding_size),
            nn.BatchNorm1d(self.embedding_size),
        )
        with torch.no_grad():  # statistics and scales that a fault in freezing or merging would show
            for module in self.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    module.running_mean.normal_(0, 0.1)
                    module.running_var.uniform_(0.5, 1.5)
                    module.weight.uniform_(0.5, 1.5)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(image)))
        x = self.pointwise(self.depthwise(x))
        return self.head(self.blocks(x.flatten(2).transpose(1, 2)).flatten(1))


class Scoped(nn.Module):
    """The gate explicit at the edge, as in the assembled model: (image, value) -> embedding."""

    def __init__(self, backbone: nn.Module, gate) -> None:
        super().__init__()
        self.backbone, self.gate = backbone, gate

    def forward(self, image: Tensor, value: Tensor) -> Tensor:
        with self.gate.scope(value):
            return self.backbone(image)


class GlobalBlock(nn.Module):
    """Attention among all tokens, then a token-wise MLP. x: (B, N, width), any N."""

    def __init__(self, width: int, drop: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads=2)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(drop), nn.Linear(2 * width, width))
        self.drop_path = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class TinyViT(nn.Module):
    """(B, 3, 16, 16) in [-1, 1] -> (B, 12), for adapters that need tokens: 16 patches, three blocks, a head."""

    embedding_size = 12
    input_size = 16
    adapter_targets = ("blocks.*.attn.qkv",)
    head_targets = ("head.0",)
    checkpoint_blocks = ("blocks.*",)

    def __init__(self, width: int = 16, drop: float = 0.3) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(0.1 * torch.randn(1, 16, width))
        self.patch_embed = nn.Conv2d(3, width, 4, 4)
        self.blocks = nn.ModuleList([GlobalBlock(width, drop) for _ in range(3)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Sequential(nn.Linear(16 * width, self.embedding_size), nn.BatchNorm1d(self.embedding_size))

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).flatten(1))


NAMED = {"tiny_of_tests": Tiny, "tiny_vit_of_tests": TinyViT}


@contextlib.contextmanager
def nameable() -> Iterator[None]:
    """Both tiny backbones by their names in NAMED, for recipes and cards of this process."""
    for name, kind in NAMED.items():
        BACKBONES.register(name)(kind)
        BACKBONES._search()[name] = Found(name, __file__, "", parameters=("width", "drop"), defaults={"drop": 0.3})
    try:
        yield
    finally:
        for name in NAMED:
            del BACKBONES._objects[name], BACKBONES._search()[name]
