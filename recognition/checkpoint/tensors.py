"""The tensors of a run by name, to and from safetensors through torch.distributed.checkpoint, for any world size.

network.*, quality_gate.* and classifier.* are weights and statistics, average.* their running mean, where there is one,
optimizer.<parameter>.<key> what the optimizer keeps, random.<process>.* its generators. Class centres, and what is kept
of them, are one matrix over all processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer

import adapters
from recognition import random_state
from recognition.distributed import is_share, share
from recognition.model import FaceModel
from recognition.partial_fc import PartialFC

AVERAGE = "average."  # before names as in a delivered model
NETWORK = "network."  # before the names of adapters.live()
ROWS = "classifier.weight"  # what has it in its name, and its shape, has one row for each class


class Share(NamedTuple):
    """This process's rows of a tensor that all processes hold together, those of torch.chunk."""

    rows: Tensor
    whole: torch.Size


def snapshot(model: FaceModel, classifier: PartialFC, optimizer: Optimizer) -> dict[str, Tensor | Share]:
    """Copies of all tensors of this process in the CPU's memory, by name."""
    live = _weights(model, classifier) | _optimizer_state(model, classifier, optimizer)
    copies = {name: _copied(value) for name, value in live.items()}
    here = dist.get_rank()
    return copies | {f"random.{here}.{kind}": state for kind, state in random_state.capture().items()}


def _copied(value: Tensor) -> Tensor | Share:
    """In the CPU's memory. What is kept of a sample of the class centres only becomes a row for each, mostly zeros."""
    if is_share(value):
        return Share(_copied(share(value)), value.shape)
    copy = value.detach().to("cpu", copy=True)
    return copy.to_dense() if copy.is_sparse else copy.contiguous()


def write(
    tensors: Mapping[str, Tensor | Share], folder: Path, classes: int, group: dist.ProcessGroup | None
) -> list[Path]:
    """Write every process's snapshot into one folder, by all together. Returns the files that this process wrote.

    classes: over all processes. group: of CPU collectives, used by nobody else meanwhile; None = the default one.
    """
    group = group or dist.group.WORLD
    state = _sharded(tensors, DeviceMesh.from_group(group, "cpu"), classes)
    storage = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    dcp.save(state, storage_writer=storage, process_group=group)
    return sorted(folder.glob(f"shard-{dist.get_rank() + 1:05d}-*"))


def read(folder: Path, model: FaceModel, classifier: PartialFC, optimizer: Optimizer) -> None:
    """Load what write() wrote in place, on any number of processes; generators where their number is the same.

    ValueError where the checkpoint's tensors are not those of this model.
    """
    reader = HuggingFaceStorageReader(str(folder))
    try:
        stored = reader.read_metadata().state_dict_metadata
    except (SafetensorError, ValueError, KeyError, TypeError) as error:  # crafted: damage shows in the manifest
        raise ValueError(f"{folder} holds no checkpoint of ours: {error}") from None
    tensors = _weights(model, classifier)
    held = {name for name in stored if not name.startswith(("optimizer.", "random."))}
    if differ := sorted(set(tensors) ^ held):
        raise ValueError(
            f"{folder} does not fit this recipe: {len(differ)} tensors differ, such as {differ[:3]}; "
            "start anew with train.resume=never or another run.name"
        )
    wanted = tensors | _slots(stored, _parameters(model, classifier), optimizer) | _own_generators(stored)
    mesh = DeviceMesh.from_group(dist.group.WORLD, classifier.weight.device.type)
    try:
        with torch.no_grad():
            dcp.load(_sharded(wanted, mesh, classifier.num_classes), storage_reader=reader)
    except CheckpointException as error:  # no Exception: torch derives it from BaseException
        raise ValueError(f"{folder} does not fit this recipe or is damaged: {first_cause(error)}") from None
    del mesh
    if states := _under(wanted, f"random.{dist.get_rank()}."):
        random_state.restore(states)


def read_centres(folder: Path, classifier: PartialFC) -> None:
    """Load the class centres of a checkpoint, each process its own, and nothing else.

    ValueError where they are of another number of classes or another size.
    """
    reader = HuggingFaceStorageReader(str(folder))
    stored = reader.read_metadata().state_dict_metadata.get(ROWS)
    whole = (classifier.num_classes, classifier.weight.shape[1])
    if stored is None or tuple(stored.size) != whole:
        has = "none" if stored is None else "x".join(map(str, stored.size))
        raise ValueError(f"{folder} has class centres of {has}; this run's are {whole[0]}x{whole[1]}")
    mesh = DeviceMesh.from_group(dist.group.WORLD, classifier.weight.device.type)
    with torch.no_grad():
        dcp.load(_sharded({ROWS: classifier.weight}, mesh, classifier.num_classes), storage_reader=reader)


