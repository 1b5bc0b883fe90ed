"""Models out of run folders: the one a run ended with, the one it started from, or that of one of its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from easydict import EasyDict
from torch import Tensor, nn

import adapters
from adapters import ADAPTERS
from iqa import SCORERS, QualityGate, make_gate
from recognition import checkpoint
from recognition.config import arguments, differences, from_json, run_of
from recognition.delivery import MODEL
from recognition.gate import Gate
from recognition.model import GATE, FaceModel, assemble, build_backbone, give_view
from recognition.types import Adapter
from recognition.weights import read_card, read_weights, sha256
from recognition.weights.known import known


def load_run(path: str | Path, *, base: bool = False, weights: str | Path = "") -> FaceModel:
    """The trained model of a run folder, in eval mode; with `base`, the model that the run started from.

    path: the run, or one of its checkpoints: RUN/checkpoints/step_000000100, or RUN/checkpoints/best.
    weights: the base's file, in place of where the run's settings say it is; the same by its hash.
    FileNotFoundError where there is no finished model or checkpoint, ValueError where its base weights have changed
    or a checkpoint is damaged.
    """
    run = run_of(path)
    config = from_json(run / "config.json")
    config.train.checkpoint_activations = False
    config.backbone.weights = str(weights) or config.backbone.weights
    tensors: dict[str, Tensor] = {}
    if not base:
        tensors = _delivered(run, config) if run == Path(path) else _of_checkpoint(Path(path), config)
    if not base and not _adapter(config).freezes_base:
        config.backbone.weights = ""  # everything comes from the run itself
    model = assemble(config, resumes=not base).model
    if not base:
        adapters.load(model.backbone, {k: v for k, v in tensors.items() if not k.startswith(GATE)})
        gate = {k.removeprefix(GATE): v for k, v in tensors.items() if k.startswith(GATE)}
        if model.quality_gate is not None and (gate or not _predates_gates(run, run == Path(path))):
            model.quality_gate.load_state_dict(gate)
    return model.eval()


def load_adapters(
    folders: Mapping[str, str | Path],
    weights: str | Path,
    scorer: Mapping[str, object] | None = None,
    *,
    any_base: bool = False,
) -> tuple[FaceModel, adapters.Adapters]:
    """One base and several adapters on it, in eval mode, none active: bank.activate(name) puts one to work.

    folders: by the adapter's name in the bank: an adapter's folder, or a finished run. weights: the base's file.
    scorer: name and arguments, in place of what the cards of gated adapters say; needed where that reads a file, since
        paths in cards are never opened. A gated adapter whose card tells no gate gets neither gate nor scorer.
    any_base: as of Adapters.load.
    ValueError as of Adapters.load, and for adapters of different backbones or scorers.
    """
    saved = {name: adapters.read_folder(folder) for name, folder in folders.items()}
    if not saved:
        raise ValueError("folders is empty: name one adapter at least")
    first, *others = saved.values()
    for other in others:
        for key in ("backbone", "arguments"):
            if other.card.get(key) != first.card.get(key):
                raise ValueError(
                    f"{other.path} is of {key} {other.card.get(key)} and {first.path} of {first.card.get(key)}: "
                    "one model has one backbone"
                )
    told = first.card if "backbone" in first.card else read_weights(weights).card
    if "backbone" not in told:
        raise ValueError(f"neither {first.path} nor {weights} has a card that names the backbone to build")
    config = EasyDict(backbone={**told.get("arguments", {}), "name": told["backbone"]})
    backbone, gate = build_backbone(config, weights), Gate()
    quality_gate = chosen = None
    for one in saved.values():
        if "gate" in one.card and quality_gate is None and one.make().needs_gate:
            quality_gate, chosen = _quality_gate(one), _scorer(one, scorer, backbone)
        if quality_gate is not None and one.gate:
            _check_sizes(one, quality_gate)
    model = FaceModel(backbone, gate, quality_gate, chosen, frozen_base=True).eval()
    bank = adapters.Adapters(model.backbone, gate, quality_gate, sha256(weights))
    for name, one in saved.items():
        bank.load(name, one, any_base=any_base)
    return model, bank


def _adapter(config: EasyDict) -> Adapter:
    return ADAPTERS.create(config.adapter.name, **arguments(config.adapter, "adapter"))


def _quality_gate(saved: adapters.Saved) -> QualityGate:
    settings = saved.card["gate"]
    try:
        named = {key: settings[key] for key in ("midpoint", "slope", "shape", "levels") if key in settings}
        layers = saved.gate["form.shift"].numel() if "form.shift" in saved.gate else 0  # a card could tell any number
        return make_gate(named, layers)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{saved.path}: its card tells no midpoint, slope and shape of a gate ({error})") from None


def _check_sizes(saved: adapters.Saved, quality_gate: QualityGate) -> None:
    own, theirs = ({key: list(t.shape) for key, t in one.items()} for one in (quality_gate.state_dict(), saved.gate))
    if faults := differences(theirs, own):
        raise ValueError(
            f"{saved.path}: its quality gate is not that of the adapters before it: {'; '.join(faults)}; one model has "
            "one gate: load this adapter by itself"
        )


def _scorer(saved: adapters.Saved, given: Mapping[str, object] | None, backbone: nn.Module) -> nn.Module:
    section = dict(given or saved.card.get("scorer", {}))
    name = section.pop("name", "")
    SCORERS.check(name, section)
    files = [] if given is not None else _files(name, section)
    if files:
        raise ValueError(
            f"{saved.path}: its scorer '{name}' reads {files[0]}, and a path in a card is never opened: give the "
            "scorer, name and arguments, yourself"
        )
    return give_view(SCORERS.create(name, **section), backbone)


def _files(name: str, section: Mapping[str, object]) -> list[str]:
    """Arguments that name files, as key=value: those whose default is None; of `several`, those of its scorers."""
    inner = section.get("scorers", ())
    if not isinstance(inner, list | tuple) or not all(isinstance(one, str | dict) for one in inner):
        return [f"scorers={inner!r}"]
    parts = [dict(SCORERS.spell_out(one) if isinstance(one, str) else one) for one in inner]
    nested = [found for part in parts for found in _files(str(part.pop("name", "")), part)]
    defaults = SCORERS.defaults(name)
    return nested + [
        f"{key}={value!r}"
        for key, value in section.items()
        if key != "scorers" and value is not None and defaults.get(key, "") is None
    ]


def _delivered(run: Path, config: EasyDict) -> dict[str, Tensor]:
    path = run / MODEL
    if not path.is_file():
        raise FileNotFoundError(
            f"{run} holds no {path.relative_to(run)}: its training has not come to an end; name one of its checkpoints"
        )
    loaded = read_weights(path)
    trained_on, of_tensors = (loaded.card.get(key, "") for key in ("base_sha256", "base_tensors_sha256"))
    _check_base(config, trained_on, path, of_tensors)
    return loaded.tensors


def _predates_gates(run: Path, delivered: bool) -> bool:
    """True for a model written when its gate's midpoint and slope were in the settings alone."""
    return delivered and "format" not in read_card(run / MODEL)


