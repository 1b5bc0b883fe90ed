"""The exported file against torch, in onnxruntime and in InsightFace's own client."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import adapters
from adapters import ADAPTERS
from iqa import SCORERS, QualityGate
from recognition import __version__
from recognition.export import MANIFEST, ExportReport, export_onnx, neutral_names
from recognition.gate import Gate
from recognition.model import FaceModel
from tests.iqa.scorers import pictures, reduced
from tests.tiny import Tiny

FACES = np.concatenate([reduced(pictures(3, seed=i), side) for i, side in enumerate((112, 28, 7))])  # RGB uint8


def gated(scorer: nn.Module | None = None, gate: QualityGate | None = None) -> FaceModel:
    """A 16 px backbone with gated LoRA whose two branches differ a lot."""
    torch.manual_seed(0)
    handle = Gate()
    backbone = Tiny()
    adapters.attach(backbone, ADAPTERS.create("dual_lora"), handle)
    with torch.no_grad():
        for _, layer in adapters.layers(backbone):
            layer.lora_b.normal_(0, 0.5)
    return FaceModel(backbone, handle, gate or QualityGate(1.6, 0.6), scorer or SCORERS.create("sharpness")).eval()


def as_network_input(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(127.5) - np.float32(1)


def run(path: Path, **inputs: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, inputs)[0]


def torch_embedding(model: FaceModel, image: np.ndarray, *score: Tensor) -> np.ndarray:
    with torch.no_grad():
        return model.embed(torch.from_numpy(image), *score).numpy()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[FaceModel, ExportReport]:
    model = gated()
    path = tmp_path_factory.mktemp("package") / "face.onnx"
    return model, export_onnx(model, path, metadata={"run": "r7"})


def test_one_input_equals_torch_at_any_batch(exported: tuple[FaceModel, ExportReport]) -> None:
    model, report = exported
    assert report.cosine > 0.99999 and report.difference < 1e-4
    for batch in (1, 3, 9):
        image = as_network_input(FACES[:batch])
        wanted = torch_embedding(model, image)
        np.testing.assert_allclose(run(report.path, input=image), wanted, atol=1e-4 * np.abs(wanted).max())


def test_scorer_and_gate_are_inside(exported: tuple[FaceModel, ExportReport]) -> None:
    """The file follows each picture's own gate: it differs from any gate that is the same for all."""
    model, report = exported
    image = as_network_input(FACES)
    got = run(report.path, input=image)
    with torch.no_grad():
        gates = model.quality_gate(model.score(torch.from_numpy(image)))
    assert gates.min() < 0.3 and gates.max() > 0.7
    for fixed in (0.0, 0.5, 1.0):
        score = torch.full((len(image),), 1.6 + (fixed - 0.5) / 0.6)
        assert np.abs(got - torch_embedding(model, image, score)).max() > 0.05 * np.abs(got).max()


def test_the_file_describes_itself(exported: tuple[FaceModel, ExportReport]) -> None:
    _, report = exported
    graph = onnx.load(str(report.path))
    card = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(card["preprocessing"]) == {"mean": 127.5, "std": 127.5}
    assert card["colour_order"] == "RGB" and json.loads(card["input_size"]) == [112, 112]
    assert card["network_size"] == "16" and card["embedding_size"] == "12"
    assert card["scorer"] == "iqa.sharpness.Sharpness(log=True)"
    assert json.loads(card["midpoint"]) == pytest.approx(1.6) and json.loads(card["slope"]) == pytest.approx(0.6)
    assert card["lrface_version"] == __version__ and card["run"] == "r7"
    (given,), (taken,) = graph.graph.input, graph.graph.output
    assert (given.name, taken.name) == ("input", "embedding")
    dims = given.type.tensor_type.shape.dim
    assert dims[0].dim_param and [d.dim_value for d in dims[1:]] == [3, 112, 112]
    assert graph.opset_import[0].version == 18
    assert str(Path(__file__).parents[2]).encode() not in report.path.read_bytes(), "no path of this machine"


