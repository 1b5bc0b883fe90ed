"""A small finished run with a gated adapter, made without training, for tests of what models answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

import adapters
from recognition import config as settings
from recognition.answers.api import LRFace
from recognition.delivery import write_model, write_start
from recognition.model import FaceModel, assemble
from tests.small import photos
from tests.training import tiny_recipe

GATED = ("adapter.name=dual_lora", "scorer.name=sharpness", "gate.midpoint=1.6", "gate.slope=0.6")
MEASURES = {
    "accuracy": {"value": 0.9, "lo": 0.8, "hi": 1.0},
    "tar@0.01": {"value": 0.9, "lo": 0.8, "hi": 1.0, "far": 0.01, "threshold": 0.25},
    "tar@0.001": {"value": 0.8, "lo": 0.7, "hi": 0.9, "far": 0.0, "threshold": 0.5},
    "pairs": 1200,
    "genuine": 600,
}
RESULTS = {"faces": {"28": {"tar@0.001": {**MEASURES["tar@0.001"], "threshold": 0.75}}, "112": MEASURES}}


@dataclass(frozen=True)
class Run:
    """Where it lies, its base, and the model that is in it."""

    path: Path
    base: Path
    model: FaceModel


def tiny_run(folder: Path, seed: int = 0) -> Run:
    """A run on the tiny backbone, its two branches far apart. Inside tests.tiny.nameable() only."""
    torch.manual_seed(seed)
    config = settings.load(tiny_recipe(folder), GATED)
    model = assemble(config).model
    with torch.no_grad():
        for _, layer in adapters.layers(model.backbone):
            layer.lora_b.normal_(0, 0.5)
    run = folder / "run"
    (run / "report" / "after").mkdir(parents=True)
    (run / "report" / "after" / "results.json").write_text(json.dumps(RESULTS))
    write_start(run, config, "none")
    write_model(run, config, model, "none")
    return Run(run, folder / "base.safetensors", model.eval())


def faces(n: int) -> np.ndarray:
    """(n, 112, 112, 3) uint8 RGB, every second one blurred."""
    found = photos(n)
    found[1::2] = [cv2.GaussianBlur(face, (0, 0), 3) for face in found[1::2]]
    return found


def write_picture(path: Path, face: np.ndarray) -> Path:
    """A PNG, so that no number changes. face: RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", face[..., ::-1])[1].tobytes())
    return path


def by_hand(model: FaceModel, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings (N, D) of length one, scores and gates, straight from the network."""
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        score = model.score(image)
        embedding = model.embed(image, score).numpy()
        return (
            embedding / np.linalg.norm(embedding, axis=1, keepdims=True),
            score.numpy(),
            model.quality_gate(score).numpy(),
        )


class Counting(LRFace):
    """Counts the pictures that reach the engine."""

    seen = 0

    def _look(self, pictures, *options):
        self.seen += len(pictures)
        return super()._look(pictures, *options)
