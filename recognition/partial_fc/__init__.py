"""The classifier: class centres sharded over the processes, sampled negatives, an exact distributed cross-entropy.

Partial FC (An et al. 2021, arXiv:2010.05222; 2022, arXiv:2203.15565). Every process holds a range of the classes and
sees the embeddings of the whole global batch. What a process computes is its share of one loss: the shares' gradients
summed over processes are the true gradient. Embeddings get world_size times that, which DDP's averaging takes back.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from recognition import distributed
from recognition.partial_fc.functions import (
    SMALLEST_NORM,
    Cosine,
    ScaleGradient,
    SoftmaxCrossEntropy,
    sum_over_processes,
)
from recognition.partial_fc.row_update import RowUpdate
from recognition.types import Margin, MarginContext

CENTRE_DEVIATION = 0.01  # of the first centres' coordinates, as in arcface_torch
CLASSES_PER_BLOCK = 256  # drawn by one counter-based generator; a change draws other first centres
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
NOT_AN_INTEGER = torch.iinfo(torch.int64).min  # stands in for labels of another dtype while processes confer


class LabelError(ValueError):
    """Labels that name no class. Raised on all processes alike; `rows` are this process's bad rows, maybe none."""

    def __init__(self, message: str, rows: list[int]) -> None:
        super().__init__(message)
        self.rows = rows