@pytest.mark.parametrize("task", [None, "recognition"])
def test_insightface_gets_the_same_embedding(exported: tuple[FaceModel, ExportReport], task: str | None) -> None:
    """None: the client guesses from names and shapes; "recognition": it reads the manifest and checks the sha256."""
    from insightface.model_zoo import get_model

    model, report = exported
    options = {"providers": ["CPUExecutionProvider"], **({"model_task": task} if task else {})}
    client = get_model(str(report.path), **options)
    assert client is not None and client.taskname == "recognition"
    assert client.input_size == (112, 112) and (client.input_mean, client.input_std) == (127.5, 127.5)
    bgr = [np.ascontiguousarray(face[..., ::-1]) for face in FACES]
    wanted = torch_embedding(model, as_network_input(FACES))
    np.testing.assert_allclose(client.get_feat(bgr), wanted, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_allclose(client.get_feat(bgr[4])[0], wanted[4], atol=1e-4 * np.abs(wanted).max())
    landmarks = np.float32([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]])  # already aligned
    face = type("Face", (), {"kps": landmarks, "embedding": None})()
    assert client.get(cv2.resize(bgr[0], (112, 112)), face).shape == (12,)


def test_manifest_holds_the_files_sha256(exported: tuple[FaceModel, ExportReport], tmp_path: Path) -> None:
    from insightface.model_zoo import get_model
    from insightface.model_zoo.package_manifest import load_model_package

    _, report = exported
    package = load_model_package(report.path.parent)
    assert package.name == "face" and package.task("recognition").metadata["embedding_dimension"] == 12
    (tmp_path / MANIFEST).write_text(report.manifest.read_text())
    (tmp_path / "face.onnx").write_bytes(report.path.read_bytes() + b"\0")
    with pytest.raises(RuntimeError, match="SHA-256 mismatch"):
        get_model(str(tmp_path / "face.onnx"), model_task="recognition", providers=["CPUExecutionProvider"])


