"""Updates whose loss or gradient is not finite: skipped by all processes together, counted, and ended after a row."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from recognition.model import FaceModel
from recognition.partial_fc import PartialFC


class NonFiniteGuard:
    """Keeps what is not finite out of a run's weights and statistics.

    model: in training mode. limit: updates in a row that may be skipped. in_a_row, total: updates skipped so far.
    """

    def __init__(self, model: FaceModel, classifier: PartialFC, limit: int) -> None:
        self.classifier, self.limit = classifier, limit
        self.in_a_row = self.total = 0
        moving = nn.ModuleList([model, classifier]) if model.statistics_move else classifier
        self._statistics = [*moving.buffers()]  # a forward pass moves them, before anybody knows its loss
        self._kept = [buffer.clone() for buffer in self._statistics]

    def finite(self, loss: Tensor, gradient_norm: Tensor) -> bool:
        """Whether this process may step. gradient_norm: of the network; class centres are looked at here."""
        values = [loss, gradient_norm, *map(_largest, _gradients(self.classifier.parameters()))]
        return bool(
            torch.stack([value.detach().float().reshape(()).to(loss.device) for value in values]).isfinite().all()
        )

    @torch.no_grad()
    def passed(self) -> None:
        """The update was made: its statistics are those to go back to."""
        self.in_a_row = 0
        for kept, buffer in zip(self._kept, self._statistics, strict=True):
            kept.copy_(buffer)

    def skipped(self) -> None:
        """The update was not made: put the statistics back."""
        self.in_a_row += 1
        self.total += 1
        self.put_back()

    @torch.no_grad()
    def put_back(self) -> None:
        """Statistics as they were after the last update that was made."""
        for kept, buffer in zip(self._kept, self._statistics, strict=True):
            buffer.copy_(kept)

    def state_dict(self) -> dict[str, int]:
        """JSON-able; statistics are saved with the model."""
        return {"in_a_row": self.in_a_row, "total": self.total}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Once the model's own state is loaded."""
        self.passed()
        self.in_a_row, self.total = state["in_a_row"], state["total"]


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    dense = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in found]
    return [gradient for gradient in dense if gradient.numel()]


def _largest(values: Tensor) -> Tensor:
    """Largest magnitude; NaN where there is one. One pass over memory, nothing allocated."""
    return torch.linalg.vector_norm(values, ord=float("inf"))
