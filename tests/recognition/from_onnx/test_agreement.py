"""What of a graph is taken as the same network, with which words, and what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from recognition.export import export_onnx
from recognition.from_onnx import read_onnx
from recognition.from_onnx.compare import agreement
from recognition.model import FaceModel
from tests.recognition.from_onnx.networks import PICTURES, as_published, changed, embeddings, made, near

GUESSED = "the file does not tell colours or range: taken as RGB, (x - 127.5) / 127.5; --colour-order BGR changes it"


def last_norm(model: onnx.ModelProto, variance: float) -> None:
    """Embeddings of which all pictures have most in common: the bias of the last norm."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    norm = [node for node in model.graph.node if node.op_type == "BatchNormalization"][-1]
    for name, value in zip(norm.input[2:], (1.0, 0.0, variance), strict=True):
        like = numpy_helper.to_array(weights[name])
        weights[name].CopyFrom(numpy_helper.from_array(np.full_like(like, value), name))


def stride_earlier(model: onnx.ModelProto) -> None:
    """Of the third stage, in the first convolution of the branch in place of the second."""
    sides = [
        next(one for one in node.attribute if one.name == "strides")
        for node in model.graph.node
        if node.op_type == "Conv"
        and [*next(one for one in node.attribute if one.name == "kernel_shape").ints] == [3, 3]
    ]
    second = [number for number, one in enumerate(sides) if [*one.ints] == [2, 2]][2]
    sides[second].ints[:], sides[second - 1].ints[:] = [1, 1], [2, 2]


def test_a_large_common_part_hides_nothing(published: tuple[nn.Module, Path], tmp_path: Path) -> None:
    def other(model: onnx.ModelProto, variance: float) -> None:
        last_norm(model, variance)
        stride_earlier(model)

    same = changed(published[1], tmp_path / "same.onnx", lambda model: last_norm(model, 1e5))
    assert "of what differs between pictures" in read_onnx(same, "r18").note
    words = r"other embeddings: .* lowest cosine is (1\.0|0\.99999)\d+, .*, and -?0\.\d+ and .*differs"
    with pytest.raises(ValueError, match=words):
        read_onnx(changed(published[1], tmp_path / "other.onnx", lambda model: other(model, 1e5)), "r18")
    with pytest.raises(ValueError, match=r"nearly the same embedding in both \(\d\.\de-\d\d of its length apart"):
        read_onnx(changed(published[1], tmp_path / "nothing.onnx", lambda model: other(model, 1e7)), "r18")


def test_what_is_compared() -> None:
    draw = np.random.default_rng(0)
    ours = draw.normal(size=(6, 16))
    common = np.full(16, 30.0)
    assert agreement(ours + common, ours + common + 1e-6).holds
    wrong = agreement(0.02 * ours + common, 0.02 * (ours + 0.3 * draw.normal(size=ours.shape)) + common)
    assert wrong.cosine > 0.99999 and wrong.difference < 1e-3 and wrong.apart_cosine < 0.99 and not wrong.holds
    flat = agreement(ours * 1e-6 + common, ours * 1e-6 + common)
    assert not flat.holds and "nothing shows" in flat.fault
    one = ours.copy()
    one[3] = draw.normal(size=16)
    assert not agreement(ours * [[9e3], [1], [1], [1], [1], [1]], one * [[9e3], [1], [1], [1], [1], [1]]).holds
    unit = 64 * ours / np.linalg.norm(ours, axis=1, keepdims=True)
    told = agreement(unit, ours)
    assert told.holds and told.normalised and told.factor == pytest.approx(64) and "64 times as long" in str(told)
    assert agreement(ours * 3, ours).holds and not agreement(-ours, ours).holds
    assert agreement(ours, ours).factor == 1 and not agreement(ours * np.nan, ours).holds


