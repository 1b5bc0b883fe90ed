"""LRFace: face recognition that adapts to low-resolution faces without forgetting high-resolution ones."""

__version__ = "0.1.0"
