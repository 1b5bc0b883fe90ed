"""What a run leaves in its folder: settings, provenance, the trained model with its card, a summary."""

from __future__ import annotations

import json
from pathlib import Path

from easydict import EasyDict
from matplotlib.figure import Figure

import adapters
from recognition.config import arguments, to_json
from recognition.evaluation.report import write_figure
from recognition.files import write_atomically
from recognition.logs import provenance
from recognition.model import GATE, FaceModel, count_parameters
from recognition.weights import sha256, write_weights

MODEL = "model/adapter.safetensors"
SUMMARY = "summary.json"


def set_aside(run: Path) -> Path | None:
    """Rename an earlier run of the same name, so that nothing of it is lost or mixed in. Returns its new name."""
    if not any((run / name).exists() for name in ("config.json", "checkpoints", "metrics.jsonl")):
        return None
    number = 1
    while (aside := run.with_name(f"{run.name}.{number}")).exists():
        number += 1
    run.rename(aside)
    return aside


def write_start(run: Path, config: EasyDict, records: str) -> None:
    """The resolved settings and what they ran on. records: fingerprint of the training records."""
    write_atomically(run / "provenance.json", json.dumps({**provenance(), "records": records}, indent=2) + "\n")
    write_atomically(run / "config.json", to_json(config))  # last: where it is, the start was written


def write_model(run: Path, config: EasyDict, model: FaceModel, records: str) -> Path:
    """What training made, as safetensors with its card: the adapter, or the whole backbone of full fine-tuning.

    records: fingerprint of the training records. Returns the file's path.
    """
    card = {
        "backbone": config.backbone.name,
        "arguments": arguments(config.backbone, "backbone"),
        "base_weights": config.backbone.weights,
        "base_sha256": sha256(config.backbone.weights) if config.backbone.weights else "",
        "adapter": dict(config.adapter),
        "gate": dict(config.gate),
        "scorer": dict(config.scorer),
        "records": records,
        **provenance(),
    }
    gate = {} if model.quality_gate is None else model.quality_gate.state_dict(prefix=GATE)
    write_weights(run / MODEL, adapters.state(model.backbone) | gate, card)
    return run / MODEL


def write_summary(run: Path, model: FaceModel, updates: int, train_seconds: float) -> None:
    """Size and cost of the run, for tables that compare several."""
    total, trainable = count_parameters(model)
    summary = {
        "updates": updates,
        "train_seconds": train_seconds,
        "parameters": total,
        "trainable_parameters": trainable,
    }
    write_atomically(run / SUMMARY, json.dumps(summary, indent=2) + "\n")


def write_picture(run: Path, name: str, figure: Figure) -> None:
    """A figure as report/<name>.png."""
    write_figure(run / "report" / f"{name}.png", figure)
