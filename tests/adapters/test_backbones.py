"""The adapters on the project's backbones: parameter counts, published figures, each family's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adapters import ADAPTERS, attach, from_petalface, layers, load, merge
from recognition.backbones import BACKBONES
from recognition.gate import Gate
from recognition.weights import without_memory
from tests.oracles.fill import fill, images
from tests.tiny import Scoped

PETAL = {"rank": 8, "dropout": 0.1, "dropout_at": "output"}


@pytest.mark.parametrize(
    ("backbone", "adapter", "options", "wanted"),
    [  # measured on the published programs
        ("swin_120", "dual_lora", {"head": True}, 1_441_792),
        ("swin_120", "dual_lora", {}, 1_130_496),
        ("swin_120", "lora", {}, 565_248),
        ("vit_b", "dual_lora", {"head": True}, 1_388_544),
        ("vit_b", "lora", {}, 393_216),
        ("r18", "lora", {}, 492_248),
        ("r50", "lora", {}, 1_116_888),
        ("r100", "lora", {}, 1_956_568),
    ],
)
def test_trainable_parameters(backbone: str, adapter: str, options: dict, wanted: int) -> None:
    with without_memory():
        model = BACKBONES.create(backbone)
        attach(model, ADAPTERS.create(adapter, rank=8, **options), Gate())
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == wanted


def published(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    keys = json.loads(path.read_text())
    return from_petalface({key: torch.from_numpy(fill(key, tuple(shape))) for key, shape in keys.items()})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "adapter", "options"),
    [("petal_swin_256new_lora", "lora", PETAL), ("petal_swin_256new_iqa", "dual_lora", {**PETAL, "head": True})],
)
def test_petalfaces_adapted_swin(name: str, adapter: str, options: dict, oracles: Path, undrawn: None) -> None:
    base, tensors = published(oracles / f"{name}.keys.json")
    wanted = np.load(oracles / f"{name}.npz")
    backbone, gate = BACKBONES.create("swin_120", shift_mask=False), Gate()
    missing, unexpected = backbone.load_state_dict(base, strict=False)
    assert not unexpected and not [key for key in missing if not key.endswith("num_batches_tracked")]
    attach(backbone, ADAPTERS.create(adapter, **options), gate)
    load(backbone, tensors)
    image = torch.from_numpy(images(2, 120, 7))
    value = torch.from_numpy(wanted["alpha"])[:, 0] if adapter == "dual_lora" else torch.zeros(2)
    model = Scoped(backbone.eval(), gate)
    with torch.no_grad():
        found = model(image, value)
        assert np.abs(found.numpy() - wanted["embeddings"]).max() <= 1e-4 * np.abs(wanted["embeddings"]).max()
        if adapter == "dual_lora":
            moved = model(image, value + torch.tensor([0.2, 0.0]))
            assert (moved != found).any(1).tolist() == [True, False], "windows stay grouped by image"
            merge(backbone, float(value[0]))
            assert (backbone(image[:1]) - found[:1]).abs().max() <= 1e-4 * found.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES.names())
def test_every_backbone_takes_a_gated_adapter(name: str) -> None:
    with without_memory():
        size = sum(p.numel() for p in BACKBONES.create(name).parameters())
    if size > 30e6:
        pytest.skip(
            f"{size / 1e6:.0f} M parameters; its family is tested on a smaller one, Swin on the published figures"
        )
    backbone, gate = BACKBONES.create(name).eval(), Gate()
    side = backbone.input_size
    image, value = torch.from_numpy(images(3, side, 1)), torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        base = backbone(image)
        attach(backbone, ADAPTERS.create("dual_lora", head=True), gate)
        model = Scoped(backbone.eval(), gate)
        assert torch.equal(model(image, value), base)
        for _, layer in layers(backbone):
            nn.init.normal_(layer.lora_b, std=0.02)
        started = model(image, value)
        assert (started - base).abs().max() > 1e-3 * base.abs().max()
        moved = model(image, value + torch.tensor([0.3, 0.0, 0.0]))
        assert (moved != started).any(1).tolist() == [True, False, False]
        merge(backbone, 0.5)
        assert (backbone(image)[1] - started[1]).abs().max() <= 1e-4 * started.abs().max()