def class_range(num_classes: int, world_size: int, global_rank: int) -> tuple[int, int]:
    """First class of a process and the one after its last, as torch.chunk splits; the last ranges may be empty."""
    most = -(-num_classes // world_size)
    return min(global_rank * most, num_classes), min((global_rank + 1) * most, num_classes)


def draw_centres(embedding_size: int, start: int, stop: int, seed: int) -> Tensor:
    """First centres of classes start .. stop - 1: (stop - start, embedding_size) float32 from N(0, 0.01^2).

    A row depends on seed, its class and embedding_size only, so any split of the classes starts from the same matrix.
    """
    centres = np.empty((stop - start, embedding_size), np.float32)
    for block in range(start // CLASSES_PER_BLOCK, -(-stop // CLASSES_PER_BLOCK)):
        first = block * CLASSES_PER_BLOCK
        low, high = max(start, first), min(stop, first + CLASSES_PER_BLOCK)
        generator = np.random.Generator(np.random.Philox(key=np.array([seed, block], np.uint64)))
        drawn = generator.standard_normal((high - first, embedding_size), dtype=np.float32)
        centres[low - start : high - start] = drawn[low - first :]
    centres *= np.float32(CENTRE_DEVIATION)
    return torch.from_numpy(centres)


class PartialFC(nn.Module):
    """Class centres of this process and the loss of the global batch against all classes.

    Build it after distributed.start(). margin: an nn.Module (recognition.types.Margin); its parameters are the same on
    all processes and get the true gradient, summed over processes.
    sample_rate: in training, share of this process's classes that a step compares with: all classes of the global batch
        and a random fill, drawn from (seed, step, process); more than the share where the batch has more classes.
        Below 1, call `bind(optimizer)` once. In eval mode all classes take part.
    filter_threshold: a negative whose cosine exceeds it counts as cosine 0 and gets no gradient: arcface_torch's
        interclass filtering, for classes that may be the same person. 0 = off.

    weight: (local classes, embedding_size), the range torch.chunk gives this process; it may be empty.
    sampled_rows: (n,) int64 sorted local rows of the last forward, None where all took part.
    """

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        margin: Margin,
        sample_rate: float = 1.0,
        seed: int = 0,
        filter_threshold: float = 0.0,
    ) -> None:
        super().__init__()
        if embedding_size < 1 or num_classes < 1:
            raise ValueError(f"a classifier of {num_classes} classes x {embedding_size}; both must be 1 or more")
        if not 0 < sample_rate <= 1:
            raise ValueError(f"classifier.sample_rate is {sample_rate}; it must lie in (0, 1]")
        if not 0 <= filter_threshold < 1:
            raise ValueError(f"classifier.filter_threshold is {filter_threshold}; it must lie in [0, 1), 0 = off")
        if seed < 0:
            raise ValueError(f"run.seed is {seed}; it must not be negative")
        self.num_classes, self.sample_rate, self.seed = num_classes, sample_rate, seed
        self.filter_threshold = filter_threshold
        self.world_size, self.global_rank = distributed.world_size(), distributed.global_rank()
        self.class_start, stop = class_range(num_classes, self.world_size, self.global_rank)
        self.weight = nn.Parameter(draw_centres(embedding_size, self.class_start, stop, seed))
        self.margin = margin
        for parameter in margin.parameters():
            if parameter.requires_grad:
                parameter.register_hook(sum_over_processes)
        self.sampled_rows: Tensor | None = None
        self._update: RowUpdate | None = None

    def forward(
        self,
        embedding: Tensor,
        label: Tensor,
        *,
        score: Tensor | None = None,
        counts: list[int] | None = None,
        step: int = 0,
    ) -> Tensor:
        """Mean loss over the global batch, (), the same on every process; computed in float32 under any autocast.

        embedding: (n, D) of this process, not normalised. label: (n,) integer, 0 .. num_classes - 1.
        score: (n,) or (n, k) raw quality for the margin, no gradient. counts: rows of every process, None where all
        have as many. step: the optimizer update; micro-steps that give the same step share the random fill, and the
        update then moves every class that one of them sampled.
        LabelError on all processes for a label that is no class; RuntimeError for an order of calls.
        """
        self._check_order(embedding, label)
        label = self._gather_label(label.to(self.weight.device), counts)
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        embedding = distributed.gather(embedding.to(dtype), counts)
        embedding = ScaleGradient.apply(embedding, float(self.world_size))
        score = None if score is None else distributed.gather(score.detach(), counts)
        with torch.autocast(embedding.device.type, enabled=False):
            norm = torch.linalg.vector_norm(embedding, dim=1, keepdim=True)
            rows = self.sample(label, step) if self.training and self.sample_rate < 1 else None
            self.sampled_rows = rows
            column = self._columns(label, rows)
            cosine = Cosine.apply(embedding / norm.clamp_min(SMALLEST_NORM), self.weight, rows)
            if self.filter_threshold:
                cosine = _filter(cosine, column, self.filter_threshold)
            generator = torch.Generator().manual_seed(_mix(self.seed, step))
            context = MarginContext(norm, score, generator, self.class_start, self.num_classes, label)
            return self._reduce(self.margin(cosine, column, context), column, context)

    def sample(self, label: Tensor, step: int) -> Tensor:
        """Local rows of a step, (n,) int64 sorted: every local class in `label`, filled up at random.

        label: (N,) of the global batch. n = round(sample_rate * local classes), or more where the batch has more.
        """
        local = len(self.weight)
        label = label - self.class_start
        positive = label[(label >= 0) & (label < local)].unique()
        wanted = round(self.sample_rate * local)
        if len(positive) >= wanted:
            return positive
        generator = torch.Generator(label.device).manual_seed(_mix(self.seed, step, self.global_rank))
        priority = torch.rand(local, generator=generator, device=label.device)
        priority[positive] = 2.0
        return priority.topk(wanted, sorted=False).indices.sort().values

    def bind(self, optimizer: Optimizer) -> None:
        """Make `optimizer` update the sampled classes only: momentum, moments and weight decay of the others rest.

        Call it once after building the optimizer; nothing happens at sample_rate 1. Works with any torch optimizer
        whose state has the weight's shape or is a scalar (SGD, AdamW), with gradient scalers and with accumulation.
        Outside optimizer.step(), weight and optimizer.state[weight] are those of all local classes; weight.grad is a
        sparse tensor of the sampled rows. AdamW's step count is one for all classes, as in arcface_torch.
        ValueError if the optimizer does not hold the weight.
        """
        if self._update is not None:
            self._update.remove()
        self._update = RowUpdate(self.weight, optimizer) if self.sample_rate < 1 else None

    def tensors(self, optimizer: Optimizer | None = None) -> dict[str, Tensor]:
        """What has one row per local class: "weight" and the optimizer's state of it by name; not copies."""
        state = {} if optimizer is None else optimizer.state.get(self.weight, {})
        rows = {k: v for k, v in state.items() if isinstance(v, Tensor) and v.shape == self.weight.shape}
        return {"weight": self.weight.detach(), **rows}

    def init_centres(self, centres: Tensor) -> None:
        """Start from given centres, class means for example; each process takes its own rows.

        centres: (num_classes, D), the whole matrix, as it is: the norm of a row sets how far a step turns it (drawn
        rows have 0.01 * sqrt(D)). ValueError for another shape, or a row that is zero or not finite.
        """
        if centres.shape != (self.num_classes, self.weight.shape[1]):
            wanted = (self.num_classes, self.weight.shape[1])
            raise ValueError(f"centres of shape {tuple(centres.shape)}; wanted {wanted}: all classes, not a share")
        norm = centres.norm(dim=1)
        bad = (~(norm.isfinite() & (norm > 0))).nonzero().squeeze(1).tolist()
        if bad:
            raise ValueError(f"centres of {len(bad)} classes are zero or not finite, the first is class {bad[0]}")
        with torch.no_grad():
            self.weight.copy_(centres[self.class_start : self.class_start + len(self.weight)])

    def _check_order(self, embedding: Tensor, label: Tensor) -> None:
        if embedding.shape != (len(label), self.weight.shape[1]) or label.dim() != 1:
            raise ValueError(
                f"embedding {tuple(embedding.shape)} and label {tuple(label.shape)}; "
                f"wanted (n, {self.weight.shape[1]}) and (n,)"
            )
        if distributed.world_size() != self.world_size:
            raise RuntimeError(
                f"this PartialFC was built for {self.world_size} processes, now there are "
                f"{distributed.world_size()}: build it after distributed.start()"
            )
        if self.training and self.sample_rate < 1 and self._update is None and torch.is_grad_enabled():
            raise RuntimeError(
                f"classifier.sample_rate is {self.sample_rate}: call classifier.bind(optimizer) once before training, "
                "or the optimizer would not know which classes were sampled"
            )

    def _gather_label(self, label: Tensor, counts: list[int] | None) -> Tensor:
        """Labels of the global batch, (N,) int64. All processes look at all labels, so all raise or none."""
        dtype = label.dtype
        label = (
            label.to(torch.int64) if dtype in INTEGERS else torch.full_like(label, NOT_AN_INTEGER, dtype=torch.int64)
        )
        everyone = distributed.gather(label, counts)
        bad = ((everyone < 0) | (everyone >= self.num_classes)).nonzero().squeeze(1).tolist()
        if not bad:
            return everyone
        ends = np.cumsum(counts or [len(label)] * self.world_size)
        owner = np.searchsorted(ends, bad, side="right")
        row = np.asarray(bad) - np.concatenate([[0], ends])[owner]
        value = everyone[bad[0]].item()
        what = "a label that is not of an integer dtype" if value == NOT_AN_INTEGER else f"label {value}"
        raise LabelError(
            f"{what} in row {row[0]} of process {owner[0]}, {len(bad)} bad of {len(everyone)} in the global batch; "
            f"wanted integers 0 .. {self.num_classes - 1}: tools/inspect_records.py shows a record's labels",
            row[owner == self.global_rank].tolist(),
        )

    def _columns(self, label: Tensor, rows: Tensor | None) -> Tensor:
        """(N,) column of each target among the local (sampled) classes, -1 where another process holds it."""
        column = label - self.class_start
        here = (column >= 0) & (column < len(self.weight))
        if rows is not None:
            column = torch.searchsorted(rows, column)
        return column.where(here, column.new_tensor(-1))

    def _reduce(self, logits: Tensor, column: Tensor, context: MarginContext) -> Tensor:
        own = getattr(self.margin, "reduce", None)
        losses = own(logits, column, context) if own else SoftmaxCrossEntropy.apply(logits, column)
        weigh = getattr(self.margin, "weigh", None)
        loss = (weigh(losses, context) if weigh else losses).mean()
        extra = getattr(self.margin, "extra", None)
        if extra:  # every process computes it in full, so each contributes a share of its gradient
            loss = loss + ScaleGradient.apply(extra(context), 1 / self.world_size)
        for parameter in self.margin.parameters():
            if parameter.requires_grad:  # a gradient on every process, or sum_over_processes would wait for ever
                loss = loss + 0.0 * parameter.sum()
        return loss


def _mix(*numbers: int) -> int:
    """One 64-bit seed from several numbers >= 0."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _filter(cosine: Tensor, column: Tensor, threshold: float) -> Tensor:
    high = cosine.detach() > threshold
    rows = (column >= 0).nonzero().squeeze(1)
    high[rows, column[rows]] = False
    return cosine.masked_fill(high, 0.0)
