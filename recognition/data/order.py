"""Sample order: which record stands at which position of the stream, and which positions are this process's."""

from __future__ import annotations

import numpy as np

KEPT_EPOCHS = 2  # permutations in memory: an epoch's tail and the next one's head share a step


class SampleOrder:
    """One endless stream of positions through shuffled epochs, the same for any number of processes and workers.

    Position p belongs to epoch p // epoch_size, whose permutation is a pure function of (seed, epoch). Step k takes the
    positions kG .. (k+1)G - 1 with G = global_batch: an epoch's tail joins the next one, so no step is short. Process
    r of W takes kG + r, kG + r + W, ... of them. Nothing is drawn while running, so any step can be the first one.

    epoch_size: positions of an epoch; here num_images, each image once.
    Memory: epoch_size * 4 bytes for each of at most two epochs.
    """

    def __init__(
        self, num_images: int, seed: int, global_batch: int, global_rank: int = 0, world_size: int = 1
    ) -> None:
        """ValueError where a process would have no row, or there is no image.

        num_images: records in the data. global_batch: images of one step over all processes; may exceed num_images.
        """
        if num_images < 1:
            raise ValueError(f"the data hold {num_images} images; an order needs at least one: check data.records")
        if seed < 0:
            raise ValueError(f"the seed is {seed}; it must be 0 or more")
        if not 0 <= global_rank < world_size:
            raise ValueError(f"process {global_rank} of {world_size} does not exist; ranks are 0 .. world_size - 1")
        if global_batch < world_size:
            raise ValueError(
                f"a global batch of {global_batch} leaves some of {world_size} processes without an image; "
                f"take a batch of at least {world_size} or fewer processes"
            )
        self.num_images = num_images
        self.epoch_size = num_images
        self.seed = seed
        self.global_batch = global_batch
        self.global_rank = global_rank
        self.world_size = world_size
        self._permutations: dict[int, np.ndarray] = {}

    @property
    def steps_per_epoch(self) -> float:
        """Steps that one pass over the data takes; not a whole number where the batch does not divide the data."""
        return self.epoch_size / self.global_batch

    def counts(self) -> list[int]:
        """Rows of each process in every step, in rank order; they differ by at most one and sum to global_batch."""
        share, more = divmod(self.global_batch, self.world_size)
        return [share + (rank < more) for rank in range(self.world_size)]

    def positions(self, step: int) -> np.ndarray:
        """This process's positions in step 0, 1, ...: int64 (counts()[global_rank],), ascending."""
        if step < 0:
            raise ValueError(f"step {step} does not exist; steps count from 0")
        begin = step * self.global_batch
        return np.arange(begin + self.global_rank, begin + self.global_batch, self.world_size, dtype=np.int64)

    def epoch_of(self, position: int) -> int:
        """The epoch, from 0, that a position belongs to."""
        return int(position) // self.epoch_size

    def indices(self, positions: np.ndarray) -> np.ndarray:
        """Record numbers 0 .. num_images - 1 at these positions: int64, same shape."""
        positions = np.asarray(positions, dtype=np.int64)
        epochs, places = np.divmod(positions, self.epoch_size)
        found = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            found[here] = self._permutation(epoch)[places[here]]
        return found

    def _permutation(self, epoch: int) -> np.ndarray:
        kept = self._permutations
        if epoch not in kept:
            drawn = self._draw(np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch]))))
            while len(kept) >= KEPT_EPOCHS:
                del kept[next(iter(kept))]
            kept[epoch] = drawn
        return kept[epoch]

    def _draw(self, generator: np.random.Generator) -> np.ndarray:
        """The records of an epoch, (epoch_size,)."""
        return self._shuffled(generator)

    def _shuffled(self, generator: np.random.Generator) -> np.ndarray:
        small = np.arange(self.num_images, dtype=np.uint32 if self.num_images < 2**32 else np.int64)
        generator.shuffle(small)
        return small
