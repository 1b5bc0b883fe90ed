"""One process's share of the pictures that are to be scored: decoded ahead, scored in blocks, kept in parts."""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from recognition.data.augment import normalise
from recognition.data.decode import decode
from recognition.data.encoded import LEAST_SIDE
from recognition.data.landmarks import read_landmarks
from recognition.data.records import Records
from recognition.data.scores import ScorerIdentity, ShardScores
from recognition.distributed import World, gather, gather_json
from recognition.types import IMAGE_SIZE

CPU_BLOCK, CUDA_BLOCK = 32, 256  # images scored together
ROUND = 16  # blocks of each process after which all of them agree that all is well
KEEP_EVERY = 30.0  # seconds of work that an interruption may cost
AHEAD = 2  # blocks decoded ahead


class Share:
    """This process's share of the pictures to score, and the parts of it that are kept."""

    def __init__(
        self,
        records: Records,
        scorer: nn.Module,
        identity: ScorerIdentity,
        world: World,
        missing: np.ndarray,
        skip: bool,
    ) -> None:
        self.records, self.scorer, self.identity, self.world, self.skip = records, scorer, identity, world, skip
        self.size = CUDA_BLOCK if world.device.type == "cuda" else CPU_BLOCK
        self.missing, rows = missing, np.flatnonzero(missing)
        blocks = rows // self.size
        shares = np.array_split(np.unique(blocks), world.world_size)  # neighbours: a process reads few shards
        parts = [rows[np.isin(blocks, share)] for share in shares]
        self.counts = [len(part) for part in parts]
        self.rows = parts[world.global_rank]  # of this process; those of all, in the order of processes, are `rows`
        starts = np.flatnonzero(np.diff(self.rows // self.size, prepend=-1))
        self.blocks = np.split(self.rows, starts[1:]) if len(self.rows) else []
        self.rounds = -(-max(map(len, shares)) // ROUND)
        self.landmarks = read_landmarks(records) if scorer.needs == "landmarks" else None
        self._who = f"{world.global_rank}-{uuid.uuid4().hex[:8]}"  # another one for each attempt
        self._scores = np.empty(0, np.float32)
        self._done = self._kept = 0  # of self.rows: scored; in a file
        self._kept_at = time.monotonic()
        self._files: dict[int, tuple[ShardScores, Path]] = {}  # by shard

    def run(self, scores: np.ndarray, threads: int) -> None:
        """Fill the missing rows of scores (N, ...) on all processes, which raise together what goes wrong on one."""
        self._scores = scores
        with self._keeping(), ThreadPoolExecutor(threads) as pool:
            self._run(pool)
        everyone = gather(torch.from_numpy(scores[self.rows]), self.counts)
        scores[self.missing] = everyone.numpy()

    def _run(self, pool: ThreadPoolExecutor) -> None:
        total = sum(self.counts)
        pictures = self._pictures(pool)
        with tqdm(total=total, unit="image", desc="scoring", disable=_quiet(self.world), leave=False) as bar:
            for turn in range(self.rounds):
                together(lambda turn=turn: self._round(turn, pictures, bar))
                bar.update(min(total, round(total * (turn + 1) / self.rounds)) - bar.n)

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        """Whatever ends the work, what is done is kept where the disk takes it."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                self._keep()
            raise

    def forget(self) -> None:
        """Remove the parts: the sidecars have all."""
        for _, path in self._files.values():
            path.unlink(missing_ok=True)

    def _round(self, turn: int, pictures: Iterator[Tensor], bar: tqdm) -> None:
        for rows in self.blocks[turn * ROUND : (turn + 1) * ROUND]:
            self._scores[rows] = self._score(rows, next(pictures))
            self._done += len(rows)
            bar.update(len(rows))
            if time.monotonic() - self._kept_at >= KEEP_EVERY:
                self._keep()

    def _score(self, rows: np.ndarray, given: tuple[Tensor, np.ndarray]) -> np.ndarray:
        """(len(rows),) or (len(rows), k) float32, NaN for bad records."""
        block, sound = given
        score = _rate(self.scorer, block.to(self.world.device, non_blocking=True))
        if score.shape != (wanted := self.identity.empty(self.size).shape):
            raise ValueError(
                f"scorer '{self.identity.scorer}' gives {tuple(score.shape)} for {self.size} images, and says {wanted}"
            )
        found = score.float().cpu().numpy()[rows % self.size]
        found[~sound] = np.nan
        if not (finite := np.isfinite(found.reshape(len(rows), -1)).all(axis=1) | ~sound).all():
            i = int(finite.argmin())
            raise ValueError(f"{self.records.where(int(rows[i]))}: '{self.identity.scorer}' scores it {found[i]}")
        return found

    def _pictures(self, pool: ThreadPoolExecutor) -> Iterator[tuple[Tensor, np.ndarray]]:
        """What the scorer is to see of each block, and which of its rows are sound; some are prepared ahead.

        (size, 112, 112, 3) uint8 or (size, 5, 2) float32: a picture lies at its number modulo size, whichever others
        are to be scored, and blocks have one shape, so that its score never depends on them.
        """
        waiting: deque[tuple[np.ndarray, list[Future]]] = deque()
        ahead = iter(self.blocks)
        while True:
            while len(waiting) <= AHEAD and (rows := next(ahead, None)) is not None:
                waiting.append((rows, [pool.submit(self._load, i) for i in rows.tolist()]))
            if not waiting:
                return
            rows, loads = waiting.popleft()
            shape, kind = (
                ((5, 2), np.float32) if self.landmarks is not None else ((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
            )
            block, sound = np.zeros((self.size, *shape), kind), np.ones(len(rows), bool)
            if self.landmarks is not None:
                block[:] = self.landmarks[rows[0]]  # zeros are refused
            for n, load in enumerate(loads):
                if (loaded := load.result()) is None:
                    sound[n] = False
                else:
                    block[rows[n] % self.size] = loaded
            yield torch.from_numpy(block), sound

    def _load(self, i: int) -> np.ndarray | None:
        """One picture or its landmarks; None for a bad record where these are left out."""
        if self.landmarks is not None:
            return self.landmarks[i]
        try:
            return decode(self.records.read(i), IMAGE_SIZE, self.records.where(i), LEAST_SIDE)
        except ValueError:
            if self.skip:
                return None
            raise

    def _keep(self) -> None:
        """Write parts of the shards that something was scored of since the last time. OSError."""
        fresh, done = self.rows[self._kept : self._done], self.rows[: self._done]
        for number in np.unique(self.records.shard[fresh]).tolist():
            held = (
                self._files[number][0]
                if number in self._files
                else ShardScores(self.records.shards[number], self.identity)
            )
            here = done[self.records.shard[done] == number]
            self._files[number] = held, held.write_part(self._who, self.records.key[here], self._scores[here])
        self._kept, self._kept_at = self._done, time.monotonic()


@torch.no_grad()
def _rate(scorer: nn.Module, block: Tensor) -> Tensor:
    """As FaceModel.score() hands a picture over, to the bit."""
    return scorer(block if scorer.needs == "landmarks" else (normalise(block) + 1) / 2)


def together(action: Callable[[], None]) -> None:
    """Do something on each process; a ValueError or OSError of one is raised by all, its own by the one that had it."""
    own: ValueError | OSError | None = None
    try:
        action()
    except (ValueError, OSError) as error:
        own = error
    told = gather_json(None if own is None else [isinstance(own, OSError), str(own)])
    if own is not None:
        raise own
    if failed := [one for one in told if one is not None]:
        raise (OSError if failed[0][0] else ValueError)(failed[0][1])


def _quiet(world: World) -> bool:
    return not (world.is_main and sys.stderr.isatty())
