"""Batches decoded by NVIDIA DALI: on the GPU where the device is one, in threads of the CPU where not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from recognition.data.decode import as_batch, check_fields, decode
from recognition.data.degrade import Degradation
from recognition.data.order import SampleOrder
from recognition.data.records import Records
from recognition.types import IMAGE_SIZE, Batch

if TYPE_CHECKING:
    from nvidia.dali import Pipeline
    from nvidia.dali.types import BatchInfo

PREFETCH = 3  # steps that DALI decodes ahead


class DaliLoader:
    """Endless batches of this process, decoded by DALI; order, labels, flips and degradations as TorchLoader's.

    DALI gets the bytes of one step after the other from our order, and decodes: it draws nothing. On the CPU the pixels
    are those of TorchLoader (0/255), and within 1/255 where the stored size differs from image_size. Images that DALI
    and OpenCV treat apart (truncated, rotated by EXIF, not JPEG) are decoded by OpenCV, so that both loaders give or
    refuse the same ones; that runs in one thread, and a set of PNG images is faster in TorchLoader.

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

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """Batches of step first_step, first_step + 1, ... without end.

        ValueError names the file and key of a record that does not decode, at the step that record belongs to.
        """
        feed = _Feed(self.records, self.order, self.image_size, first_step)
        pipeline = self._pipeline(feed)
        step = first_step
        try:
            while True:
                positions, indices, images = self._decoded(pipeline, feed, step)
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
                )
                step += 1
        finally:
            # Left to the garbage collector (it is part of a cycle), a process forked meanwhile may collect it, and hang
            # waiting for threads that it does not have. DALI has no public name for this; its __del__ does the same.
            pipeline._shutdown()

    def _decoded(self, pipeline: Pipeline, feed: _Feed, step: int) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Positions, record numbers and pixels of a step; the pixels are DALI's memory, free again when dropped."""
        try:
            (decoded,) = pipeline.run(torch.cuda.current_stream(self.device)) if self._on_cuda else pipeline.run()
        except RuntimeError as error:
            raise self._refused(feed.taken[step], error) from error
        taken = feed.taken.pop(step)
        if taken.error is not None:
            raise taken.error
        images = torch.from_dlpack(decoded.as_tensor())
        if taken.pixels:
            images = images.clone()  # DALI may have lent the memory of another sample
            rows = torch.tensor(list(taken.pixels), device=self.device)
            images[rows] = torch.from_numpy(np.stack(list(taken.pixels.values()))).to(self.device)
        return taken.positions, taken.indices, images

    @property
    def _on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def _refused(self, taken: _Taken, error: RuntimeError) -> Exception:
        """The error to raise where DALI gives up: the record at fault by name, if OpenCV refuses it too."""
        for index in taken.indices.tolist():
            try:
                decode(self.records.read(index), self.image_size, self.records.where(index))
            except ValueError as refused:
                return refused
        among = f"{self.records.where(int(taken.indices[0]))} and the {len(taken.indices) - 1} records of the same step"
        return RuntimeError(
            f"DALI stopped at a step whose records OpenCV decodes, among them {among}; set data.loader=torch to go on "
            f"without DALI. DALI says: {str(error).strip().splitlines()[0]}"
        )

    def _pipeline(self, feed: _Feed) -> Pipeline:
        from nvidia.dali import fn, pipeline_def, types

        place, size = "mixed" if self._on_cuda else "cpu", [self.image_size, self.image_size]

        @pipeline_def(
            batch_size=self.order.counts()[self.order.global_rank],
            num_threads=self.workers,
            device_id=(self.device.index or 0) if self._on_cuda else None,
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
    indices: np.ndarray
    pixels: dict[int, np.ndarray] = field(default_factory=dict)  # by row, of images decoded here
    error: ValueError | OSError | None = None  # raised when it is the step's turn, not when DALI reads ahead


class _Feed:
    """DALI's source: the encoded images of one step after the other."""

    def __init__(self, records: Records, order: SampleOrder, image_size: int, first_step: int) -> None:
        self.records = records
        self.order = order
        self.image_size = image_size
        self.first_step = first_step
        self.taken: dict[int, _Taken] = {}
        black = np.zeros((image_size, image_size, 3), np.uint8)
        self.blank = cv2.imencode(".jpg", black)[1].ravel()  # holds the row of an image that DALI does not get

    def __call__(self, info: BatchInfo) -> tuple[list[np.ndarray], list[np.ndarray]]:
        step = self.first_step + info.iteration
        positions = self.order.positions(step)
        taken = self.taken[step] = _Taken(positions, self.order.indices(positions))
        encoded, other_size = [self.blank] * len(positions), np.zeros(len(positions), bool)
        try:
            for row, index in enumerate(taken.indices.tolist()):
                read = self.records.read(index)
                size = plain_jpeg_size(read)
                if size is None:
                    taken.pixels[row] = decode(read, self.image_size, self.records.where(index))
                else:
                    encoded[row] = np.frombuffer(read, np.uint8)
                    other_size[row] = size != (self.image_size, self.image_size)
        except (ValueError, OSError) as error:
            taken.error = error
        return encoded, list(other_size)


def plain_jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Height and width in pixels of a complete 8-bit grey or YCbCr JPEG without EXIF; None for anything else.

    Reads the markers only (Rec. ITU-T T.81, annex B): 3 us, against 100 us for decoding 112 x 112 pixels.
    """
    if encoded[:2] != b"\xff\xd8":
        return None
    at, size = 2, None
    while at + 4 <= len(encoded) and encoded[at] == 0xFF:
        marker, length = encoded[at + 1], int.from_bytes(encoded[at + 2 : at + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2) and at + 10 <= len(encoded):  # baseline, extended, progressive
            if encoded[at + 4] != 8 or encoded[at + 9] not in (1, 3):
                return None
            size = int.from_bytes(encoded[at + 5 : at + 7], "big"), int.from_bytes(encoded[at + 7 : at + 9], "big")
        elif marker == 0xDA:  # the scan: its data hold no end marker but the real one
            return size if encoded.rfind(b"\xff\xd9", at) > 0 else None
        elif marker == 0xE1 and encoded[at + 4 : at + 8] == b"Exif":
            return None
        at += 2 + length
    return None
