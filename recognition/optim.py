"""Optimizer over what requires grad, and the learning-rate plan."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from easydict import EasyDict
from torch import nn
from torch.optim import Optimizer

from adapters._targets import matching
from recognition.registry import nearest
from recognition.types import Adapter


def build_optimizer(config: EasyDict, model: nn.Module, classifier: nn.Module, adapter: Adapter) -> Optimizer:
    """One optimizer for the network and this process's class centres; no decay on norms and biases.

    An adapter may bring groups of its own, with `lr_scale` relative to optim.lr. Frozen parameters are left out. What a
    quality gate learns has optim.lr times config.gate.lr_scale, and no decay; what the objectives learn, optim.lr.
    """
    settings = config.optim
    own = getattr(adapter, "parameter_groups", None)
    groups = own(model.backbone) if own else []
    learning = _of_gate(model)
    if learning and not 0 <= config.gate.lr_scale < math.inf:
        raise ValueError(f"config.gate.lr_scale is {config.gate.lr_scale}; it must be 0 or more, and finite")
    grouped = {id(p) for group in [*groups, {"params": learning}] for p in group["params"]}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in grouped]
    objectives = getattr(classifier, "objectives", None)
    beside = [] if objectives is None else [*objectives.parameters()]
    centres = [p for p in classifier.parameters() if not any(p is one for one in beside)]
    groups = [
        *({**group, "lr": settings.lr * group.pop("lr_scale", 1.0)} for group in groups),
        *_split_by_decay(rest, settings.lr, settings.weight_decay),
        *([{"params": learning, "lr": settings.lr * config.gate.lr_scale, "weight_decay": 0.0}] if learning else []),
        *_split_by_decay(beside, settings.lr, settings.weight_decay),
        *_split_by_decay(centres, settings.lr * config.classifier.lr_scale, settings.weight_decay),
    ]
    groups = _that_rest(groups, model, config.schedule.unfreeze, config.schedule.epochs)
    for group in groups:
        group["peak_lr"], group["rests"] = group["lr"], False
    if settings.name == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum, weight_decay=settings.weight_decay)
    if settings.name == "adamw":
        if len(settings.betas) != 2:
            raise ValueError(f"config.optim.betas is {settings.betas}; it holds two numbers, such as [0.9, 0.999]")
        return torch.optim.AdamW(groups, betas=tuple(settings.betas), weight_decay=settings.weight_decay)
    raise ValueError(f"config.optim.name is '{settings.name}'; it must be 'sgd' or 'adamw'")


def _of_gate(model: nn.Module) -> list[nn.Parameter]:
    gate = getattr(model, "quality_gate", None)
    return [] if gate is None else [p for p in gate.parameters() if p.requires_grad]


def _split_by_decay(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> list[dict]:
    parameters = [p for p in parameters if p.requires_grad]
    halves = [([p for p in parameters if p.ndim > 1], weight_decay), ([p for p in parameters if p.ndim <= 1], 0.0)]
    return [{"params": half, "lr": lr, "weight_decay": decay} for half, decay in halves if half]


def _that_rest(groups: list[dict], model: nn.Module, rules: list[dict], epochs: float) -> list[dict]:
    """The groups, split where some of their parameters rest until an epoch of their own; the last rule counts."""
    if not rules:
        return groups
    trained = {name: p for name, p in model.backbone.named_parameters() if p.requires_grad}
    begins: dict[int, float] = {}
    for rule in rules:
        for pattern in _globs(rule, epochs):
            found = [*matching(pattern, trained), *matching(f"{pattern}.**", trained)]
            if not found:
                raise ValueError(
                    f"config.schedule.unfreeze: '{pattern}' names nothing that is trained"
                    f"{nearest(pattern, {name.rpartition('.')[0] for name in trained})}"
                )
            begins |= {id(trained[name]): float(rule["from_epoch"]) for name in found}
    split: dict[tuple[int, float], dict] = {}
    for number, group in enumerate(groups):
        for parameter in group["params"]:
            epoch = begins.get(id(parameter), 0.0)
            part = split.setdefault((number, epoch), {**group, "params": [], "from_epoch": epoch})
            part["params"].append(parameter)
    return [*split.values()]


def _globs(rule: object, epochs: float) -> list[str]:
    """The patterns of one rule of unfreezing. ValueError for what is none."""
    is_rule = isinstance(rule, dict) and {*rule} == {"layers", "from_epoch"}
    layers, epoch = (rule["layers"], rule["from_epoch"]) if is_rule else (None, None)
    globs = [layers] if isinstance(layers, str) else layers
    if (
        isinstance(epoch, bool)
        or not isinstance(epoch, int | float)
        or not isinstance(globs, list)
        or not all(isinstance(pattern, str) for pattern in globs)
    ):
        raise ValueError(
            f"config.schedule.unfreeze holds {rule!r}; a rule is a dict of layers, globs over the names of layers, and "
            "from_epoch, a number"
        )
    if not 0 <= epoch < epochs:
        raise ValueError(
            f"config.schedule.unfreeze: {globs} from epoch {epoch:g} on, of {epochs:g} epochs: they would never train"
        )
    return globs


def lr_factor(update: int, total: int, warmup: int, name: str = "polynomial", power: float = 1.0) -> float:
    """Share of the peak learning rate at update 0, 1, ..., total - 1.

    Warm-up: (update + 1) / warmup. Then with t = (update - warmup) / (total - warmup): (1 - t)^power for "polynomial",
    (1 + cos(pi t)) / 2 for "cosine". Zero from `total` on.
    """
    if name not in ("polynomial", "cosine"):
        raise ValueError(f"config.schedule.name is '{name}'; it must be 'polynomial' or 'cosine'")
    if update < warmup:
        return (update + 1) / warmup
    t = min(1.0, (update - warmup) / max(1, total - warmup))
    return (1 - t) ** power if name == "polynomial" else (1 + math.cos(math.pi * t)) / 2


class Schedule:
    """The learning-rate plan of a run: a pure function of the update, so there is nothing to save."""

    def __init__(self, settings: EasyDict, total: int, warmup: int) -> None:
        """settings: the section config.schedule. total: updates of the run, of which the first `warmup` rise."""
        if warmup >= total > 0:
            raise ValueError(
                f"config.schedule.warmup_epochs={settings.warmup_epochs:g} is {warmup} updates of {total}: "
                "the learning rate would only rise; make it less than schedule.epochs"
            )
        self.settings, self.total, self.warmup = settings, total, warmup
        self.factor(0)  # a wrong name is an error now, not at the end of the warm-up

    def factor(self, update: int) -> float:
        """Share of the peak at an update."""
        return lr_factor(update, self.total, self.warmup, self.settings.name, self.settings.power)

    def apply(self, optimizer: Optimizer, update: int) -> float:
        """Set the learning rate of every group for an update, and which of them rest. Returns the first group's.

        A group that rests has no gradient, so that neither its weights nor its moments move; it starts with the
        learning rate of that time.
        """
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * self.factor(update)
            group["rests"] = update < round(group.get("from_epoch", 0.0) * self.total / self.settings.epochs)
        return optimizer.param_groups[0]["lr"]
