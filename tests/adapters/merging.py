"""What a merge has to keep, on a backbone as people use it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from adapters import attach, layers, merge
from recognition.backbones import BACKBONES
from recognition.gate import Gate
from recognition.types import Adapter


def assert_merges(backbone: str, adapter: Adapter, disturb: Callable[[nn.Module], object]) -> None:
    """The adapter starts as the base, bit for bit; disturbed in each layer, it merges to 1e-4 of the largest output."""
    network = BACKBONES.create(backbone).eval()
    x = torch.randn(2, 3, network.input_size, network.input_size)
    with torch.no_grad():
        base = network(x)
        attach(network, adapter, Gate())
        network.eval()
        assert torch.equal(network(x), base)
        for _, layer in layers(network):
            disturb(layer)
        wanted = network(x)
        assert (wanted - base).abs().max() > 1e-2 * base.abs().max()
        merge(network)
        assert (network(x) - wanted).abs().max() <= 1e-4 * wanted.abs().max()
