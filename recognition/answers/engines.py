"""What computes embeddings: a network of this project, or an ONNX file that it exported."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from recognition.answers import thresholds
from recognition.answers.thresholds import Thresholds
from recognition.data.augment import normalise
from recognition.data.landmarks import mirrored
from recognition.evaluation.embed import CPU_BATCH
from recognition.hashes import hash_tensors
from recognition.model import FaceModel, preprocessing
from recognition.types import COLOUR_ORDER, IMAGE_SIZE
from recognition.weights import sha256

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FLIPS = ("none", "sum")  # what becomes of the mirrored picture's embedding


@dataclass(frozen=True, slots=True)
class Seen:
    """What an engine makes of B faces, all float32."""

    embedding: np.ndarray  # (B, D), not normalised
    norm: np.ndarray  # (B,) of the picture's own embedding, without its mirror image
    quality: np.ndarray | None = None  # (B,) or (B, k) raw score
    gate: np.ndarray | None = None  # (B,) or (B, layers)


class Engine(Protocol):
    """An opened model, ready for pictures. Threads may share it."""

    source: str  # what it was opened from, for messages
    size: int  # D, of the embedding
    preprocessing: Mapping[str, object]  # as a card says it
    thresholds: Thresholds

    @property
    def identity(self) -> str:
        """A hash that any change of weights, scorer or gate changes."""

    def look(self, pixels: np.ndarray, flip: str, scores: np.ndarray | None, landmarks: np.ndarray | None) -> Seen:
        """pixels: (B, 112, 112, 3) uint8 RGB. scores: (B,) or (B, k) raw quality in place of the scorer's.

        ValueError for scores, or their absence, that the model does not allow.
        """


class TorchEngine:
    """A FaceModel on a device, in eval mode."""

    def __init__(self, model: FaceModel, device: str, source: str, told: Thresholds, shows: nn.Module | None) -> None:
        """shows: a scorer whose scores are told beside the embeddings of a model that has none itself."""
        self.model = model.to(device).eval().requires_grad_(False)
        self.shows = None if shows is None else shows.to(device).eval()
        self.device, self.source, self.thresholds = device, source, told
        self.size = int(model.backbone.embedding_size)
        self.preprocessing = preprocessing(model.backbone)
        self._alone = threading.Lock()  # a gate is handed to the layers through one place

    @cached_property
    def identity(self) -> str:
        of_gate = "" if self.model.quality_gate is None else repr(self.model.quality_gate)
        of_scorer = "" if self.model.scorer is None or not of_gate else _told(self.model.scorer)
        whole = f"{hash_tensors(self.model.state_dict())} {of_gate} {of_scorer}"
        return hashlib.sha256(whole.encode()).hexdigest()

    def look(self, pixels: np.ndarray, flip: str, scores: np.ndarray | None, landmarks: np.ndarray | None) -> Seen:
        """As Engine.look. landmarks: for a scorer that looks at them."""
        if scores is not None and not self.model.needs_gate:
            raise ValueError(f"{self.source} reads no quality: scores would change nothing, leave them out")
        rows = CPU_BATCH if self.device == "cpu" else len(pixels)
        parts = []
        with self._alone, torch.no_grad():
            for begin in range(0, len(pixels), rows):
                here = slice(begin, begin + rows)
                image = normalise(torch.from_numpy(pixels[here]).to(self.device))
                given, points = (self._there(values, here) for values in (scores, landmarks))
                parts.append(self._look(image, flip, given, points))
        joined = [
            None if part[0] is None else torch.cat(part).float().cpu().numpy() for part in zip(*parts, strict=True)
        ]
        return Seen(*joined)

    def _there(self, values: np.ndarray | None, rows: slice) -> Tensor | None:
        return None if values is None else torch.from_numpy(values[rows]).to(self.device)

    def _look(self, image: Tensor, flip: str, given: Tensor | None, points: Tensor | None) -> tuple[Tensor | None, ...]:
        own, score, gate = self._embed(image, given, points)
        embedding = own
        if flip == "sum":
            there = None if points is None else mirrored(points)
            embedding = own + self._embed(image.flip(3), given, there)[0]
        if score is None and self.shows is not None:
            score = self.shows((image + 1) / 2)
        return embedding, own.norm(dim=1), score, gate

    def _embed(
        self, image: Tensor, given: Tensor | None, points: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Embedding, score and gate; scored once."""
        if not self.model.needs_gate:
            return self.model.embed(image), None, None
        needs = "" if given is not None or self.model.scorer is None else self.model.scorer.needs
        if needs == "level" or (needs == "landmarks" and points is None):
            raise ValueError(
                f"the scorer of {self.source} looks at the {needs} of a picture, which its pixels do not tell: give "
                f"{'points (then the pictures are aligned by them), or ' if needs == 'landmarks' else ''}scores"
            )
        score = self.model.score(image, landmarks=points) if given is None else given
        return self.model.embed(image, score), score, self.model.quality_gate(score)


