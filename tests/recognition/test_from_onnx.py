"""ONNX graphs back as backbones: what torch's two exporters write, what others publish, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from adapters import ADAPTERS
from recognition.backbones import BACKBONES, iresnet, vit
from recognition.export import export_onnx
from recognition.from_onnx import FromOnnx, read_onnx
from recognition.gate import Gate
from recognition.model import FaceModel
from recognition.weights import load_strictly, read_weights
from tools import convert_checkpoint

PICTURES = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (3, 3, 112, 112))).float()  # RGB grey levels


@pytest.fixture(autouse=True, scope="module")
def small():
    """r18 of a block a stage and an eighth of the width, vit_nano of one block: everything else is theirs."""
    with pytest.MonkeyPatch.context() as patch:
        whole, tokens = iresnet.IResNet, vit.VisionTransformer
        patch.setattr(iresnet, "WIDTHS", (8, 16, 32, 64))
        patch.setattr(iresnet, "IResNet", lambda blocks, *rest: whole(tuple(min(one, 1) for one in blocks), *rest))
        patch.setattr(vit, "VisionTransformer", lambda width, depth, *rest, **more: tokens(width, 1, *rest, **more))
        yield


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
    torch.testing.assert_close(one, two, atol=2e-5 * two.abs().max().item(), rtol=0)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    network = made("r18", embedding_size=24)
    return network, as_published(network, tmp_path_factory.mktemp("onnx") / "w_r18.onnx")


def changed(path: Path, to: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(to))
    return to


@pytest.mark.parametrize(
    ("name", "arguments", "exporter"),
    [
        ("r18", {"embedding_size": 24}, "trace"),
        ("r18", {"embedding_size": 24}, "export"),
        ("mobilefacenet_y1", {}, "trace"),
        pytest.param("mbf", {"embedding_size": 24}, "trace", marks=pytest.mark.slow),
        ("vit_nano", {}, "trace"),
        pytest.param("vit_nano", {}, "export", marks=pytest.mark.slow),
        ("swin_nano", {}, "trace"),
        pytest.param("swin_nano", {}, "export", marks=pytest.mark.slow),
    ],
)
def test_our_own_exports(tmp_path: Path, name: str, arguments: dict, exporter: str) -> None:
    network = made(name, **arguments)
    export_onnx(FaceModel(network).eval(), tmp_path / "face.onnx", exporter=exporter)
    found = read_onnx(tmp_path / "face.onnx", name)
    assert (found.name, found.arguments) == (name, arguments)
    assert found.card == {"colour_order": "RGB", "image_range": [-1.0, 1.0]}
    assert "lowest cosine is 1.0000" in found.note
    with torch.no_grad():
        near(embeddings(found, PICTURES), FaceModel(network).eval().embed(PICTURES / 127.5 - 1))


def test_the_one_that_fits_is_found(tmp_path: Path) -> None:
    network = made("mobilefacenet_nano", embedding_size=24)
    found = read_onnx(as_published(network, tmp_path / "nano.onnx"))
    assert (found.name, found.arguments) == ("mobilefacenet_nano", {"embedding_size": 24})


def test_a_published_graph(published: tuple[nn.Module, Path]) -> None:
    """No metadata: InsightFace's client takes RGB by (x - 127.5) / 127.5."""
    network, path = published
    found = read_onnx(path, "r18")
    assert (found.name, found.arguments) == ("r18", {"embedding_size": 24})
    assert found.card == {"colour_order": "RGB", "image_range": [-1.0, 1.0]}
    own = network.state_dict()
    apart = ("layer1.0.bn1", "bn2", "features", "fc", "prelu")  # what no exporter folds is as it was, to the last bit
    for key, value in found.tensors.items():
        if key.startswith(apart):
            assert torch.equal(value, own[key]) or (key.endswith("var") and torch.allclose(value, own[key])), key
    assert "batch norms were folded" in found.note
    with torch.no_grad():
        near(embeddings(found, PICTURES), network(PICTURES / 127.5 - 1))


def test_the_order_in_the_file_does_not_matter(published: tuple[nn.Module, Path], tmp_path: Path) -> None:
    def shuffle(model: onnx.ModelProto) -> None:
        """Any order in which inputs come before outputs."""
        nodes, known, draw = list(model.graph.node), {one.name for one in model.graph.initializer}, random.Random(0)
        known |= {value.name for value in model.graph.input}
        model.graph.ClearField("node")
        while nodes:
            ready = [one for one in nodes if all(not name or name in known for name in one.input)]
            node = draw.choice(ready)
            nodes.remove(node)
            known.update(node.output)
            model.graph.node.append(node)

    _, path = published
    other = read_onnx(changed(path, tmp_path / "mixed.onnx", shuffle), "r18")
    first = read_onnx(path, "r18")
    assert all(torch.equal(value, other.tensors[key]) for key, value in first.tensors.items())


