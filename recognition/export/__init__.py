"""One file that a client can run without this project: image in, embedding out, scorer and gate inside.

`export_onnx` writes it, in float32, float16 or int8; `loss_on_pairs` tells what the smaller numbers cost.
"""

from recognition.export.agreement import BATCHES, LARGEST_DIFFERENCE, LOWEST_COSINE
from recognition.export.calibration import Calibration, draw, of_pixels, sides_of
from recognition.export.card import MANIFEST
from recognition.export.graph import EXPORTERS, neutral_names
from recognition.export.pairs import OnnxModel, loss_on_pairs, open_pairs
from recognition.export.precision import PRECISIONS
from recognition.export.writing import ExportReport, export_onnx

__all__ = [
    "BATCHES",
    "EXPORTERS",
    "LARGEST_DIFFERENCE",
    "LOWEST_COSINE",
    "MANIFEST",
    "PRECISIONS",
    "Calibration",
    "ExportReport",
    "OnnxModel",
    "draw",
    "export_onnx",
    "loss_on_pairs",
    "neutral_names",
    "of_pixels",
    "open_pairs",
    "sides_of",
]
