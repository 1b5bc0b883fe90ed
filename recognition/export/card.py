"""What a file tells of itself, and the manifest beside it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from torch import nn

from recognition import __version__
from recognition.model import FaceModel
from recognition.types import COLOUR_ORDER, IMAGE_SIZE

MEAN = STD = 127.5  # x / 127.5 - 1 as clients write it
MANIFEST = "manifest.json"


def describe(model: FaceModel, two_inputs: bool) -> dict[str, str]:
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
        card["scorer"] = "outside, input 'score'" if two_inputs else scorer_name(model.scorer)
        card["quality_gate"] = f"{type(gate).__name__}({gate.extra_repr()})"
        for name, values in zip(("midpoint", "slope"), gate.now(), strict=True):
            card[name] = json.dumps(values.tolist())
    return card


def scorer_name(scorer: nn.Module) -> str:
    return f"{type(scorer).__module__}.{type(scorer).__qualname__}({scorer.extra_repr()})"


def manifest(path: Path, content: bytes, embedding_size: int) -> str:
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