def _told(scorer: nn.Module) -> str:
    """What makes its scores, beside its tensors; of a file, what it holds counts, and not where it lies."""
    words = f"{scorer!r} {scorer.version}"
    files = {str(module.file) for module in scorer.modules() if getattr(module, "file", None)}
    for file in sorted(files):
        words = words.replace(file, sha256(file) if Path(file).is_file() else "")
    return words


class OnnxEngine:
    """A file of tools/export_onnx.py in onnxruntime; scorer and gate are inside, and only the embedding comes out."""

    def __init__(
        self, path: Path, device: str, told: Thresholds | None, shows: Callable[[np.ndarray], np.ndarray] | None
    ) -> None:
        """told: thresholds in place of those in the file. shows: scores (B,) of (B, 112, 112, 3) uint8 RGB.

        FileNotFoundError where there is none; ValueError for a file that does not open, or does not tell its
        preprocessing.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        self.source, self.path, self.shows = str(path), path, shows
        self._session = _session(path, device)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self._card(metadata)
        self.thresholds = told or thresholds.of_metadata(metadata, self.source)
        self._two = [value.name for value in self._session.get_inputs()] == ["input", "score"]

    def _card(self, metadata: Mapping[str, str]) -> None:
        try:
            scale = json.loads(metadata["preprocessing"])
            self._mean, self._std = np.float32(scale["mean"]), np.float32(scale["std"])
            sides, order = json.loads(metadata["input_size"]), metadata["colour_order"]
            self.size, network = int(metadata["embedding_size"]), int(metadata["network_size"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.source} does not tell how pictures go in ({error!r}): an ONNX file is answered from where "
                "tools/export_onnx.py wrote it"
            ) from None
        if sides != [IMAGE_SIZE, IMAGE_SIZE] or order not in ("RGB", "BGR") or not self._std > 0:
            raise ValueError(f"{self.source} wants pictures {sides} in {order}; known are {IMAGE_SIZE} px, RGB or BGR")
        self._swapped = order != COLOUR_ORDER
        low, high = (round(float((end - self._mean) / self._std), 6) for end in (0, 255))
        known = {"colour_order": order, "image_range": [low, high], "image_size": IMAGE_SIZE, "input_size": network}
        self.preprocessing = known

    @cached_property
    def identity(self) -> str:
        return sha256(self.path)

    def look(self, pixels: np.ndarray, flip: str, scores: np.ndarray | None, landmarks: np.ndarray | None) -> Seen:
        """As Engine.look; landmarks are not looked at."""
        if scores is not None and not self._two:
            raise ValueError(f"{self.source} scores pictures inside, or reads no quality: leave scores out")
        quality = self.shows(pixels) if scores is None and self.shows is not None else scores
        if self._two and quality is None:
            raise ValueError(
                f"{self.source} has a second input, the raw quality of each picture: give scores, or the scorer that "
                "it was trained with (scorer=, --scorer)"
            )
        own = self._run(pixels, quality)
        embedding = own
        if flip == "sum":
            there = np.ascontiguousarray(pixels[:, :, ::-1])
            other = self.shows(there) if scores is None and self.shows is not None else scores
            embedding = own + self._run(there, other)
        return Seen(embedding, np.linalg.norm(own, axis=1), quality)

    def _run(self, pixels: np.ndarray, quality: np.ndarray | None) -> np.ndarray:
        ordered = pixels[..., ::-1] if self._swapped else pixels
        image = (np.ascontiguousarray(ordered.transpose(0, 3, 1, 2)).astype(np.float32) - self._mean) / self._std
        fed = {"input": image, **({"score": quality.astype(np.float32)} if self._two else {})}
        rows = CPU_BATCH if "CUDAExecutionProvider" not in self._session.get_providers() else len(image)
        parts = []
        for begin in range(0, len(image), rows):
            here = {name: values[begin : begin + rows] for name, values in fed.items()}
            parts.append(self._session.run(["embedding"], here)[0])
        return np.concatenate(parts).astype(np.float32)


def _session(path: Path, device: str) -> InferenceSession:
    import onnxruntime

    faults = onnxruntime.capi.onnxruntime_pybind11_state
    refusals = (
        faults.Fail,
        faults.InvalidArgument,
        faults.InvalidGraph,
        faults.InvalidProtobuf,
        faults.NotImplemented,
        faults.RuntimeException,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it refuses is raised
    able = onnxruntime.get_available_providers()
    if device == "cuda" and "CUDAExecutionProvider" not in able:
        raise ValueError("device is cuda, and this onnxruntime has no CUDA: install onnxruntime-gpu, or take cpu")
    wanted = ("CPUExecutionProvider",) if device == "cpu" else ("CUDAExecutionProvider", "CPUExecutionProvider")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[one for one in wanted if one in able])
    except refusals as error:
        raise ValueError(f"{path}: onnxruntime cannot open it ({str(error)[:200]})") from None
    given, made = ([value.name for value in values] for values in (session.get_inputs(), session.get_outputs()))
    if given not in (["input"], ["input", "score"]) or made != ["embedding"]:
        raise ValueError(
            f"{path} takes {', '.join(given)} and gives {', '.join(made)}; an ONNX file is answered from where "
            "tools/export_onnx.py wrote it: input (and score) in, embedding out"
        )
    return session
