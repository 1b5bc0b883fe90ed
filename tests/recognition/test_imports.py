"""What a process must not import before it needs it, by what is there: half a second each, and a second together."""

import json
import subprocess
import sys

import pytest

DRAWING = ("matplotlib", "PIL")
ALGEBRA = ("scipy.special", "scipy.sparse", "scipy.io", "sklearn", "pandas", "skimage")
OTHERS = ("onnx", "onnxruntime", "insightface", "nvidia.dali", "faiss", "lmdb", "pyiqa", "mxnet", "huggingface_hub")
COMPILER = ("torch._dynamo", "torch._inductor", "sympy")  # torch.optim and DDP import the first of their own
SHARDS = ("torch.distributed.checkpoint", "torch.distributed.tensor", "torch.distributed.fsdp")
ANSWER = """
import importlib, json, sys
for name in ("recognition.answers.api", "recognition.evaluation.runner", "recognition.page.document", "tools.evaluate"):
    importlib.import_module(name)
from recognition.model import build_backbone
from recognition.backbones import BACKBONES
from recognition.weights import read_weights, build_strictly
found = read_weights("weights/demo_base.safetensors")
build_strictly(lambda: BACKBONES.create("mobilefacenet_nano"), found.tensors, "the demo's base")
print(json.dumps(sorted(sys.modules)))
"""
TRAIN = """
import json, sys
import recognition.trainer
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize(
    ("code", "absent"),
    [(ANSWER, (*DRAWING, *ALGEBRA, *OTHERS, *COMPILER, *SHARDS)), (TRAIN, (*DRAWING, *ALGEBRA, *OTHERS))],
    ids=["a process that answers", "a process that trains"],
)
def test_nothing_is_imported_before_it_is_needed(code, absent):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    there = {*json.loads(done.stdout.splitlines()[-1])}
    assert "torch" in there and [name for name in absent if name in there] == []
