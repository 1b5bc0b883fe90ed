"""Vision transformers for 112 px faces with tokens masked while training (An et al. 2022, as in arcface_torch).

Key names are those of arcface_torch, so its published weights load strictly. CVLface's ViTs are the same network with
smaller patches and other widths of the MLP, by the same names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recognition.backbones import BACKBONES
from recognition.backbones._attention import attend
from recognition.backbones._layers import DropPath, Mlp, drop_path_rates, initialise_linear

IMAGE = 112  # pixels
PATCH = 9  # pixels, of arcface_torch; the last 4 rows and columns fill no patch and are not seen


class Attention(nn.Module):
    """Multi-head self-attention: (B, N, width) -> (B, N, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, width / heads)
        return self.proj(attend(qkv.permute(2, 0, 3, 1, 4)).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP, each after a norm and beside a shortcut: (B, N, width) -> (B, N, width)."""

    def __init__(self, width: int, heads: int, drop_path: float, widening: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, widening * width, nn.ReLU6())

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Patches to tokens: (B, 3, 112, 112) -> (B, N, width)."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """(B, 3, 112, 112) RGB in [-1, 1] -> (B, embedding_size), not normalised.

    drop_path: rate of the last block, rising linearly from 0.
    mask_ratio: share of tokens that the blocks do not see while training; the head gets a learned token in their place.
    patch: pixels a side. widening: of the MLP. keeps_token: have that token without masking, too, as arcface_torch.
    """

    input_size = IMAGE
    adapter_targets = ("**.attn.qkv",)
    head_targets = ("feature.0", "feature.2")

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int = 8,
        embedding_size: int = 512,
        drop_path: float = 0.1,
        mask_ratio: float = 0.1,
        patch: int = PATCH,
        widening: int = 4,
        keeps_token: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= mask_ratio < 1:
            raise ValueError(f"mask_ratio is {mask_ratio}; it must lie in [0, 1)")
        self.embedding_size = embedding_size
        self.tokens = (IMAGE // patch) ** 2
        self.seen = int(self.tokens * (1 - mask_ratio))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.tokens, width))
        # Without masking nothing uses the token, and DDP waits for the gradient of all that require one.
        masks = self.seen < self.tokens
        token = nn.Parameter(torch.zeros(1, 1, width), requires_grad=masks) if masks or keeps_token else None
        self.register_parameter("mask_token", token)
        self.patch_embed = PatchEmbed(width, patch)
        rates = drop_path_rates(drop_path, depth)
        self.blocks = nn.ModuleList([Block(width, heads, rate, widening) for rate in rates])
        self.norm = nn.LayerNorm(width)
        self.feature = nn.Sequential(
            nn.Linear(width * self.tokens, width, bias=False),
            nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size, eps=2e-5),
        )
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.mask_token is not None:
            nn.init.normal_(self.mask_token, std=0.02)
        self.apply(initialise_linear)
        self.checkpoint_blocks = tuple(f"blocks.{i}" for i in range(depth))

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image) + self.pos_embed  # (B, N, width)
        masking = self.training and self.seen < self.tokens
        if masking:
            places = torch.rand(x.shape[:2], device=x.device).argsort(1)[:, : self.seen]  # (B, seen)
            places = places.unsqueeze(-1).expand(-1, -1, x.shape[2])
            x = x.gather(1, places)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if masking:
            x = self.mask_token.to(x.dtype).expand(x.shape[0], self.tokens, -1).scatter(1, places, x)
        return self.feature(x.flatten(1))


@BACKBONES.register("vit_t")
def vit_t(embedding_size: int = 512, drop_path: float = 0.1, mask_ratio: float = 0.1) -> VisionTransformer:
    """ViT-T, width 256, 12 blocks, 112 px; WebFace42M's recipe: drop_path 0.05, mask_ratio 0."""
    return VisionTransformer(256, 12, 8, embedding_size, drop_path, mask_ratio)


@BACKBONES.register("vit_s")
def vit_s(embedding_size: int = 512, drop_path: float = 0.1, mask_ratio: float = 0.1) -> VisionTransformer:
    """ViT-S, width 512, 12 blocks, 112 px; WebFace42M's recipe: drop_path 0.05, mask_ratio 0."""
    return VisionTransformer(512, 12, 8, embedding_size, drop_path, mask_ratio)


@BACKBONES.register("vit_b")
def vit_b(embedding_size: int = 512, drop_path: float = 0.1, mask_ratio: float = 0.1) -> VisionTransformer:
    """ViT-B, width 512, 24 blocks, 113.8 M parameters, 112 px; WebFace42M's recipe: drop_path 0.05, mask_ratio 0.1."""
    return VisionTransformer(512, 24, 8, embedding_size, drop_path, mask_ratio)


@BACKBONES.register("vit_l")
def vit_l(embedding_size: int = 512, drop_path: float = 0.05, mask_ratio: float = 0.05) -> VisionTransformer:
    """ViT-L, width 768, 24 blocks, 112 px."""
    return VisionTransformer(768, 24, 8, embedding_size, drop_path, mask_ratio)


@BACKBONES.register("vit_h")
def vit_h(embedding_size: int = 512, drop_path: float = 0.1, mask_ratio: float = 0.0) -> VisionTransformer:
    """ViT-H, width 1024, 48 blocks, 112 px."""
    return VisionTransformer(1024, 48, 8, embedding_size, drop_path, mask_ratio)


@BACKBONES.register("vit_s_p8")
def vit_s_p8(embedding_size: int = 512, drop_path: float = 0.1, mask_ratio: float = 0.0) -> VisionTransformer:
    """ViT "small" of CVLface, width 512, 12 blocks, patches of 8 px, 112 px."""
    return VisionTransformer(512, 12, 8, embedding_size, drop_path, mask_ratio, patch=8, widening=5, keeps_token=False)


@BACKBONES.register("vit_b_p8")
def vit_b_p8(embedding_size: int = 512, drop_path: float = 0.1, mask_ratio: float = 0.0) -> VisionTransformer:
    """ViT "base" of CVLface, width 512, 24 blocks of 16 heads, patches of 8 px, 112 px."""
    return VisionTransformer(512, 24, 16, embedding_size, drop_path, mask_ratio, patch=8, widening=3, keeps_token=False)


@BACKBONES.register("vit_nano")
def vit_nano(embedding_size: int = 128, drop_path: float = 0.0, mask_ratio: float = 0.0) -> VisionTransformer:
    """ViT for demonstrations on a CPU, width 128, 4 blocks, 3.2 M parameters, 112 px."""
    return VisionTransformer(128, 4, 4, embedding_size, drop_path, mask_ratio)