def test_node_names_do_not_mislead_the_client() -> None:
    """Nodes named Sub and Mul among the first eight would make it leave out (x - 127.5) / 127.5."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    inner = helper.make_graph([helper.make_node("Mul", ["x", "x"], ["y"], name="Mul_7")], "then", [], value[1:])
    nodes = [
        helper.make_node("Sub", ["x", "x"], ["a"], name="Sub_0"),
        helper.make_node("Mul", ["a", "x"], ["b"], name="_mul1"),
        helper.make_node("If", ["b"], ["y"], name="_minus2", then_branch=inner, else_branch=inner),
    ]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:])
    neutral_names(graph)
    inside = [node.name for attribute in graph.node[2].attribute for node in attribute.g.node]
    names = [node.name for node in graph.node] + inside
    assert not [name for name in names if name.startswith(("Sub", "Mul", "_minus", "_mul"))]
    assert [node.op_type for node in graph.node] == ["Sub", "Mul", "If"] and len(set(names)) >= 4


def test_two_inputs_take_the_score_from_outside(tmp_path: Path) -> None:
    model = gated()
    report = export_onnx(model, tmp_path / "face.onnx", two_inputs=True)
    assert report.manifest is None and not (tmp_path / MANIFEST).exists()
    session = onnxruntime.InferenceSession(str(report.path), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["input", "score"]
    image, score = as_network_input(FACES[:5]), np.float32([-3.0, 1.0, 1.6, 2.0, 9.0])
    wanted = torch_embedding(model, image, torch.from_numpy(score))
    np.testing.assert_allclose(run(report.path, input=image, score=score), wanted, atol=1e-4 * np.abs(wanted).max())
    flat = run(report.path, input=image, score=np.full(5, 1.6, np.float32))
    assert np.abs(flat - wanted).max() > 0.05 * np.abs(wanted).max(), "the score matters"


def test_several_scores_per_image(tmp_path: Path) -> None:
    handle = Gate()
    model = FaceModel(_Mixture(handle), handle, QualityGate([0.0, 5.0], [1.0, 0.1]), None).eval()
    report = export_onnx(model, tmp_path / "face.onnx", two_inputs=True)
    image, score = as_network_input(FACES[:4]), np.random.default_rng(0).normal(0, 3, (4, 2)).astype(np.float32)
    wanted = torch_embedding(model, image, torch.from_numpy(score))
    np.testing.assert_allclose(run(report.path, input=image, score=score), wanted, atol=1e-5)


def test_a_model_without_gate_has_one_input_and_no_scorer(tmp_path: Path) -> None:
    model = FaceModel(Tiny()).eval()
    report = export_onnx(model, tmp_path / "plain.onnx")
    image = as_network_input(FACES[:4])
    wanted = torch_embedding(model, image)
    np.testing.assert_allclose(run(report.path, input=image), wanted, atol=1e-4 * np.abs(wanted).max())
    card = {entry.key: entry.value for entry in onnx.load(str(report.path)).metadata_props}
    assert card["scorer"] == "none" and "midpoint" not in card
    with pytest.raises(ValueError, match="no gated layers"):
        export_onnx(model, tmp_path / "two.onnx", two_inputs=True)


@pytest.mark.slow
def test_the_other_exporter_gives_the_same(tmp_path: Path) -> None:
    model = gated()
    image = as_network_input(FACES[:4])
    wanted = torch_embedding(model, image)
    report = export_onnx(model, tmp_path / "face.onnx", exporter="export")
    np.testing.assert_allclose(run(report.path, input=image), wanted, atol=1e-4 * np.abs(wanted).max())


def test_what_disagrees_is_not_kept(tmp_path: Path) -> None:
    kept = export_onnx(FaceModel(Tiny()).eval(), tmp_path / "face.onnx")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RuntimeError, match=r"disagrees with torch at batches .*nothing was kept"):
        export_onnx(FaceModel(_Branching()).eval(), kept.path)
    with pytest.raises(RuntimeError, match=r"embeddings \(2, 4\) and torch \(1, 4\): nothing was kept"):
        export_onnx(FaceModel(_FixedOutput()).eval(), kept.path)
    with pytest.raises(RuntimeError, match="cannot run the graph at batch 1: nothing was kept"):
        export_onnx(FaceModel(_FixedInput()).eval(), kept.path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before, "the earlier file stands untouched"


def test_a_scorer_that_cannot_be_exported_points_to_two_inputs(tmp_path: Path) -> None:
    model = gated(_Outside())
    with pytest.raises(ValueError, match=r"_Outside\(\) cannot be exported: .*--two-inputs"):
        export_onnx(model, tmp_path / "face.onnx")
    assert not list(tmp_path.iterdir())
    assert export_onnx(model, tmp_path / "face.onnx", two_inputs=True).path.is_file()
    model.scorer = None
    with pytest.raises(ValueError, match=r"has no scorer .*--two-inputs"):
        export_onnx(model, tmp_path / "face.onnx")


def test_refusals(tmp_path: Path) -> None:
    model = FaceModel(Tiny()).eval()
    with pytest.raises(RuntimeError, match=r"call model\.eval\(\) first"):
        export_onnx(FaceModel(Tiny()).train(), tmp_path / "face.onnx")
    with pytest.raises(ValueError, match=r"must end in \.onnx"):
        export_onnx(model, tmp_path / "face.pt")
    with pytest.raises(ValueError, match="unknown exporter 'dynamo'"):
        export_onnx(model, tmp_path / "face.onnx", exporter="dynamo")
    export_onnx(model, tmp_path / "face.onnx")
    with pytest.raises(ValueError, match=r"describes face\.onnx .*another folder"):
        export_onnx(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"describes face\.onnx .*another name"):
        export_onnx(gated(), tmp_path / "face.onnx", two_inputs=True)
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(ValueError, match="no manifest of an exported model"):
        export_onnx(model, tmp_path / "face.onnx")


def test_the_library_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture, recwarn: pytest.WarningsRecorder):
    export_onnx(gated(), tmp_path / "face.onnx")
    said = capfd.readouterr()
    assert said.out == "" and said.err == "" and not recwarn.list


class _Stem(nn.Module):
    input_size, embedding_size = 16, 4

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.stem(image).mean(dim=(2, 3))


class _Branching(_Stem):
    """Does something else while it is traced."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) * (1.01 if torch.jit.is_tracing() else 1.0)


class _FixedInput(_Stem):
    """Lets the example's batch into the graph, which then refuses another one."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image.reshape(int(image.shape[0]), 3, 16, 16))


class _FixedOutput(_Stem):
    """Lets the example's batch into the graph, which then always gives as many embeddings."""

    def forward(self, image: Tensor) -> Tensor:
        weight = torch.arange(1, int(image.shape[0]) + 1, dtype=torch.float32)
        return super().forward(image) * weight[:, None]


class _Mixture(_Stem):
    """Two gates per image."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) * self.gate.require().repeat_interleave(2, dim=1)


class _Outside(nn.Module):
    """A scorer that asks a program of its own."""

    needs = "image"
    range = (0.0, 1.0)
    exportable = False

    def forward(self, image: Tensor) -> Tensor:
        return torch.from_numpy(image.detach().cpu().numpy().mean(axis=(1, 2, 3)))
