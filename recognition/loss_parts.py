"""The parts of a recipe's loss: its margin, its objectives, what they look at and what they look through."""

from __future__ import annotations

from collections.abc import Callable

import torch
from easydict import EasyDict
from torch import Tensor, nn

from iqa import make_gate
from recognition.config import arguments
from recognition.distributed import World
from recognition.margins import MARGINS
from recognition.model import FaceModel, assemble, build_backbone, lone_scorer
from recognition.objectives import OBJECTIVES
from recognition.quality import Quality

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
TWIN = "twin"  # the view that is the batch as it was before degradation


def make_margin(config: EasyDict) -> nn.Module:
    """The recipe's margin."""
    return MARGINS.create(config.margin.name, **arguments(config.margin, "margin"))


def make_objectives(config: EasyDict) -> nn.ModuleList:
    """The recipe's objectives; their random weights are functions of config.run.seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        return nn.ModuleList(
            OBJECTIVES.create(chosen.name, **arguments(chosen, "objectives")) for chosen in config.objectives
        )


def batch_fields(config: EasyDict) -> set[str]:
    """Optional fields of Batch that the recipe's margin and objectives look at."""
    parts = [make_margin(config), *make_objectives(config)]
    twins = {TWIN} if config.classifier.twins else set()
    return twins.union(*(getattr(part, "fields", ()) for part in parts))


def quality(config: EasyDict) -> Quality:
    """What rates the images in training: the model, or the margin's own; without a gate where nothing reads one."""
    model = assemble(config).model
    if model.needs_gate or not getattr(make_margin(config), "needs_gate", False):
        return model
    return own_quality(config)


def own_quality(config: EasyDict) -> Quality:
    """Scorer and gate of a margin that reads a gate where no layer does. A scorer of the model has a base of its own.

    ValueError for a gate that learns: nothing would teach it.
    """
    scorer = lone_scorer(config)
    gate = make_gate(config.gate, 1, getattr(scorer, "columns", 1))
    if any(parameter.requires_grad for parameter in gate.parameters()):
        raise ValueError(
            f"margin '{config.margin.name}' takes the gate as it is, so a gate that learns has no teacher: "
            f"config.gate.shape is {config.gate.shape}; take linear, sigmoid, petal or steps"
        )
    return Quality(gate, scorer)


def bind_base(objectives: nn.ModuleList, config: EasyDict, world: World) -> int:
    """Give the network of backbone.weights, one for all, to the objectives that ask for it; without an adapter.

    Returns the number of its parameters; 0 where nobody asks.
    """
    binds: list[tuple[str, Callable]] = [
        (chosen.name, objective.bind)
        for chosen, objective in zip(config.objectives, objectives, strict=True)
        if hasattr(objective, "bind")
    ]
    if not binds:
        return 0
    if not config.backbone.weights:
        raise ValueError(
            f"objective '{binds[0][0]}' learns from the network that training starts from, but config.backbone.weights "
            "names no file: a random network teaches nothing"
        )
    base = FaceModel(build_backbone(config, config.backbone.weights), frozen_base=True)
    base = base.to(world.device).eval().requires_grad_(False)
    dtype = AUTOCAST[config.train.precision]

    def embed(image: Tensor) -> Tensor:  # a function, and so no part of an objective's state
        with torch.autocast(world.device.type, dtype=dtype, enabled=dtype is not None):
            return base.embed(image).float()

    for _, bind in binds:
        bind(embed)
    return sum(parameter.numel() for parameter in base.parameters())
