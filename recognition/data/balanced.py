"""Identity-balanced sample order: batches of P identities with K images each, for losses that compare images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recognition.data.order import SampleOrder


class BalancedOrder(SampleOrder):
    """SampleOrder whose every global batch of G holds P = G / K identities with K images each (P x K sampling).

    As there, an epoch is a pure function of (seed, epoch), the same for any number of processes, and any step can be
    the first one; another G or K makes another stream. A batch's K images of an identity stand side by side, so that
    processes, which take every W-th position, share them: they meet in the gathered batch.

    An epoch takes every image: a class of n images comes in ceil(n / K) groups of K, drawn anew for each epoch. The
    last group is filled with other images of the class; a class of fewer than K images repeats them (flip and
    degradation are drawn for each copy). An epoch is a whole number B of batches, the least that holds all groups; the
    last places, fewer than P, go to a further group each of classes drawn by lot. In an epoch one image of a class
    comes at most once more than another, and over epochs all of them equally often.

    No identity stands twice in a batch, unless it has more than B groups (more than about K images for each step of an
    epoch): it cannot be otherwise, and it then stands in every batch as often as in any other, or once more. A bad
    record's replacement (recognition/data/fetch.py) is any record of the set: its batch lacks one image of an identity.

    Memory: as SampleOrder's, and 20 bytes for each image while an epoch is drawn. 10 million images of 1 million
    classes: 2.3 s for an epoch on one core, and 1.7 s to begin.
    Source: Hermans, Beyer, Leibe 2017 (1703.07737, section 2), who draw the identities of each batch independently.
    """

    def __init__(
        self,
        labels: np.ndarray,
        per_class: int,
        seed: int,
        global_batch: int,
        global_rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """ValueError as SampleOrder's, and where K does not divide the batch or there are fewer than P classes.

        labels: (N,) class of each record, not negative; classes without a record are no matter. per_class: K.
        """
        super().__init__(len(labels), seed, global_batch, global_rank, world_size)
        if per_class < 1 or global_batch % per_class:
            raise ValueError(
                f"data.per_class is {per_class}, and a global batch has {global_batch} images: it must be a divisor of "
                "that, 1 or more; the global batch is data.batch_size times the number of processes"
            )
        self.per_class = per_class
        self.classes_per_batch = global_batch // per_class
        self._labels = labels
        counts = np.bincount(labels)
        self._sizes = counts[counts > 0]  # images of each class that has any
        self._begins = np.cumsum(self._sizes) - self._sizes
        if len(self._sizes) < self.classes_per_batch:
            raise ValueError(
                f"balanced batches of {self.classes_per_batch} identities with {per_class} images each from "
                f"{len(self._sizes)} classes: raise data.per_class, or lower data.batch_size"
            )
        self._groups = -(-self._sizes // per_class)
        self.batches_per_epoch = -(-int(self._groups.sum()) // self.classes_per_batch)
        self.epoch_size = self.batches_per_epoch * global_batch

    @property
    def often(self) -> int:
        """How many classes have more groups in an epoch than it has batches, and stand in some batches twice."""
        return int((self._groups > self.batches_per_epoch).sum())

    def _draw(self, generator: np.random.Generator) -> np.ndarray:
        batches, places, images = self.batches_per_epoch, self.classes_per_batch, np.arange(self.per_class)
        by_class = self._by_class(generator)
        groups = self._groups + self._more(generator)
        chosen = generator.permutation(len(groups))
        repeats = groups[chosen]
        classes = np.repeat(chosen, repeats)  # of each group, a class's side by side
        numbers = np.arange(len(classes)) - np.repeat(np.cumsum(repeats) - repeats, repeats)  # within the class
        found = np.empty((batches, places, self.per_class), by_class.dtype)
        rows = classes.reshape(places, batches)
        for place, (row, number, where) in enumerate(
            zip(rows, numbers.reshape(rows.shape), _spread(rows, generator), strict=True)
        ):
            among = (number[:, None] * self.per_class + images) % self._sizes[row, None]
            found[where, place] = by_class[self._begins[row, None] + among]
        return found.reshape(-1)

    def _by_class(self, generator: np.random.Generator) -> np.ndarray:
        """All records, class after class, those of a class shuffled."""
        shuffled = self._shuffled(generator)
        bits = len(shuffled).bit_length()
        # whole numbers are sorted at a fifth of the cost of a stable argsort
        keys = np.sort(self._labels[shuffled].astype(np.int64) << bits | np.arange(len(shuffled)))
        return shuffled[keys & ((1 << bits) - 1)]

    def _more(self, generator: np.random.Generator) -> np.ndarray:
        """Groups that classes get besides their own, (classes,), so that the batches are full."""
        room = np.maximum(self.batches_per_epoch - self._groups, 0)
        missing = self.batches_per_epoch * self.classes_per_batch - int(self._groups.sum())
        if not missing:
            return np.zeros_like(room)
        lots = generator.choice(int(room.sum()), missing, replace=False)
        drawn = np.searchsorted(np.cumsum(room), lots, side="right")
        return np.bincount(drawn, minlength=len(room))


def _spread(rows: np.ndarray, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """For each row of groups the batches they go to, (batches,): a permutation, so that a row's groups part.

    rows: (places, batches) classes of the groups, a class's side by side, from the end of one row into the next ones.
    Such a class comes to other batches in its last row than in its first one, as long as there are any.
    """
    running, there = -1, np.zeros(rows.shape[1], bool)  # the class at the end of the row above; where its first row was
    for row in rows:
        where = generator.permutation(len(row))
        head = np.count_nonzero(row == running)
        if head < len(row):
            if head:
                where = where[np.argsort(there[where], kind="stable")]
                where[head:] = generator.permutation(where[head:])
            running = row[-1]
            there[:] = False
            there[where[row == running]] = True
        yield where
