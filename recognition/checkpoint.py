"""Checkpoints: safetensors through torch.distributed.checkpoint, class centres by class range, all else JSON.

A checkpoint folder is written beside and renamed, so that a name without a dot in front is always complete.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from easydict import EasyDict
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer

import adapters
from recognition.config import differences, from_json
from recognition.model import FaceModel
from recognition.partial_fc import PartialFC

STATE = "state.json"
# settings that a continued run may change; all others make it another run
FREE = (
    "run.root", "run.name", "needs", "evaluation", "data.batch_size", "data.loader", "data.workers", "train.device",
    "train.keep", "train.log_every", "train.resume", "train.save_every",
)  # fmt: skip


def newest(folder: Path) -> Path | None:
    """The complete checkpoint of the latest step under `folder`, or None."""
    complete = sorted(path.parent for path in folder.glob(f"step_*/{STATE}"))
    return complete[-1] if complete else None


def to_resume(config: EasyDict, run: Path, fingerprint: str) -> tuple[Path | None, dict]:
    """The checkpoint that config.train.resume asks for and its state; (None, {}) for a new start.

    fingerprint: of the training records. ValueError where there is none by that name, or where settings or records are
    not those it was trained with.
    """
    wanted = config.train.resume
    path = newest(run / "checkpoints") if wanted in ("auto", "never") else Path(wanted)
    if wanted == "never" or path is None:
        return None, {}
    if not (path / STATE).is_file():
        raise ValueError(f"train.resume={wanted} is no complete checkpoint; name a folder such as step_000000100")
    saved = from_json(path.parents[1] / "config.json")
    told = {key: value for key, value in saved.backbone.items() if key not in config.backbone}
    config.backbone.update(told)  # by the card of the base weights, when the run began
    if changed := differences(config, saved, FREE):
        raise ValueError(
            f"{path} was trained with other settings: {'; '.join(changed)}; "
            "put them back, or start anew with train.resume=never or another run.name"
        )
    state = json.loads((path / STATE).read_text())
    if state["fingerprint"] != fingerprint:
        raise ValueError(
            f"{path} was trained on other records than config.data.records names; "
            "give the same ones, or start anew with train.resume=never"
        )
    return path, state


def save(
    folder: Path, step: int, model: FaceModel, classifier: PartialFC, optimizer: Optimizer, state: dict, keep: int
) -> Path:
    """Write folder/step_<step> by all processes together, then drop all but the newest `keep` (0 = keep all).

    state: JSON-able; whatever is not a tensor. Returns the checkpoint's path.
    """
    path = folder / f"step_{step:09d}"
    unfinished = folder / f".{path.name}"
    if _is_main():
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    dist.barrier()
    tensors = _tensors(model, classifier) | _optimizer_tensors(model, classifier, optimizer)
    dcp.save(
        _sharded(tensors, classifier),
        storage_writer=HuggingFaceStorageWriter(str(unfinished), save_distributed=True),
    )
    del tensors
    gc.collect()  # no DTensor may outlive the process group
    dist.barrier()
    if _is_main():
        (unfinished / STATE).write_text(json.dumps(state, indent=2) + "\n")
        for file in [*unfinished.iterdir(), unfinished]:
            _flush(file)
        if path.exists():
            shutil.rmtree(path)
        os.replace(unfinished, path)
        _flush(folder)
        for old in sorted(folder.glob("step_*"))[:-keep] if keep else []:
            shutil.rmtree(old)
    dist.barrier()
    return path


def restore(path: Path, model: FaceModel, classifier: PartialFC, optimizer: Optimizer) -> dict:
    """Load a checkpoint in place, on any number of processes. Returns the state given to save().

    ValueError where the checkpoint's tensors are not those of this model.
    """
    state = json.loads((path / STATE).read_text())
    reader = HuggingFaceStorageReader(str(path))
    stored = reader.read_metadata().state_dict_metadata
    tensors = _tensors(model, classifier)
    wanted = set(tensors)
    held = {name for name in stored if not name.startswith("optimizer.")}
    if wanted != held:
        differ = sorted(wanted ^ held)
        raise ValueError(
            f"{path} does not fit this recipe: {len(differ)} tensors differ, such as {differ[:3]}; "
            "start anew with train.resume=never or another run.name"
        )
    parameters = _named_parameters(model, classifier)
    for name, meta in stored.items():
        if name.startswith("optimizer."):
            parameter, _, key = name.removeprefix("optimizer.").rpartition(".")
            like = parameters[parameter]
            slot = torch.zeros_like(like) if len(meta.size) else torch.zeros((), dtype=meta.properties.dtype)
            optimizer.state[like][key] = tensors[name] = slot
    try:
        with torch.no_grad():
            dcp.load(_sharded(tensors, classifier), storage_reader=reader)
    except CheckpointException as error:  # no Exception: torch derives it from BaseException
        raise ValueError(f"{path} does not fit this recipe or is damaged: {error}") from None
    network = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
    adapters.load(model.backbone, network)
    gc.collect()
    return state


def _tensors(model: FaceModel, classifier: PartialFC) -> dict[str, Tensor]:
    named = {f"network.{name}": value for name, value in adapters.state(model.backbone).items()}
    if model.quality_gate is not None:
        named |= {f"quality_gate.{name}": value for name, value in model.quality_gate.state_dict().items()}
    return named | {f"classifier.{name}": value for name, value in classifier.state_dict().items()}


def _named_parameters(model: nn.Module, classifier: nn.Module) -> dict[str, nn.Parameter]:
    named = {f"model.{name}": p for name, p in model.named_parameters() if p.requires_grad}
    return named | {f"classifier.{name}": p for name, p in classifier.named_parameters()}


def _optimizer_tensors(model: nn.Module, classifier: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    return {
        f"optimizer.{name}.{key}": value.contiguous()  # as safetensors wants it; weights may be channels_last
        for name, parameter in _named_parameters(model, classifier).items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _sharded(tensors: dict[str, Tensor], classifier: PartialFC) -> dict[str, Tensor]:
    """The same tensors with class centres and what belongs to them as rows of one matrix over all processes."""
    mesh = init_device_mesh(classifier.weight.device.type, (dist.get_world_size(),))
    rows = "classifier.weight"
    whole = torch.Size((classifier.num_classes, classifier.weight.shape[1]))

    def place(name: str, value: Tensor) -> Tensor:
        value = value.detach()
        if rows not in name or value.shape != classifier.weight.shape:
            return value
        return DTensor.from_local(value, mesh, [Shard(0)], run_check=False, shape=whole, stride=(whole[1], 1))

    return {name: place(name, value) for name, value in tensors.items()}


def _is_main() -> bool:
    return dist.get_rank() == 0


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
