"""Embeddings of encoded images by all processes together."""

from __future__ import annotations

import contextlib
import sys
import time
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
from recognition.data.encoded import PictureError
from recognition.data.landmarks import mirrored
from recognition.data.pairs import RecordImages
from recognition.distributed import World, gather, gather_json
from recognition.evaluation.protocol import Looked, View
from recognition.sharding import in_step, is_sharded
from recognition.types import IMAGE_SIZE

FLIPS = ("none", "sum", "concat")  # what becomes of the mirrored image's embedding
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
    flip: bool | str = False,
    rows: np.ndarray | None = None,
    gates: GateRange | None = None,
) -> Tensor:
    """Embeddings (N, D) float32 of N encoded images, not normalised: those of look_at, whose arguments these are."""
    how = flip if isinstance(flip, str) else FLIPS[int(flip)]
    rows = np.arange(len(images)) if rows is None else rows
    view = View(rows, IMAGE_SIZE if side is None else side, how)
    return look_at(model, images, view, world=world, batch_size=batch_size, gates=gates).embedding


def look_at(
    model: Embedder,
    images: Sequence[bytes],
    view: View,
    *,
    world: World,
    batch_size: int = 128,
    flip: str = "none",
    gates: GateRange | None = None,
) -> Looked:
    """What the model makes of the view's images, all of them on every process's device.

    Each process embeds its stride of the images, so all have to call this together. The model, which must lie on
    world.device, runs in eval mode without gradient and gets its modes back, module by module.
    batch_size: images per process. flip: what becomes of the mirrored image where the view does not say: "none"; "sum",
    raw; "concat". A model with a gate scores the mirrored image by itself. Scores and gates are those of the image.
    gates: is shown the gates of this process's images, of a model that has some.
    ValueError for no images, another flip, and naming the first image that does not decode.
    """
    rows, flip = view.rows, view.flip or flip
    if flip not in FLIPS:
        raise ValueError(f"flip is '{flip}'; it must be one of {', '.join(FLIPS)}")
    if not len(rows) or batch_size < 1:
        raise ValueError(f"{len(rows)} images in batches of {batch_size}: both must be at least 1")
    share = -(-len(rows) // world.world_size)
    # every process takes as many: the last ones of some repeat the last image, and are cut off below
    mine = rows[np.minimum(np.arange(share) * world.world_size + world.global_rank, len(rows) - 1)]
    local, alone, problem = {}, None, ""
    # no inference_mode: a tensor that a model caches in its first forward has to serve training afterwards
    with evaluating(model), torch.no_grad():
        try:
            local = _look(model, images, mine, view.side, flip, batch_size, world, gates)
            alone = _time(model, images, view, world) if view.timed and (world.is_main or is_sharded(model)) else None
        except (OSError, ValueError) as error:  # a picture that does not decode: nobody is to wait for this process
            if world.world_size == 1:
                raise
            problem = str(error) or repr(error)
    if problem := next(filter(None, gather_json(problem)), ""):
        raise ValueError(problem)
    whole = {key: _in_order(local.pop(key), world, len(rows)) for key in [*local]}
    if view.timed:
        alone = np.array(gather_json(None if alone is None else alone.tolist())[0])
    score, gate = (whole[key].cpu().numpy() if key in whole else None for key in ("score", "gate"))
    return Looked(whole["embedding"], score, gate, alone)


def _look(
    model: Embedder,
    images: Sequence[bytes],
    rows: np.ndarray,
    side: int,
    flip: str,
    batch_size: int,
    world: World,
    gates: GateRange | None,
) -> dict[str, Tensor]:
    """What the model makes of this process's images: embedding (n, D), and of a gated one score and gate."""
    local: dict[str, Tensor] = {}  # filled in place: a list of batches and their sum would be all of them twice
    done, points = 0, _landmarks(model, images, rows)
    batches = decoded(images, rows, batch_size, world.is_main)
    for pixels in in_step(batches) if is_sharded(model) else batches:
        for part in pixels.to(world.device, non_blocking=True).split(forward_batch(batch_size, world.device)):
            image = normalise(part if side == IMAGE_SIZE else low_res(part, side))
            here = None if points is None else points[done : done + len(image)].to(world.device)
            seen = _embed(model, image, side, here)
            if flip != "none":
                there = None if here is None else mirrored(here)
                own, other = seen["embedding"], _embed(model, image.flip(3), side, there)["embedding"]
                seen["embedding"] = own + other if flip == "sum" else torch.cat([own, other], 1)
            if gates is not None and "gate" in seen:
                gates.see(seen["gate"])
            for key, value in seen.items():
                if key not in local:
                    local[key] = value.new_empty(len(rows), *value.shape[1:])
                local[key][done : done + len(image)] = value
            done += len(image)
    return local


def forward_batch(batch_size: int, device: torch.device) -> int:
    """How many of a batch's images go through the network at once on this device."""
    return batch_size if device.type != "cpu" else min(batch_size, CPU_BATCH)


def _in_order(local: Tensor, world: World, count: int) -> Tensor:
    """Rows of all processes, which took turns, in the order of the images."""
    everyone = gather(local)  # (world_size * share, ...), process by process
    return everyone.unflatten(0, (world.world_size, -1)).transpose(0, 1).flatten(0, 1)[:count]


def _landmarks(model: Embedder, images: Sequence[bytes], rows: np.ndarray) -> Tensor | None:
    if getattr(getattr(model, "scorer", None), "needs", "") != "landmarks":
        return None
    if not isinstance(images, RecordImages):
        raise ValueError("the model's scorer looks at landmarks, and only record files have them beside them")
    return torch.from_numpy(images.landmarks()[rows])


def _embed(model: Embedder, image: Tensor, side: int, landmarks: Tensor | None) -> dict[str, Tensor]:
    """The embedding, and of a model with a gate the score and the gate, all float32."""
    if not getattr(model, "needs_gate", False):
        return {"embedding": model.embed(image).float()}
    level = image.new_full((len(image),), level_of(side))
    score = model.score(image, level=level, landmarks=landmarks)
    seen = {"embedding": model.embed(image, score), "score": score, "gate": model.quality_gate(score)}
    return {key: value.float() for key, value in seen.items()}


def _time(model: Embedder, images: Sequence[bytes], view: View, world: World) -> np.ndarray:
    """Milliseconds (timed,) of single images, decoded already; after one that warms up."""
    chosen = view.rows[np.linspace(0, len(view.rows) - 1, min(view.timed, len(view.rows))).astype(np.int64)]
    points, taken = _landmarks(model, images, chosen), np.zeros(len(chosen))
    for n, pixels in enumerate(decoded(images, chosen, 1, False)):
        pixels = pixels.to(world.device)
        image = normalise(low_res(pixels, view.side) if view.side != IMAGE_SIZE else pixels)
        here = None if points is None else points[n : n + 1].to(world.device)
        for _ in range(1 + (n == 0)):
            began = time.perf_counter()
            _embed(model, image, view.side, here)["embedding"].sum().item()
            taken[n] = 1000 * (time.perf_counter() - began)
    return taken


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


def place_of(images: Sequence[bytes], i: int) -> str:
    """Image i as messages name it: by its file and key, or path, where the images know it."""
    return images.where(i) if hasattr(images, "where") else f"image {i}"


def decoded(images: Sequence[bytes], rows: np.ndarray, batch_size: int, shown: bool) -> Iterator[Tensor]:
    """Batches (B, 112, 112, 3) uint8; the next one is decoded while one is computed."""

    def one(i: int) -> np.ndarray:
        try:
            return decode(images[i], IMAGE_SIZE, place_of(images, i))
        except PictureError as error:
            if isinstance(images, RecordImages):
                raise
            raise ValueError(f"{place_of(images, i)}: {error.problem}") from None  # its advice is for records

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