def network(folder: Path) -> dict[str, Tensor]:
    """The model's tensors of a checkpoint, without classifier and optimizer, named as in a delivered model.

    Of weights that are averaged, the average, which is what is delivered.
    """
    reader = HuggingFaceStorageReader(str(folder))
    stored = reader.read_metadata().state_dict_metadata
    found = {
        name: torch.empty(meta.size, dtype=meta.properties.dtype)
        for name, meta in stored.items()
        if name.startswith((NETWORK, AVERAGE, "quality_gate."))
    }
    with warnings.catch_warnings():  # that it is read by this process alone is meant
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load(found, storage_reader=reader, no_dist=True)
    weights = {name.removeprefix(NETWORK): value for name, value in found.items() if not name.startswith(AVERAGE)}
    return weights | _under(found, AVERAGE)


def first_cause(error: CheckpointException) -> BaseException:
    """What the first of the failed processes ran into."""
    return next(iter(error.failures.values()))[0]


def _weights(model: FaceModel, classifier: PartialFC) -> dict[str, Tensor]:
    named = {f"{NETWORK}{name}": value for name, value in adapters.live(model.backbone).items()}
    if model.quality_gate is not None:
        named |= {f"quality_gate.{name}": value for name, value in model.quality_gate.state_dict().items()}
    if model.average is not None:
        named |= {f"{AVERAGE}{name}": value for name, value in model.average.tensors.items()}
    return named | {f"classifier.{name}": value for name, value in classifier.state_dict().items()}


def _parameters(model: nn.Module, classifier: nn.Module) -> dict[str, nn.Parameter]:
    named = {f"model.{name}": p for name, p in model.named_parameters() if p.requires_grad}
    return named | {f"classifier.{name}": p for name, p in classifier.named_parameters()}


def _optimizer_state(model: nn.Module, classifier: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    return {
        f"optimizer.{name}.{key}": value
        for name, parameter in _parameters(model, classifier).items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _slots(stored: Mapping[str, object], parameters: Mapping[str, nn.Parameter], optimizer: Optimizer) -> dict:
    """Empty optimizer state for everything stored, to be filled in place."""
    slots = {}
    for name, meta in stored.items():
        if name.startswith("optimizer."):
            parameter, _, key = name.removeprefix("optimizer.").rpartition(".")
            if parameter not in parameters:
                raise ValueError(f"the checkpoint holds {name}, but {parameter} is not trained by this recipe")
            like = parameters[parameter]
            slot = torch.zeros_like(like) if len(meta.size) else torch.zeros((), dtype=meta.properties.dtype)
            optimizer.state[like][key] = slots[name] = slot
    return slots


def _own_generators(stored: Mapping[str, object]) -> dict[str, Tensor]:
    """Room for the states of this process's generators, where as many processes wrote them as there are now."""
    writers = {name.split(".")[1] for name in stored if name.startswith("random.")}
    if len(writers) != dist.get_world_size():
        return {}
    mine = [name for name in stored if name.startswith(f"random.{dist.get_rank()}.")]
    return {name: torch.empty(stored[name].size, dtype=stored[name].properties.dtype) for name in mine}


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _sharded(tensors: Mapping[str, Tensor | Share], mesh: DeviceMesh, classes: int) -> dict[str, Tensor]:
    """The same tensors with class centres, what belongs to them, and shares, as rows of one tensor of all processes."""
    local = tensors[ROWS].shape
    whole = torch.Size((classes, local[1]))

    def place(name: str, value: Tensor | Share) -> Tensor:
        if isinstance(value, Share):
            return _over_all(value.rows, value.whole, mesh)
        value = value.detach()
        if is_share(value) or not name.startswith((ROWS, f"optimizer.{ROWS}.")) or value.shape != local:
            return value
        return _over_all(value, whole, mesh)

    return {name: place(name, value) for name, value in tensors.items()}


def _over_all(rows: Tensor, whole: torch.Size, mesh: DeviceMesh) -> DTensor:
    stride = torch.empty(whole, device="meta").stride()
    return DTensor.from_local(rows, mesh, [Shard(0)], run_check=False, shape=whole, stride=stride)
