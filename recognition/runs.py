"""Models out of run folders: the one a run ended with, the one it started from, or that of one of its checkpoints."""

from __future__ import annotations

from pathlib import Path

from easydict import EasyDict
from torch import Tensor

import adapters
from recognition import checkpoint
from recognition.config import from_json, run_of
from recognition.model import GATE, FaceModel, assemble
from recognition.weights import read_weights, sha256


def load_run(path: str | Path, *, base: bool = False) -> FaceModel:
    """The trained model of a run folder, in eval mode; with `base`, the model that the run started from.

    path: the run, or one of its checkpoints: RUN/checkpoints/step_000000100, or RUN/checkpoints/best.
    FileNotFoundError where there is no finished model or checkpoint, ValueError where its base weights have changed
    or a checkpoint is damaged.
    """
    run = run_of(path)
    config = from_json(run / "config.json")
    config.train.checkpoint_activations = False
    tensors: dict[str, Tensor] = {}
    if not base:
        tensors = _delivered(run, config) if run == Path(path) else _of_checkpoint(Path(path), config)
    if config.adapter.name == "full":
        config.backbone.weights = config.backbone.weights if base else ""  # everything comes from the run itself
    model = assemble(config).model
    if not base:
        adapters.load(model.backbone, {k: v for k, v in tensors.items() if not k.startswith(GATE)})
        if model.quality_gate is not None:
            gate = {k.removeprefix(GATE): v for k, v in tensors.items() if k.startswith(GATE)}
            model.quality_gate.load_state_dict(gate)
    return model.eval()


def _delivered(run: Path, config: EasyDict) -> dict[str, Tensor]:
    path = run / "model" / "adapter.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{run} holds no {path.relative_to(run)}: its training has not come to an end; name one of its checkpoints"
        )
    loaded = read_weights(path)
    _check_base(config, loaded.card.get("base_sha256", ""), path)
    return loaded.tensors


def _of_checkpoint(path: Path, config: EasyDict) -> dict[str, Tensor]:
    folder = path.parent
    if path.name == "best":
        best = checkpoint.read_best(folder)
        if best is None or best.step < 0:
            raise FileNotFoundError(f"{folder} has no best checkpoint: nothing was evaluated during or after training")
        path = checkpoint.path_of(folder, best.step)
    checkpoint.check(path)
    _check_base(config, checkpoint.read_state(path).base_sha256, path)
    return checkpoint.network(path)


def _check_base(config: EasyDict, trained_on: str, what: Path) -> None:
    """ValueError where config.backbone.weights is not the file that `what` was trained on."""
    if config.adapter.name == "full" or not config.backbone.weights or not trained_on:
        return
    if sha256(config.backbone.weights) != trained_on:
        raise ValueError(
            f"{config.backbone.weights} is not the file that {what} was trained on (SHA-256 differs): "
            "an adapter gives wrong embeddings on another base; put the original back"
        )
