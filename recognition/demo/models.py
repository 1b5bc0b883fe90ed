"""The model that the demo shows and, where there is one, the base that it was adapted from, side by side."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from easydict import EasyDict

import adapters
from adapters._files import read_object
from recognition.answers.api import LRFace
from recognition.answers.cards import card_file, is_checkpoint
from recognition.answers.engines import TorchEngine
from recognition.answers.opening import open_engine
from recognition.answers.thresholds import of_card
from recognition.config import from_json, run_of
from recognition.demo import ASKS_NOBODY
from recognition.demo.faces import Face, reduced
from recognition.model import FaceModel, build_backbone
from recognition.recipes import SHIPPED, TRY
from recognition.runs import load_run
from recognition.weights import hub, read_weights

RUN = Path("runs/demo")
SHIPPED_BASE = SHIPPED / "weights" / "demo_base.safetensors"
KEPT = 4096  # faces at one resolution each, whose embeddings are kept: about 4 MB for each 128 numbers of them


@dataclass(frozen=True)
class One:
    """A model of the two, by name."""

    name: str
    model: LRFace
    style: int  # its colour in charts: 0 the base, 1 the model


@dataclass(frozen=True, slots=True)
class Seen:
    """What the models make of one face at one resolution."""

    embeddings: tuple[np.ndarray, ...]  # (D,) float32 of length one, one for each model
    quality: float | list[float] | None  # of the model, not of its base
    gate: float | list[float] | None


@dataclass
class Models:
    """The model, its base before it where it has one, and what they made of faces lately. Threads may share it."""

    shown: list[One]
    scorer: str  # its name; "" without one
    notes: list[str] = field(default_factory=list)  # what is not there, and why
    _kept: OrderedDict[tuple[str, int], Seen] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def model(self) -> LRFace:
        """The one that was asked for."""
        return self.shown[-1].model

    def look(self, faces: Sequence[tuple[Face, int]]) -> list[Seen | str]:
        """What the models make of faces at sides in pixels, or what is wrong with one; kept for the next time."""
        keys = [(face.key, side) for face, side in faces]
        with self._lock:
            known = {key: self._kept[key] for key in keys if key in self._kept}
        missing = {key: reduced(*one) for key, one in zip(keys, faces, strict=True) if key not in known}
        found: dict[tuple[str, int], Seen | str] = dict(known)
        if missing:
            found |= self._embed(missing)
        with self._lock:
            for key in keys:
                if isinstance(found[key], Seen):
                    self._kept[key] = found[key]
                    self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return [found[key] for key in keys]

    def _embed(self, pixels: Mapping[tuple[str, int], np.ndarray]) -> dict[tuple[str, int], Seen | str]:
        answers = [one.model.look(np.stack([*pixels.values()])) for one in self.shown]
        found: dict[tuple[str, int], Seen | str] = {}
        for row, key in enumerate(pixels):
            wrong = next((told.errors[row] for told in answers if row in told.errors), "")
            about = answers[-1].about(row)
            embeddings = tuple(told.embedding[row] for told in answers)
            found[key] = wrong or Seen(embeddings, about["quality"], about["gate"])
        return found


def default_model() -> tuple[Path, str]:
    """The demo's finished run where there is one, else the base that ships with the project; and what is to be said."""
    if (RUN / "model" / "adapter.json").is_file():
        return RUN, ""
    return SHIPPED_BASE, (
        f"There is no finished {RUN}: this is the base model that ships with LRFace, alone. `{TRY}` adapts it."
    )


def open_models(
    path: str | Path,
    base: str | None = None,
    *,
    device: str = "auto",
    scorer: str | None = None,
    card: str | None = None,
    any_base: bool = False,
) -> Models:
    """The model at a path, and its base. Arguments and errors as LRFace.load; without a base the notes say why."""
    path = hub.local_path(path)
    engine = open_engine(path, base, device=device, scorer=scorer, card=card, any_base=any_base)
    notes: list[str] = []
    told = _card(path)
    adapted = One("adapted", LRFace(engine), 1)
    shown = [adapted]
    before = _base(path, base) if isinstance(engine, TorchEngine) else "an ONNX file holds one model only"
    if isinstance(before, str):
        shown = [One("model", adapted.model, 1)]
        notes.append(f"Nothing stands beside it: {before}.")
    else:
        results = told.get("results")
        measured = results.get("before", {}) if isinstance(results, Mapping) else {}
        thresholds = of_card({"results": {"after": measured}}, f"the card of {path} on its base")
        shown.insert(0, One("base", LRFace(TorchEngine(before, engine.device, "base", thresholds, None)), 0))
    name, inside = _scorer_of(engine, told, scorer)
    if inside:
        notes.append("Quality and gate, where it has them, are inside the ONNX file and cannot be seen.")
    elif not name:
        notes.append("It has neither a quality scorer nor a gate: --scorer sharpness shows a quality beside it.")
    return Models(shown, name, notes)


def _base(path: Path, base: str | None) -> FaceModel | str:
    """The model without its adapter, or why there is none."""
    if card_file(path) is not None and (base is None or is_checkpoint(path)):
        named = str(base or from_json(run_of(path) / "config.json").backbone.weights)
        if not named:
            return "this run started without weights"
        try:
            there = hub.local_path(named).is_file()
        except (ConnectionError, ImportError):
            return f"its base, {named}, is not in the cache, and {ASKS_NOBODY}"
        if not there:
            return f"its base, {named}, is not there (--base FILE)"
        return load_run(path, base=True, weights=named)
    if not path.is_dir() and "adapter" not in _card(path):
        return "these are whole weights, and no adapter"
    if base is None:
        return "the adapter brings every weight along, and no --base was given"
    saved = adapters.read_folder(path)  # opened before, and found to belong to this base
    told = saved.card if "backbone" in saved.card else read_weights(base).card
    config = EasyDict(backbone={**told.get("arguments", {}), "name": told["backbone"]})
    return FaceModel(build_backbone(config, base))


def _card(path: Path) -> dict[str, object]:
    """The model's card as it is written; {} where it has none."""
    known = card_file(path)
    places = [known] if known else [path / "adapter.json", path.with_suffix(".json")]
    found = next((place for place in places if place.is_file()), None)
    return {} if found is None or path.suffix == ".onnx" else read_object(found)


def _scorer_of(engine: object, card: Mapping[str, object], given: str | None) -> tuple[str, bool]:
    """The scorer's name, and whether it hides inside an ONNX file."""
    if given:
        return given, False
    if not isinstance(engine, TorchEngine):
        return "", True
    section = card.get("scorer")
    name = str(section.get("name", "")) if isinstance(section, Mapping) else ""
    return (name or "its scorer") if engine.model.scorer is not None else "", False
