"""What `tools/benchmark.py step` measures: training steps of several recipes, the first of which is the yardstick."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from recognition import config as settings
from recognition import distributed, plan
from recognition.bench import model_step
from recognition.inputs import open_records
from recognition.learner import Learner
from recognition.types import IMAGE_SIZE, Batch

LR = 1e-6  # the weights hardly move, however long it runs

Case = tuple[Callable[[], Iterator[int]], str]  # an endless iterator of images per step; the name of the case's limit


@contextmanager
def cases(args: Namespace) -> Iterator[tuple[str, dict[str, Case]]]:
    """What each recipe keeps in memory, and its steps. args: recipes, set (overrides), batch, device.

    The images are noise, so that nothing is decoded; the classes are the recipe's. ConfigError, a ValueError, for a
    recipe that does not resolve or lacks a file. With args.backbone model_step measures, without recipes.
    """
    if bool(args.backbone) == bool(args.recipes):
        raise ValueError("name recipes, or a network by --backbone, and not both")
    if args.backbone:
        with model_step.cases(args) as found:
            yield found
        return
    args.measured = None
    if args.batch < 2:
        raise ValueError(f"--batch {args.batch}: batch norms in training want 2 images at least")
    names = [Path(recipe).stem for recipe in args.recipes]
    if len(set(names)) < len(names):
        raise ValueError(f"two recipes have the same name: {', '.join(names)}")
    world = distributed.start(args.device)
    try:
        learners = {
            name: _learner(recipe, args.set, args.batch, world)
            for name, recipe in zip(names, args.recipes, strict=True)
        }
        lines = [f"training steps of {args.batch} images on {world.device.type}, one process; MiB kept for backward:"]
        lines += [f"{name} {_kept(learner, args.batch):.1f}" for name, learner in learners.items()]
        yield (
            f"{lines[0]} {', '.join(lines[1:])}",
            {name: (partial(_steps, learner, args.batch), names[0]) for name, learner in learners.items()},
        )
    finally:
        distributed.stop()


def summary(args: Namespace, rates: dict[str, list[float]]) -> list[str]:
    """More lines on steps without recipes."""
    return model_step.summary(args, rates) if args.measured is not None else []


def _learner(recipe: str, overrides: list[str], batch: int, world: distributed.World) -> Learner:
    own = [f"data.batch_size={batch}", f"optim.lr={LR}", "optim.accumulate=1"]
    config = settings.load(recipe, [*overrides, *own])
    missing = settings.missing_needs(config)
    if missing:
        raise ValueError("\n".join(missing))
    return Learner(config, open_records(config), world, [batch])


def _kept(learner: Learner, batch: int) -> float:
    return plan.activations(learner, batch) / 2**20


def _steps(learner: Learner, images: int) -> Iterator[int]:
    generator, device = torch.Generator().manual_seed(0), learner.world.device
    image = torch.rand(images, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator) * 2 - 1
    label = torch.randint(learner.classifier.num_classes, (images,), generator=generator)
    batch = Batch(image.to(device), label.to(device), torch.zeros(images, 2, dtype=torch.int64, device=device))
    while True:
        loss = learner.backward(batch, 0, learner.config.optim.accumulate - 1)
        finite = learner.guard.finite(loss, learner.gradient_norm())  # waits for the device, as training does
        learner.step(0) if finite else learner.skip()
        yield images
