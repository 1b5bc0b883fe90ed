"""Networks from face to embedding: one family per file, one registered builder per variant."""

from recognition.registry import Registry

BACKBONES = Registry("backbone")
