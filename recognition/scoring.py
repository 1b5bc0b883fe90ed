"""Scores once: every stored picture of a set is scored by all processes together, and the scores kept beside it.

In training a mirrored picture has the score of the stored one. On 96 faces of LFW (112 px) `sharpness` and
`spectral_slope` score both alike (to 1e-6); `degradation` scores them 0.19 apart on average, and through MobileFaceNet
"y1" `feature_norm` 0.15 and `ser_fiq` 0.0017, which is 7 %, 2.8 % and 1.3 % of the way from 112 to 14 px.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from easydict import EasyDict
from torch import nn

from iqa import SCORERS
from recognition.data.augmentations.sequence import Augmentations
from recognition.data.bad_records import check_share
from recognition.data.records import Records
from recognition.data.scores import ScorerIdentity, ShardScores, StoredScores, bad
from recognition.distributed import World, gather_json
from recognition.hashes import hash_tensors
from recognition.scoring_share import Share, together
from recognition.weights import sha256

CHOICES = ("auto", "sidecar", "online")
BASE = ".base."  # in names of the tensors that a scorer of a model sees the base through


def obstacle(scorer: nn.Module) -> str:
    """Why a scorer's figures cannot be kept with the stored pictures, a clause; "" where they can."""
    if scorer.needs == "level":
        return "it needs the level of degradation, which is drawn anew for each step"
    return ""


def identify(name: str, arguments: Mapping[str, object], scorer: nn.Module) -> ScorerIdentity:
    """What the scores of this scorer depend on. One that looks through the model is bound to it already.

    arguments: as given at its making; of a file, what it holds counts, and not where it lies.
    """
    bound = inspect.signature(SCORERS.get(name)).bind(**arguments)
    bound.apply_defaults()
    given = bound.arguments | ({"scorers": scorer.sections} if hasattr(scorer, "sections") else {})
    plain = {key: _by_content(value) for key, value in given.items()}
    tensors = scorer.state_dict()
    base = {key: value for key, value in tensors.items() if BASE in f".{key}"}
    own = {key: value for key, value in tensors.items() if key not in base}
    return ScorerIdentity(
        name,
        json.dumps(plain, sort_keys=True),
        scorer.version,
        hash_tensors(own) if own else "",
        hash_tensors(base) if scorer.needs == "model" else "",
        scorer.needs,
        getattr(scorer, "columns", 1),
    )


