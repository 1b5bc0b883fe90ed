"""Classification losses on cosines: one per file."""

from recognition.registry import Registry

MARGINS = Registry("margin")
