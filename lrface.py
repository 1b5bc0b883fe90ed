"""from lrface import LRFace: a trained model in three lines. docs/answers.md tells the rest."""

from recognition.answers.api import LRFace

__all__ = ["LRFace"]
