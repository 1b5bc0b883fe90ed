"""What is known of an ONNX graph of a recognition network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from recognition.from_onnx.operators import Layer

CLIENT = (127.5, 127.5)  # for a graph that does not shift its input itself


class Affine(NamedTuple):
    """What a tensor is of the picture that goes in: scale * picture + shift."""

    scale: float = 1.0
    shift: float = 0.0


@dataclass(slots=True)
class Graph:
    """layers: in order of computation. loose: constants that are added to something and are no layer's bias.

    picture: what the graph does to its input before the first layer. client: mean and deviation by which a client
    normalises, None where the file does not tell. shape: of the input, None for free axes. stored: types of weights
    that are not float32.
    """

    layers: list[Layer] = field(default_factory=list)
    loose: list[np.ndarray] = field(default_factory=list)
    picture: Affine | None = None
    client: tuple[float, float] | None = None
    shape: tuple[int | None, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)

    @property
    def normalisation(self) -> tuple[float, float]:
        """Mean and deviation of the pictures that go in; for files that tell none, as InsightFace's client has it."""
        shifts = self.picture is not None and self.picture.shift != 0
        return self.client or ((0.0, 1.0) if shifts else CLIENT)
