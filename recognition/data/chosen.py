"""Which images of a batch are degraded: each by itself, an exact share of every batch, or all after an epoch's head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from recognition.data import _draws


@dataclass(frozen=True)
class Choice:
    """A rule by which images are degraded. Rows are a pure function of seed and global position.

    share: of the images, in [0, 1].
    rule:
        "independent": each image by itself, with probability share.
        "half_batch": exactly round(share * global_batch) images of every global batch, drawn anew for each step;
            with share 0.5 the cross-resolution batches of Knoche et al. 2021 (2107.03769). A process gets more or fewer
            of them, and identities of balanced batches do too: the draw looks at neither.
        "legacy_epoch_head": the fault of the EPFL's program (LowResolutionFaceRecognition, train.py), which compared
            the number of the batch with half the batch size where the image's was meant: batches 0 .. global_batch // 2
            of each epoch stay as stored, and every image after them is degraded. Share must be 1.
    global_batch: images of one micro-step over all processes. epoch_size: positions of an epoch. Both of the order;
        "independent" needs neither.
    """

    share: float
    rule: Literal["independent", "half_batch", "legacy_epoch_head"] = "independent"
    global_batch: int = 0
    epoch_size: int = 0

    def __post_init__(self) -> None:
        rules = ("independent", "half_batch", "legacy_epoch_head")
        if self.rule not in rules:
            raise ValueError(f"degradation: choose={self.rule!r} must be one of {', '.join(rules)}")
        if self.rule != "independent" and (self.global_batch < 1 or self.epoch_size < 1):
            raise ValueError(
                f"degradation: choose={self.rule!r} needs the global_batch and epoch_size of a sample order"
            )
        if self.rule == "half_batch" and self.share and not self.rows_per_batch:
            raise ValueError(
                f"degradation: share={self.share} of a global batch of {self.global_batch} is not one image: raise "
                "the share or the batch, or take choose='independent'"
            )
        if self.rule == "legacy_epoch_head":
            if self.share != 1:
                raise ValueError(
                    f"degradation: share={self.share} must be 1 with choose='legacy_epoch_head', which degrades every "
                    "image after an epoch's head"
                )
            if (batches := self.epoch_size / self.global_batch) <= self.global_batch // 2 + 1:
                raise ValueError(
                    f"degradation: choose='legacy_epoch_head' leaves the first {self.global_batch // 2 + 1} batches of "
                    f"an epoch as stored, and an epoch has {batches:.4g}: nothing would be degraded; take a smaller "
                    "batch"
                )

    @property
    def rows_per_batch(self) -> int:
        """Images of a global batch that half_batch degrades."""
        return round(self.share * self.global_batch)

    def rows(self, seed: int, positions: ArrayLike) -> np.ndarray:
        """(B,) bool, True where the image at a position, int64 (B,), is degraded."""
        positions = np.asarray(positions, np.int64)
        if self.rule == "independent":
            return _draws.uniform(seed, _draws.DEGRADE, positions) < self.share
        steps, places = np.divmod(positions, self.global_batch)
        if self.rule == "legacy_epoch_head":
            epochs = steps * self.global_batch // self.epoch_size  # a batch is of the epoch in which it begins
            first_steps = -(-epochs * self.epoch_size // self.global_batch)
            return steps - first_steps > self.global_batch // 2
        found, which = np.unique(steps, return_inverse=True)
        whole = found[:, None] * self.global_batch + np.arange(self.global_batch)
        lots = _draws.hashed(seed, _draws.DEGRADE, whole)
        chosen = np.zeros(whole.shape, bool)
        drawn = np.argsort(lots, axis=1, kind="stable")[:, : self.rows_per_batch]
        np.put_along_axis(chosen, drawn, True, axis=1)
        return chosen[which, places]
