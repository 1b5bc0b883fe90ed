"""One file that a client can run without this project: image in, embedding out, scorer and gate inside."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iqa import GateRange
from recognition import __version__
from recognition.data.augment import normalise
from recognition.data.degrade import level_of, low_res
from recognition.data.synthetic import SyntheticFaces
from recognition.model import FaceModel
from recognition.types import COLOUR_ORDER, IMAGE_SIZE

if TYPE_CHECKING:
    import onnx

BATCHES = (1, 2, 7)  # sizes at which the file is compared with torch; it is exported with 2
EXPORTERS = ("trace", "export")
LOWEST_COSINE = 0.9999
LARGEST_DIFFERENCE = 1e-3  # of the largest magnitude in the embeddings
MEAN = STD = 127.5  # x / 127.5 - 1 as clients write it
LARGEST_FILE = 2**31 - 2**24  # bytes; protobuf's limit is 2 GiB, and the graph itself needs some
MANIFEST = "manifest.json"
FACES, LADDER = 2, (112, 56, 28, 14, 7)  # painted faces, and the sides they are looked at


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, and how near it is to torch over all compared batches."""

    path: Path
    manifest: Path | None  # InsightFace's; None for two inputs, which its client does not feed
    size: int  # bytes
    cosine: float  # the lowest between an embedding of onnxruntime and the one of torch
    difference: float  # the largest, relative to the largest magnitude in the embeddings


def export_onnx(
    model: FaceModel,
    path: str | Path,
    *,
    two_inputs: bool = False,
    opset: int = 18,
    exporter: Literal["trace", "export"] = "trace",
    metadata: Mapping[str, str] | None = None,
) -> ExportReport:
    """Write `path`: "input" (B, 3, 112, 112) float32 RGB in [-1, 1] -> "embedding" (B, D), not normalised; any B.

    A model with gated layers scores the image inside the graph; with two_inputs the raw quality is a second input
    "score", (B,) or (B, k) float32, and only the quality gate stays inside. A model of another input size resizes
    inside. The file is kept only if onnxruntime agrees with torch at batches 1, 2 and 7. Beside a file of one input
    stands InsightFace's manifest.json.

    model: in eval mode, on any device. exporter: "trace" follows one example through the model, "export" goes through
    torch.export, ten times slower, for a model whose code branches. metadata: entries added to the file's own.
    Raises ValueError for a choice that the model does not allow, RuntimeError for a model in training mode, for a
    graph that cannot be exported and for one that disagrees: then nothing is written.
    """
    path = Path(path)
    if exporter not in EXPORTERS:
        raise ValueError(f"unknown exporter '{exporter}'; take one of {', '.join(EXPORTERS)}")
    _check(model, two_inputs)
    _check_place(path, two_inputs)
    graph = _graph(model, two_inputs, opset, exporter)
    _neutral_names(graph.graph)
    described = {**_describe(model, two_inputs), **(metadata or {})}
    for key, value in described.items():
        graph.metadata_props.add(key=key, value=value)
    content = graph.SerializeToString()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not two_inputs:
        _look_at_gates(model)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        unchecked = Path(folder) / path.name
        unchecked.write_bytes(content)
        cosine, difference = _compare(model, unchecked, two_inputs)
        manifest = None
        if not two_inputs:
            manifest = path.parent / MANIFEST
            (Path(folder) / MANIFEST).write_text(_manifest(path, content, model.backbone.embedding_size))
        os.replace(unchecked, path)
        if manifest is not None:
            os.replace(Path(folder) / MANIFEST, manifest)
    return ExportReport(path, manifest, len(content), cosine, difference)


def _check(model: FaceModel, two_inputs: bool) -> None:
    if any(module.training for module in model.modules()):
        raise RuntimeError("the model is in training mode, where its layers do something else: call model.eval() first")
    if two_inputs and not model.needs_gate:
        raise ValueError("this model has no gated layers, so a score would change nothing: export it with one input")
    if model.needs_gate and not two_inputs:
        if model.scorer is None:
            raise ValueError(
                "this model's layers need a gate, and it has no scorer to put into the graph: "
                "build it with one, or export it with two inputs (--two-inputs)"
            )
        if not model.scorer.exportable:
            raise ValueError(
                f"the scorer {_scorer_name(model.scorer)} cannot be exported{_obstacle(model.scorer)}: keep the score "
                "as a second input (--two-inputs) and compute it outside, or train with a scorer that can"
            )
    size = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    if size > LARGEST_FILE:
        raise ValueError(
            f"the model holds {size / 2**30:.2f} GiB, and one ONNX file at most 2 GiB: export a smaller backbone"
        )