class Scaled(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        found = self.network(image)
        return found / found.norm(dim=1, keepdim=True) * 64


def test_embeddings_of_another_length(tmp_path: Path) -> None:
    network = made("r18", embedding_size=24)
    found = read_onnx(as_published(Scaled(network).eval(), tmp_path / "long.onnx"), "r18")
    assert "both scaled to length 1" in found.note and "the graph's embeddings are 64 times as long" in found.note
    with torch.no_grad():
        near(embeddings(found, PICTURES), network(PICTURES / 127.5 - 1))


def test_what_the_file_does_not_tell_is_said(published: tuple[nn.Module, Path], tmp_path: Path) -> None:
    def tell(**told: str) -> str:
        def change(model: onnx.ModelProto) -> None:
            for key, value in told.items():
                model.metadata_props.add(key=key, value=value)

        return read_onnx(changed(published[1], tmp_path / "told.onnx", change), "r18").note

    assert GUESSED in tell()
    assert "not tell range: taken as (x - 127.5) / 127.5; against" in tell(colour_order="BGR")
    told = {"preprocessing": '{"mean": 127.5, "std": 127.5}'}
    assert "not tell colours: taken as RGB; --colour-order BGR changes it; against" in tell(**told)
    assert "not tell" not in tell(**told, colour_order="RGB")
    said = read_onnx(published[1], "r18", "BGR")
    assert "not tell range: taken as (x - 127.5) / 127.5; against" in said.note and said.card["colour_order"] == "BGR"


def test_half_precision(published: tuple[nn.Module, Path], tmp_path: Path) -> None:
    def halve(model: onnx.ModelProto) -> None:
        """The weights of convolutions, made float32 again before use."""
        convolutions = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
        for tensor in model.graph.initializer:
            if tensor.name in convolutions:
                name, value = tensor.name, numpy_helper.to_array(tensor).astype(np.float16)
                tensor.CopyFrom(numpy_helper.from_array(value, f"{name}.half"))
                model.graph.node.insert(0, helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))

    def narrow(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16

    assert (
        "kept as float16, and come as float32"
        in read_onnx(changed(published[1], tmp_path / "half.onnx", halve), "r18").note
    )
    with pytest.raises(ValueError, match="takes float16 pictures; export with float32 inputs"):
        read_onnx(changed(published[1], tmp_path / "narrow.onnx", narrow), "r18")


@pytest.mark.parametrize("spelt", [False, True])
def test_another_eps_in_layer_norms(tmp_path: Path, spelt: bool) -> None:
    network = made("vit_nano")
    norms = [one for one in network.modules() if isinstance(one, nn.LayerNorm)]
    kept = norms[0].eps
    for norm in norms[1:]:
        norm.eps = kept * 0.5
    if spelt:
        as_published(network, tmp_path / "eps.onnx", opset=14)
    else:
        export_onnx(FaceModel(network).eval(), tmp_path / "eps.onnx")
    note = read_onnx(tmp_path / "eps.onnx", "vit_nano").note
    words = (
        f"{len(norms) - 1} layer norms add {kept * 0.5:.3g} to the variance (eps) where the backbone's add {kept:.3g}"
    )
    assert words in note


def test_as_insightface_publishes_its_mobile_network(tmp_path: Path) -> None:
    """Its graph: norms folded into convolutions, slopes (C, 1, 1), a norm last, no metadata."""
    network = made("mbf", embedding_size=24)
    path = as_published(network, tmp_path / "w600k_mbf.onnx")
    model = onnx.load(str(path))
    shapes = {tensor.name: [*tensor.dims] for tensor in model.graph.initializer}
    assert all(shapes[node.input[1]][1:] == [1, 1] for node in model.graph.node if node.op_type == "PRelu")
    assert model.graph.node[-1].op_type == "BatchNormalization"
    found = read_onnx(path)
    assert (found.name, found.arguments) == ("mbf", {"embedding_size": 24})
    assert "batch norms were folded" in found.note and GUESSED in found.note
    with torch.no_grad():
        near(embeddings(found, PICTURES), network(PICTURES / 127.5 - 1))
