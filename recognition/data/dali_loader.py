"""Batches decoded by NVIDIA DALI: on the GPU where the device is one, in threads of the CPU where not."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from recognition.data.augmentations.sequence import Augmentations
from recognition.data.bad_records import BadRecord, BadRecords
from recognition.data.decode import as_batch, check_fields, check_per_image, decode
from recognition.data.degrade import Degradation
from recognition.data.encoded import LEAST_SIDE, PictureError, plain_jpeg_size, size_problem
from recognition.data.fetch import fetch, fetch_pixels
from recognition.data.order import SampleOrder
from recognition.data.records import Records
from recognition.types import IMAGE_SIZE, Batch

if TYPE_CHECKING:
    from nvidia.dali import Pipeline
    from nvidia.dali.types import BatchInfo

PREFETCH = 3  # steps that DALI decodes ahead
MOST_FAILURES = 10  # steps in a row that DALI may refuse; an error ahead of its step takes PREFETCH of them


class DaliLoader:
    """Endless batches of this process, decoded by DALI; order, labels, flips and degradations as TorchLoader's.

    DALI gets the bytes of one step after the other from our order, and decodes: it draws nothing. On the CPU the pixels
    are those of TorchLoader (0/255), and within 1/255 where the stored size differs from image_size. Images that DALI
    and OpenCV treat apart (truncated, rotated by EXIF, not JPEG) are decoded by OpenCV, so that both loaders give or
    refuse the same ones; that runs in one thread, and a set of PNG images is faster in TorchLoader. A step at which
    DALI gives up is decoded by OpenCV, and DALI begins anew (5 ms) at the next one.

    workers: threads that decode, at least one. The other arguments are TorchLoader's.
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
        """ImportError with the command that installs DALI where it is missing."""
        try:
            import nvidia.dali  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "the DALI loader needs nvidia.dali: `pip install -e '.[dali]'` (CUDA 12) or '.[dali-cuda13]', on Linux "
                "x86-64; or set data.loader=torch"
            ) from error
        self.records = records
        self.order = order
        self.degradation = degradation
        self.image_size = image_size
        self.workers = max(workers, 1)
        self.flip = flip
        self.seed = seed
        self.device = torch.device(device)
        self.fields = check_fields(fields)
        self.bad_records = bad_records
        self.per_image = check_per_image(per_image or {}, records)
        self.augmentations = augmentations
        self._warned = False

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """Batches of step first_step, first_step + 1, ... without end.

        ValueError names the file and key of a bad record, at the step that record belongs to, where no bad_records were
        given, and comes where there are too many of them. RuntimeError where DALI refuses MOST_FAILURES steps in a row.
        """
        running, step, failures = _Running(self, first_step), first_step, 0
        try:
            while True:
                try:
                    taken, images = running.decoded(step)
                    failures = 0
                except _Refused as refused:
                    if self.on_cuda:  # the last batch may still be computed from DALI's memory
                        torch.cuda.synchronize(self.device)
                    running.close()
                    failures += 1
                    taken, images = self._without_dali(step, failures, refused)
                    running = _Running(self, step + 1)
                if self.bad_records is not None:
                    self.bad_records.add(taken.bad)
                yield as_batch(
                    images,
                    taken.positions,
                    taken.indices,
                    self.records,
                    degradation=self.degradation,
                    flip=self.flip,
                    seed=self.seed,
                    device=self.device,
                    fields=self.fields,
                    per_image=self.per_image,
                    augmentations=self.augmentations,
                )
                step += 1
        finally:
            running.close()

    def _without_dali(self, step: int, failures: int, refused: _Refused) -> tuple[_Taken, Tensor]:
        """A step that DALI refused, by OpenCV: its bad records are found and treated as TorchLoader does."""
        positions = self.order.positions(step)
        wanted = self.order.indices(positions)
        images, indices, bad = fetch_pixels(
            self.records, wanted, positions, self.image_size, seed=self.seed, skip=self.bad_records is not None
        )
        among = f"{self.records.where(int(wanted[0]))} and the {len(wanted) - 1} records of the same step"
        if failures >= MOST_FAILURES:
            raise RuntimeError(
                f"DALI refused {failures} steps in a row, the last one with {among}; set data.loader=torch to go on "
                f"without DALI. DALI says: {refused}"
            ) from refused
        if not bad and not self._warned:
            self._warned = True
            warnings.warn(
                f"DALI refused a step whose records OpenCV decodes: {among}. OpenCV's pixels are used, and DALI begins "
                f"anew at the next step; said once, though it may happen again. DALI says: {refused}",
                RuntimeWarning,
                stacklevel=3,
            )
        return _Taken(positions, indices, bad=bad), torch.from_numpy(images).to(self.device)

    @property
    def on_cuda(self) -> bool:
        """Whether DALI decodes on the GPU."""
        return self.device.type == "cuda"


class _Refused(Exception):
    """DALI's error, its first line."""


