"""The classifier: class centres sharded over the processes, sampled negatives, an exact distributed cross-entropy.

Partial FC (An et al. 2021, arXiv:2010.05222; 2022, arXiv:2203.15565). Every process holds a range of the classes and
sees the embeddings of the whole global batch. What a process computes is its share of one loss: the shares' gradients
summed over processes are the true gradient. Embeddings get world_size times that, which DDP's averaging takes back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from recognition import distributed
from recognition.partial_fc.blocks import Memory
from recognition.partial_fc.centres import check_centres, class_range, draw_centres
from recognition.partial_fc.functions import (
    Cosine,
    ScaleGradient,
    SoftmaxCrossEntropy,
    Unit,
    sum_over_processes,
)
from recognition.partial_fc.labels import LabelError, gather_labels
from recognition.partial_fc.row_update import RowUpdate
from recognition.partial_fc.sampling import OF_MARGIN, fill_up, mix, nearness
from recognition.types import Margin, MarginContext

__all__ = ["CHOICES", "LabelError", "PartialFC", "class_range", "draw_centres"]

CHOICES = {  # of the settings in the section config.classifier, the first is the default
    "filter_mode": ("remove", "zero"),
    "sampling": ("uniform", "hard_negatives"),
    "state": ("all", "sampled"),
    "precision": ("fp32", "bf16"),
}


class PartialFC(nn.Module):
    """Class centres of this process and the loss of the global batch against all classes.

    Build it after distributed.start(). margin: an nn.Module (recognition.types.Margin); its parameters are the same on
    all processes and get the true gradient, summed over processes.
    sample_rate: in training, share of this process's classes that a step compares with: all classes of the global batch
        and a fill, drawn from (seed, step, process); more than the share where the batch has more classes.
        Below 1, call `bind(optimizer)` once. In eval mode all classes take part.
    sampling: "uniform", or "hard_negatives": hard_share of the fill are the centres nearest to the batch's embeddings.
        The idea is HF-Softmax's (Zhang et al., AAAI 2018), which looks them up in trees; here all are looked at, see
        sampling.nearness() for what that costs. The softmax is over the classes that take part, without a correction
        for how they were chosen.
    filter_threshold: interclass filtering: a negative whose cosine exceeds it may be the same person under another
        label, and gets no gradient. 0 = off. A target is never filtered. filter_mode: "remove" takes it out of the
        softmax: margins see it at cosine -1, where none counts it as hard, and its logit is -inf after them (with a
        margin that owns its reduction it stays at cosine -1). "zero" puts cosine 0 in its place before the margin, as
        arcface_torch does, which adds exp(0) to the sum.
    state: "all", or "sampled": at a sample_rate below 1 the momentum of a class that a step does not compare with is
        dropped, so that the optimizer keeps as much as a step's sample. SGD only: AdamW's moments of a class that comes
        back would be taken for those of many steps.
    precision: "bf16" multiplies embeddings and centres, and gradients with both, as bf16 with float32 sums; the rest,
        softmax and margin included, is float32 as ever. Unit vectors of 512 numbers: cosines err by 1e-4 (deviation).

    weight: (local classes, embedding_size), the range torch.chunk gives this process; it may be empty.
    sampled_rows: (n,) int64 sorted local rows of the last forward, None where all took part.
    log_total: (N,) of the last forward, the log of the sum of exp(logit) over the classes that took part, of all
        processes, with gradient: for a loss that every process computes in full. None where the margin owns its
        reduction. It holds the graph of that forward: set it to None when done.
    """

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        margin: Margin,
        sample_rate: float = 1.0,
        seed: int = 0,
        filter_threshold: float = 0.0,
        filter_mode: str = "remove",
        sampling: str = "uniform",
        hard_share: float = 0.5,
        state: str = "all",
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        if embedding_size < 1 or num_classes < 1:
            raise ValueError(f"a classifier of {num_classes} classes x {embedding_size}; both must be 1 or more")
        if not 0 < sample_rate <= 1:
            raise ValueError(f"classifier.sample_rate is {sample_rate}; it must lie in (0, 1]")
        if not 0 <= filter_threshold < 1:
            raise ValueError(f"classifier.filter_threshold is {filter_threshold}; it must lie in [0, 1), 0 = off")
        if not 0 <= hard_share <= 1:
            raise ValueError(f"classifier.hard_share is {hard_share}; it must lie in [0, 1]")
        if seed < 0:
            raise ValueError(f"run.seed is {seed}; it must not be negative")
        given = {"filter_mode": filter_mode, "sampling": sampling, "state": state, "precision": precision}
        for name, value in given.items():
            if value not in CHOICES[name]:
                raise ValueError(f"classifier.{name} is '{value}'; it must be {' or '.join(map(repr, CHOICES[name]))}")
        self.num_classes, self.sample_rate, self.seed = num_classes, sample_rate, seed
        self.filter_threshold, self.filter_mode = filter_threshold, filter_mode
        self.sampling, self.hard_share, self.state, self.precision = sampling, hard_share, state, precision
        self.world_size, self.global_rank = distributed.world_size(), distributed.global_rank()
        self.class_start, stop = class_range(num_classes, self.world_size, self.global_rank)
        self.weight = nn.Parameter(draw_centres(embedding_size, self.class_start, stop, seed))
        self.margin = margin
        for parameter in margin.parameters():
            if parameter.requires_grad:
                parameter.register_hook(sum_over_processes)
        self.sampled_rows: Tensor | None = None
        self.log_total: Tensor | None = None
        self._update: RowUpdate | None = None
        self._memory = Memory()  # logits and their gradient, the gradient of the centres

    def forward(
        self,
        embedding: Tensor,
        label: Tensor,
        *,
        score: Tensor | None = None,
        gate: Tensor | None = None,
        measured: Tensor | None = None,
        counts: list[int] | None = None,
        step: int = 0,
        micro_step: int = 0,
    ) -> Tensor:
        """Mean loss over the global batch, (), the same on every process; computed in float32 under any autocast.

        embedding: (n, D) of this process, not normalised. label: (n,) integer, 0 .. num_classes - 1.
        score, gate, measured: (n,) or (n, k) of this process for the margin (see MarginContext), no gradient.
        counts: rows of every process, None where all have as many. step: the optimizer update; micro-steps that give
        the same step share the random fill, and the update then moves every class that one of them sampled; what a
        margin draws differs by micro_step.
        LabelError on all processes for a label that is no class; RuntimeError for an order of calls.
        """
        self._check_order(embedding, label)
        label = gather_labels(label.to(self.weight.device), counts, self.num_classes)
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        embedding = distributed.gather(embedding.to(dtype), counts)
        embedding = ScaleGradient.apply(embedding, float(self.world_size))
        score, gate, measured = (
            None if rows is None else distributed.gather(rows.detach(), counts) for rows in (score, gate, measured)
        )
        with torch.autocast(embedding.device.type, enabled=False):
            unit, norm = Unit.apply(embedding)
            rows = self.sample(label, step, embedding) if self.training and self.sample_rate < 1 else None
            self.sampled_rows = rows
            column = self._columns(label, rows)
            generator = torch.Generator().manual_seed(mix(self.seed, step, micro_step, OF_MARGIN))
            context = MarginContext(
                norm,
                score,
                generator,
                self.class_start,
                self.num_classes,
                label,
                gate=gate,
                measured=measured,
                disposable=self.in_place(),
            )
            return self._reduce(self._logits(unit, rows, column, context), column, context)

    def sample(self, label: Tensor, step: int, embedding: Tensor | None = None) -> Tensor:
        """Local rows of a step, (n,) int64 sorted: every local class in `label`, filled up.

        label: (N,) of the global batch; embedding: (N, D), for hard negatives. n = round(sample_rate * local classes),
        or more where the batch has more.
        """
        local = len(self.weight)
        label = label - self.class_start
        positive = label[(label >= 0) & (label < local)].unique()
        wanted = round(self.sample_rate * local)
        if len(positive) >= wanted:
            return positive
        near = None
        if self.sampling == "hard_negatives" and embedding is not None:
            near = nearness(embedding, self.weight)
        return fill_up(positive, local, wanted, mix(self.seed, step, self.global_rank), near, self.hard_share)

    def bind(self, optimizer: Optimizer) -> None:
        """Make `optimizer` update the sampled classes only: momentum, moments and weight decay of the others rest.

        Call it once after building the optimizer. At sample_rate 1, where all classes move, it may be left out, and
        makes SGD's step cheaper, see row_update.RowUpdate. Works with any torch optimizer whose state has the weight's
        shape or is a scalar (SGD, AdamW), with gradient scalers and with accumulation.
        Outside optimizer.step(), weight and optimizer.state[weight] are those of all local classes, the latter sparse
        tensors where state is "sampled"; weight.grad is a sparse tensor of the sampled rows. AdamW's step count is one
        for all classes, as in arcface_torch.
        ValueError if the optimizer does not hold the weight, or is none for this state.
        """
        if self.state == "sampled" and not isinstance(optimizer, SGD):
            raise ValueError(
                f"classifier.state is 'sampled' and the optimizer {type(optimizer).__name__}; wanted optim.name=sgd, "
                "or classifier.state=all"
            )
        if self._update is not None:
            self._update.remove()
        held = any(parameter is self.weight for group in optimizer.param_groups for parameter in group["params"])
        wanted = held or self.sample_rate < 1
        self._update = RowUpdate(self.weight, optimizer, self.state == "sampled") if wanted else None

    def tensors(self, optimizer: Optimizer | None = None) -> dict[str, Tensor]:
        """What has one row per local class: "weight" and the optimizer's state of it by name.

        No copies, but of what the optimizer keeps of a sample only: dense, with zeros for the other classes.
        """
        state = {} if optimizer is None else optimizer.state.get(self.weight, {})
        rows = {k: v for k, v in state.items() if isinstance(v, Tensor) and v.shape == self.weight.shape}
        rows = {k: v.to_dense() if v.is_sparse else v for k, v in rows.items()}
        return {"weight": self.weight.detach(), **rows}

    def init_centres(self, centres: Tensor) -> None:
        """Start from given centres, class means for example; each process takes its own rows.

        centres: (num_classes, D), the whole matrix, as it is: the norm of a row sets how far a step turns it (drawn
        rows have 0.01 * sqrt(D)). ValueError for another shape, or a row that is zero or not finite.
        """
        check_centres(centres, self.num_classes, self.weight.shape[1])
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

    def _columns(self, label: Tensor, rows: Tensor | None) -> Tensor:
        """(N,) column of each target among the local (sampled) classes, -1 where another process holds it."""
        column = label - self.class_start
        here = (column >= 0) & (column < len(self.weight))
        if rows is not None:
            column = torch.searchsorted(rows, column)
        return column.where(here, column.new_tensor(-1))

    def _logits(self, unit: Tensor, rows: Tensor | None, column: Tensor, context: MarginContext) -> Tensor:
        """(N, n) of this process: cosines, what filtering leaves of them, the margin."""
        cosine = Cosine.apply(unit, self.weight, rows, self.precision == "bf16", self._memory)
        if not self.filter_threshold:
            return self.margin(cosine, column, context)
        high = cosine.detach() > self.filter_threshold
        targets = (column >= 0).nonzero().squeeze(1)
        high[targets, column[targets]] = False
        removes = self.filter_mode == "remove"
        logits = self.margin(cosine.masked_fill(high, -1.0 if removes else 0.0), column, context)
        return logits.masked_fill(high, -torch.inf) if removes and not self._own_reduction() else logits

    def _own_reduction(self) -> bool:
        return getattr(self.margin, "reduce", None) is not None

    def in_place(self) -> bool:
        """Whether the margin says so itself; a subclass with a forward() of its own may look at both again."""
        speaks = next(kind for kind in type(self.margin).__mro__ if "forward" in vars(kind))
        return bool(vars(speaks).get("in_place")) and not self._own_reduction()

    def _reduce(self, logits: Tensor, column: Tensor, context: MarginContext) -> Tensor:
        if self._own_reduction():
            losses, self.log_total = self.margin.reduce(logits, column, context), None
        else:
            losses, self.log_total = SoftmaxCrossEntropy.apply(logits, column, self.in_place(), self._memory)
        weigh = getattr(self.margin, "weigh", None)
        loss = (weigh(losses, context) if weigh else losses).mean()
        extra = getattr(self.margin, "extra", None)
        if extra:  # every process computes it in full, so each contributes a share of its gradient
            loss = loss + ScaleGradient.apply(extra(context), 1 / self.world_size)
        for parameter in self.margin.parameters():
            if parameter.requires_grad:  # a gradient on every process, or sum_over_processes would wait for ever
                loss = loss + 0.0 * parameter.sum()
        return loss
