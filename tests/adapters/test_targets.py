"""Globs on module names: what they name, what is skipped, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adapters import ADAPTERS, attach
from adapters._targets import find, matching
from recognition.gate import Gate
from tests.tiny import Tiny

NAMES = ["stem", "blocks.0.attn.qkv", "blocks.1.attn.qkv", "blocks.10.attn.proj", "neck.blocks.0.qkv", "qkv"]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("stem", ["stem"]),
        ("blocks.*.attn.qkv", ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]),
        ("blocks.*", []),  # a star stays within one part
        ("*", ["stem", "qkv"]),
        ("blocks.**", ["blocks.0.attn.qkv", "blocks.1.attn.qkv", "blocks.10.attn.proj"]),
        ("**.qkv", ["blocks.0.attn.qkv", "blocks.1.attn.qkv", "neck.blocks.0.qkv", "qkv"]),  # no part at all, too
        ("**.blocks.*.**", ["blocks.0.attn.qkv", "blocks.1.attn.qkv", "blocks.10.attn.proj", "neck.blocks.0.qkv"]),
        ("blocks.?.attn.*", ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]),
        ("blocks.[1-9].**", ["blocks.1.attn.qkv"]),
        ("blocks.[01]*.attn.p*", ["blocks.10.attn.proj"]),
        ("**", NAMES),
        ("blocks.0.attn.qk", []),
        ("s.em", []),  # a dot is a dot
    ],
)
def test_globs(pattern: str, wanted: list[str]) -> None:
    assert matching(pattern, NAMES) == wanted


def test_wildcards_skip_grouped_convolutions_and_report_them() -> None:
    report = attach(Tiny(), ADAPTERS.create("lora", targets=["*", "blocks.0.mlp.*", "stem"]), Gate())
    assert report.adapted == ["stem", "pointwise", "blocks.0.mlp.0", "blocks.0.mlp.3"]
    assert report.skipped == ["depthwise"]


def test_a_grouped_convolution_named_outright_is_refused() -> None:
    backbone = Tiny()
    with pytest.raises(ValueError, match=r"'depthwise' cannot be adapted: it is a grouped convolution \(8 groups\)"):
        attach(backbone, ADAPTERS.create("lora", targets=["pointwise", "depthwise"]), Gate())
    with pytest.raises(ValueError, match=r"'depth\*' names only layers that cannot be adapted \(1 of them\)"):
        find(backbone, ["depth*"])


def test_a_pattern_that_names_nothing_shows_the_nearest_layers() -> None:
    with pytest.raises(ValueError, match=r"nearest to it are 'blocks\.\*\.attn\.qkv'"):
        find(Tiny(), ["blocks.*.qkv"])
    with pytest.raises(ValueError, match=r"module of kind Attention.* 'blocks\.0\.attn\.qkv', 'blocks\.0\.attn\.proj'"):
        find(Tiny(), ["blocks.0.attn"])
    with pytest.raises(ValueError, match="'norm' names a module of kind BatchNorm2d"):
        find(Tiny(), ["norm"])
    with pytest.raises(ValueError, match="this model are of other kinds"):
        find(nn.Sequential(nn.ReLU()), ["0"])


def test_one_pattern_may_stand_alone() -> None:
    assert find(Tiny(), "blocks.*.attn.qkv").names == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]


def test_subclasses_are_not_touched() -> None:
    attention = nn.ModuleDict({"mixer": nn.MultiheadAttention(8, 2), "last": nn.Linear(8, 8)})
    found = find(attention, ["**"])
    assert found.names == ["last"] and found.skipped == ["mixer.out_proj"]
    with pytest.raises(ValueError, match="a NonDynamicallyQuantizableLinear, whose forward need not be that of Linear"):
        find(attention, ["mixer.out_proj"])


def test_a_shared_layer_is_refused() -> None:
    shared = nn.Linear(4, 4)
    with pytest.raises(ValueError, match=r"'0' cannot be adapted: it is shared, one layer at 0, 2"):
        attach(nn.Sequential(shared, nn.ReLU(), shared), ADAPTERS.create("lora", targets=["0"]), Gate())


def test_a_backbone_that_declares_no_targets_needs_them_named() -> None:
    backbone = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"Sequential declares no adapter_targets: set adapter\.targets"):
        attach(backbone, ADAPTERS.create("lora"), Gate())
    attach(backbone, ADAPTERS.create("lora", targets=["0"]), Gate())
    assert backbone(torch.ones(1, 3)).requires_grad
