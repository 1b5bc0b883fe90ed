"""Files in float16 and int8: what stays in float32, what they tell of themselves, what they cost on pairs."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from adapters._layers import LoRAConv2d
from recognition.bench.onnx import _made as gated_network
from recognition.data.pairs import PairSet, write_bin
from recognition.export import (
    MANIFEST,
    Calibration,
    OnnxModel,
    draw,
    export_onnx,
    loss_on_pairs,
    of_pixels,
    open_pairs,
    sides_of,
)
from recognition.export.agreement import LIMITS, example
from recognition.export.calibration import _over_people
from recognition.export.graph import to_graph
from recognition.export.lighter import lighten
from recognition.model import FaceModel
from tests.iqa.scorers import pictures
from tests.recognition.test_export import as_network_input, gated, run, torch_embedding
from tests.tiny import Tiny

SIDES = (112, 28, 7)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return of_pixels(torch.from_numpy(pictures(24, seed=3)), SIDES)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory, calibration: Calibration) -> tuple[FaceModel, Path]:
    model, path = gated(), tmp_path_factory.mktemp("int8") / "face_int8.onnx"
    export_onnx(model, path, precision="int8", calibration=calibration)
    return model, path


class Slopes(nn.Module):
    """PReLU by channel, a depth-wise convolution and a projection."""

    input_size, embedding_size = 16, 4

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.slopes = nn.Conv2d(3, 4, 3, 2), nn.PReLU(4)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        with torch.no_grad():
            self.slopes.weight.copy_(torch.tensor([-0.5, 0.0, 0.25, 1.5]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.depthwise(self.slopes(self.stem(image))).mean(dim=(2, 3))


def card(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}


def test_half_keeps_scorer_and_gate_whole(tmp_path: Path) -> None:
    model = gated()
    whole = export_onnx(model, tmp_path / "face.onnx")
    half = export_onnx(model, tmp_path / "fp16" / "face_fp16.onnx", precision="fp16")
    assert half.cosine > 0.999 and 1e-5 < half.difference < 0.02 and half.size < whole.size
    graph = onnx.load(str(half.path)).graph
    onnx.checker.check_model(str(half.path))
    types = {one.type.tensor_type.elem_type for one in (*graph.input, *graph.output)}
    assert types == {TensorProto.FLOAT}
    kinds = {
        one.name: one.type.tensor_type.elem_type
        for one in onnx.shape_inference.infer_shapes(onnx.load(str(half.path))).graph.value_info
    }
    scored = [node for node in graph.node if node.op_type in ("Abs", "Log", "ReduceMean")]
    assert scored and {kinds[node.output[0]] for node in scored} == {TensorProto.FLOAT}
    worked = [
        node for node in graph.node if node.op_type in ("MatMul", "Conv", "Gemm", "LayerNormalization", "Softmax")
    ]
    found = Counter(kinds.get(node.output[0]) for node in worked)
    assert found[TensorProto.FLOAT] == 3 and found[TensorProto.FLOAT16] > 8, "three products of the scorer"
    assert card(half.path)["precision"] == "fp16" and card(whole.path)["precision"] == "fp32"
    assert (half.path.parent / MANIFEST).is_file()


def test_numbers_that_float16_has_not_are_refused(tmp_path: Path) -> None:
    model = FaceModel(Slopes()).eval()
    with torch.no_grad():
        model.backbone.stem.weight.mul_(1e6)
    with pytest.raises(RuntimeError, match=r"65,504, where float16 ends, would do this: take fp32"):
        export_onnx(model, tmp_path / "face.onnx", precision="fp16")
    assert not list(tmp_path.iterdir())


def test_int8_holds_integers_and_the_gate_does_not(int8: tuple[FaceModel, Path], calibration: Calibration) -> None:
    model, path = int8
    graph = onnx.load(str(path)).graph
    weights = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    signed = [value for value in weights.values() if value.dtype == np.int8 and value.ndim > 1]
    assert len(signed) >= 8
    made = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and weights.get(node.input[0], np.float32(0)).dtype == np.int8:
            assert weights[node.input[1]].size > 1, "a scale for each output channel"
    assert not [n for n in graph.node if n.op_type in ("Abs", "Log") and made[n.input[0]].op_type == "DequantizeLinear"]
    image = calibration.images[:6]
    np.testing.assert_allclose(run(path, input=image), run(path, input=image))
    got, wanted = run(path, input=image), torch_embedding(model, image)
    cosine = (got * wanted).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(wanted, axis=1)
    assert LIMITS["int8"][0] < cosine.min() < 0.999999
    told = card(path)
    assert told["precision"] == "int8" and told["calibration_images"] == "24"
    assert json.loads(told["calibration_sides"]) == [*SIDES]
    assert told["calibration_sha256"] == calibration.fingerprint and len(calibration.fingerprint) == 64


def test_prelu_and_depthwise(tmp_path: Path, calibration: Calibration) -> None:
    """PReLU is spelt out and stays the same; a depth-wise convolution stays in float32."""
    model = FaceModel(Slopes()).eval()
    report = export_onnx(model, tmp_path / "face.onnx")
    assert report.difference < 1e-5
    counts = Counter(node.op_type for node in onnx.load(str(report.path)).graph.node)
    assert counts["PRelu"] == 0 and counts["Relu"] == 1
    small = export_onnx(model, tmp_path / "8" / "face.onnx", precision="int8", calibration=calibration)
    graph = onnx.load(str(small.path)).graph
    made = {name: node.op_type for node in graph.node for name in node.output}
    convolutions = [made.get(node.input[1]) for node in graph.node if node.op_type == "Conv"]
    assert convolutions == ["DequantizeLinear", None]


def test_shapes_are_fixed_and_nothing_else_changes() -> None:
    model = gated()
    graph = to_graph(model, False, 18, "trace")
    before = Counter(node.op_type for node in graph.graph.node)
    plain = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    lighten(graph, [example(model, batch, False) for batch in (2, 5)])
    after = Counter(node.op_type for node in graph.graph.node)
    assert after["Identity"] == 0 and after["Shape"] < before["Shape"] / 3 and after["MatMul"] == before["MatMul"]
    light = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 4):
        image = as_network_input(pictures(batch, seed=5))
        np.testing.assert_allclose(
            light.run(None, {"input": image})[0], plain.run(None, {"input": image})[0], rtol=1e-5
        )


def test_gated_convolutions_are_weighed_by_maps_that_other_convolutions_made(tmp_path: Path) -> None:
    """So that onnxruntime stays in its layout for convolutions; the embeddings are the same."""
    model = gated_network(Namespace(backbone="mobilefacenet_nano", adapter="dual_lora rank=8", scorer="sharpness"))
    layers = [layer for layer in model.modules() if isinstance(layer, LoRAConv2d)]
    graph = to_graph(model, False, 18, "trace")
    plain = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    lighten(graph, [example(model, batch, False) for batch in (2, 5)])
    makers = {name: node.op_type for node in graph.graph.node for name in node.output}
    weighed = [node for node in graph.graph.node if node.op_type == "Mul" and node.name.startswith("/model/backbone")]
    maps = [{makers.get(name) for name in node.input} == {"Conv"} for node in weighed]
    assert len(layers) > 25 and sum(maps) == len(layers)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
    light = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    assert kinds["ReorderOutput"] < 5, "layers do not leave the layout"
    for batch in (1, 3):
        image = as_network_input(pictures(batch, seed=6))
        one, other = (session.run(None, {"input": image})[0] for session in (plain, light))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_refusals(tmp_path: Path, calibration: Calibration) -> None:
    model, path = gated(), tmp_path / "face.onnx"
    for options, words in (
        ({"precision": "int4"}, "unknown precision 'int4'"),
        ({"precision": "int8"}, "--calibrate RECORDS"),
        ({"precision": "fp16", "calibration": calibration}, "fp16 needs no calibration"),
        ({"precision": "int8", "calibration": calibration, "two_inputs": True}, "calibrated by pictures alone"),
    ):
        with pytest.raises(ValueError, match=words):
            export_onnx(model, path, **options)
    noise = np.random.default_rng(0).normal(0, 1e-3, calibration.images.shape).astype(np.float32)
    useless = Calibration(noise, "", (112,))
    far = export_onnx(FaceModel(Tiny()).eval(), path, precision="int8", calibration=useless)
    assert far.cosine > 0.9, "it is judged by the faces that it was calibrated on"
    with pytest.raises(ValueError, match=r"there is no .*faces_pairs\.csv"):
        open_pairs(tmp_path / "faces.rec")


def test_everyone_comes_before_anybody_a_second_time() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 1, 2, 9])
    chosen = _over_people(labels, 8, 0)
    assert sorted(labels[chosen[:4]]) == [0, 1, 2, 3] and len(set(chosen.tolist())) == 8
    assert sorted(labels[chosen[4:7]]) == [0, 2, 3] and np.array_equal(chosen, _over_people(labels, 8, 0))
    assert not np.array_equal(chosen, _over_people(labels, 8, 1))


def test_calibration_is_at_the_runs_resolutions() -> None:
    config = {"degradation": {"share": 0.5, "sides": [7, 28]}, "evaluation": {"low_res": [112, [112, 16]]}}
    assert sides_of(config) == (112, 28, 16, 14, 7)
    assert sides_of({"degradation": {"share": 0.0, "sides": [7, 28]}, "evaluation": {"low_res": [56]}}) == (112, 56)


def test_loss_on_pairs_is_that_of_the_same_pairs(int8: tuple[FaceModel, Path], tmp_path: Path) -> None:
    import cv2

    model, path = int8
    encoded = [cv2.imencode(".png", face)[1].tobytes() for face in pictures(24, seed=9)]
    first = np.arange(40) % 24
    pairs = PairSet("p", encoded, first, (first * 7 + 5) % 24, np.arange(40) % 2 == 0)
    write_bin(tmp_path / "pairs.bin", pairs)
    found = loss_on_pairs(model, path, open_pairs(tmp_path / "pairs.bin", (112, 14)), resamples=50)
    assert [one.side for one in found] == ["112", "14"]
    for one in found:
        assert one.difference == pytest.approx(one.file - one.torch) and one.low <= one.difference <= one.high
    image = torch.from_numpy(as_network_input(pictures(2, seed=1)))
    np.testing.assert_array_equal(OnnxModel(path).embed(image).numpy(), run(path, input=image.numpy()))


def test_too_few_records_are_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        draw(tmp_path / "nowhere.rec", 32, SIDES)
