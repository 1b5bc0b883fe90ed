"""What a run leaves in its folder: settings, provenance, the trained model with its card, a summary."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from easydict import EasyDict
from torch import Tensor, nn

import adapters
from iqa._gate import plain
from recognition import checkpoint
from recognition.calibration import fitted_by
from recognition.config import arguments, from_json, run_of, to_json
from recognition.evaluation.report import write_figure
from recognition.evaluation.results import RESULTS, load_measures, load_model
from recognition.files import write_atomically
from recognition.logs import provenance
from recognition.model import GATE, FaceModel, count_parameters, preprocessing
from recognition.weights import hub, sha256
from recognition.weights.known import known

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    base: Base | None = None,
) -> None:
    """The resolved settings and what they ran on.

    records: fingerprint of the training records. gate: how its midpoint and slope were fitted, where they were.
    scores: where those of stored pictures come from, where there are some. base: the weights it starts from.
    """
    begun = {"weights": config.backbone.weights, **asdict(base)} if base and base.sha256 else {}
    begun.pop("licence", None)
    parts = {"gate": gate, "scores": scores, "base": begun}
    told = {**provenance(), "records": records, **{name: part for name, part in parts.items() if part}}
    write_atomically(run / "provenance.json", json.dumps(told, indent=2) + "\n")
    write_atomically(run / "config.json", to_json(config))  # last: where it is, the start was written


@dataclass(frozen=True, slots=True)
class Base:
    """The file of base weights as it was when training began: a card tells of this one, whatever lies there later."""

    sha256: str = ""  # of the file; "" without one
    tensors_sha256: str = ""
    licence: object = None  # as its card says, None where it does not


def read_base(path: str, *, whole: bool = True) -> Base:
    """What a card tells of the base weights; path: "" = there are none. whole: False leaves it at the file's hash."""
    if not path or not whole:
        return Base(sha256(path)) if path else Base()
    found = known(path)
    return Base(sha256(path), found.tensors_sha256, found.card.get("licence"))


