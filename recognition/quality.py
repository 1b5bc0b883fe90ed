"""How good the images are that the network sees: a scorer and the gate over its score."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recognition.types import Batch


class Quality(nn.Module):
    """A scorer and the quality gate behind it; both None where nothing reads a gate.

    quality_gate: maps scores to gates. scorer: used where no score comes.
    """

    def __init__(self, quality_gate: nn.Module | None = None, scorer: nn.Module | None = None) -> None:
        super().__init__()
        self.quality_gate, self.scorer = quality_gate, scorer

    @property
    def needs_gate(self) -> bool:
        """True where something reads a gate, so that an image needs a score."""
        return self.quality_gate is not None

    @torch.no_grad()
    def score(self, image: Tensor, *, level: Tensor | None = None, landmarks: Tensor | None = None) -> Tensor | None:
        """Quality of what the network sees, (B,) float32; None where nothing reads a gate.

        level, landmarks: of a Batch, for the scorer that looks at them and not at the image; else not looked at.
        A scorer that looks through the model (needs == "model") costs a forward of the plain base here.
        RuntimeError without a scorer, and where the scorer needs what was not given.
        """
        if self.quality_gate is None:
            return None
        if self.scorer is None:
            raise RuntimeError("this model's layers need a gate: give a score, or build the model with a scorer")
        if self.scorer.needs in ("image", "model"):
            return self.scorer((image.float() + 1) / 2)
        given = {"level": level, "landmarks": landmarks}[self.scorer.needs]
        if given is None:
            raise RuntimeError(
                f"this model's scorer looks at the {self.scorer.needs} of an image, which nobody gave: call "
                f"score(image, {self.scorer.needs}=...), or give the model scores, model(image, score)"
            )
        return self.scorer(given)

    def middle_scores(self, count: int) -> Tensor | None:
        """Scores at the midpoint, for images whose quality does not matter; None where nothing reads a gate."""
        if self.quality_gate is None:
            return None
        midpoint = self.quality_gate.midpoint
        return midpoint.expand(count, *midpoint.shape)

    def score_batch(self, batch: Batch) -> Tensor | None:
        """The scores that the batch brings, and the scorer's for images that were degraded since, or for all."""
        if batch.score is None:
            return self.score(batch.image, level=batch.level, landmarks=batch.landmarks)
        rows = batch.unscored
        if self.quality_gate is None or rows is None or not len(rows):
            return batch.score
        level, landmarks = (None if of_all is None else of_all[rows] for of_all in (batch.level, batch.landmarks))
        return batch.score.index_copy(0, rows, self.score(batch.image[rows], level=level, landmarks=landmarks))
