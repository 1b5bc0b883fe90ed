"""From a path to an engine: which kind of model lies there, and what else it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from easydict import EasyDict
from torch import nn

import adapters
from adapters._files import read_object
from iqa import SCORERS
from recognition.answers import thresholds
from recognition.answers.cards import card_file, is_checkpoint
from recognition.answers.engines import Engine, OnnxEngine, TorchEngine
from recognition.answers.thresholds import Thresholds
from recognition.config import arguments, from_json, run_of
from recognition.data.augment import normalise
from recognition.model import FaceModel, build_backbone
from recognition.runs import load_adapters, load_run
from recognition.weights import hub, read_card, read_weights

DEVICES = ("auto", "cpu", "cuda")
Scorer = str | Mapping[str, object]


def open_engine(
    path: str | Path,
    base: str | Path | None = None,
    *,
    device: str = "auto",
    scorer: Scorer | None = None,
    card: str | Path | None = None,
    any_base: bool = False,
) -> Engine:
    """The model at `path`. Arguments and errors as LRFace.load."""
    path = hub.local_path(path)
    if device not in DEVICES:
        raise ValueError(f"device is '{device}'; it must be one of {', '.join(DEVICES)}")
    told = None if card is None else thresholds.read_thresholds(card)
    section = _section(scorer)
    if path.suffix == ".onnx":
        if base is not None:
            raise ValueError(f"{path} is a whole model: leave the base out")
        return OnnxEngine(path, device, told, None if section is None else _on_pixels(section))
    model, found, gates = _load(path, base, section, any_base)
    shows = None
    if section is not None and not gates:
        if model.needs_gate:
            raise ValueError(
                f"{path} has a scorer of its own, which its gate was trained with: leave the scorer out (an adapter's "
                "folder with its base takes another)"
            )
        shows = _scorer(section)
    return TorchEngine(model, _device(device), str(path), told or found, shows)


def _load(
    path: Path, base: str | Path | None, section: dict[str, object] | None, any_base: bool
) -> tuple[FaceModel, Thresholds, bool]:
    """The model, the thresholds in its card, and whether the scorer that was given is behind its gate."""
    card = card_file(path)
    if card is not None and (base is None or is_checkpoint(path)):
        return _of_run(path, base), _of_file(card), False
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: name a run, a checkpoint, an adapter's folder, weights or .onnx")
    if path.is_dir() or "adapter" in read_card(path):
        return _adapter(path, base, section, any_base)
    if base is not None:
        raise ValueError(f"{path} is a whole backbone, no adapter: leave the base out")
    return _weights(path), _of_file(path.with_suffix(".json")), False


def _of_run(path: Path, base: str | Path | None) -> FaceModel:
    """The model of a run or a checkpoint; settings name its base by a path, often from where it was trained."""
    config = from_json(run_of(path) / "config.json")
    named = str(base or config.backbone.weights)
    adapter = adapters.ADAPTERS.create(config.adapter.name, **arguments(config.adapter, "adapter"))
    if named and adapter.freezes_base and not hub.local_path(named).is_file():
        remedy = "give base= (--base FILE), or start where it was trained"
        raise FileNotFoundError(f"the base of {path}, {named}, is not there: {remedy}")
    return load_run(path, weights=named)


def _adapter(
    path: Path, base: str | Path | None, section: dict[str, object] | None, any_base: bool
) -> tuple[FaceModel, Thresholds, bool]:
    saved = adapters.read_folder(path)
    made = saved.make()
    alone = not made.freezes_base and made.keeps_base_keys  # it brings every tensor along
    if base is None and not alone:
        run = saved.path.parent.parent
        own = f"; or name the run, {run}, which knows its base" if (run / "config.json").is_file() else ""
        raise ValueError(f"{path} is an adapter without its base: give the base's weights (base=, --base FILE){own}")
    if made.needs_gate and "gate" not in saved.card:
        raise ValueError(
            f"{path} is gated, and its card tells no gate: merge it at one gate by tools/merge_adapter.py, or train on "
            "from it"
        )
    weights = saved.path if base is None else base
    model, bank = load_adapters({"own": saved.path}, weights, section if made.needs_gate else None, any_base=any_base)
    bank.activate("own")
    return model, thresholds.of_card(saved.card, str(saved.path.with_suffix(".json"))), made.needs_gate


def _weights(path: Path) -> FaceModel:
    told = read_weights(path).card
    if "backbone" not in told:
        raise ValueError(
            f"{path} has no card that names its backbone: tools/convert_checkpoint.py {path} OUT.safetensors writes one"
        )
    config = EasyDict(backbone={**told.get("arguments", {}), "name": told["backbone"]})
    return FaceModel(build_backbone(config, path))


def _of_file(card: Path) -> Thresholds:
    if not card.is_file():
        return Thresholds(f"there is no card {card}")
    return thresholds.of_card(read_object(card), str(card))


def _device(asked: str) -> str:
    if asked == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, and torch finds no CUDA device: take cpu or auto")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def _section(scorer: Scorer | None) -> dict[str, object] | None:
    """Name and arguments; of a text such as "brisque" or "brisque:folder"."""
    if scorer is None:
        return None
    section = dict(SCORERS.spell_out(scorer) if isinstance(scorer, str) else scorer)
    SCORERS.check(str(section.get("name", "")), {key: value for key, value in section.items() if key != "name"})
    return section


def _scorer(section: Mapping[str, object]) -> nn.Module:
    made = SCORERS.create(str(section["name"]), **{key: one for key, one in section.items() if key != "name"})
    if made.needs != "image":
        raise ValueError(
            f"scorer '{section['name']}' needs the {made.needs}; beside a model one that needs the image can look"
        )
    return made.requires_grad_(False).eval()


def _on_pixels(section: Mapping[str, object]) -> Callable[[np.ndarray], np.ndarray]:
    made = _scorer(section)

    def score(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():  # by the way that evaluation goes, to the last bit
            return made((normalise(torch.from_numpy(np.ascontiguousarray(pixels))) + 1) / 2).float().numpy()

    return score
