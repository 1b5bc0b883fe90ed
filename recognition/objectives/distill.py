"""A frozen base on the clean images teaches the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from recognition.objectives import OBJECTIVES
from recognition.objectives._checks import check_choice, check_share, needed
from recognition.objectives._pairs import unit
from recognition.types import Batch, ObjectiveContext


@OBJECTIVES.register("distill")
class Distill(nn.Module):
    """Distillation from the frozen base: cosine * mean(1 - cos(z_i, t_i)) + relational * mean (z_i.z_j - t_i.t_j)^2.

    t: what the network that training starts from makes of the image before degradation; z: what the network makes of
    it now; both of norm 1. The first term holds each embedding, the second, over all i != j of the global batch, only
    what they are to one another (as Park et al. 2019, RKD, arXiv 1904.05068, with cosines in the place of normalised
    distances; Tung & Mori 2019, arXiv 1907.09682, compare similarities so). Both terms are ours in this form.
    cosine, relational: weights of the terms, 0 = off.
    of: which embeddings are taught: "seen", of the images as they are degraded; "twin", of the clean ones, which
        guards high resolution alone; "both", the mean of the two, for one more pass of the network than "seen".
    """

    fields = ("twin",)

    def __init__(
        self, cosine: float = 1.0, relational: float = 0.0, of: Literal["seen", "twin", "both"] = "seen"
    ) -> None:
        super().__init__()
        check_share("distill", "cosine", cosine)
        check_share("distill", "relational", relational)
        if cosine == relational == 0:
            raise ValueError("objective 'distill': cosine and relational are both 0; one of them must be positive")
        check_choice("distill", "of", of, ("seen", "twin", "both"))
        self.cosine, self.relational, self.of = cosine, relational, of
        self.base: Callable[[Tensor], Tensor] | None = None

    def bind(self, base: Callable[[Tensor], Tensor]) -> None:
        """Learn from this network, (B, 3, H, W) -> (B, D): frozen and in eval mode; no part of the state dict."""
        object.__setattr__(self, "base", base)  # nn.Module would make a module a child of this one

    def views(self, batch: Batch) -> dict[str, Tensor]:
        """The images before degradation, where they are taught."""
        return {} if self.of == "seen" else {"twin": needed("distill", batch, "twin")}

    def forward(self, embedding: Tensor, label: Tensor, context: ObjectiveContext) -> Tensor:
        """embedding: (N, D) of the global batch. Returns (). RuntimeError before bind()."""
        if self.base is None:
            raise RuntimeError("objective 'distill' has no teacher: call bind(base) with the starting network first")
        with torch.no_grad():
            teacher = context.gather(self.base(needed("distill", context.batch, "twin")))
        with torch.autocast(embedding.device.type, enabled=False):
            teacher = unit(teacher).to(torch.promote_types(embedding.dtype, torch.float32))
            students = {"seen": embedding, **context.views}
            taught = [students[name] for name in (("seen", "twin") if self.of == "both" else (self.of,))]
            terms = [self._term(unit(student), teacher) for student in taught]
            return sum(terms) / len(terms) + 0.0 * embedding.sum()

    def _term(self, student: Tensor, teacher: Tensor) -> Tensor:
        # |z - t|^2 / 2 is 1 - cosine for unit rows, and unlike it exact where they are near, as at the start
        term = self.cosine * 0.5 * (student - teacher).square().sum(1).mean()
        if self.relational:
            number = len(student)
            difference = (student @ student.T - teacher @ teacher.T).fill_diagonal_(0.0)
            term = term + self.relational * difference.square().sum() / max(number * (number - 1), 1)
        return term
