"""Networks that graphs are made of, small but alive, and graphs as others publish them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from recognition.backbones import BACKBONES
from recognition.from_onnx import FromOnnx
from recognition.model import FaceModel
from recognition.weights import load_strictly

PICTURES = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (3, 3, 112, 112))).float()  # RGB grey levels


def made(name: str, **arguments: object) -> nn.Module:
    """In eval mode, with statistics, biases and slopes that are not what a new network has."""
    torch.manual_seed(1)
    network = BACKBONES.create(name, **arguments)
    for key, value in network.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif key.endswith(("running_mean", "bias")) or "embed" in key or "table" in key:
            value.normal_(0, 0.3)
        elif key.endswith("weight") and value.dim() == 1:
            value.uniform_(0.2, 1.2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.momentum = None  # the mean of all batches, of which there is one
    with torch.no_grad():  # without statistics of its own a deep network gives all pictures the same embedding
        FaceModel(network).train().embed(PICTURES / 127.5 - 1)
    return network.eval()


def as_published(network: nn.Module, path: Path, opset: int = 11, fixed: bool = False) -> Path:
    """As arcface_torch's converter writes it: the older exporter, no metadata."""
    axes = None if fixed else {"input.1": {0: "None"}}
    example = torch.zeros(1, 3, 112, 112)
    options = {"input_names": ["input.1"], "opset_version": opset, "dynamic_axes": axes, "dynamo": False}
    torch.onnx.export(network, example, str(path), **options)
    return path


def embeddings(found: FromOnnx, pixels: Tensor) -> Tensor:
    """Of the tensors for what their card says: pictures in its range."""
    network = BACKBONES.create(found.name, **found.arguments).eval()
    load_strictly(network, found.tensors, "found")
    low, high = found.card["image_range"]
    with torch.no_grad():
        return FaceModel(network).eval().embed(pixels / 255 * (high - low) + low)


def near(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, atol=5e-5 * two.abs().max().item(), rtol=0)


def changed(path: Path, to: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(to))
    return to


def graph_of(nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    held = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in some]
        for some in (inputs, outputs)
    ]
    return helper.make_model(
        helper.make_graph(nodes, "graph", *values, held), opset_imports=[helper.make_opsetid("", 13)]
    )


class Inside(nn.Module):
    """A network that normalises its input itself, as InsightFace's MXNet models do, and its embedding too."""

    def __init__(self, network: nn.Module, normalise: bool) -> None:
        super().__init__()
        self.network, self.normalise = network, normalise

    def forward(self, image: Tensor) -> Tensor:
        found = self.network((image - 127.5) * 0.0078125)
        return found / found.norm(dim=1, keepdim=True) if self.normalise else found
