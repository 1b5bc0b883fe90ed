"""Image-quality scorers, one per file, and the map from their score to the gate; its forms are in iqa/gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recognition.registry import Registry

if TYPE_CHECKING:
    from iqa._gate import GateRange, QualityGate, make_gate

__all__ = ["SCORERS", "GateRange", "QualityGate", "make_gate"]

SCORERS = Registry("scorer")


def __getattr__(name: str) -> object:
    # The gate needs torch, which takes two seconds to import: names and summaries must come without it.
    if name in __all__:
        from iqa import _gate

        return getattr(_gate, name)
    raise AttributeError(f"module 'iqa' has no attribute '{name}'")
