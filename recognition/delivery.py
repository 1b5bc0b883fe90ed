"""What a run leaves in its folder: settings, provenance, the trained model with its card, a summary."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from easydict import EasyDict
from matplotlib.figure import Figure
from torch import Tensor, nn

import adapters
from iqa._gate import plain
from recognition.calibration import fitted_by
from recognition.config import arguments, to_json
from recognition.evaluation.report import write_figure
from recognition.evaluation.results import RESULTS, load_measures
from recognition.files import write_atomically
from recognition.logs import provenance
from recognition.model import GATE, FaceModel, count_parameters, preprocessing
from recognition.weights import read_weights, sha256

FOLDER = "model"
MODEL = f"{FOLDER}/adapter.safetensors"
SUMMARY = "summary.json"
WHEN = ("before", "during", "after")  # evaluations of a run


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
    tensors = _tensors(model)
    return adapters.write_folder(run / FOLDER, tensors, _card(run, config, model, records, list(tensors)))


def card_texts(run: Path, config: EasyDict, model: FaceModel, records: str) -> dict[str, str]:
    """The model card as it stands, by file name, for a checkpoint: data, recipe, preprocessing, figures until now."""
    tensors = _tensors(model)
    return adapters.card_texts(_card(run, config, model, records, list(tensors)), tensors)


def _tensors(model: FaceModel) -> dict[str, Tensor]:
    gate = {} if model.quality_gate is None else model.quality_gate.state_dict(prefix=GATE)
    return adapters.state(model.backbone) | gate


@functools.lru_cache(maxsize=2)
def _base_of(path: str, changed: int) -> tuple[str, str, object]:
    """SHA-256 of the base's file and of its tensors, and its licence; read once, as each checkpoint has a card.

    changed: when the file was, in nanoseconds.
    """
    base = read_weights(path)
    return sha256(path), adapters.hash_tensors(base.tensors), base.card.get("licence")


def _card(run: Path, config: EasyDict, model: FaceModel, records: str, names: list[str]) -> dict[str, object]:
    base, gate = config.backbone.weights, model.quality_gate
    held = {key for key, _ in model.backbone.named_buffers()}
    held |= {f"{GATE}{key}" for key, _ in gate.named_buffers()} if gate is not None else set()
    name = config.adapter.name
    of_file, of_tensors, licence = _base_of(base, Path(base).stat().st_mtime_ns) if base else ("", "", None)
    card: dict[str, object] = {
        "backbone": config.backbone.name,
        "arguments": arguments(config.backbone, "backbone"),
        "base_weights": base,
        "base_sha256": of_file,
        "base_tensors_sha256": of_tensors,
        "adapter": {"name": name, **adapters.whole_arguments(name, arguments(config.adapter, "adapter"))},
        "buffers": [key for key in names if key in held],
        "gate": _gate(run, config, gate),
        "scorer": dict(config.scorer),
        "preprocessing": preprocessing(model.backbone),
        "records": records,
        "results": {when: found for when in WHEN if (found := _results(run / "report" / when))},
    }
    if found := _thresholds(card["results"]):
        card["thresholds"] = found
    if licence is not None:
        card["licence"] = licence
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
    if not (folder / RESULTS).is_file():
        return {}
    return {
        name: {
            side: {key: one for key, one in measures.items() if _is_told(key, one)} for side, measures in sides.items()
        }
        for name, sides in load_measures(folder).items()
    }


def _is_told(key: str, one: object) -> bool:
    return isinstance(one, dict) and ("value" in one or (key == "thresholds" and bool(one)))


def _thresholds(results: dict[str, dict]) -> dict[str, object]:
    """Those of the last evaluation's first set that has some, at its first part; {} where none has."""
    for name, parts in next(reversed(results.values()), {}).items():
        for part, measures in parts.items():
            if "thresholds" in measures:
                return {"set": name, "part": part, "at": measures["thresholds"]}
    return {}


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
