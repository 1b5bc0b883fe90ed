"""Pictures and weight files for the scorers' tests. The files are made here: small ones that behave as real ones do."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from iqa import SCORERS
from iqa._model import write_fitted
from iqa._scene_statistics import SceneStatistics
from iqa.brisque import grey_levels, scale
from iqa.landmark_forest import FEATURES
from tests.tiny import Tiny

MODEL_SCORERS = ("attn_fiqa", "cr_fiqa", "ex_fiqa", "feature_norm", "recognizability", "ser_fiq")
FITTED = ("cr_fiqa", "ex_fiqa", "recognizability")
LADDER = (112, 56, 28, 14, 7)  # pixels, best first


def pictures(n: int, seed: int = 0) -> np.ndarray:
    """Detail at every scale, as faces have: uint8 (n, 112, 112, 3)."""
    rng = np.random.default_rng(seed)
    total = np.full((n, 112, 112, 3), 127.0, np.float32)
    for side, height in ((4, 40.0), (7, 25.0), (14, 16.0), (28, 12.0), (56, 9.0), (112, 6.0)):
        for picture in total:
            grid = rng.normal(0, height, (side, side, 3)).astype(np.float32)
            picture += cv2.resize(grid, (112, 112), interpolation=cv2.INTER_CUBIC)
    return total.clip(0, 255).astype(np.uint8)


def reduced(images: np.ndarray, side: int) -> np.ndarray:
    """Down to `side` pixels by area and back by bicubic interpolation."""
    if side == images.shape[1]:
        return images
    full = images.shape[1:3]
    small = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack([cv2.resize(image, full, interpolation=cv2.INTER_CUBIC) for image in small])


@contextmanager
def modules(stand_ins: Mapping[str, object]) -> Iterator[None]:
    """Stand-ins for modules; unlike after mock.patch.dict, what is imported meanwhile stays imported."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_ins.items():
            patch.setitem(sys.modules, name, module)
        yield


def as_input(images: np.ndarray) -> Tensor:
    """uint8 (n, H, W, 3) -> float32 (n, 3, H, W) in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def make(name: str, folder: Path) -> nn.Module:
    """A scorer of that name, with generated files where it needs some."""
    if name == "cnniqa":
        return SCORERS.create(name, weights=str(cnniqa_file(folder, "koniq")))
    if name == "onnx":
        return SCORERS.create(name, file=str(onnx_file(folder)))
    if name == "pyiqa":
        with modules({"pyiqa": pyiqa_stand_in()}):
            return SCORERS.create(name, metric="blur")
    if name == "brisque":
        weights, ranges = brisque_files(folder, "opencv")
        return SCORERS.create(name, weights=str(weights), ranges=str(ranges))
    if name == "landmark_forest":
        return SCORERS.create(name, file=str(forest_file(folder)))
    if name in ("cr_fiqa", "ex_fiqa", "recognizability"):
        scorer = SCORERS.create(name, weights=str(fitted_file(folder, name, tiny_base())))
    else:
        section = SCORERS.spell_out(name)
        scorer = SCORERS.create(section.pop("name"), **section)
    if scorer.needs == "model":
        scorer.bind(tiny_base())
    return scorer


def tiny_base() -> Tiny:
    """A frozen base, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return Tiny().eval().requires_grad_(False)


def fitted_file(folder: Path, name: str, base: nn.Module) -> Path:
    """What tools/fit_scorer.py would write for that scorer and base, of drawn numbers."""
    drawn = torch.randn(base.embedding_size, generator=torch.Generator().manual_seed(5))
    path = folder / f"{name}.safetensors"
    if name == "recognizability":
        write_fitted(path, name, {"centre": drawn}, base, {})
    else:
        write_fitted(path, "cr_fiqa", {"weight": drawn, "bias": torch.tensor(0.5)}, base, {})
    return path


def cnniqa_file(folder: Path, form: str) -> Path:
    """A CNNIQA whose figure is its strongest response to an edge; form live has it fall with that response."""
    channels = 3 if form == "koniq" else 1
    arrays = {
        "conv1.weight": np.zeros((50, channels, 7, 7), np.float32),
        "conv1.bias": np.zeros(50, np.float32),
        "fc1.weight": np.zeros((800, 100), np.float32),
        "fc1.bias": np.zeros(800, np.float32),
        "fc2.weight": np.eye(800, dtype=np.float32),
        "fc2.bias": np.zeros(800, np.float32),
        "fc3.weight": np.full((1, 800), 1.0 if form == "koniq" else -1.0, np.float32),
        "fc3.bias": np.zeros(1, np.float32),
    }
    arrays["conv1.weight"][0, :, 3, 3], arrays["conv1.weight"][0, :, 3, 2] = 1.0, -1.0
    arrays["fc1.weight"][0, 0], arrays["fc1.weight"][0, 50] = 1.0, -1.0  # maximum minus minimum
    path = folder / f"cnniqa_{form}.npz"
    np.savez(path, **arrays)
    return path


