"""Forms of the gate, one per file: what becomes of a score that lies so far above or below the midpoint.

A form gets rise = slope * (score - midpoint): 0 at the midpoint, without a unit whatever scorer it comes from. Midpoint
and slope belong to the scorer and stay where they are, in iqa.QualityGate, when a recipe takes another form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from recognition.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GATES", "Form"]

GATES = Registry("gate")


class Form(Protocol):
    """An nn.Module that never falls as a score rises; what it declares is tested over the names.

    Of a recipe's config.gate it gets the settings that its signature names, and `layers`, the number of gated layers,
    or `scores`, the scores per image, where it names them. Its parameters train with the adapter, and whatever tells
    two gates of one form apart is a tensor: they travel with the weights.
    A form that learns has `shift` and `growth`, all zero at the start, for QualityGate.now().
    """

    steepness: float  # rise of the gate over rise, at the midpoint
    bounded: bool  # within [0, 1]
    takes_slope: bool  # False: the slope has to be 1

    def __call__(self, rise: Tensor) -> Tensor:
        """rise: (B,) or (B, k) float32. Returns the gate, float32: (B,) or one of several columns."""