def pin_base(config: EasyDict, run: Path) -> None:
    """Name a base on the hub by its commit, in config.backbone.weights; a run that goes on keeps the one it began with.

    Errors as of hub.pin.
    """
    weights, resume, begun, before = config.backbone.weights, config.train.resume, None, ""
    if not hub.is_address(weights):
        return
    with contextlib.suppress(ValueError, OSError):  # checkpoint.to_resume tells of what cannot be continued
        if resume == "auto" or checkpoint.started_by_this_torchrun(run):
            begun = run
        elif resume != "never":
            begun = run_of(checkpoint.named(resume))
        before = from_json(begun / "config.json").backbone.weights if begun is not None else ""
    config.backbone.weights = hub.pin(weights, before)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a model was trained on."""

    records: str  # fingerprint
    base: Base
    images: int = 0  # 0 = not known
    classes: int = 0


def write_model(
    run: Path, config: EasyDict, model: FaceModel, origin: Origin | str, state: Mapping[str, Tensor] | None = None
) -> Path:
    """What training made, as an adapter's folder: the adapter, or the whole backbone of full fine-tuning.

    origin: or the records' fingerprint alone; the base is then as its file is now. state: of adapters.state(), where
    it is had already. Returns the tensor file's path.
    """
    tensors = {**(adapters.state(model.backbone) if state is None else state), **_gate_tensors(model)}
    return adapters.write_folder(run / FOLDER, tensors, _card(run, config, model, origin, [*tensors], None))


def refresh_card(run: Path) -> None:
    """Have the delivered model's card tell the results in report/after, once they have been made anew.

    FileNotFoundError or ValueError where there is no such model or card.
    """
    saved, config = adapters.read_folder(run / FOLDER), from_json(run / "config.json")
    card = {key: value for key, value in saved.card.items() if key != "thresholds"}
    card["results"] = found = _all_results(run, None)
    card["evaluated"] = _updates(run, found)
    if thresholds := _thresholds(found, config):
        card["thresholds"] = thresholds
    for name, text in adapters.card_texts(card, {**saved.tensors, **saved.gate}).items():
        write_atomically(run / FOLDER / name, text)


def card_texts(run: Path, config: EasyDict, model: FaceModel, origin: Origin, update: int) -> dict[str, str]:
    """The model card as it stands, by file name, for a checkpoint: data, recipe, preprocessing, figures until now.

    update: of the checkpoint; results of later ones are of another model.
    """
    everything = model.backbone.state_dict()  # no copies: only names and sizes are told
    tensors = {key: everything[key] for key in adapters.attached(model.backbone).keys} | _gate_tensors(model)
    return adapters.card_texts(_card(run, config, model, origin, [*tensors], update), tensors)


def _gate_tensors(model: FaceModel) -> dict[str, Tensor]:
    return {} if model.quality_gate is None else model.quality_gate.state_dict(prefix=GATE)


def _card(
    run: Path, config: EasyDict, model: FaceModel, origin: Origin | str, names: list[str], update: int | None
) -> dict[str, object]:
    if isinstance(origin, str):
        origin = Origin(origin, read_base(config.backbone.weights))
    gate, name, base = model.quality_gate, config.adapter.name, origin.base
    held = {key for key, _ in model.backbone.named_buffers()}
    held |= {f"{GATE}{key}" for key, _ in gate.named_buffers()} if gate is not None else set()
    found = _all_results(run, update)
    card: dict[str, object] = {
        "backbone": config.backbone.name,
        "arguments": arguments(config.backbone, "backbone"),
        "base_weights": config.backbone.weights,
        "base_sha256": base.sha256,
        "base_tensors_sha256": base.tensors_sha256,
        "adapter": {"name": name, **adapters.whole_arguments(name, arguments(config.adapter, "adapter"))},
        "buffers": [key for key in names if key in held],
        "gate": _gate(run, config, gate),
        "scorer": dict(config.scorer),
        "preprocessing": preprocessing(model.backbone),
        "records": origin.records,
        "training": _training(config, origin),
        "results": found,
        "evaluated": _updates(run, found),
    }
    if thresholds := _thresholds(found, config):
        card["thresholds"] = thresholds | {"update": card["evaluated"].get(thresholds["when"])}
    if base.licence is not None:
        card["licence"] = base.licence
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


def _training(config: EasyDict, origin: Origin) -> dict[str, object]:
    """The recipe in short: what the model has learned from, and how."""
    data = {"records": config.data.records, "batch_size": config.data.batch_size}
    data |= {key: count for key, count in (("images", origin.images), ("classes", origin.classes)) if count}
    sections = {key: dict(config[key]) for key in ("margin", "degradation", "optim", "schedule") if config.get(key)}
    objectives = {"objectives": list(config.objectives)} if config.objectives else {}
    return json.loads(json.dumps({"data": data, **sections, **objectives}, default=str))


def _all_results(run: Path, update: int | None) -> dict[str, dict]:
    return {when: told for when in WHEN if (told := _results(run / "report" / when, when, update))}


def _updates(run: Path, results: dict[str, dict]) -> dict[str, int]:
    """Of which update the model was when it was evaluated, where known: a checkpoint comes before its evaluation."""
    made = {when: load_model(run / "report" / when).get("update") for when in results}
    return {when: update for when, update in made.items() if isinstance(update, int)}


def _results(folder: Path, when: str, update: int | None) -> dict[str, dict]:
    """The measures with their intervals that an evaluation left; empty where there was none of this model.

    update: of a checkpoint, None for the model that is delivered, which was evaluated last.
    """
    if not (folder / RESULTS).is_file():
        return {}
    try:
        made, found = load_model(folder).get("update"), load_measures(folder)
    except (OSError, ValueError) as error:  # no reason to lose the model
        warnings.warn(f"the model card tells no results of {when} training: {error}", stacklevel=2)
        return {}
    of_another = when == "during" if update is None else made is None or made > update
    if when != "before" and of_another:
        return {}
    return {
        name: {
            side: {key: one for key, one in measures.items() if _is_told(key, one)} for side, measures in sides.items()
        }
        for name, sides in found.items()
    }


def _is_told(key: str, one: object) -> bool:
    return isinstance(one, dict) and ("value" in one or (key == "thresholds" and bool(one)))


def _thresholds(results: dict[str, dict], config: EasyDict) -> dict[str, object]:
    """Those of the newest evaluation's first set that has some, at its first part; {} where none has.

    Never of the base: its thresholds are none of this model's.
    """
    when = next((when for when in ("after", "during") if when in results), "")
    for name, parts in results.get(when, {}).items():
        for part, measures in parts.items():
            if "thresholds" in measures:
                flip = "sum" if config.evaluation.get("flip") else "none"
                return {"set": name, "part": part, "when": when, "flip": flip, "at": measures["thresholds"]}
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
