"""ONNX graphs that give no backbone: a sentence each, whatever is wrong with them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from torch import nn

from adapters import ADAPTERS
from recognition.export import export_onnx
from recognition.from_onnx import read_onnx
from recognition.gate import Gate
from recognition.model import FaceModel
from tests.recognition.from_onnx.networks import (
    changed,
    graph_of,
    made,
)

ONE = np.ones(1)
WIDE = {"w": np.ones((8, 37632))}
PICTURE, EMBEDDING = [("data", [1, 3, 112, 112])], [("fc1", [1, 8])]
ROUND = [helper.make_node("Relu", ["c"], ["a"]), helper.make_node("Relu", ["a"], ["c"])]
FLAT = [
    helper.make_node("Flatten", ["a"], ["b"]),
    helper.make_node("Gemm", ["b", "w"], ["fc1"], transB=1),
]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            graph_of([], PICTURE, [(f"score_{n}", [1, 8]) for n in range(9)], {}),
            r"gives 9 \(score_0, .*, \.\.\.\).*a detector",
        ),
        (graph_of([], [*PICTURE, ("score", [1])], EMBEDDING, {}), r"takes 2 \(data, score\).*one picture"),
        (graph_of([], PICTURE, [("map", [1, 8, 4, 4])], {}), "one embedding"),
        (graph_of([helper.make_node("Flatten", ["data"], ["fc1"])], PICTURE, EMBEDDING, {}), "holds no layers"),
        (
            graph_of([helper.make_node("Flatten", ["data"], ["b"]), FLAT[1]], PICTURE, EMBEDDING, WIDE),
            "fits no backbone; the nearest is",
        ),
        (
            graph_of([helper.make_node("Sub", ["data", "m"], ["a"]), *FLAT], PICTURE, EMBEDDING,
                     WIDE | {"m": np.float32([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1)}),
            "scales the colours of a picture apart",
        ),
        (
            graph_of([helper.make_node("Softmax", ["data"], ["a"]), *FLAT], PICTURE, EMBEDDING, WIDE),
            "does more to the picture before its first layer",
        ),
        (
            graph_of([helper.make_node("Loop", ["", "", "data"], ["a"]), *FLAT], PICTURE, EMBEDDING, {}),
            "has an operator Loop",
        ),
        (
            graph_of([helper.make_node("QuantizeLinear", ["data", "s"], ["a"]), *FLAT], PICTURE, EMBEDDING, {"s": ONE}),
            "is quantised",
        ),
        (
            graph_of([*ROUND, *FLAT], PICTURE, EMBEDDING, {}),
            "go round in a circle",
        ),
        (
            graph_of([helper.make_node("Own", ["data"], ["a"], domain="some.where"), *FLAT], PICTURE, EMBEDDING, {}),
            "has an operator Own",
        ),
    ],
)  # fmt: skip
def test_other_graphs(tmp_path: Path, model: onnx.ModelProto, words: str) -> None:
    (tmp_path / "other.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=words) as told:
        read_onnx(tmp_path / "other.onnx", None if "nearest" in words else "r18")
    assert str(told.value).startswith(str(tmp_path))


def test_another_family_by_name(published: tuple[nn.Module, Path]) -> None:
    _, path = published
    with pytest.raises(
        ValueError, match=r"nearest is mbf: its layer 1 is a conv \[8, 3, 3, 3\] where a conv \[128, 3, 3, 3\]"
    ):
        read_onnx(path, "mbf")
    with pytest.raises(ValueError, match="unknown backbone"):
        read_onnx(path, "r19")


def test_the_same_layers_that_compute_something_else(published: tuple[nn.Module, Path], tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        add = next(node for node in model.graph.node if node.op_type == "Add")
        add.op_type = "Sub"

    with pytest.raises(ValueError, match=r"r18 has its layers, but gives other embeddings: .* cosine is -?0\.\d+"):
        read_onnx(changed(published[1], tmp_path / "sub.onnx", change), "r18")


def test_a_layer_more(published: tuple[nn.Module, Path], tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        last = model.graph.node[-1]
        out, last.output[0] = last.output[0], "before"
        model.graph.initializer.append(numpy_helper.from_array(np.full((1, 24), 2, np.float32), "scale"))
        model.graph.node.append(helper.make_node("Mul", ["before", "scale"], [out]))

    with pytest.raises(ValueError, match=r"after its last layer the graph has a scale \[24\]"):
        read_onnx(changed(published[1], tmp_path / "more.onnx", change), "r18")


def test_exports_with_adapters_inside(tmp_path: Path) -> None:
    import adapters

    backbone, gate = made("r18", embedding_size=24), Gate()
    adapters.attach(backbone, ADAPTERS.create("lora", rank=2), gate)
    export_onnx(FaceModel(backbone, gate).eval(), tmp_path / "lora.onnx")
    with pytest.raises(ValueError, match=r"fits no backbone.*an adapter inside is merged first"):
        read_onnx(tmp_path / "lora.onnx", "r18")
    gated = changed(
        tmp_path / "lora.onnx",
        tmp_path / "gated.onnx",
        lambda model: setattr(
            next(one for one in model.metadata_props if one.key == "scorer"), "value", "iqa.sharpness"
        ),
    )
    with pytest.raises(ValueError, match="an export with a quality gate"):
        read_onnx(gated)


def test_damaged_files(published: tuple[nn.Module, Path], tmp_path: Path) -> None:
    whole = published[1].read_bytes()
    for content in (b"\x08", whole[: len(whole) // 2], b"\x00" * 64, b"PK\x03\x04" + b"a" * 99):
        (tmp_path / "cut.onnx").write_bytes(content)
        with pytest.raises(ValueError, match=r"cut\.onnx"):
            read_onnx(tmp_path / "cut.onnx")
    (tmp_path / "cut.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match="an empty file"):
        read_onnx(tmp_path / "cut.onnx")
    with pytest.raises(ValueError, match="no such file"):
        read_onnx(tmp_path / "lost.onnx")

    def shorten(model: onnx.ModelProto) -> None:
        tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
        tensor.raw_data = tensor.raw_data[:-4]

    with pytest.raises(ValueError, match="a tensor in it is damaged"):
        read_onnx(changed(published[1], tmp_path / "short.onnx", shorten))


def test_constants_do_not_grow(tmp_path: Path) -> None:
    """A small file that asks for terabytes by broadcasting."""
    wide, high = np.ones((1, 2**20)), np.ones((2**20, 1))
    nodes = [
        helper.make_node("Add", ["wide", "high"], ["huge"]),
        helper.make_node("Add", ["data", "huge"], ["a"]),
        *FLAT,
    ]
    model = graph_of(nodes, PICTURE, EMBEDDING, {"wide": wide, "high": high, "w": np.ones((8, 37632))})
    (tmp_path / "bomb.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="does more to the picture"):
        read_onnx(tmp_path / "bomb.onnx", "r18")


def test_graphs_with_faults_in_them(published: tuple[nn.Module, Path], tmp_path: Path) -> None:
    """A sentence, or the same network: no other error whatever is broken."""
    draw, whole = random.Random(0), onnx.load(str(published[1]))
    for number in range(30):
        model = onnx.ModelProto()
        model.CopyFrom(whole)
        node, tensor = draw.choice(model.graph.node), draw.choice(model.graph.initializer)
        kind = number % 6
        if kind == 0:
            node.input[0] = draw.choice(model.graph.node).output[0]
        elif kind == 1:
            node.op_type = draw.choice(model.graph.node).op_type
        elif kind == 2:
            tensor.dims.append(draw.choice([-1, 0, 2, 2**40]))
        elif kind == 3:
            model.graph.node.remove(node)
        elif kind == 4:
            node.ClearField(draw.choice(["input", "output", "attribute"]))
        content = bytearray(model.SerializeToString())
        if kind == 5:
            name = node.op_type.encode()
            content = content.replace(name, b"\xff" + name[1:])
        (tmp_path / "fault.onnx").write_bytes(content)
        try:
            read_onnx(tmp_path / "fault.onnx", "r18")
        except ValueError as error:
            assert "fault.onnx" in str(error)