@torch.no_grad()
def _look_at_gates(model: FaceModel) -> None:
    """Warn of a gate that is the same for painted faces of every resolution, as far as they stand for real ones."""
    if not model.needs_gate or model.scorer is None or model.scorer.needs == "landmarks":
        return
    device, gates = next(model.parameters()).device, GateRange()
    faces = torch.from_numpy(np.stack([face for face, _ in SyntheticFaces(FACES, 1)])).to(device)
    for side in LADDER:
        level = torch.full((len(faces),), level_of(side), device=device)
        gates.see(model.quality_gate(model.score(normalise(low_res(faces, side)), level=level)))
    if warning := gates.warning():
        warnings.warn(f"{warning} (seen: painted faces of {LADDER[0]} to {LADDER[-1]} px)", stacklevel=3)


def _obstacle(scorer: nn.Module) -> str:
    why = getattr(scorer, "export_obstacle", "")
    return f" ({why})" if why else ""


def _check_place(path: Path, two_inputs: bool) -> None:
    """A folder's manifest speaks of one recognition model: never let it speak of another one's file."""
    if path.suffix != ".onnx":
        raise ValueError(f"{path}: an exported model must end in .onnx, by which clients know it")
    manifest = path.parent / MANIFEST
    if not manifest.is_file():
        return
    try:
        described = json.loads(manifest.read_text())["tasks"]["recognition"]["file"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"{manifest} is no manifest of an exported model: choose another folder") from None
    if (described == path.name) == two_inputs:
        raise ValueError(
            f"{manifest} describes {described} as a model of one input: choose another "
            f"{'name' if two_inputs else 'folder'} than {path}"
        )


