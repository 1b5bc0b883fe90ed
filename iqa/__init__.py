"""Image-quality scorers, one per file, and the map from their score to the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recognition.registry import Registry

if TYPE_CHECKING:
    from iqa._gate import QualityGate

__all__ = ["SCORERS", "QualityGate"]

SCORERS = Registry("scorer")


def __getattr__(name: str) -> type:
    # QualityGate needs torch, which takes two seconds to import: names and summaries must come without it.
    if name == "QualityGate":
        from iqa._gate import QualityGate

        return QualityGate
    raise AttributeError(f"module 'iqa' has no attribute '{name}'")