def onnx_file(
    folder: Path,
    shape: tuple[str | int, ...] = ("batch", 3, "height", "width"),
    weights: tuple[float, float, float] = (0.3, 0.6, 0.1),
    kind: int = TensorProto.FLOAT,
) -> Path:
    """A network whose one output `quality`, (B, 1), is the mean |difference to the left neighbour| of a grey picture.

    shape: (B, 3, H, W). weights: of the channels as they come in.
    """
    kernel = np.zeros((1, 3, 1, 2), np.float32)
    kernel[0, :, 0, 1] = weights
    kernel[0, :, 0, 0] = [-weight for weight in weights]
    numbers = helper.tensor_dtype_to_np_dtype(kind)
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["edges"]),
        helper.make_node("Abs", ["edges"], ["sizes"]),
        helper.make_node("ReduceMean", ["sizes", "axes"], ["quality"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "quality",
        [helper.make_tensor_value_info("input", kind, shape)],
        [helper.make_tensor_value_info("quality", kind, None)],
        [
            numpy_helper.from_array(kernel.astype(numbers), "kernel"),
            numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
        ],
    )
    path = folder / "quality.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def forest_file(folder: Path, **changes: np.ndarray) -> Path:
    """Two trees on landmarks: eyes near each other or not, and then the mouth's width; and one leaf alone."""
    tables = {
        "feature": np.array([[0, 0, 5, 0, 0], [0, 0, 0, 0, 0]]),
        "threshold": np.float32([[0.25, 0, 0.8, 0, 0], [0, 0, 0, 0, 0]]),
        "left": np.array([[1, 1, 3, 3, 4], [0, 1, 2, 3, 4]]),
        "right": np.array([[2, 1, 4, 3, 4], [0, 1, 2, 3, 4]]),
        "value": np.float32([[0, 0.2, 0, 0.6, 1.0], [0.5, 0, 0, 0, 0]]),
        "names": np.array(FEATURES),
    }
    path = folder / "forest.npz"
    np.savez(path, **{**tables, **changes})
    return path


class _Blur(nn.Module):
    """As pyiqa's InferenceModel: lower is better, (B, 1), [0, 1] and nothing beyond it."""

    lower_better = True
    score_range = "~0, ~100"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(10.0))

    def forward(self, target: Tensor) -> Tensor:
        assert target.min() > -1e-6 and target.max() < 1 + 1e-6
        return 100 - self.weight * target.diff(dim=3).abs().mean(dim=(1, 2, 3))[:, None]


def pyiqa_stand_in() -> ModuleType:
    """What the scorer pyiqa calls of that package: two names, one metric that looks at the picture alone."""

    def create_metric(metric_name: str, device: torch.device, pretrained_model_path: str | None = None) -> nn.Module:
        metric = _Blur().to(device)
        metric.made_of = (metric_name, pretrained_model_path)
        return metric

    stand_in = ModuleType("pyiqa")
    stand_in.create_metric = create_metric
    stand_in.list_models = lambda metric_mode=None: ["blur"] if metric_mode == "NR" else ["blur", "psnr"]
    return stand_in


def brisque_files(folder: Path, form: str) -> tuple[Path, Path]:
    """A machine whose vectors are sharp pictures, with negative coefficients, and blurred ones, with positive."""
    statistics = SceneStatistics(form)
    rungs = [statistics(grey_levels(as_input(reduced(pictures(2, seed=9), side)))) for side in LADDER]
    everything = torch.cat(rungs)
    ranges = torch.stack((everything.amin(0), everything.amax(0) + 1e-6))
    vectors = [scale(rung, ranges).numpy() for rung in rungs]
    coefficients = [np.full(len(rung), 5.0 * (i - 2)) for i, rung in enumerate(rungs)]
    return write_brisque(folder, np.concatenate(vectors), np.concatenate(coefficients), 0.02, -50.0, ranges.numpy())


def write_brisque(
    folder: Path, vectors: np.ndarray, coefficients: np.ndarray, gamma: float, rho: float, ranges: np.ndarray
) -> tuple[Path, Path]:
    """The two files in OpenCV's form."""
    rows = "\n".join(f"      - [ {_listed(vector)} ]" for vector in vectors)
    machine = folder / "machine.yml"
    machine.write_text(
        f"""%YAML:1.0
---
opencv_ml_svm:
   format: 3
   svmType: EPS_SVR
   kernel:
      type: RBF
      gamma: {gamma!r}
   var_count: 36
   sv_total: {len(vectors)}
   support_vectors:
{rows}
   decision_functions:
      -
         sv_count: {len(vectors)}
         rho: {rho!r}
         alpha: [ {_listed(coefficients)} ]
"""
    )
    bounds = folder / "ranges.yml"
    storage = cv2.FileStorage(str(bounds), cv2.FILE_STORAGE_WRITE)
    storage.write("range", ranges.astype(np.float32))
    storage.release()
    return machine, bounds


def _listed(values: np.ndarray) -> str:
    return ", ".join(repr(float(value)) for value in values)


def bound(name: str, base: nn.Module, folder: Path | None = None, **options: object) -> nn.Module:
    if name in FITTED:
        options["weights"] = str(fitted_file(folder, name, base))
    scorer = SCORERS.create(name, **options)
    scorer.bind(base)
    return scorer


def drawn(kind: type, **arguments: object) -> nn.Module:
    """A base whose norms and biases are not at their start."""
    base = kind(**arguments).eval().requires_grad_(False)
    for tensor in (*base.parameters(), *base.buffers()):
        if tensor.dim() == 1 and tensor.is_floating_point():
            tensor += 0.3 * torch.rand_like(tensor)
    return base


def embedding(base: nn.Module, image: Tensor) -> Tensor:
    size = base.input_size
    return base(F.interpolate(image * 2 - 1, size=(size, size), mode="bilinear", align_corners=False))
