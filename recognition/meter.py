"""Figures of training between two log lines: speed, waiting for data, quality of what was seen."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from recognition.types import Batch

KEPT_SCORES = 50  # log lines whose scores make the histogram at the end


class Meter:
    """Counts seconds of training, and of them those spent waiting for a batch."""

    def __init__(self, seconds: float = 0.0, update: int = 0) -> None:
        """seconds, update: of training before this start of the run."""
        self.seconds = seconds
        self._waited, self._update, self._before = 0.0, update, seconds
        self._scores: deque[Tensor] = deque(maxlen=KEPT_SCORES)

    def next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; the time it takes to come counts as waiting."""
        asked = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - asked
        return batch

    def rates(self, update: int, images_per_update: int) -> dict[str, float]:
        """images/s and the share of waiting since the last call, by their log tags."""
        seconds, updates = self.seconds - self._before, update - self._update
        found = {
            "speed/images_per_second": updates * images_per_update / seconds,
            "speed/data_wait_share": self._waited / seconds,
        }
        self._waited, self._update, self._before = 0.0, update, self.seconds
        return found

    def keep(self, score: Tensor) -> None:
        """Scores of one batch, any shape."""
        self._scores.append(score.cpu())

    def scores(self) -> Tensor | None:
        """The scores that were kept last; None where there were none."""
        return torch.cat([*self._scores]) if self._scores else None
