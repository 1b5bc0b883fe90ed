"""Quality scorers as evaluation uses them: made from a line of text each, shown what the matcher sees, and timed."""

from __future__ import annotations

import copy
import shlex
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from easydict import EasyDict
from torch import Tensor, nn

from adapters import ADAPTERS
from iqa import SCORERS
from recognition.backbones import BACKBONES
from recognition.config import arguments, from_json, override, plugin_faults, run_of
from recognition.data.augment import normalise
from recognition.data.degrade import Degradation, apply
from recognition.data.landmarks import mirrored
from recognition.data.pairs import RecordImages
from recognition.distributed import World, gather
from recognition.evaluation.embed import CPU_BATCH, Embedder, decoded, evaluating
from recognition.model import build_backbone
from recognition.runs import load_run
from recognition.weights import build_strictly, plain_tensors, read_weights
from recognition.weights.hub import local_path

TIMED = 16  # images of a timed batch
REPEATS = 7


def sections(config: EasyDict, specs: Sequence[str] = ()) -> dict[str, EasyDict]:
    """Name and arguments of scorers, by the label that tables show.

    specs: a scorer each, with arguments as a recipe's section `scorer` takes them, such as "sharpness:variance" or
    "brisque weights=a.yml ranges=b.yml"; base=RUN_OR_WEIGHTS, beside them, is the network that one which looks through
    a network takes in place of the matcher's. Empty: every scorer there is, with its default arguments.
    ConfigError for an unknown name or argument.
    """
    found: dict[str, EasyDict] = {}
    for text in specs or SCORERS.names():
        name, *given = shlex.split(text)
        chosen = copy.deepcopy(config)
        chosen.scorer = EasyDict(name="")
        own = [word for word in given if not word.startswith("base=")]
        override(chosen, [f"scorer.name={name}", *(f"scorer.{word}" for word in own)])
        if faults := [fault for fault in plugin_faults(chosen) if fault.startswith("config.scorer")]:
            raise ValueError(f"scorer '{text}': {faults[0]}")
        section = chosen.scorer
        section.base = next((word.removeprefix("base=") for word in given if word not in own), "")
        label = _label(section)
        found[text if label in found else label] = section
    return found