class _OneInput(nn.Module):
    def __init__(self, model: FaceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.embed(image)


class _TwoInputs(_OneInput):
    def forward(self, image: Tensor, score: Tensor) -> Tensor:
        return self.model.embed(image, score)


def _graph(model: FaceModel, two_inputs: bool, opset: int, exporter: str) -> onnx.ModelProto:
    """Both exporters gave equal figures for every backbone tried; tracing takes a tenth of the time.

    What tracing may fix by accident, a batch size or a branch, the comparison with torch finds.
    """
    import onnx

    wrapped = (_TwoInputs if two_inputs else _OneInput)(model).eval()
    names = ["input", "score"] if two_inputs else ["input"]
    common = {"opset_version": opset, "input_names": names, "output_names": ["embedding"], "verbose": False}
    example = _example(model, 2, two_inputs)
    with torch.no_grad(), _quiet():
        try:
            if exporter == "export":
                batch = torch.export.Dim("batch", min=1)
                shapes = {name: {0: batch} for name in (("image", "score") if two_inputs else ("image",))}
                return torch.onnx.export(wrapped, example, dynamo=True, dynamic_shapes=shapes, **common).model_proto
            file = io.BytesIO()
            axes = {name: {0: "batch"} for name in (*names, "embedding")}
            torch.onnx.export(wrapped, example, file, dynamo=False, dynamic_axes=axes, **common)
            return onnx.load_from_string(file.getvalue())
        except (torch.onnx.OnnxExporterError, RuntimeError) as error:
            raise RuntimeError(
                f"torch cannot write this model by exporter '{exporter}' at operator set {opset}; try exporter "
                f"'{'trace' if exporter == 'export' else 'export'}', or two inputs if it is the scorer: {error}"
            ) from error


def _neutral_names(graph: onnx.GraphProto, prefix: str = "node") -> None:
    """Number the nodes and drop what the exporter noted about this machine's source files.

    InsightFace's client takes nodes named Sub... and Mul... among the first eight for a preprocessing inside the graph.
    """
    graph.ClearField("metadata_props")
    for value in (*graph.value_info, *graph.input, *graph.output, *graph.initializer):
        value.ClearField("metadata_props")
    for number, node in enumerate(graph.node):
        node.name = f"{prefix}_{number}_{node.op_type}"
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    _neutral_names(inner, node.name)


def _describe(model: FaceModel, two_inputs: bool) -> dict[str, str]:
    """The file's own card: everything a client must know to feed it."""
    card = {
        "producer": "lrface",
        "lrface_version": __version__,
        "colour_order": COLOUR_ORDER,
        "preprocessing": json.dumps({"mean": MEAN, "std": STD}),
        "input_size": json.dumps([IMAGE_SIZE, IMAGE_SIZE]),
        "network_size": str(model.backbone.input_size),
        "embedding_size": str(model.backbone.embedding_size),
        "normalised": "false",
        "scorer": "none",
    }
    if model.needs_gate:
        gate = model.quality_gate
        card["scorer"] = "outside, input 'score'" if two_inputs else _scorer_name(model.scorer)
        card["quality_gate"] = f"{type(gate).__name__}({gate.extra_repr()})"
        for name, values in zip(("midpoint", "slope"), gate.now(), strict=True):
            card[name] = json.dumps(values.tolist())
    return card


def _scorer_name(scorer: nn.Module) -> str:
    return f"{type(scorer).__module__}.{type(scorer).__qualname__}({scorer.extra_repr()})"


def _compare(model: FaceModel, file: Path, two_inputs: bool) -> tuple[float, float]:
    """Lowest cosine and largest relative difference of onnxruntime to torch. RuntimeError where they disagree."""
    cosines, differences = [], []
    run = _runner(file)
    for batch in BATCHES:
        example = _example(model, batch, two_inputs)
        with torch.no_grad():
            wanted = model.embed(*example).double().cpu().numpy()
        got = run(*(value.cpu().numpy() for value in example)).astype(np.float64)
        if got.shape != wanted.shape:
            raise RuntimeError(f"onnxruntime gives embeddings {got.shape} and torch {wanted.shape}: nothing was kept")
        lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(wanted, axis=1)
        cosines.append(np.where(lengths > 0, (got * wanted).sum(axis=1) / np.maximum(lengths, 1e-30), 1.0).min())
        differences.append(np.abs(got - wanted).max() / max(np.abs(wanted).max(), 1e-30))
    cosine, difference = float(np.min(cosines)), float(np.max(differences))  # NaN stays NaN
    if not (cosine >= LOWEST_COSINE and difference <= LARGEST_DIFFERENCE):
        raise RuntimeError(
            f"onnxruntime disagrees with torch at batches {BATCHES}: cosine {cosine:.6f} (at least {LOWEST_COSINE} "
            f"wanted), relative difference {difference:.2e} (at most {LARGEST_DIFFERENCE} wanted): nothing was kept"
        )
    return cosine, difference


def _runner(file: Path) -> Callable[..., np.ndarray]:
    """Runs the file on arrays, one for each input. RuntimeError where onnxruntime refuses the file or the arrays."""
    import onnxruntime

    faults = onnxruntime.capi.onnxruntime_pybind11_state
    refusals = (
        faults.Fail,
        faults.InvalidArgument,
        faults.InvalidGraph,
        faults.NotImplemented,
        faults.RuntimeException,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it refuses is raised
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except refusals as error:
        raise RuntimeError(f"onnxruntime cannot open the graph: nothing was kept ({error})") from error
    names = [value.name for value in session.get_inputs()]

    def run(*arrays: np.ndarray) -> np.ndarray:
        try:
            return session.run(None, dict(zip(names, arrays, strict=True)))[0]
        except refusals as error:
            raise RuntimeError(
                f"onnxruntime cannot run the graph at batch {len(arrays[0])}: nothing was kept ({error})"
            ) from error

    return run


def _example(model: FaceModel, batch: int, two_inputs: bool) -> tuple[Tensor, ...]:
    """Pictures of falling detail, on whole grey levels as decoded ones, so that the gates differ; scores as well."""
    generator = torch.Generator().manual_seed(batch)
    device = next(model.parameters()).device
    pictures = []
    for i in range(batch):
        side = (112, 7, 28, 56, 14, 4, 20)[i % 7]
        coarse = torch.rand(1, 3, side, side, generator=generator)
        pictures.append(F.interpolate(coarse, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False))
    image = (torch.cat(pictures) * 255).round().to(device) / MEAN - 1
    if not two_inputs:
        return (image,)
    gate = model.quality_gate
    midpoint, slope = (getattr(gate, name, torch.tensor(value)) for name, value in (("midpoint", 0.0), ("slope", 1.0)))
    spread = torch.linspace(-0.45, 0.45, batch) if batch > 1 else torch.tensor([0.2])  # gates of 0.05 to 0.95
    if midpoint.dim():  # one midpoint for each of k scores
        spread = spread[:, None]
    return image, (midpoint.cpu() + spread / slope.cpu()).float().to(device)


def _manifest(path: Path, content: bytes, embedding_size: int) -> str:
    """InsightFace's model package, version 2: read where get_model is told model_task="recognition".

    The licence file it must name may be absent.
    """
    return json.dumps(
        {
            "manifest_version": 2,
            "model_id": re.sub(r"[^A-Za-z0-9._-]|^[^A-Za-z0-9]", "0", path.stem)[:128],
            "display_name": path.stem,
            "license": "MODEL.LICENSE",
            "tasks": {
                "recognition": {
                    "file": path.name,
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "preprocessing": {"mean": MEAN, "std": STD},
                    "preprocessing_version": "insightface-arcface-1",
                    "input_size": [IMAGE_SIZE, IMAGE_SIZE],
                    "embedding_dimension": embedding_size,
                }
            },
        },
        indent=2,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own news: operators of packages that are absent, deprecations inside torch."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
