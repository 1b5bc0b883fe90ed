"""AdaFace's IR network once more, in float64 and plain functions: tensors by its names in, embedding out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def embed(state: Mapping[str, Tensor], image: Tensor, blocks: Sequence[int]) -> Tensor:
    """(B, D) of (B, 3, 112, 112). blocks: of the four stages, the first of each with stride 2."""
    s = {key: tensor.double() for key, tensor in state.items()}
    x = F.conv2d(image.double(), s["input_layer.0.weight"], padding=1)
    x = slopes(s, "input_layer.2", norm(s, "input_layer.1", x))
    firsts = [sum(blocks[:stage]) for stage in range(4)]
    for number in range(sum(blocks)):
        name, stride = f"body.{number}", 2 if number in firsts else 1
        if f"{name}.shortcut_layer.0.weight" in s:
            beside = F.conv2d(x, s[f"{name}.shortcut_layer.0.weight"], stride=stride)
            beside = norm(s, f"{name}.shortcut_layer.1", beside)
        else:
            beside = F.max_pool2d(x, 1, stride)
        x = residual(s, f"{name}.res_layer", x, stride) + beside
    x = norm(s, "output_layer.0", x).reshape(len(image), -1)
    x = x @ s["output_layer.3.weight"].T + s["output_layer.3.bias"]
    return (x - s["output_layer.4.running_mean"]) / (s["output_layer.4.running_var"] + 1e-5).sqrt()


def residual(s: Mapping[str, Tensor], name: str, x: Tensor, stride: int) -> Tensor:
    convolutions = [i for i in range(9) if s.get(f"{name}.{i}.weight", torch.empty(0)).dim() == 4]
    x = norm(s, f"{name}.0", x)
    for i in convolutions:
        weight = s[f"{name}.{i}.weight"]
        x = F.conv2d(x, weight, stride=stride if i == convolutions[-1] else 1, padding=weight.shape[-1] // 2)
        x = norm(s, f"{name}.{i + 1}", x)
        if i != convolutions[-1]:
            x = slopes(s, f"{name}.{i + 2}", x)
    if f"{name}.se_block.fc1.weight" in s:
        mean = x.mean((2, 3)) @ s[f"{name}.se_block.fc1.weight"].flatten(1).T
        scale = 1 / (1 + (-(mean.clamp(min=0) @ s[f"{name}.se_block.fc2.weight"].flatten(1).T)).exp())
        x = x * scale[:, :, None, None]
    return x


def norm(s: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight, bias, mean, var = (s[f"{name}.{part}"][None, :, None, None] for part in PARTS)
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def slopes(s: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return torch.where(x >= 0, x, x * s[f"{name}.weight"][None, :, None, None])


PARTS = ("weight", "bias", "running_mean", "running_var")