class _Running:
    """A pipeline and what it was fed, from one step on."""

    def __init__(self, loader: DaliLoader, first_step: int) -> None:
        self.loader = loader
        self.feed = _Feed(loader, first_step)
        self.pipeline = _pipeline(loader, self.feed)

    def decoded(self, step: int) -> tuple[_Taken, Tensor]:
        """What a step took, and its pixels, which are DALI's memory, free again when dropped."""
        device, on_cuda = self.loader.device, self.loader.on_cuda
        try:
            (decoded,) = self.pipeline.run(torch.cuda.current_stream(device)) if on_cuda else self.pipeline.run()
        except RuntimeError as error:
            raise _Refused(next((line for line in str(error).splitlines() if line.strip()), "nothing")) from error
        taken = self.feed.taken.pop(step)
        if taken.error is not None:
            raise taken.error
        images = torch.from_dlpack(decoded.as_tensor())
        if taken.pixels:
            images = images.clone()  # DALI may have lent the memory of another sample
            rows = torch.tensor(list(taken.pixels), device=device)
            images[rows] = torch.from_numpy(np.stack(list(taken.pixels.values()))).to(device)
        return taken, images

    def close(self) -> None:
        """End the pipeline's threads.

        Left to the garbage collector (it is part of a cycle), a process forked meanwhile may collect it, and hang
        waiting for threads that it does not have. DALI has no public name for this; its __del__ does the same.
        """
        self.pipeline._shutdown()


def _pipeline(loader: DaliLoader, feed: _Feed) -> Pipeline:
    from nvidia.dali import fn, pipeline_def, types

    place, size = "mixed" if loader.on_cuda else "cpu", [loader.image_size, loader.image_size]

    @pipeline_def(
        batch_size=loader.order.counts()[loader.order.global_rank],
        num_threads=loader.workers,
        device_id=(loader.device.index or 0) if loader.on_cuda else None,
        prefetch_queue_depth=PREFETCH,
        enable_conditionals=True,
    )
    def decoding():
        encoded, other_size = fn.external_source(
            feed, num_outputs=2, dtype=[types.UINT8, types.BOOL], ndim=[1, 0], batch=True, batch_info=True
        )
        # without fancy up-sampling of chroma the GPU's pixels would be further from the CPU's
        image = fn.decoders.image(encoded, device=place, output_type=types.RGB, jpeg_fancy_upsampling=True)
        if other_size:  # per image: a resize to the same size would change nothing and cost two thirds of the speed
            image = fn.resize(image, size=size, interp_type=types.INTERP_LINEAR, antialias=False)
        return image

    return decoding()


@dataclass(slots=True)
class _Taken:
    """What a step took from the records, kept until DALI hands its pixels back."""

    positions: np.ndarray
    indices: np.ndarray  # record numbers, those of replacements among them
    pixels: dict[int, np.ndarray] = field(default_factory=dict)  # by row, of images decoded here
    bad: list[BadRecord] = field(default_factory=list)
    error: ValueError | OSError | None = None  # raised when it is the step's turn, not when DALI reads ahead


class _Feed:
    """DALI's source: the encoded images of one step after the other, of which DALI gets those it treats as OpenCV."""

    def __init__(self, loader: DaliLoader, first_step: int) -> None:
        self.records, self.order = loader.records, loader.order
        self.image_size, self.seed, self.skip = loader.image_size, loader.seed, loader.bad_records is not None
        self.first_step = first_step
        self.taken: dict[int, _Taken] = {}
        black = np.zeros((self.image_size, self.image_size, 3), np.uint8)
        self.blank = cv2.imencode(".jpg", black)[1].ravel()  # holds the row of an image that DALI does not get

    def __call__(self, info: BatchInfo) -> tuple[list[np.ndarray], list[np.ndarray]]:
        step = self.first_step + info.iteration
        positions = self.order.positions(step)
        taken = self.taken[step] = _Taken(positions, self.order.indices(positions))
        encoded, other_size = [self.blank] * len(positions), np.zeros(len(positions), bool)
        try:
            for row, (index, position) in enumerate(zip(taken.indices.tolist(), positions.tolist(), strict=True)):
                (read, size), taken.indices[row], bad = fetch(
                    self.records, index, position, seed=self.seed, skip=self.skip, load=self._vetted
                )
                taken.bad += bad
                if size is None:
                    taken.pixels[row] = read
                else:
                    encoded[row] = read
                    other_size[row] = size != (self.image_size, self.image_size)
        except (ValueError, OSError) as error:
            taken.error = error
        return encoded, list(other_size)

    def _vetted(self, index: int) -> tuple[np.ndarray, tuple[int, int] | None]:
        """Bytes for DALI and the picture's size, or pixels and None. ValueError for a bad record."""
        read = self.records.read(index)
        size = plain_jpeg_size(read)
        if size is None:
            return decode(read, self.image_size, self.records.where(index), LEAST_SIDE), None
        if problem := size_problem(*size, LEAST_SIDE):
            raise PictureError(self.records.where(index), problem)
        return np.frombuffer(read, np.uint8), size
