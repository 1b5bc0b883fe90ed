"""What a run leaves in its folder: settings, provenance, the trained model with its card, a summary."""

from __future__ import annotations

import json
from pathlib import Path

from easydict import EasyDict
from matplotlib.figure import Figure
from torch import nn

import adapters
from iqa._gate import plain
from recognition.calibration import fitted_by
from recognition.config import arguments, to_json
from recognition.evaluation.report import write_figure
from recognition.files import write_atomically
from recognition.logs import provenance
from recognition.model import GATE, FaceModel, count_parameters, preprocessing
from recognition.weights import read_weights, sha256

FOLDER = "model"
MODEL = f"{FOLDER}/adapter.safetensors"
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


def write_start(
    run: Path,
    config: EasyDict,
    records: str,
    gate: dict[str, object] | None = None,
    scores: dict[str, str] | None = None,
) -> None:
    """The resolved settings and what they ran on.

    records: fingerprint of the training records. gate: how its midpoint and slope were fitted, where they were.
    scores: where those of stored pictures come from, where there are some.
    """
    parts = {"gate": gate, "scores": scores}
    told = {**provenance(), "records": records, **{name: part for name, part in parts.items() if part}}
    write_atomically(run / "provenance.json", json.dumps(told, indent=2) + "\n")
    write_atomically(run / "config.json", to_json(config))  # last: where it is, the start was written


def write_model(run: Path, config: EasyDict, model: FaceModel, records: str) -> Path:
    """What training made, as an adapter's folder: the adapter, or the whole backbone of full fine-tuning.

    records: fingerprint of the training records. Returns the tensor file's path.
    """
    gate = {} if model.quality_gate is None else model.quality_gate.state_dict(prefix=GATE)
    tensors = adapters.state(model.backbone) | gate
    return adapters.write_folder(run / FOLDER, tensors, _card(run, config, model, records, list(tensors)))


def _card(run: Path, config: EasyDict, model: FaceModel, records: str, names: list[str]) -> dict[str, object]:
    base, gate = config.backbone.weights, model.quality_gate
    held = {key for key, _ in model.backbone.named_buffers()}
    held |= {f"{GATE}{key}" for key, _ in gate.named_buffers()} if gate is not None else set()
    name, of_base = config.adapter.name, read_weights(base) if base else None
    card: dict[str, object] = {
        "backbone": config.backbone.name,
        "arguments": arguments(config.backbone, "backbone"),
        "base_weights": base,
        "base_sha256": sha256(base) if base else "",
        "base_tensors_sha256": adapters.hash_tensors(of_base.tensors) if of_base else "",
        "adapter": {"name": name, **adapters.whole_arguments(name, arguments(config.adapter, "adapter"))},
        "buffers": [key for key in names if key in held],
        "gate": _gate(run, config, gate),
        "scorer": dict(config.scorer),
        "preprocessing": preprocessing(model.backbone),
        "records": records,
        "results": {when: found for when in ("before", "after") if (found := _results(run / "report" / when))},
    }
    if of_base is not None and "licence" in of_base.card:
        card["licence"] = of_base.card["licence"]
    return {**card, **provenance()}


def _gate(run: Path, config: EasyDict, gate: nn.Module | None) -> dict[str, object]:
    """What makes the gate anew; and for people what it has learned from there, and how its start was fitted."""
    told = {key: config.gate[key] for key in ("midpoint", "slope", "shape")}
    if gate is None:
        return told
    told |= {key: plain(getattr(gate, key)) for key in ("midpoint", "slope") if hasattr(gate, key)}
    told |= {key: value for key, value in getattr(gate, "arguments", {}).items() if key in config.gate}
    if getattr(gate, "report", dict)():
        told["learned"] = {key: plain(now) for key, now in zip(("midpoint", "slope"), gate.now(), strict=True)}
    fitted = fitted_by(run)
    return {**told, **({"fitted": fitted} if fitted else {})}


def _results(folder: Path) -> dict[str, dict]:
    """The measures with their intervals that an evaluation left; empty where there was none."""
    path = folder / "results.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    return {
        name: {
            side: {key: one for key, one in measures.items() if isinstance(one, dict) and "value" in one}
            for side, measures in sides.items()
        }
        for name, sides in found.items()
    }


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
