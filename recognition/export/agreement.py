"""Does a file give the embeddings that torch gives?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recognition.model import FaceModel
from recognition.types import IMAGE_SIZE

BATCHES = (1, 2, 7)  # sizes at which the file is compared with torch; it is exported with 2
LOWEST_COSINE = 0.9999
LARGEST_DIFFERENCE = 1e-3  # of the largest magnitude in the embeddings
LIMITS = {  # lowest cosine and largest relative difference of a file that is kept
    "fp32": (LOWEST_COSINE, LARGEST_DIFFERENCE),
    "fp16": (0.999, 0.05),
    "int8": (0.9, 1.0),
}
ADVICE = {
    "fp32": "",
    "fp16": "; activations beyond 65,504, where float16 ends, would do this: take fp32",
    "int8": "; calibrate with more pictures (--images), of the kind that the file will see, or take fp16 or fp32",
}
SHAPES = (2, 5)  # batch sizes at which shapes inside a graph are looked at
COMPARED = 60  # faces of a calibration set
GREY = 127.5


def compare(
    model: FaceModel, file: Path, two_inputs: bool, precision: str = "fp32", faces: np.ndarray | None = None
) -> tuple[float, float]:
    """Lowest cosine and largest relative difference of onnxruntime to torch. RuntimeError where they disagree.

    faces: (N, 3, 112, 112) float32 that are compared in place of drawn pictures, 56 of them at most.
    """
    cosines, differences = [], []
    run = runner(file)
    inputs = [example(model, batch, two_inputs) for batch in BATCHES] if faces is None else _of_faces(model, faces)
    for one in inputs:
        with torch.no_grad():
            wanted = model.embed(*one).double().cpu().numpy()
        got = run(*(value.cpu().numpy() for value in one)).astype(np.float64)
        if got.shape != wanted.shape:
            raise RuntimeError(f"onnxruntime gives embeddings {got.shape} and torch {wanted.shape}: nothing was kept")
        lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(wanted, axis=1)
        cosines.append(np.where(lengths > 0, (got * wanted).sum(axis=1) / np.maximum(lengths, 1e-30), 1.0).min())
        differences.append(np.abs(got - wanted).max() / max(np.abs(wanted).max(), 1e-30))
    cosine, difference = float(np.min(cosines)), float(np.max(differences))  # NaN stays NaN
    lowest, largest = LIMITS[precision]
    if not (cosine >= lowest and difference <= largest):
        raise RuntimeError(
            f"onnxruntime disagrees with torch at batches {BATCHES}: cosine {cosine:.6f} (at least {lowest} "
            f"wanted), relative difference {difference:.2e} (at most {largest} wanted): nothing was kept"
            + ADVICE[precision]
        )
    return cosine, difference


def _of_faces(model: FaceModel, faces: np.ndarray) -> list[tuple[Tensor]]:
    device, begin, found = next(model.parameters()).device, 0, []
    while begin < min(len(faces), COMPARED):
        size = BATCHES[len(found) % len(BATCHES)]
        found.append((torch.from_numpy(faces[begin : begin + size]).to(device),))
        begin += size
    return found


def refusals() -> tuple[type[Exception], ...]:
    """What onnxruntime raises for a file, or arrays, that it does not take."""
    import onnxruntime

    faults = onnxruntime.capi.onnxruntime_pybind11_state
    return (
        faults.Fail,
        faults.InvalidArgument,
        faults.InvalidGraph,
        faults.NotImplemented,
        faults.RuntimeException,
    )


def runner(file: Path) -> Callable[..., np.ndarray]:
    """Runs the file on arrays, one for each input. RuntimeError where onnxruntime refuses the file or the arrays."""
    import onnxruntime

    refused = refusals()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it refuses is raised
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except refused as error:
        raise RuntimeError(f"onnxruntime cannot open the graph: nothing was kept ({error})") from error
    names = [value.name for value in session.get_inputs()]

    def run(*arrays: np.ndarray) -> np.ndarray:
        try:
            return session.run(None, dict(zip(names, arrays, strict=True)))[0]
        except refused as error:
            raise RuntimeError(
                f"onnxruntime cannot run the graph at batch {len(arrays[0])}: nothing was kept ({error})"
            ) from error

    return run


def example(model: FaceModel, batch: int, two_inputs: bool) -> tuple[Tensor, ...]:
    """Pictures of falling detail, on whole grey levels as decoded ones, so that the gates differ; scores as well."""
    generator = torch.Generator().manual_seed(batch)
    device = next(model.parameters()).device
    pictures = []
    for i in range(batch):
        side = (112, 7, 28, 56, 14, 4, 20)[i % 7]
        coarse = torch.rand(1, 3, side, side, generator=generator)
        pictures.append(F.interpolate(coarse, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False))
    image = (torch.cat(pictures) * 255).round().to(device) / GREY - 1
    if not two_inputs:
        return (image,)
    gate = model.quality_gate
    midpoint, slope = (getattr(gate, name, torch.tensor(value)) for name, value in (("midpoint", 0.0), ("slope", 1.0)))
    spread = torch.linspace(-0.45, 0.45, batch) if batch > 1 else torch.tensor([0.2])  # gates of 0.05 to 0.95
    if midpoint.dim():  # one midpoint for each of k scores
        spread = spread[:, None]
    return image, (midpoint.cpu() + spread / slope.cpu()).float().to(device)
