"""Batch norms of a frozen base: torch's numbers, and none of their input kept for backward."""

import copy

import pytest
import torch
from torch import nn

from recognition.backbones._layers import BatchNorm2d


def norms() -> tuple[BatchNorm2d, nn.BatchNorm2d]:
    """Ours and torch's with the same random numbers, frozen."""
    ours, torchs = BatchNorm2d(6, eps=1e-3), nn.BatchNorm2d(6, eps=1e-3)
    for tensor in (ours.weight.data, ours.bias.data, ours.running_mean):
        tensor.normal_()
    ours.running_var.uniform_(0.5, 2)
    torchs.load_state_dict(ours.state_dict())
    return ours.eval().requires_grad_(False), torchs.eval().requires_grad_(False)


def kept(norm: nn.Module, x: torch.Tensor) -> int:
    found = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (found.append(t), t)[1], lambda t: t):
        norm(x)
    return sum(t.numel() for t in found if t.dim() == 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_one_has_torchs_numbers_and_keeps_nothing(dtype):
    ours, torchs = norms()
    x = torch.randn(3, 6, 5, 4).to(dtype, memory_format=torch.channels_last)
    found = []
    for norm in (ours, torchs):
        own = x.clone().requires_grad_()
        out = norm(own)
        out.float().square().sum().backward()
        found.append((out.detach(), own.grad))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-6 if dtype == torch.float32 else 1e-2, atol=1e-6)
    assert kept(ours, x.requires_grad_()) == 0 and kept(torchs, x) == x.numel()


@pytest.mark.parametrize("change", ["training", "scale", "shift"])
def test_one_that_is_alive_is_torchs(change):
    ours, torchs = norms()
    for norm in (ours, torchs):
        norm.train(change == "training")
        norm.weight.requires_grad_(change == "scale")
        norm.bias.requires_grad_(change == "shift")
    x = torch.randn(3, 6, 5, 4, requires_grad=True)
    y = copy.deepcopy(x)
    for norm, given in ((ours, x), (torchs, y)):
        norm(given).square().sum().backward()
    assert torch.equal(x.grad, y.grad) and torch.equal(ours.running_mean, torchs.running_mean)
    if change == "scale":
        assert torch.equal(ours.weight.grad, torchs.weight.grad)
