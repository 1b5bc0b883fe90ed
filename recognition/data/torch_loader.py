"""Batches decoded by OpenCV in the worker processes of torch's DataLoader; runs everywhere."""

from __future__ import annotations

import atexit
import itertools
import math
import mmap
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from recognition.data.augmentations.sequence import Augmentations
from recognition.data.bad_records import BadRecord, BadRecords
from recognition.data.decode import as_batch, check_fields, check_per_image
from recognition.data.degrade import Degradation
from recognition.data.fetch import fetch_pixels
from recognition.data.order import SampleOrder
from recognition.data.records import Records
from recognition.types import IMAGE_SIZE, Batch

PREFETCH = 4  # batches each worker decodes ahead: covers the computation of an epoch's permutation and slow reads


class TorchLoader:
    """Endless batches of this process, decoded by OpenCV. Workers only decode; the rest is done on `device`.

    workers: processes that decode; 0 decodes in the calling process. flip: mirror half of the images.
    degradation: None reduces no image. seed: of all that is drawn (flips, augmentations, degradations, replacements),
        functions of (seed, position).
    fields: optional fields of Batch to fill, such as "twin" or "level".
    bad_records: where records that cannot be read, do not decode or are too small are listed, when their batch is
        handed out; others take their places, whose labels and keys the batch then holds. None: they are errors.
    per_image: what as_batch takes from it, by field of Batch: landmarks (N, 5, 2), score (N,) or (N, k).
    augmentations: what is done to images before they are degraded; None = nothing.
    """

    def __init__(
        self,
        records: Records,
        order: SampleOrder,
        degradation: Degradation | None,
        *,
        image_size: int = IMAGE_SIZE,
        workers: int = 1,
        flip: bool = True,
        seed: int = 0,
        device: torch.device,
        fields: Sequence[str] = (),
        bad_records: BadRecords | None = None,
        per_image: Mapping[str, np.ndarray] | None = None,
        augmentations: Augmentations | None = None,
    ) -> None:
        self.records = records
        self.order = order
        self.degradation = degradation
        self.image_size = image_size
        self.workers = workers
        self.flip = flip
        self.seed = seed
        self.device = torch.device(device)
        self.fields = check_fields(fields)
        self.bad_records = bad_records
        self.per_image = check_per_image(per_image or {}, records)
        self.augmentations = augmentations

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """Batches of step first_step, first_step + 1, ... without end, the same whatever the number of workers.

        Closing the iterator (or dropping it) ends the workers. ValueError names the file and key of a bad record where
        no bad_records were given, and comes where there are too many of them.
        """
        with closing(self._decoded(first_step)) as decoded:
            for images, positions, indices, bad in decoded:
                if self.bad_records is not None:
                    self.bad_records.add(bad)
                yield as_batch(
                    images,
                    positions,
                    indices,
                    self.records,
                    degradation=self.degradation,
                    flip=self.flip,
                    seed=self.seed,
                    device=self.device,
                    fields=self.fields,
                    per_image=self.per_image,
                    augmentations=self.augmentations,
                )

    def _decoded(self, first_step: int) -> Iterator[tuple[Tensor, np.ndarray, np.ndarray, list[BadRecord]]]:
        """Decoded images, which may be overwritten when the next ones are asked for, and what belongs to them."""
        pages = self._pages()
        loader = DataLoader(
            _Decoder(self.records, self.image_size, self.seed, self.bad_records is not None, pages),
            batch_sampler=_Steps(self.order, first_step, 0 if pages is None else len(pages)),
            num_workers=self.workers,
            collate_fn=_as_is,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=PREFETCH if self.workers else None,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # else every iterator would advance the global one
        )
        iterator = iter(loader)
        # torch ends workers when the iterator is collected. A traceback may hold it until the interpreter exits, and
        # multiprocessing then kills the workers, which torch reports as a failure. No public name does it sooner.
        end = partial(_end_workers, iterator) if self.workers else _nothing
        atexit.register(end)
        try:
            for found in iterator:
                if isinstance(found, _Unreadable):
                    raise ValueError(found.message)
                images, *rest = found
                yield (torch.from_numpy(pages[images]) if pages is not None else images), *rest
        finally:
            atexit.unregister(end)
            end()

    def _pages(self) -> np.ndarray | None:
        """Memory that workers decode into and this process reads, uint8 (batches, B, H, W, 3).

        Handed over by torch, every batch would be copied into new shared memory: page faults on both sides. As many as
        torch asks for ahead, the one in use, and one to spare. None without workers; where these are not forked, and
        so share nothing; and on CUDA, where torch copies batches into pinned memory while they come.
        """
        method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
        if not self.workers or method != "fork" or self.device.type != "cpu":
            return None
        shape = (self.workers * PREFETCH + 2, self.order.counts()[self.order.global_rank], *[self.image_size] * 2, 3)
        return np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(shape)


def _nothing() -> None:
    pass


def _end_workers(iterator: object) -> None:
    iterator._shutdown_workers()
    for worker in iterator._workers:
        if worker.is_alive():  # torch asks and then terminates, which they ignore
            worker.kill()


@dataclass(slots=True)
class _Unreadable:
    """What a worker hands back in place of images: raised, it would arrive wrapped in the worker's traceback."""

    message: str


class _Steps(Sampler):
    """(positions, indices, page) of step first_step, first_step + 1, ...; permutations stay in the main process.

    page: which of `pages` the images go to, in turn; 0 where there are none.
    """

    def __init__(self, order: SampleOrder, first_step: int, pages: int) -> None:
        self.order = order
        self.first_step = first_step
        self.pages = pages

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        for step in itertools.count(self.first_step):
            positions = self.order.positions(step)
            yield positions, self.order.indices(positions), step % self.pages if self.pages else 0


class _Decoder(Dataset):
    def __init__(self, records: Records, image_size: int, seed: int, skip: bool, pages: np.ndarray | None) -> None:
        self.records = records
        self.image_size = image_size
        self.seed = seed
        self.skip = skip
        self.pages = pages

    def __getitems__(
        self, wanted: tuple[np.ndarray, np.ndarray, int]
    ) -> tuple[Tensor | int, np.ndarray, np.ndarray, list[BadRecord]] | _Unreadable:
        """Images, or the number of the page that holds them."""
        positions, indices, page = wanted
        out = None if self.pages is None else self.pages[page]
        try:
            images, indices, bad = fetch_pixels(
                self.records, indices, positions, self.image_size, seed=self.seed, skip=self.skip, out=out
            )
        except (ValueError, OSError) as error:
            return _Unreadable(str(error))
        return torch.from_numpy(images) if out is None else page, positions, indices, bad


def _as_is(batch: object) -> object:
    return batch


def _start_worker(_: int) -> None:
    """One thread per worker, and signals are the main process's business.

    torchrun and a terminal signal the whole process group; a worker that died of it would fail the save that the main
    process is making. It ends when the main process closes it or is gone.
    """
    cv2.setNumThreads(0)
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
