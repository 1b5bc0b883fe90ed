"""From a recipe to records and a loader over them."""

from __future__ import annotations

import importlib.util

from easydict import EasyDict

from recognition.data.dali_loader import DaliLoader
from recognition.data.degrade import Degradation
from recognition.data.order import SampleOrder
from recognition.data.records import Records
from recognition.data.torch_loader import TorchLoader
from recognition.distributed import World
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
        chosen = "dali" if world.device.type == "cuda" and importlib.util.find_spec("nvidia.dali") else "torch"
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
