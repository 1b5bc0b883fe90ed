"""Swin transformer for 120 px faces (Liu et al. 2021, in the form of PETALface, arXiv 2412.07771).

Key names are PETALface's, so its published weights load strictly; they were trained without the mask of shifted
windows and need shift_mask=False. Windows keep the image as their first axis, so that gates reach them per image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recognition.backbones import BACKBONES
from recognition.backbones._attention import attend
from recognition.backbones._layers import DropPath, Mlp, drop_path_rates, initialise_linear

FORBIDDEN = -100.0  # added to the logit of two tokens that the shift, not the picture, brought together


class WindowAttention(nn.Module):
    """Self-attention inside each window, with a learned bias per relative position.

    windows: (B, W, N, width), W windows of N = window ** 2 tokens. mask: (W, 1, N, N) added to logits, or None.
    Returns windows' shape.
    """

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", _relative_positions(window), persistent=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        number = windows.shape[1]
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)  # (heads, N, N)
        bias = bias.expand(number, -1, -1, -1) if mask is None else bias + mask  # (W, heads, N, N)
        qkv = self.qkv(windows).unflatten(-1, (3, self.heads, -1))  # (B, W, N, 3, heads, width / heads)
        # Windows and heads share an axis: four axes, and a bias that is not repeated per image, suit fused kernels.
        qkv = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)  # (3, B, W * heads, N, width / heads)
        mixed = attend(qkv, bias.flatten(0, 1).unsqueeze(0).to(qkv.dtype))
        return self.proj(mixed.unflatten(1, (number, self.heads)).transpose(2, 3).flatten(3))


class Block(nn.Module):
    """Attention in (shifted) windows and MLP, each after a norm and beside a shortcut: (B, S, S, width), same back.

    side: S, tokens. shift: tokens by which the windows are displaced; 0 for none.
    shift_mask: keep tokens apart that meet in a window only because the displaced grid wraps around.
    """

    def __init__(
        self, width: int, side: int, heads: int, window: int, shift: int, drop_path: float, shift_mask: bool
    ) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width, nn.GELU())
        mask = _shift_mask(side, window, shift) if shift and shift_mask else None
        self.register_buffer("attn_mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        side = x.shape[1]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        x = _from_windows(self.attn(_to_windows(x, self.window), self.attn_mask), side, self.window)
        return x.roll((self.shift, self.shift), (1, 2)) if self.shift else x


class PatchMerging(nn.Module):
    """Four neighbouring tokens to one of double width: (B, S, S, width) -> (B, S / 2, S / 2, 2 width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class Stage(nn.Module):
    """Blocks with and without shift in turn, then the merging of patches where there is a next stage."""

    def __init__(self, blocks: list[Block], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    """Patches to tokens: (B, 3, patch S, patch S) -> (B, S, S, width)."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


class SwinTransformer(nn.Module):
    """(B, 3, input_size, input_size) RGB in [-1, 1] -> (B, embedding_size), not normalised.

    input_size, patch: pixels. width: of the first stage, doubled by each next. depths, heads: per stage.
    window: tokens per side of a window. drop_path: rate of the last block, rising linearly from 0.
    dropout: before the projection. shift_mask: False reproduces PETALface's weights, see Block.
    """

    adapter_targets = ("**.attn.qkv",)
    head_targets = ("feature_layer.2",)

    def __init__(
        self,
        input_size: int = 120,
        patch: int = 6,
        width: int = 384,
        depths: tuple[int, ...] = (2, 18, 2),
        heads: tuple[int, ...] = (8, 16, 16),
        window: int = 5,
        embedding_size: int = 512,
        dropout: float = 0.25,
        drop_path: float = 0.05,
        shift_mask: bool = True,
    ) -> None:
        super().__init__()
        self.input_size, self.embedding_size = input_size, embedding_size
        self.side = input_size // patch
        last_side, wide = self.side >> (len(depths) - 1), width << (len(depths) - 1)
        if input_size % patch or self.side != last_side << (len(depths) - 1) or last_side % window:
            raise ValueError(
                f"an image of {input_size} px in patches of {patch} does not halve {len(depths) - 1} times into whole "
                f"windows of {window}: choose input_size = patch * window * 2 ** {len(depths) - 1} * n"
            )
        self.absolute_pos_embed = nn.Parameter(torch.zeros(1, self.side**2, width))
        self.patch_embed = PatchEmbed(patch, width)
        rates = iter(drop_path_rates(drop_path, sum(depths)))
        self.layers = nn.ModuleList()
        for stage, (depth, head) in enumerate(zip(depths, heads, strict=True)):
            side, wide_here = self.side >> stage, width << stage
            shift = window // 2 if side > window else 0
            blocks = [
                Block(wide_here, side, head, window, shift * (i % 2), next(rates), shift_mask) for i in range(depth)
            ]
            self.layers.append(Stage(blocks, PatchMerging(wide_here) if stage + 1 < len(depths) else None))
        self.norm = nn.LayerNorm(wide)
        self.feature_layer = nn.Sequential(
            nn.BatchNorm1d(wide * last_side**2),
            nn.Dropout(dropout),
            nn.Linear(wide * last_side**2, embedding_size),
            nn.BatchNorm1d(embedding_size),
        )
        nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.apply(initialise_linear)
        self.checkpoint_blocks = tuple(n for n, m in self.named_modules() if isinstance(m, Block))

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image) + self.absolute_pos_embed.unflatten(1, (self.side, self.side))
        for stage in self.layers:
            x = stage(x)
        return self.feature_layer(self.norm(x).flatten(1))


def _to_windows(x: Tensor, window: int) -> Tensor:
    """(B, S, S, C) -> (B, windows, window ** 2, C)."""
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # (B, rows, window, columns, window, C)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _from_windows(windows: Tensor, side: int, window: int) -> Tensor:
    """(B, windows, window ** 2, C) -> (B, side, side, C)."""
    x = windows.unflatten(2, (window, window)).unflatten(1, (side // window, side // window))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _relative_positions(window: int) -> Tensor:
    """Row of the bias table for each pair of tokens in a window: (window ** 2, window ** 2) int64."""
    axis = torch.arange(window)
    row, column = axis.repeat_interleave(window), axis.repeat(window)
    rows, columns = row[:, None] - row, column[:, None] - column  # each in [-(window - 1), window - 1]
    return (rows + window - 1) * (2 * window - 1) + columns + window - 1


def _shift_mask(side: int, window: int, shift: int) -> Tensor:
    """(windows, 1, N, N): 0 where two tokens of a shifted window are neighbours in the picture, FORBIDDEN elsewhere."""
    place = torch.arange(side)
    part = (place >= side - window).long() + (place >= side - shift).long()  # 0, 1, 2: inner, last, wrapped around
    region = (part[:, None] * 3 + part).view(1, side, side, 1)
    region = _to_windows(region, window).flatten(1).view(-1, window**2)
    return (region[:, None] != region[:, :, None]).float().mul(FORBIDDEN).unsqueeze(1)


@BACKBONES.register("swin_120")
def swin_120(
    embedding_size: int = 512, dropout: float = 0.25, drop_path: float = 0.05, shift_mask: bool = True
) -> SwinTransformer:
    """Swin-B of PETALface, 213.7 M parameters, 120 px; its published weights need shift_mask=False."""
    return SwinTransformer(embedding_size=embedding_size, dropout=dropout, drop_path=drop_path, shift_mask=shift_mask)


@BACKBONES.register("swin_nano")
def swin_nano(
    embedding_size: int = 128, dropout: float = 0.0, drop_path: float = 0.0, shift_mask: bool = True
) -> SwinTransformer:
    """Swin for demonstrations on a CPU, widths 64 and 128, 2 + 2 blocks, 2.2 M parameters, 120 px."""
    return SwinTransformer(
        width=64,
        depths=(2, 2),
        heads=(4, 8),
        embedding_size=embedding_size,
        dropout=dropout,
        drop_path=drop_path,
        shift_mask=shift_mask,
    )
