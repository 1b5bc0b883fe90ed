"""What `tools/benchmark.py iqa` measures: training steps by where the gate's scores come from, and scoring alone."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from easydict import EasyDict
from torch import Tensor, nn

from iqa import SCORERS
from recognition import config as settings
from recognition import distributed
from recognition.inputs import open_records
from recognition.learner import Learner
from recognition.types import IMAGE_SIZE, Batch

RECIPES = ("configs/lfw_dual_lora.py", "configs/demo.py")  # the first whose files are there
LR = 1e-6  # the weights hardly move, however long it runs
LIMIT = "scores given"
SIDECAR = "sidecar"
ALONE = ", scoring alone"
STORED = 1_000_000  # scores of a sidecar

Case = tuple[
    Callable[[], Iterator[int]], str
]  # an endless iterator of images per step; the name of the case's limit, if any


@contextmanager
def cases(args: Namespace) -> Iterator[tuple[str, dict[str, Case]]]:
    """Steps of one recipe on one batch: with scores given, which cost nothing; from a sidecar; by each scorer online.

    args: recipe ("" = the first of RECIPES that can be trained), set (overrides), scorers (texts such as "sharpness" or
    "brisque weights=A ranges=B"; [] = those that need no file), batch, device.
    The images are noise, so that nothing is decoded. ValueError for a recipe without a gate or without its files, and
    for a scorer that looks at something else than the image.
    """
    if args.batch < 2:
        raise ValueError(f"--batch {args.batch}: batch norms in training want 2 images at least")
    recipe, config = _recipe(args)
    world = distributed.start(args.device)
    try:
        learner = Learner(config, open_records(config), world, [args.batch])
        if not learner.model.needs_gate:
            raise ValueError(f"{recipe}: adapter '{config.adapter.name}' has no gate, so nothing is scored")
        image, label = _batch(learner, args.batch)
        stored = np.linspace(0.5, 2.5, STORED, dtype=np.float32)
        own, scorers = learner.model.scorer, _scorers(args.scorers)
        share = config.degradation.share
        found: dict[str, Case] = {
            LIMIT: (partial(_steps, learner, own, partial(_given, learner, image, label)), LIMIT),
            SIDECAR: (partial(_steps, learner, own, partial(_stored, stored, image, label, 0)), LIMIT),
        }
        if own.needs in ("image", "model") and (degraded := round(share * args.batch)):
            name = f"{SIDECAR}, {degraded} of {args.batch} images degraded: {config.scorer.name}"
            found[name] = partial(_steps, learner, own, partial(_stored, stored, image, label, degraded)), LIMIT
        for name, scorer in scorers.items():
            online = partial(Batch, image, label, _no_keys(label))
            found[f"{name} online"] = partial(_steps, learner, scorer.to(world.device), online), LIMIT
        found[f"{SIDECAR}{ALONE}"] = partial(_look_ups, stored, image, label), ""
        for name, scorer in scorers.items():
            found[f"{name}{ALONE}"] = partial(_scorings, scorer, image), ""
        yield (
            f"training steps of {recipe} by the source of its scores: {args.batch} images on {world.device.type}, "
            "one process",
            found,
        )
    finally:
        distributed.stop()


def summary(args: Namespace, rates: Mapping[str, Sequence[float]]) -> list[str]:
    """Markdown: milliseconds of a step beside the limit's, and of scoring alone with its share of the limit's step.

    Each is the fastest of the measurements, which other programs lengthen least. A step still varies by more than most
    scorers cost, so that the second pair of columns is the one to go by.
    """
    spent = {name: 1000 * args.batch / max(values) for name, values in rates.items()}
    limit = spent[LIMIT]
    lines = [
        "| fastest measurement | ms a step | more than the limit | ms of scoring alone | of the limit's step |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, step in spent.items():
        if name.endswith(ALONE):
            continue
        alone = spent.get(f"{name.removesuffix(' online')}{ALONE}")
        cost = "| |" if alone is None else f"{alone:.3f} | {100 * alone / limit:.2f} % |"
        lines.append(f"| {name} | {step:.1f} | {100 * (step / limit - 1):+.1f} % | {cost}")
    return lines


def _recipe(args: Namespace) -> tuple[str, EasyDict]:
    own = [f"data.batch_size={args.batch}", f"optim.lr={LR}", "optim.accumulate=1", "data.scores=online"]
    missing: list[str] = []
    for recipe in [args.recipe] if args.recipe else RECIPES:
        if not args.recipe and not Path(recipe).is_file():
            continue
        config = settings.load(recipe, [*args.set, *own])
        if not (lacks := settings.missing_needs(config)):
            return recipe, config
        missing += lacks
    raise ValueError("\n".join(missing or [f"there is no {' nor '.join(RECIPES)} here: name a recipe"]))


def _scorers(asked: Sequence[str]) -> dict[str, nn.Module]:
    """Scorers of the image by name; those asked for, or all that need no file."""
    found = {}
    for text in asked or SCORERS.names():
        name, *given = text.split()
        options = settings.load(settings.BASE, [f"scorer.name={name}", *(f"scorer.{one}" for one in given)]).scorer
        kind = SCORERS.get(options.name)
        if kind.needs != "image":
            if asked:
                raise ValueError(f"--scorers {name}: it looks at the {kind.needs}; wanted scorers of the image")
            continue
        try:
            made = SCORERS.create(options.name, **settings.arguments(options, "scorer")).eval()
        except (ValueError, ImportError):
            if asked:
                raise
            continue
        if getattr(made, "columns", 1) == 1:  # the gate takes one
            found[name] = made
    return found


def _batch(learner: Learner, images: int) -> tuple[Tensor, Tensor]:
    generator, device = torch.Generator().manual_seed(0), learner.world.device
    image = torch.rand(images, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator) * 2 - 1
    label = torch.randint(learner.classifier.num_classes, (images,), generator=generator)
    return image.to(device), label.to(device)


def _no_keys(label: Tensor) -> Tensor:
    return torch.zeros(len(label), 2, dtype=torch.int64, device=label.device)


def _given(learner: Learner, image: Tensor, label: Tensor) -> Batch:
    return Batch(image, label, _no_keys(label), score=learner.model.middle_scores(len(label)))


def _stored(stored: np.ndarray, image: Tensor, label: Tensor, degraded: int) -> Batch:
    """As a loader takes scores from a sidecar's: those of some records; the first `degraded` rows are to be scored."""
    score = torch.from_numpy(stored[np.arange(len(label)) * 7919 % len(stored)])
    known = [tensor.to(image.device, non_blocking=True) for tensor in (score, torch.arange(degraded))]
    return Batch(image, label, _no_keys(label), score=known[0], unscored=known[1])


def _steps(learner: Learner, scorer: nn.Module, batch_of: Callable[[], Batch]) -> Iterator[int]:
    learner.model.scorer = scorer
    while True:
        batch = batch_of()
        loss = learner.backward(batch, 0, learner.config.optim.accumulate - 1)
        finite = learner.guard.finite(loss, learner.gradient_norm())  # waits for the device, as training does
        learner.step(0) if finite else learner.skip()
        yield len(batch)


@torch.no_grad()
def _scorings(scorer: nn.Module, image: Tensor) -> Iterator[int]:
    while True:
        scorer((image + 1) / 2)
        if image.is_cuda:
            torch.cuda.synchronize(image.device)
        yield len(image)


def _look_ups(stored: np.ndarray, image: Tensor, label: Tensor) -> Iterator[int]:
    while True:
        _stored(stored, image, label, 0)
        if image.is_cuda:
            torch.cuda.synchronize(image.device)
        yield len(image)
