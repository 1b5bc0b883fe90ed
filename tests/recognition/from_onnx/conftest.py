"""What all tests of this folder share: small networks, and a graph as arcface_torch publishes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from recognition.backbones import iresnet, vit
from tests.recognition.from_onnx.networks import as_published, made


@pytest.fixture(autouse=True, scope="module")
def small():
    """r18 of a block a stage and an eighth of the width, vit_nano of one block: everything else is theirs."""
    with pytest.MonkeyPatch.context() as patch:
        whole, tokens = iresnet.IResNet, vit.VisionTransformer
        patch.setattr(iresnet, "WIDTHS", (8, 16, 32, 64))
        patch.setattr(iresnet, "IResNet", lambda blocks, *rest: whole(tuple(min(one, 1) for one in blocks), *rest))
        patch.setattr(vit, "VisionTransformer", lambda width, depth, *rest, **more: tokens(width, 1, *rest, **more))
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    network = made("r18", embedding_size=24)
    return network, as_published(network, tmp_path_factory.mktemp("onnx") / "w_r18.onnx")
