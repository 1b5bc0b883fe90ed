"""`tools/benchmark.py onnx`: rows, limits and the gate's cost; never how fast this machine is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.bench import onnx as measured
from recognition.bench.subjects import SUBJECTS
from tests.tiny import nameable
from tools import benchmark

QUICK = ["--seconds", "0.01", "--warm-up", "0", "--repeats", "1", "--threads", "1", "--gate-seconds", "0.01"]


def test_every_precision_beside_torch_and_the_gate_beside_none(capsys: pytest.CaptureFixture) -> None:
    with nameable():
        arguments = ["onnx", "--backbone", "tiny_of_tests", "--batch", "1", "3", "--images", "6", *QUICK]
        assert benchmark.main(arguments) == 0
    said = capsys.readouterr().out
    for batch in (1, 3):
        for row in ("bare products, fp32", "torch eager", *(f"onnxruntime {one}" for one in ("fp32", "fp16", "int8"))):
            assert f"| batch {batch}, {row} |" in said
        assert re.search(rf"\| in the graph, fp32 \| {batch} \| [\d.]+ \| [+-][\d.]+ % \| [+-][\d.]+ % \|", said)
    assert said.count("| limit |") == 2 and "1.00000 |" in said


def test_the_gates_cost_is_of_the_same_weights(tmp_path: Path) -> None:
    """Without gate the two branches are at 1/2, merged or not; the gated file differs."""
    with nameable():
        args = benchmark.parse(["onnx", "--backbone", "tiny_of_tests", *QUICK])
        args.files = {}
        model = measured._made(args)
        found, images = measured._gated(model, tmp_path, args, torch.device("cpu")), measured._noise(2)
        gated, halves, merged = (one(images) for one in (found.gated, found.halves, found.merged))
        np.testing.assert_allclose(halves, merged, atol=1e-4 * np.abs(halves).max())
        assert np.abs(gated - halves).max() > 1e-3 * np.abs(halves).max()
        args.adapter = ""
        assert not measured._made(args).needs_gate


def test_refusals(capsys: pytest.CaptureFixture) -> None:
    assert benchmark.main(["onnx"]) == 1
    assert benchmark.main(["onnx", "runs/demo", "--backbone", "r18"]) == 1
    assert capsys.readouterr().err.count("name a RUN, or a network by --backbone, and not both") == 2
    assert benchmark.main(["onnx", "--backbone", "r18", "--batch", "0"]) == 1
    if not torch.cuda.is_available():
        assert benchmark.main(["onnx", "--backbone", "r18", "--device", "cuda"]) == 1
    assert SUBJECTS["onnx"].unit == "images"
