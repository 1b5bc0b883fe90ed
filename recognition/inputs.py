"""From a recipe to records, a loader over them, and class centres to start from."""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
import torch.nn.functional as F
from easydict import EasyDict
from torch import Tensor

from recognition.data.dali_loader import DaliLoader
from recognition.data.degrade import Degradation
from recognition.data.order import SampleOrder
from recognition.data.pairs import RecordImages
from recognition.data.records import Records
from recognition.data.torch_loader import TorchLoader
from recognition.distributed import World
from recognition.evaluation.embed import Embedder, embed
from recognition.objectives import OBJECTIVES


def open_records(config: EasyDict) -> Records:
    """The recipe's training records. ValueError where it names none."""
    if not config.data.records:
        raise ValueError("config.data.records names no record file; tools/make_records.py makes them from a folder")
    return Records(config.data.records, classes=config.data.classes, hold_out=config.data.hold_out)


def build_degradation(config: EasyDict) -> Degradation | None:
    """The recipe's low-resolution pictures; None where their share is 0."""
    settings = config.degradation
    if not settings.share:
        return None
    jpeg = tuple(settings.jpeg) or None
    return Degradation(settings.share, tuple(settings.sides), settings.blur, settings.noise, jpeg)


def build_loader(config: EasyDict, records: Records, order: SampleOrder, world: World) -> TorchLoader | DaliLoader:
    """The loader that config.data.loader names; "auto" takes DALI on CUDA where it is installed."""
    chosen = config.data.loader
    if chosen == "auto":
        chosen = "dali" if world.device.type == "cuda" and _has_dali() else "torch"
    kinds = {"torch": TorchLoader, "dali": DaliLoader}
    if chosen not in kinds:
        raise ValueError(f"config.data.loader is '{config.data.loader}'; it must be auto, torch or dali")
    wanted = {field for o in config.objectives for field in getattr(OBJECTIVES.get(o.name), "fields", ())}
    return kinds[chosen](
        records,
        order,
        build_degradation(config),
        workers=config.data.workers,
        flip=config.data.flip,
        seed=config.run.seed,
        device=world.device,
        fields=tuple(sorted(wanted)),
    )


def _has_dali() -> bool:
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # no package `nvidia` at all
        return False


def class_means(model: Embedder, records: Records, world: World) -> Tensor:
    """Unit mean of each class's unit embeddings, (C, D) float32, of the records as they are stored; by all processes.

    A class of no image gets a random direction, a function of its number.
    """
    images = RecordImages((records, np.arange(len(records))))
    embeddings = F.normalize(embed(model, images, world=world))
    label = torch.from_numpy(records.labels).to(embeddings.device)
    sums = embeddings.new_zeros(records.num_classes, embeddings.shape[1]).index_add_(0, label, embeddings)
    empty = (sums == 0).all(1).nonzero().squeeze(1)
    for number in empty.tolist():
        generator = torch.Generator().manual_seed(number)
        sums[number] = torch.randn(embeddings.shape[1], generator=generator).to(sums)
    return F.normalize(sums)
