"""ONNX graphs back as backbones: what torch's two exporters write, and what others publish."""

from __future__ import annotations

import random
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from recognition.backbones import BACKBONES
from recognition.export import export_onnx
from recognition.from_onnx import read_onnx
from recognition.model import FaceModel
from recognition.weights import load_strictly, read_weights
from tests.recognition.from_onnx.networks import (
    PICTURES,
    Inside,
    as_published,
    changed,
    embeddings,
    made,
    near,
)
from tools import convert_checkpoint


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
