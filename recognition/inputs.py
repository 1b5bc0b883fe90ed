"""From a recipe to records, a loader over them, and class centres to start from."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from easydict import EasyDict
from torch import Tensor

from adapters import ADAPTERS
from iqa import SCORERS
from recognition.config import arguments
from recognition.data.augmentations.sequence import Augmentations
from recognition.data.bad_records import BadRecords
from recognition.data.balanced import BalancedOrder
from recognition.data.dali_loader import DaliLoader
from recognition.data.decode import FIELDS
from recognition.data.degrade import Degradation
from recognition.data.fetch import problem_of
from recognition.data.landmarks import read_landmarks
from recognition.data.order import SampleOrder
from recognition.data.pairs import RecordImages
from recognition.data.realistic import RealisticDegradation
from recognition.data.records import Records
from recognition.data.torch_loader import TorchLoader
from recognition.distributed import World, all_reduce_sum
from recognition.evaluation.embed import Embedder, embed
from recognition.loss_parts import batch_fields, make_margin


def open_records(config: EasyDict) -> Records:
    """The recipe's training records. ValueError where it names none, or a policy for bad ones that there is not."""
    if not config.data.records:
        raise ValueError("config.data.records names no record file; tools/make_records.py makes them from a folder")
    if config.data.on_bad_record not in ("error", "skip"):
        raise ValueError(f"config.data.on_bad_record is '{config.data.on_bad_record}'; it must be error or skip")
    return Records(
        config.data.records,
        classes=config.data.classes,
        hold_out=config.data.hold_out,
        most_classes=config.data.most_classes,
        bad_record_limit=config.data.bad_record_limit if config.data.on_bad_record == "skip" else None,
    )


def open_bad_records(config: EasyDict, records: Records, path: str | os.PathLike | None) -> BadRecords | None:
    """What lists the bad records of a run in a file; None where they are errors. path: None lists them in memory."""
    if config.data.on_bad_record == "error":
        return None
    return BadRecords(path, records.num_images + len(records.left_out), config.data.bad_record_limit)


def build_order(config: EasyDict, records: Records, global_batch: int, world: World) -> SampleOrder:
    """The order that config.data.sampling names. global_batch: images of a micro-step over all processes."""
    rest = (config.run.seed, global_batch, world.global_rank, world.world_size)
    if config.data.sampling == "balanced":
        return BalancedOrder(records.labels, config.data.per_class, *rest)
    if config.data.sampling != "shuffled":
        raise ValueError(f"config.data.sampling is '{config.data.sampling}'; it must be shuffled or balanced")
    return SampleOrder(records.num_images, *rest)


def build_degradation(config: EasyDict, order: SampleOrder | None = None) -> Degradation | None:
    """The recipe's low-resolution pictures; None where their share is 0.

    order: that of the positions they will be drawn for; may be left out where config.degradation.choose=independent.
    """
    settings = config.degradation
    if settings.chain not in ("plain", "realistic"):
        raise ValueError(f"config.degradation.chain is '{settings.chain}'; it must be plain or realistic")
    make = Degradation
    if settings.chain == "realistic":
        if settings.share and not (settings.blur or settings.noise or settings.jpeg):
            raise ValueError(
                "config.degradation.chain is realistic, but blur, noise and jpeg are all off: pictures would only be "
                "resampled; set them, such as degradation.blur=1.5 degradation.noise=12 degradation.jpeg=[30,95]"
            )
        lists = {name: tuple(settings[name]) for name in ("kernels", "noises", "down", "up")}
        make = partial(RealisticDegradation, **lists, first_stage=settings.first_stage)
    found = make(
        settings.share,
        tuple(settings.sides),
        settings.blur,
        settings.noise,
        tuple(settings.jpeg) or None,
        settings.spread,
        settings.choose,
        global_batch=0 if order is None else order.global_batch,
        epoch_size=0 if order is None else order.epoch_size,
    )
    return found if settings.share else None


