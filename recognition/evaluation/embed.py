"""Embeddings of encoded images by all processes together."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from iqa import GateRange
from recognition.data.augment import normalise
from recognition.data.decode import decode
from recognition.data.degrade import level_of, low_res
from recognition.data.landmarks import mirrored
from recognition.data.pairs import RecordImages
from recognition.distributed import World, gather
from recognition.types import IMAGE_SIZE

DECODERS = 4  # threads; OpenCV decodes outside Python's lock
CPU_BATCH = 16  # a CPU is fastest where activations fit its cache: y1 on one core takes 1.7 s for 128 images, not 3.4


class Embedder(Protocol):
    """What evaluation asks of a model: FaceModel has it."""

    def embed(self, image: Tensor, score: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) RGB in [-1, 1] -> (B, D), not normalised."""

    def eval(self) -> nn.Module:
        """Evaluation mode."""

    def modules(self) -> Iterator[nn.Module]:
        """Every module, whose mode is put back afterwards."""


def embed(
    model: Embedder,
    images: Sequence[bytes],
    *,
    world: World,
    side: int | None = None,
    batch_size: int = 128,
    flip: bool = False,
    rows: np.ndarray | None = None,
    gates: GateRange | None = None,
) -> Tensor:
    """Embeddings (N, D) float32 of N encoded images, not normalised; all of them on every process's device.

    Each process embeds its stride of the images, so all have to call this together. The model, which must lie on
    world.device, runs in eval mode without gradient and gets its modes back, module by module.
    side: pixels the images are reduced to and brought back from; None = as they are. batch_size: images per process.
    flip: add the embedding of the mirrored image, a raw sum; a model with a gate scores the mirrored image by itself.
    rows: (N,) positions of the images to embed, in this order; None = all.
    gates: is shown the gates of this process's images, of a model that has some.
    ValueError for no images, and naming the first image that does not decode.
    """
    rows = np.arange(len(images)) if rows is None else rows
    if not len(rows) or batch_size < 1:
        raise ValueError(f"{len(rows)} images in batches of {batch_size}: both must be at least 1")
    share = -(-len(rows) // world.world_size)
    # every process takes as many: the last ones of some repeat the last image, and are cut off below
    mine = rows[np.minimum(np.arange(share) * world.world_size + world.global_rank, len(rows) - 1)]
    parts, done, points = [], 0, _landmarks(model, images, mine)
    # no inference_mode: a tensor that a model caches in its first forward has to serve training afterwards
    with evaluating(model), torch.no_grad():
        for pixels in decoded(images, mine, batch_size, world.is_main):
            pixels = pixels.to(world.device, non_blocking=True)
            if side is not None and side != IMAGE_SIZE:
                pixels = low_res(pixels, side)
            for image in normalise(pixels).split(batch_size if world.device.type != "cpu" else CPU_BATCH):
                here = None if points is None else points[done : done + len(image)].to(world.device)
                embedding = _embed(model, image, side, here, gates).float()
                if flip:
                    there = None if here is None else mirrored(here)
                    embedding = embedding + _embed(model, image.flip(3), side, there, None).float()
                parts.append(embedding)
                done += len(image)
        everyone = gather(torch.cat(parts))  # (world_size * share, D), process by process
    return everyone.unflatten(0, (world.world_size, share)).transpose(0, 1).flatten(0, 1)[: len(rows)]


def _landmarks(model: Embedder, images: Sequence[bytes], rows: np.ndarray) -> Tensor | None:
    if getattr(getattr(model, "scorer", None), "needs", "") != "landmarks":
        return None
    if not isinstance(images, RecordImages):
        raise ValueError("the model's scorer looks at landmarks, and only record files have them beside them")
    return torch.from_numpy(images.landmarks()[rows])


def _embed(
    model: Embedder, image: Tensor, side: int | None, landmarks: Tensor | None, gates: GateRange | None
) -> Tensor:
    if not getattr(model, "needs_gate", False):
        return model.embed(image)
    level = image.new_full((len(image),), level_of(side or IMAGE_SIZE))
    score = model.score(image, level=level, landmarks=landmarks)
    if gates is not None:
        gates.see(model.quality_gate(score))
    return model.embed(image, score)


@contextlib.contextmanager
def evaluating(model: Embedder) -> Iterator[None]:
    """Eval mode, and every module's own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def decoded(images: Sequence[bytes], rows: np.ndarray, batch_size: int, shown: bool) -> Iterator[Tensor]:
    """Batches (B, 112, 112, 3) uint8; the next one is decoded while one is computed."""

    def one(i: int) -> np.ndarray:
        place = images.where(i) if isinstance(images, RecordImages) else f"image {i}"
        return decode(images[i], IMAGE_SIZE, place)

    batches = [rows[b : b + batch_size].tolist() for b in range(0, len(rows), batch_size)]
    quiet = not (shown and sys.stderr.isatty())
    with ThreadPoolExecutor(DECODERS) as pool, tqdm(total=len(rows), unit="img", disable=quiet, leave=False) as bar:
        ahead = pool.map(one, batches[0])
        for n, batch in enumerate(batches):
            pixels = torch.from_numpy(np.stack(list(ahead)))
            if n + 1 < len(batches):
                ahead = pool.map(one, batches[n + 1])
            yield pixels
            bar.update(len(batch))