def source(config: EasyDict, scorer: nn.Module | None, begun: Path | None = None) -> tuple[str, str]:
    """Where training takes the scores of stored pictures from, "sidecar" or "online", and why, a clause.

    scorer: the model's; None without a gate, "" then. "auto" takes the sidecar where it saves more scorings than it
    costs: where a picture is seen undegraded twice at least. begun: folder of the run that this one goes on from, whose
    choice "auto" keeps: scores of two origins differ in their last bits, and with a picture's mirroring.
    ValueError for a sidecar of a scorer that can have none.
    """
    chosen = config.data.scores
    if chosen not in CHOICES:
        raise ValueError(f"config.data.scores is '{chosen}'; it must be one of {', '.join(CHOICES)}")
    if scorer is None:
        return "", "nothing reads a gate"
    if why := obstacle(scorer):
        if chosen == "sidecar":
            raise ValueError(
                f"config.data.scores=sidecar, but scores of '{config.scorer.name}' cannot be kept: {why}; set online"
            )
        return "online", why
    if chosen != "auto":
        return chosen, "as config.data.scores says"
    if begun is not None:
        path = begun / "provenance.json"
        told = json.loads(path.read_text()) if path.is_file() else {}
        return told.get("scores", {}).get("from", "online"), "as the run began"
    if scorer.range[0] == scorer.range[1]:
        return "online", "every picture has the same"
    times = config.schedule.epochs * (1 - config.degradation.share) * Augmentations(config.data.augment).untouched
    if times >= 2:
        return "sidecar", f"each picture is seen {times:.3g} times as it is stored"
    return "online", f"a picture is seen {times:.3g} times as it is stored, so a sidecar would not pay"


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of a set, and what it took to have them."""

    scores: np.ndarray  # (N,) or (N, k) float32, NaN for bad records
    computed: int  # how many of them were computed now
    seconds: float
    paths: list[Path]  # of the sidecars
    reasons: list[str]  # why they were not as they should be, of each shard where that was so

    def __str__(self) -> str:
        places = f"{self.paths[0]}{f' and {len(self.paths) - 1} more' if len(self.paths) > 1 else ''}"
        if not self.computed:
            return f"{len(self.scores):,} from {places}"
        return (
            f"{self.computed:,} computed in {self.seconds:.1f} s ({self.computed / self.seconds:,.0f}/s), in {places}"
        )


def check(records: Records, identity: ScorerIdentity, *, bad_allowed: bool = False) -> dict[Path, str]:
    """Sidecar by shard -> why it is not fresh, a sentence; "" = it is. By one process; nothing is computed."""
    found = {}
    for number, shard in enumerate(records.shards):
        held = ShardScores(shard, identity)
        stored = _read(held, records.key[records.shard == number], bad_allowed)
        found[held.path] = stored.problem
    return found


def complete(
    records: Records,
    scorer: nn.Module,
    identity: ScorerIdentity,
    world: World,
    *,
    threads: int = 1,
    bad_record_limit: float | None = None,
) -> Scored:
    """The scores of all records from their sidecars, which are written first where they are stale or lack some.

    By all processes together, each on a share; every one of them gets all scores. scorer: on world.device, and bound
    where it looks through a model. threads: that decode, in each process. What is computed is kept at least every
    KEEP_EVERY seconds, so the same call goes on where an interrupted one was, with any number of processes.
    A score depends on the picture alone, bit for bit on one kind of device: pictures are scored at the same place of
    blocks of the same size, whoever scores them.
    bad_record_limit: None: a bad record is an error. Otherwise its score is NaN, and a larger share is an error.
    ValueError naming a bad record, or the record whose score is not finite; OSError where nothing can be written: on
    all processes alike.
    """
    began, skip = time.perf_counter(), bad_record_limit is not None
    scores, known, stale, paths = _from_main(records, identity, world, skip)
    if stale:
        share = Share(records, scorer, identity, world, ~known, skip)
        if not known.all():
            share.run(scores, max(1, threads))
        together(lambda: _write(records, identity, scores, [*stale]) if world.is_main else None)
        share.forget()
    if found := np.flatnonzero(bad(scores)).tolist():
        check_share(len(found), len(records), bad_record_limit, "tools/inspect_records.py", records.where(found[0]))
    return Scored(scores, int((~known).sum()), time.perf_counter() - began, paths, [*stale.values()])


def _read(held: ShardScores, keys: np.ndarray, bad_allowed: bool) -> StoredScores:
    """What the sidecar holds; where a bad record is an error, one that the file calls bad is not known."""
    found = held.read(keys)
    unusable = found.known & bad(found.scores)
    if bad_allowed or not unusable.any():
        return found
    problem = f"{held.path} calls {int(unusable.sum())} images bad, the first has key {keys[unusable.argmax()]}"
    return StoredScores(found.scores, found.known & ~unusable, problem)


def _from_main(
    records: Records, identity: ScorerIdentity, world: World, skip: bool
) -> tuple[np.ndarray, np.ndarray, dict[int, str], list[Path]]:
    """What the main process finds in sidecars and in parts: scores (N,), known (N,), stale shards and why, paths.

    OSError where a sidecar is stale and could not be written.
    """
    scores, known = identity.empty(len(records)), np.zeros(len(records), bool)
    stale, paths = {}, []

    def look() -> None:
        for number, shard in enumerate(records.shards):
            held, here = ShardScores(shard, identity), np.flatnonzero(records.shard == number)
            stored = _read(held, records.key[here], skip)
            paths.append(str(held.path))
            scores[here], known[here] = stored.scores, stored.known
            if stored.problem:
                held.check_writable()
                stale[number] = stored.problem
                part = held.read_parts(records.key[here])
                usable = part.known & ~stored.known & (skip | ~bad(part.scores))
                scores[here[usable]], known[here[usable]] = part.scores[usable], True

    together(lambda: look() if world.is_main else None)
    if world.world_size > 1:
        for array in (scores, known.view(np.uint8)):
            dist.broadcast(torch.from_numpy(array), 0)
    paths, told = gather_json([paths, [*stale.items()]])[0]
    return scores, known, dict(map(tuple, told)), [*map(Path, paths)]


def _write(records: Records, identity: ScorerIdentity, scores: np.ndarray, shards: list[int]) -> None:
    for number in shards:
        here = records.shard == number
        ShardScores(records.shards[number], identity).write(records.key[here], scores[here])


def _by_content(value: object) -> object:
    """A file's name is where it lies: what it holds is what counts."""
    if isinstance(value, str) and value and Path(value).is_file():
        return f"sha256:{sha256(value)}"
    if isinstance(value, dict):
        return {key: _by_content(one) for key, one in value.items()}
    return [_by_content(one) for one in value] if isinstance(value, list | tuple) else value
