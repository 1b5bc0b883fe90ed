"""What a protocol is: the images it asks for, what it states about itself, and what it makes of their embeddings."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from recognition.types import IMAGE_SIZE

ITEMS = "items"  # arrays per pair or probe, beside a part's measures


@dataclass(frozen=True)
class Rules:
    """How a protocol counts, in words: each a phrase for the report. "" = the protocol has no such thing."""

    gallery: str  # which side is the gallery, and at which resolution
    folds: str = ""  # which folds there are, and where a fold's threshold comes from
    tie: str = ""  # what counts at equal scores, and between two false accept rates
    flip: str = ""  # whether mirrored faces are embedded, and how they are joined; "" = as evaluation.flip says
    fusion: str = ""  # how several images become one embedding
    failures: str = ""  # what becomes of pictures in which no face was found
    resampled: str = ""  # what the bootstrap draws: pairs, people or templates


@dataclass(frozen=True)
class View:
    """Images that are embedded in one form."""

    rows: np.ndarray  # (n,) int64 positions in the protocol's images, each at most once
    side: int = IMAGE_SIZE  # pixels the images are reduced to and brought back from
    flip: str | None = None  # "none", "sum" (of both embeddings, raw), "concat" (N, 2D); None = as evaluation.flip says
    timed: int = 0  # so many of the images are embedded one by one, too, for Looked.milliseconds


@dataclass(frozen=True)
class Looked:
    """What the model made of a view's images, in the order of its rows; the same on all processes."""

    embedding: Tensor  # (n, D) float32, not normalised
    score: np.ndarray | None = None  # (n,) or (n, k) float32 raw quality; None for a model without a scorer
    gate: np.ndarray | None = None  # (n,) float32; None for a model without a gate
    milliseconds: np.ndarray | None = None  # (timed,) of each image alone, on the main process's device


@dataclass(frozen=True)
class Asked:
    """What is to be measured, from the section config.evaluation."""

    far: Sequence[float] = (1e-2, 1e-3)
    ranks: Sequence[int] = (1, 5, 20)
    resamples: int = 1000  # of the bootstrap behind each interval; 0 = no intervals
    seed: int = 0


@typing.runtime_checkable
class Protocol(typing.Protocol):
    """What stands in recognition/evaluation/protocols, or comes from a function there.

    Its arguments are the settings of a set in a recipe; those that are read from one folder call it `data`. Making it
    opens its files, and checks their counts against the published ones: FileNotFoundError or ValueError says which
    file is wrong and what was wanted. Nothing is decoded until the images are embedded. One that cannot answer all that
    may be asked has a method check(asked: Asked) -> None, whose ValueError says so before anything is embedded.
    """

    rules: Rules
    images: Sequence[bytes]  # encoded; where(i), if there, names image i in messages
    views: Mapping[str, View]

    def measure(self, looked: dict[str, Looked], asked: Asked) -> dict[str, dict]:
        """What came of it, by part, such as a distance or a resolution: {part: {measure: {"value", "lo", "hi"}, ...}}.

        looked: by the name of the view; whoever measures may take views out of it, since embeddings are the largest
        thing in memory. A measure is a share, or has a "unit"; it says "better": "lower" where less is better, as of
        errors; lo and hi are its 95 % interval, None where none can be told. Beside measures a part may have counts
        (int) and curves (dict of lists), and under "items" arrays from which paired differences are computed. Part
        names hold no slash.
        """


@dataclass(frozen=True)
class EvaluationSet:
    """A protocol under the name that a recipe gives it."""

    name: str
    protocol: Protocol
    kind: str = ""  # the protocol's registered name
    settings: Mapping[str, object] = field(default_factory=dict)  # the arguments it was made with
