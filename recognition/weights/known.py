"""The network that a weights file stands for, by its hash: one of RGB in [-1, 1], so the card beside counts, too.

A file's own SHA-256 does not tell: its tensors lie there as published, and a card that is written anew, for the other
colour order, makes another network of them.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import NamedTuple

from recognition.hashes import hash_tensors
from recognition.weights import Card, card_path, read_weights
from recognition.weights.hub import local_path
from recognition.weights.origins import beside

SETTLED = 2 * 10**9  # ns: a file changed a moment ago may change again without a later time of change


class Known(NamedTuple):
    """What a weights file holds."""

    tensors_sha256: str  # of the tensors as networks hold them
    card: Card


def known(where: str | Path) -> Known:
    """Of base weights, a path or an address on the hub; read and hashed once as long as no file of it changes.

    Some 1 s for each GB. Errors as of read_weights.
    """
    path = local_path(where).absolute()
    stamps = tuple(map(_stamp, (path, card_path(path), *beside(path))))
    settled = all(stamp is None or time.time_ns() - max(stamp[-2:]) > SETTLED for stamp in stamps)
    return (_read if settled else _read.__wrapped__)(path, stamps)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes with a file's contents; None where there is none."""
    if not path.is_file():
        return None
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@functools.lru_cache(maxsize=4)
def _read(path: Path, stamps: tuple) -> Known:
    found = read_weights(path)
    return Known(hash_tensors(found.tensors), found.card)
