"""Faces in a picture, found by a detector of InsightFace's from a file; and which of several is meant."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

MODELS = Path("~/.insightface/models")
CHOICES = ("largest", "central", "best")
Choice = Literal["largest", "central", "best"]


@dataclass(frozen=True, slots=True)
class Faces:
    """boxes: (F, 4) left, top, right, bottom in pixels. scores: (F,). points: (F, 5, 2)."""

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray


class Detector(Protocol):
    """What alignment asks for. name, sha256: of its file, for the manifest. versions: of the packages that run it."""

    name: str
    sha256: str
    versions: dict[str, str]

    def faces(self, picture: np.ndarray) -> Faces:
        """Those of a picture, uint8 (H, W, 3) BGR; from several threads at once."""
        ...


def choose(faces: Faces, which: Choice, height: int, width: int) -> int:
    """Row of the face that is meant in a picture of this size; the first of equals.

    "largest": by the box's area. "central": by area less twice the squared distance between the box's centre and the
    picture's, InsightFace's and AdaFace's rule. "best": by the detector's score. ValueError for another word.
    """
    left, top, right, bottom = faces.boxes.T
    area = (right - left) * (bottom - top)
    away = ((left + right) / 2 - width / 2) ** 2 + ((top + bottom) / 2 - height / 2) ** 2
    if which not in CHOICES:
        raise ValueError(f"choose is '{which}'; it must be one of {', '.join(CHOICES)}")
    return int(np.argmax({"largest": area, "central": area - 2 * away, "best": faces.scores}[which]))


def model_file(name: str, folder: Path) -> Path:
    """The ONNX file of a detector: a path, FOLDER/NAME.onnx, FOLDER/NAME (a file), or FOLDER/NAME/det_*.onnx.

    FileNotFoundError saying where it was looked for; nothing is ever downloaded. ValueError where several fit.
    """
    folder = folder.expanduser()
    if name.endswith(".onnx") and Path(name).is_file():
        return Path(name)
    tried = [folder / f"{name.removesuffix('.onnx')}.onnx", folder / name / f"{name}.onnx"]
    for path in tried:
        if path.is_file():
            return path
    packed = sorted((folder / name).glob("det_*.onnx")) if (folder / name).is_dir() else []
    if len(packed) > 1:
        raise ValueError(f"{folder / name} holds several detectors: name one of {', '.join(map(str, packed))}")
    if packed:
        return packed[0]
    there = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.onnx")) if folder.is_dir() else []
    raise FileNotFoundError(
        f"there is no detector '{name}': looked for {', '.join(map(str, tried))} and {folder / name}/det_*.onnx "
        f"({'there are ' + ', '.join(there[:10]) if there else 'no .onnx file lies there'}). Nothing is downloaded: "
        "put the file there, say with --models where it is, or give --points"
    )


class InsightFaceDetector:
    """A SCRFD or RetinaFace model with five points, run by insightface's own code from its ONNX file.

    path: the file. side: the picture is brought into a square of so many pixels first (multiple of 32). threshold: of
    the score. device: "cpu" or "cuda". One thread of onnxruntime's for each thread that asks, so that the numbers do
    not depend on how many there are.
    ValueError where the file is no such model, gives no points, or is made for another side.
    """

    def __init__(self, path: Path, side: int = 640, threshold: float = 0.5, device: str = "cpu") -> None:
        import insightface
        import onnxruntime
        from insightface import model_zoo

        if side < 32 or side % 32:
            raise ValueError(f"the detector's side is {side} pixels; it must be a multiple of 32")
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
        if provider not in onnxruntime.get_available_providers():
            raise ValueError(f"this onnxruntime has no {provider}: install onnxruntime-gpu, or detect on the CPU")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # errors come as exceptions
        try:
            model = model_zoo.get_model(str(path), providers=[provider], sess_options=options)
        except (*_faults(), RuntimeError, ValueError, AttributeError) as error:
            raise ValueError(f"insightface cannot open {path}: {error}") from None
        if getattr(model, "taskname", "") != "detection":
            raise ValueError(f"{path} is no face detector by its inputs and outputs")
        if not model.use_kps:
            raise ValueError(f"{path} finds boxes, but no points: take a model with points (its name has kps)")
        fixed = getattr(model, "static_input_size", None)
        if fixed is not None and tuple(fixed) != (side, side):
            raise ValueError(f"{path} takes pictures of {fixed[0]} x {fixed[1]} only, not {side} x {side}")
        model.prepare(0, det_thresh=threshold, input_size=(side, side))
        self.name, self.sha256 = path.name, hashlib.sha256(path.read_bytes()).hexdigest()
        self.versions = {"insightface": insightface.__version__, "onnxruntime": onnxruntime.__version__}
        self._model = model

    def faces(self, picture: np.ndarray) -> Faces:
        """As Detector."""
        boxes, points = self._model.detect(picture)
        return Faces(boxes[:, :4], boxes[:, 4], points)


def _faults() -> tuple[type[Exception], ...]:
    """What onnxruntime raises: classes of its own that share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