def make(
    wanted: Mapping[str, EasyDict], base: nn.Module | str, images: Sequence[Sequence[bytes]], device: torch.device
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Scorers in eval mode on the device, by label; and why the others cannot be made here, by label.

    base: the matcher's network before any adapter, or a path as plain_base() takes it, for scorers that look through a
    network and name none of their own. images: of every set to be scored, for scorers that need landmarks.
    """
    made, missing = {}, {}
    bases = {"": base} if isinstance(base, nn.Module) else {}
    for label, section in wanted.items():
        try:
            scorer = SCORERS.create(
                section.name, **{k: v for k, v in arguments(section, "scorer").items() if k != "base"}
            )
            if getattr(scorer, "columns", 1) > 1:
                raise ValueError("it gives several scores for each image, and a curve follows one: name each alone")
            if scorer.needs == "model":
                if section.base not in bases:
                    bases[section.base] = plain_base(section.base or base).to(device)
                scorer.bind(bases[section.base])
            elif section.base:
                raise ValueError(f"scorer '{section.name}' looks through no network, so base= is of no use to it")
            if scorer.needs == "landmarks":
                for some in images:
                    _landmarks(some)
        except (ValueError, ImportError, OSError) as error:
            missing[label] = " ".join(str(error).split())
        else:
            made[label] = scorer.to(device).eval()
    return made, missing


def plain_base(path: str | Path) -> nn.Module:
    """The network that scorers of a model look through, in eval mode.

    path: weights with their card; or a run: the base that it started from, or what it made of the base if its adapter
    trains that. ValueError for weights without a card, and where training added layers to the base that it trained.
    """
    if local_path(path).is_file():
        name = read_weights(path).card.get("backbone")
        if name is None:
            raise ValueError(f"{path} has no card that names its backbone")
        return build_backbone(EasyDict(backbone=EasyDict(name=name)), path).eval()
    config = from_json(run_of(path) / "config.json")
    if not ADAPTERS.create(config.adapter.name, **arguments(config.adapter, "adapter")).freezes_base:
        trained = plain_tensors(load_run(path).backbone.state_dict(), path)
        chosen = arguments(config.backbone, "backbone")
        return build_strictly(lambda: BACKBONES.create(config.backbone.name, **chosen), trained, path).eval()
    return build_backbone(config, config.backbone.weights).eval()


def look(
    images: Sequence[bytes],
    degradation: Degradation,
    seed: int,
    scorers: Mapping[str, nn.Module],
    *,
    world: World,
    model: Embedder | None = None,
    rows: np.ndarray | None = None,
    batch_size: int = 128,
    flip: bool = False,
) -> tuple[Tensor, dict[str, np.ndarray]]:
    """Embeddings (N, D) of the matcher, and every scorer's scores (N,) float32, of the same degraded pixels.

    Which side an image gets, and the rest of its degradation, is a function of seed and its position in `images`.
    All processes call this together, each takes its stride of the images, and all get everything.
    model: None = no embeddings, D = 0. rows: positions of the images to look at; None = all. flip: as of embed.
    """
    rows = np.arange(len(images)) if rows is None else rows
    share = -(-len(rows) // world.world_size)
    mine = rows[np.minimum(np.arange(share) * world.world_size + world.global_rank, len(rows) - 1)]
    points = _landmarks(images) if any(scorer.needs == "landmarks" for scorer in scorers.values()) else None
    parts: list[Tensor] = []
    done, size = 0, batch_size if world.device.type != "cpu" else CPU_BATCH
    with nullcontext() if model is None else evaluating(model), torch.no_grad():
        for pixels in decoded(images, mine, batch_size, world.is_main):
            here = mine[done : done + len(pixels)]
            draw = degradation.draw(seed, here)
            seen = normalise(apply(pixels.to(world.device), draw)).split(size)
            level = torch.from_numpy(draw.level).to(world.device).split(size)
            marks = [None] * len(seen) if points is None else points[here].to(world.device).split(size)
            parts += [_columns(model, scorers, *each, flip) for each in zip(seen, level, marks, strict=True)]
            done += len(here)
        everyone = gather(torch.cat(parts))
    table = everyone.unflatten(0, (world.world_size, share)).transpose(0, 1).flatten(0, 1)[: len(rows)]
    width = table.shape[1] - len(scorers)
    scores = table[:, width:].cpu().numpy()
    return table[:, :width], {label: scores[:, k] for k, label in enumerate(scorers)}


def cost(
    scorers: Mapping[str, nn.Module], model: Embedder, images: Sequence[bytes], device: torch.device
) -> tuple[float, dict[str, float]]:
    """Milliseconds per image: of the matcher's embedding, and of each scorer; medians over batches of 16 images.

    On a CPU processor time of one thread, which other programs do not lengthen much; on CUDA the time that passes.
    """
    some = next(iter(decoded(images, np.arange(TIMED) % len(images), TIMED, False)))
    image, level = normalise(some.to(device)), torch.zeros(TIMED, device=device)
    points = _landmarks(images) if any(scorer.needs == "landmarks" for scorer in scorers.values()) else None
    marks = None if points is None else points[np.arange(TIMED) % len(images)].to(device)
    tasks: dict[str, Callable[[], object]] = {"": lambda: _embed(model, image, level, marks)}
    for label, scorer in scorers.items():
        tasks[label] = lambda scorer=scorer: _score(scorer, image, level, marks)
    times: dict[str, list[float]] = {label: [] for label in tasks}
    with evaluating(model), torch.no_grad(), _one_thread():
        for repeat in range(REPEATS + 1):  # the first warms up; tasks take turns, so that a busy spell hits all of them
            for label, task in tasks.items():
                begin = _clock(device)
                task()
                if repeat:
                    times[label].append(_clock(device) - begin)
    median = {label: 1000 * statistics.median(found) / TIMED for label, found in times.items()}
    return median.pop(""), median


def _label(section: EasyDict) -> str:
    """Name and what is worth a word: arguments but files, and the base."""
    words = [section.name]
    for key, value in section.items():
        if key not in ("name", "base") and not ("/" in str(value) or Path(str(value)).is_file()):
            words.append(key if value is True else f"{value}" if isinstance(value, str) else f"{key}={value}")
    base = Path(section.base)
    return " ".join(words) + (f" on {base.stem if base.is_file() else base.name}" if section.base else "")


def _columns(
    model: Embedder | None,
    scorers: Mapping[str, nn.Module],
    image: Tensor,
    level: Tensor,
    landmarks: Tensor | None,
    flip: bool,
) -> Tensor:
    """(B, D + scorers) float32: the embedding, then a score each."""
    columns = []
    if model is not None:
        embedding = _embed(model, image, level, landmarks).float()
        if flip:
            there = None if landmarks is None else mirrored(landmarks)
            embedding = embedding + _embed(model, image.flip(3), level, there).float()
        columns.append(embedding)
    for label, scorer in scorers.items():
        score = _score(scorer, image, level, landmarks)
        if score.shape != (len(image),):
            raise ValueError(
                f"scorer '{label}' gives {tuple(score.shape)} for {len(image)} images; wanted one score each"
            )
        columns.append(score.float()[:, None])
    return torch.cat(columns, 1)


def _embed(model: Embedder, image: Tensor, level: Tensor, landmarks: Tensor | None) -> Tensor:
    if not getattr(model, "needs_gate", False):
        return model.embed(image)
    return model.embed(image, model.score(image, level=level, landmarks=landmarks))


def _score(scorer: nn.Module, image: Tensor, level: Tensor, landmarks: Tensor | None) -> Tensor:
    given = {"level": level, "landmarks": landmarks}
    return scorer(given[scorer.needs] if scorer.needs in given else (image + 1) / 2)


def _landmarks(images: Sequence[bytes]) -> Tensor:
    if not isinstance(images, RecordImages):
        raise ValueError("it looks at landmarks, which only record files have beside them")
    return torch.from_numpy(images.landmarks())


def _clock(device: torch.device) -> float:
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
