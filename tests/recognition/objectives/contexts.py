"""What the objectives' tests give them: a tiny network, batches with every optional field, contexts made of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recognition import distributed
from recognition.objectives import OBJECTIVES
from recognition.types import IMAGE_SIZE, Batch, ObjectiveContext

EMBEDDING_SIZE = 12
LOWEST = 7  # pixels that every other image is degraded to
SMALL = {"embedding_size": EMBEDDING_SIZE}  # given to objectives that ask for it
FACE = torch.tensor([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]])  # pixels of 112

LABELS = {
    "mixed": (0, 0, 0, 1, 1, 2, 2, 3, 4),
    "alone": (0,),
    "same": (2, 2, 2, 2, 2),
    "different": (4, 0, 3, 1, 2),
}


class Network(nn.Module):
    """(B, 3, H, W) of any size -> (B, EMBEDDING_SIZE), linear in the image."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        drawn = torch.randn(EMBEDDING_SIZE, 48, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(drawn)

    def forward(self, image: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(image, 4).flatten(1) @ self.weight.T


@dataclass
class Case:
    """What an objective is called with, and what its gradient is read from."""

    embedding: Tensor  # (N, EMBEDDING_SIZE) of the global batch, keeps its gradient
    label: Tensor  # (N,)
    context: ObjectiveContext
    local: Tensor  # (B * (1 + views), EMBEDDING_SIZE) of this process, keeps its gradient
    network: Network

    def call(self, objective: nn.Module) -> Tensor:
        return objective(self.embedding, self.label, self.context)


def make(name: str, **arguments) -> nn.Module:
    """The objective, its weights drawn from a fixed seed, with a tiny base where it wants one."""
    takes = inspect.signature(OBJECTIVES.get(name)).parameters
    torch.manual_seed(7)
    objective = OBJECTIVES.create(name, **{k: v for k, v in SMALL.items() if k in takes}, **arguments)
    if hasattr(objective, "bind"):
        objective.bind(Network(seed=1).eval().requires_grad_(False))
    return objective


def batch_of(label: Sequence[int], side: int = 16, seed: int = 0) -> Batch:
    """Smooth pictures of `side` pixels, every other one degraded, faces turned more and more to one side."""
    drawn, n = torch.Generator().manual_seed(seed), len(label)
    coarse = torch.rand(n, 3, 6, 6, generator=drawn) * 2 - 1
    twin = F.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)
    small = F.interpolate(twin, size=(max(LOWEST * side // IMAGE_SIZE, 2),) * 2, mode="area")
    low_res = torch.arange(n) % 2 == 0
    image = torch.where(low_res[:, None, None, None], F.interpolate(small, size=(side, side), mode="nearest"), twin)
    landmarks = FACE + torch.randn(n, 5, 2, generator=drawn)
    landmarks[:, 2, 0] += torch.arange(n) * 2.0
    return Batch(
        image=image,
        label=torch.tensor(label),
        key=torch.stack([torch.zeros(n, dtype=torch.int64), torch.arange(n)], 1),
        score=torch.rand(n, generator=drawn),
        twin=twin,
        level=torch.where(low_res, 1 - LOWEST / IMAGE_SIZE, 0.0),
        landmarks=landmarks,
    )


def duplicates(batch: Batch) -> Batch:
    """All pictures are the first one, and nobody is degraded."""
    twin = batch.twin[:1].expand_as(batch.twin).clone()
    landmarks = batch.landmarks[:1].expand_as(batch.landmarks).clone()
    return replace(batch, image=twin.clone(), twin=twin, level=torch.zeros_like(batch.level), landmarks=landmarks)


def rows_of(batch: Batch, begin: int, end: int) -> Batch:
    """A process's share."""
    parts = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return Batch(**{name: None if whole is None else whole[begin:end] for name, whole in parts.items()})


def present(objective: nn.Module, batch: Batch, network: Network, counts: list[int] | None = None) -> Case:
    """What an objective is called with. batch: of this process; counts: rows of each, None = of this process alone."""
    views = objective.views(batch) if hasattr(objective, "views") else {}
    local = network(torch.cat([batch.image, *views.values()]))
    local.retain_grad()
    embedding, *others = (everyone(part, counts) for part in local.split(len(batch)))
    embedding = embedding.view_as(embedding)  # a place of its own for the gradient by it, beside the views'
    embedding.retain_grad()
    centres = torch.randn(5, EMBEDDING_SIZE, generator=torch.Generator().manual_seed(2), dtype=embedding.dtype)
    context = ObjectiveContext(
        batch=batch,
        gather=lambda rows: everyone(rows, counts),
        views=dict(zip(views, others, strict=True)),
        score=everyone(batch.score, counts),
        log_total=(embedding @ centres.T).logsumexp(1),
        generator=torch.Generator().manual_seed(3),
    )
    return Case(embedding, everyone(batch.label, counts), context, local, network)


def everyone(rows: Tensor, counts: list[int] | None) -> Tensor:
    return rows if counts is None else distributed.gather(rows, counts)


def bare(
    label: Tensor,
    views: dict[str, Tensor] | None = None,
    log_total: Tensor | None = None,
    key: Tensor | None = None,
    twin: Tensor | None = None,
    gather: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> ObjectiveContext:
    """A context by hand, of one process, for embeddings that are given as they are."""
    n = len(label)
    key = torch.stack([torch.zeros(n, dtype=torch.int64), torch.arange(n)], 1) if key is None else key
    batch = Batch(torch.zeros(n, 3, 2, 2), label, key, twin=twin)
    return ObjectiveContext(batch, gather, views or {}, None, log_total, torch.Generator().manual_seed(3))
