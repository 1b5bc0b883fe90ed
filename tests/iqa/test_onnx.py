"""A quality network from a file: what is fed to it, what is read from it, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch.nn import functional as F

from iqa import SCORERS
from tests.iqa.scorers import as_input, onnx_file, pictures


def _wanted(image: torch.Tensor, weights: tuple[float, ...]) -> np.ndarray:
    """Mean |difference to the left neighbour| of the weighted sum of the channels, in float64."""
    grey = (image.double() * torch.tensor(weights, dtype=torch.float64).reshape(1, 3, 1, 1)).sum(dim=1)
    return grey.diff(dim=2).abs().mean(dim=(1, 2)).numpy()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return as_input(pictures(3))


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({}, (0.6, 1.2, 0.2)),  # (x - 0.5) / 0.5: differences twice as large
        ({"mean": 0.0, "std": 1.0}, (0.3, 0.6, 0.1)),
        ({"white": 255, "mean": 127.5, "std": 128}, tuple(255 / 128 * w for w in (0.3, 0.6, 0.1))),
        ({"colour": "BGR", "std": [0.1, 0.2, 0.4]}, (0.1 / 0.4, 0.6 / 0.2, 0.3 / 0.1)),
    ],
)
def test_what_the_network_sees(
    tmp_path: Path, images: torch.Tensor, settings: dict[str, object], weights: tuple[float, ...]
) -> None:
    scorer = SCORERS.create("onnx", file=str(onnx_file(tmp_path)), **settings)
    np.testing.assert_allclose(scorer(images).numpy(), _wanted(images, weights), rtol=1e-5)


def test_sign_and_range(tmp_path: Path, images: torch.Tensor) -> None:
    file = str(onnx_file(tmp_path))
    falling = SCORERS.create("onnx", file=file, higher_is_better=False, low=10, high=80)
    assert torch.equal(falling(images), -SCORERS.create("onnx", file=file)(images))
    assert falling.range == (-80.0, -10.0)
    with pytest.raises(ValueError, match=r"low=1\.0 below high=1\.0"):
        SCORERS.create("onnx", file=file, low=1.0, high=1.0)


@pytest.mark.parametrize("shape", [(1, 3, "h", "w"), ("b", 3, 48, 56), (1, 3, 112, 112)])
def test_fixed_batches_and_sizes(tmp_path: Path, images: torch.Tensor, shape: tuple[str | int, ...]) -> None:
    scorer = SCORERS.create("onnx", file=str(onnx_file(tmp_path, shape)))
    seen = images if shape[2] in ("h", 112) else F.interpolate(images, (48, 56), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(scorer(images).numpy(), _wanted(seen, (0.6, 1.2, 0.2)), rtol=1e-5)
    assert scorer(images[:0]).shape == (0,)


def test_size_is_for_files_that_leave_it_open(tmp_path: Path, images: torch.Tensor) -> None:
    scorer = SCORERS.create("onnx", file=str(onnx_file(tmp_path)), size=60)
    seen = F.interpolate(images, (60, 60), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(scorer(images).numpy(), _wanted(seen, (0.6, 1.2, 0.2)), rtol=1e-5)
    with pytest.raises(ValueError, match=r"takes 48x56 pixels and scorer\.size is 48"):
        SCORERS.create("onnx", file=str(onnx_file(tmp_path, ("b", 3, 48, 56))), size=48)


def test_channels_last_and_half_precision(tmp_path: Path, images: torch.Tensor) -> None:
    half = SCORERS.create("onnx", file=str(onnx_file(tmp_path, kind=TensorProto.FLOAT16)))
    np.testing.assert_allclose(half(images).numpy(), _wanted(images, (0.6, 1.2, 0.2)), rtol=1e-2)
    assert half(images).dtype == torch.float32
    file = tmp_path / "last.onnx"
    nodes = [
        helper.make_node("ReduceMax", ["input", "axes"], ["most"], keepdims=0),
        helper.make_node("Gather", ["most", "first"], ["quality"], axis=1),
    ]
    fixed = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("first", TensorProto.INT64, [1], [0]),
    ]
    _save(file, nodes, [("input", ("b", "h", "w", 3))], ["quality"], fixed)
    red = SCORERS.create("onnx", file=str(file), layout="NHWC", mean=0.0, std=1.0)
    assert torch.equal(red(images), images[:, 0].amax(dim=(1, 2)))
    with pytest.raises(ValueError, match=r"is tensor\(float\) \['b', 'h', 'w', 3\]; wanted .* \(B, 3, H, W\)"):
        SCORERS.create("onnx", file=str(file))


def _save(
    file: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[tuple[str, tuple[str | int, ...]]],
    outputs: list[str],
    fixed: list[onnx.TensorProto] | None = None,
) -> None:
    graph = helper.make_graph(
        nodes,
        "quality",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        fixed or [],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), file)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'file', and none is named; .*scorer\.name=onnx:FILE"):
        SCORERS.create("onnx")
    with pytest.raises(ValueError, match=r"there is no file .*absent\.onnx"):
        SCORERS.create("onnx", file=str(tmp_path / "absent.onnx"))
    (tmp_path / "damaged.onnx").write_bytes(b"\x08\x01damaged")
    with pytest.raises(ValueError, match=r"onnxruntime cannot open .*damaged\.onnx"):
        SCORERS.create("onnx", file=str(tmp_path / "damaged.onnx"))


def test_other_inputs_and_outputs_are_refused(tmp_path: Path, images: torch.Tensor) -> None:
    file, picture = tmp_path / "other.onnx", ("b", 3, "h", "w")
    _save(file, [helper.make_node("Add", ["a", "b"], ["c"])], [("a", picture), ("b", picture)], ["c"])
    with pytest.raises(ValueError, match=r"has 2 inputs \(a .*, b .*\); wanted one"):
        SCORERS.create("onnx", file=str(file))
    with pytest.raises(ValueError, match="with a batch of 1 or open"):
        SCORERS.create("onnx", file=str(onnx_file(tmp_path, (8, 3, 112, 112))))
    flat = [helper.make_node("Flatten", ["a"], ["many"]), helper.make_node("Shape", ["a"], ["sides"])]
    mean = helper.make_node("ReduceMean", ["many", "axes"], ["one"], keepdims=0)
    axes = [helper.make_tensor("axes", TensorProto.INT64, [1], [1])]
    _save(file, [flat[0], mean], [("a", picture)], ["many", "one"], axes)
    with pytest.raises(ValueError, match=r"has 2 outputs; set scorer\.output to one of many, one"):
        SCORERS.create("onnx", file=str(file))
    with pytest.raises(ValueError, match=r"has no output 'two'; set scorer\.output to one of many, one"):
        SCORERS.create("onnx", file=str(file), output="two")
    with pytest.raises(ValueError, match=r"output 'many' .* is \(2, 37632\) for 2 images; wanted one figure per image"):
        SCORERS.create("onnx", file=str(file), output="many")
    scorer = SCORERS.create("onnx", file=str(file), output="one", mean=0, std=1)
    torch.testing.assert_close(scorer(images), images.mean(dim=(1, 2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layout": "CHW"}, "unknown layout 'CHW'; take one of NCHW, NHWC"),
        ({"colour": "GRB"}, "unknown colour 'GRB'; take one of RGB, BGR"),
        ({"std": [1.0, 0.0, 1.0]}, r"std must be one number or three, not 0, got \[1.0, 0.0, 1.0\]"),
        ({"mean": [0.5, 0.5]}, r"mean must be one number or three, got \[0.5, 0.5\]"),
        ({"threads": -1}, "threads=-1 must be 0 or more"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SCORERS.create("onnx", file=str(onnx_file(tmp_path)), **settings)


def test_threads_and_determinism_reach_onnxruntime(tmp_path: Path) -> None:
    file, seen = str(onnx_file(tmp_path)), []
    session = onnxruntime.InferenceSession

    def opened(path: str, options: onnxruntime.SessionOptions, providers: list[str]) -> onnxruntime.InferenceSession:
        seen.append((options.intra_op_num_threads, options.inter_op_num_threads, options.use_deterministic_compute))
        assert providers == ["CPUExecutionProvider"]
        return session(path, options, providers=providers)

    with mock.patch.object(onnxruntime, "InferenceSession", opened):
        SCORERS.create("onnx", file=file, threads=1)
        SCORERS.create("onnx", file=file)
    assert seen == [(1, 1, True), (torch.get_num_threads(), 1, True)]


def test_a_copy_scores_alike(tmp_path: Path, images: torch.Tensor) -> None:
    scorer = SCORERS.create("onnx", file=str(onnx_file(tmp_path)))
    assert torch.equal(copy.deepcopy(scorer)(images), scorer(images))
