"""Losses on embeddings, added to the classifier's: one per file."""

from recognition.registry import Registry

OBJECTIVES = Registry("objective")