def build_loader(
    config: EasyDict,
    records: Records,
    order: SampleOrder,
    world: World,
    bad_records: BadRecords | None = None,
    per_image: Mapping[str, np.ndarray] | None = None,
) -> TorchLoader | DaliLoader:
    """The loader that config.data.loader names; "auto" takes DALI on CUDA where it is installed.

    bad_records: of open_bad_records. per_image: as TorchLoader's; landmarks come by themselves where the scorer or an
    objective looks at them, FileNotFoundError where a shard has none.
    """
    chosen = config.data.loader
    if chosen == "auto":
        chosen = "dali" if world.device.type == "cuda" and _has_dali() else "torch"
    kinds = {"torch": TorchLoader, "dali": DaliLoader}
    if chosen not in kinds:
        raise ValueError(f"config.data.loader is '{config.data.loader}'; it must be auto, torch or dali")
    wanted = batch_fields(config)
    known = dict(per_image or {})
    if needs := scorer_needs(config):
        wanted.add(needs)
    if "landmarks" in wanted:
        known["landmarks"] = read_landmarks(records)
    return kinds[chosen](
        records,
        order,
        build_degradation(config, order),
        workers=config.data.workers,
        flip=config.data.flip,
        seed=config.run.seed,
        device=world.device,
        fields=tuple(sorted(wanted & {*FIELDS})),
        bad_records=bad_records,
        per_image=known,
        augmentations=Augmentations(config.data.augment),
    )


def scorer_needs(config: EasyDict) -> str:
    """What the recipe's scorer looks at, "" where neither adapter nor margin reads a gate."""
    adapter = ADAPTERS.create(config.adapter.name, **arguments(config.adapter, "adapter"))
    gated = adapter.needs_gate or getattr(make_margin(config), "needs_gate", False)
    return SCORERS.get(config.scorer.name).needs if gated else ""


def _has_dali() -> bool:
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # no package `nvidia` at all
        return False


def some_images(records: Records, count: int, bad_records: BadRecords | None = None) -> RecordImages:
    """At most `count` records from all over the set, to look at; bad ones are passed over where the run skips them."""
    indices = np.unique(np.linspace(0, len(records) - 1, count).astype(np.int64))
    if bad_records is not None:
        indices = np.array([i for i in indices.tolist() if not problem_of(records, i)], np.int64)
    return RecordImages((records, indices))


def class_means(model: Embedder, records: Records, world: World, bad_records: BadRecords | None = None) -> Tensor:
    """Unit mean of each class's unit embeddings, (C, D) float32, of the records as they are stored; by all processes.

    A class of no image gets a random direction, a function of its number.
    bad_records: where bad ones are listed; they are no part of any mean. None: they are errors.
    """
    every = np.arange(len(records))
    images = RecordImages((records, every)) if bad_records is None else _SoundImages(records)
    embeddings = F.normalize(embed(model, images, world=world))
    if bad_records is not None:
        bad = torch.zeros(len(records), 1)
        bad[sorted(images.bad)] = 1
        bad = all_reduce_sum(bad.to(embeddings.device)) > 0
        embeddings = embeddings.masked_fill(bad, 0)
        if world.is_main:
            found = bad.squeeze(1).nonzero().squeeze(1).tolist()
            bad_records.add(records.as_bad(i, problem_of(records, i)) for i in found)
    label = torch.from_numpy(records.labels).to(embeddings.device)
    sums = embeddings.new_zeros(records.num_classes, embeddings.shape[1]).index_add_(0, label, embeddings)
    empty = (sums == 0).all(1).nonzero().squeeze(1)
    for number in empty.tolist():
        generator = torch.Generator().manual_seed(number)
        sums[number] = torch.randn(embeddings.shape[1], generator=generator).to(sums)
    return F.normalize(sums)


class _SoundImages(RecordImages):
    """All records, a black picture in place of each bad one: it is decoded twice, here to know whether it can be."""

    def __init__(self, records: Records) -> None:
        super().__init__((records, np.arange(len(records))))
        self.records = records
        self.bad: set[int] = set()  # of those asked for so far
        self.black = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()

    def __getitem__(self, i: int) -> bytes:
        if problem_of(self.records, i):
            self.bad.add(i)
            return self.black
        return super().__getitem__(i)
