"""What is looked at before anything is exported."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from iqa import GateRange
from recognition.data.augment import normalise
from recognition.data.degrade import level_of, low_res
from recognition.data.synthetic import SyntheticFaces
from recognition.export.card import MANIFEST, scorer_name
from recognition.model import FaceModel

LARGEST_FILE = 2**31 - 2**24  # bytes; protobuf's limit is 2 GiB, and the graph itself needs some
FACES, LADDER = 2, (112, 56, 28, 14, 7)  # painted faces, and the sides they are looked at


def check(model: FaceModel, two_inputs: bool) -> None:
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
                f"the scorer {scorer_name(model.scorer)} cannot be exported{_obstacle(model.scorer)}: keep the score "
                "as a second input (--two-inputs) and compute it outside, or train with a scorer that can"
            )
    size = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    if size > LARGEST_FILE:
        raise ValueError(
            f"the model holds {size / 2**30:.2f} GiB, and one ONNX file at most 2 GiB: export a smaller backbone"
        )


@torch.no_grad()
def look_at_gates(model: FaceModel) -> None:
    """Warn of a gate that is the same for painted faces of every resolution, as far as they stand for real ones."""
    if not model.needs_gate or model.scorer is None or model.scorer.needs == "landmarks":
        return
    device, gates = next(model.parameters()).device, GateRange()
    faces = torch.from_numpy(np.stack([face for face, _ in SyntheticFaces(FACES, 1)])).to(device)
    for side in LADDER:
        level = torch.full((len(faces),), level_of(side), device=device)
        gates.see(model.quality_gate(model.score(normalise(low_res(faces, side)), level=level)))
    if warning := gates.warning():
        warnings.warn(f"{warning} (seen: painted faces of {LADDER[0]} to {LADDER[-1]} px)", stacklevel=4)


def _obstacle(scorer: nn.Module) -> str:
    why = getattr(scorer, "export_obstacle", "")
    return f" ({why})" if why else ""


def check_place(path: Path, two_inputs: bool) -> None:
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