class Inside(nn.Module):
    """A network that normalises its input itself, as InsightFace's MXNet models do, and its embedding too."""

    def __init__(self, network: nn.Module, normalise: bool) -> None:
        super().__init__()
        self.network, self.normalise = network, normalise

    def forward(self, image: Tensor) -> Tensor:
        found = self.network((image - 127.5) * 0.0078125)
        return found / found.norm(dim=1, keepdim=True) if self.normalise else found


@pytest.mark.parametrize("normalise", [False, True])
def test_preprocessing_inside(tmp_path: Path, normalise: bool) -> None:
    network = Inside(made("r18", embedding_size=24), normalise).eval()
    found = read_onnx(as_published(network, tmp_path / "mx.onnx", fixed=True), "r18")
    assert found.card["image_range"] == [-0.99609375, 0.99609375]
    assert ("both scaled to length 1" in found.note) == normalise
    with torch.no_grad():
        near(embeddings(found, PICTURES), network.network((PICTURES - 127.5) / 128))


def test_converted_and_read_it_takes_what_all_networks_take(tmp_path: Path) -> None:
    network = Inside(made("mobilefacenet_nano", embedding_size=24), False).eval()
    source, out = as_published(network, tmp_path / "mx.onnx"), tmp_path / "nano.safetensors"
    assert convert_checkpoint.main([str(source), str(out)]) == 0
    read = read_weights(out)
    found = BACKBONES.create(read.card["backbone"], **read.card["arguments"]).eval()
    load_strictly(found, read.tensors, out)
    with torch.no_grad():
        near(found(PICTURES / 127.5 - 1), network(PICTURES))


def test_layer_norms_spelt_out(tmp_path: Path) -> None:
    network = made("vit_nano")
    path = as_published(network, tmp_path / "vit.onnx", opset=14)
    assert "LayerNormalization" not in {node.op_type for node in onnx.load(str(path)).graph.node}
    with torch.no_grad():
        near(embeddings(read_onnx(path, "vit_nano"), PICTURES), network(PICTURES / 127.5 - 1))


def test_separate_norms_and_other_eps(tmp_path: Path) -> None:
    """Nothing folded, as from an export in which norms are kept; their eps goes into the variances."""
    network = made("r18", embedding_size=24)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.eps = 1e-3
    path = tmp_path / "kept.onnx"
    options = {"input_names": ["data"], "opset_version": 13, "dynamo": False}
    kept = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    torch.onnx.export(network, torch.zeros(1, 3, 112, 112), str(path), **options, **kept)
    found = read_onnx(path, "r18")
    assert "folded" not in found.note
    own = network.state_dict()["layer1.0.bn3.running_var"]
    torch.testing.assert_close(found.tensors["layer1.0.bn3.running_var"], own + (1e-3 - 1e-5), atol=1e-7, rtol=0)


def test_weights_in_files_beside(published: tuple[nn.Module, Path], tmp_path: Path) -> None:
    network, path = published
    place = tmp_path / "folder" / "net.onnx"
    place.parent.mkdir()
    model = onnx.load(str(path))
    onnx.save(model, str(place), save_as_external_data=True, location="net.data", size_threshold=64)
    assert (place.parent / "net.data").is_file()
    with torch.no_grad():
        near(embeddings(read_onnx(place, "r18"), PICTURES), network(PICTURES / 127.5 - 1))
    (tmp_path / "outside.data").write_bytes((place.parent / "net.data").read_bytes())
    (place.parent / "link.data").symlink_to(tmp_path / "outside.data")
    for other in ("../outside.data", str(tmp_path / "outside.data"), "link.data", "/etc/passwd", "lost.data", ""):
        model = onnx.load(str(place), load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = other if entry.key == "location" else entry.value
        (place.parent / "bad.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(ValueError, match="only files beside the graph are read"):
            read_onnx(place.parent / "bad.onnx")


def graph_of(nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    held = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in some]
        for some in (inputs, outputs)
    ]
    return helper.make_model(
        helper.make_graph(nodes, "graph", *values, held), opset_imports=[helper.make_opsetid("", 13)]
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
    for content in (b"", b"\x08", whole[: len(whole) // 2], b"\x00" * 64, b"PK\x03\x04" + b"a" * 99):
        (tmp_path / "cut.onnx").write_bytes(content)
        with pytest.raises(ValueError, match=r"cut\.onnx"):
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