def _of_checkpoint(path: Path, config: EasyDict) -> dict[str, Tensor]:
    folder = path.parent
    if path.name == "best":
        best = checkpoint.read_best(folder)
        if best is None or best.step < 0:
            raise FileNotFoundError(f"{folder} has no best checkpoint: nothing was evaluated during or after training")
        path = checkpoint.path_of(folder, best.step)
    checkpoint.check(path)
    state = checkpoint.read_state(path)
    _check_base(config, state.base_sha256, path, checkpoint.base_tensors(path, state.base_sha256))
    return checkpoint.network(path)


def _check_base(config: EasyDict, trained_on: object, what: Path, of_tensors: object = "") -> None:
    """ValueError where config.backbone.weights is not the base that `what` was trained on.

    of_tensors: hash of the base's tensors as networks hold them. Where it is known it alone decides: the same weights
    in another kind of file are the same base, and the same file is another one once its card tells other colours.
    """
    base = config.backbone.weights
    if not base or not trained_on or not _adapter(config).freezes_base:
        return
    if of_tensors and known(base).tensors_sha256 == of_tensors:
        return
    found = sha256(base)
    if found != trained_on:
        raise ValueError(
            f"{what} was trained on another base: on {trained_on}, and {base} has {found} (SHA-256 differs); "
            "an adapter gives wrong embeddings on another base: put the original back"
        )
    if of_tensors:
        raise ValueError(
            f"{what} was trained on another base: {base} is the same file, but as RGB its tensors are not those of "
            f"then (SHA-256 {known(base).tensors_sha256}, not {of_tensors}): its card (colour_order, image_range) was "
            "changed since; convert it again as it was"
        )
