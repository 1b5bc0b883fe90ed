"""Scorers that look through the recognition model: how the frozen base is bound, and what they read from it.

Such a scorer runs the base, as it is before any adapter, on each image: one forward more than the adapted network's
own, and no second set of weights, since its view of the base shares every parameter.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from iqa._image import check_images, find_file, full_precision
from recognition.files import write_atomically
from recognition.hashes import hash_tensors
from recognition.types import Needs

BASE = "base_tensors_sha256"  # in a file's metadata: the base that it was fitted on


def view(base: nn.Module) -> nn.Module:
    """The base's modules anew, in eval mode, around the same parameters and buffers: no memory, no mode in common.

    What replaces modules of the base afterwards, as adapters do, leaves the view as it is.
    """
    shared = [*base.parameters(), *base.buffers()]
    return copy.deepcopy(base, {id(tensor): tensor for tensor in shared}).eval()


class ModelScorer(nn.Module, ABC):
    """What scorers of a model have in common: bind(base) once, then scorer(image).

    A kind of its own defines _rate(), and _prepare() where the view has to keep something for it.
    """

    needs: Needs = "model"
    version = 1
    exportable = True
    name = ""  # in messages

    def __init__(self) -> None:
        super().__init__()
        self.base: nn.Module | None = None

    def bind(self, base: nn.Module) -> None:
        """Look through this network from now on; it must stand still, and carry no adapter yet.

        The scorer keeps a view of it, see view(). RuntimeError where it carries an adapter; ValueError for a network
        that this scorer cannot read, or whose weights are not those that its file was fitted on.
        """
        if getattr(base, "_attached", None) is not None:
            raise RuntimeError(
                f"scorer '{self.name}' looks through the base alone: bind it before an adapter is attached"
            )
        seen = view(base)
        self._prepare(seen)
        self.base = seen

    def forward(self, image: Tensor) -> Tensor:
        """image: (B, 3, H, W) RGB in [0, 1], of any size; resized to the base's. Returns (B,) float32.

        RuntimeError before bind().
        """
        check_images(image, self.name)
        if self.base is None:
            raise RuntimeError(
                f"scorer '{self.name}' looks through the recognition model and is bound to none: call bind(base) with "
                "the network before its adapter; assemble and load_adapters do so"
            )
        with torch.no_grad(), full_precision(image):
            return self._rate(self.base(_as_input(image, self.base)).float())

    def _prepare(self, base: nn.Module) -> None:
        """Look at the view, and change its modules (never its tensors) as needed. ValueError where it does not fit."""

    @abstractmethod
    def _rate(self, embedding: Tensor) -> Tensor:
        """(B, D) float32 embeddings, not normalised, or what _prepare() made of them -> (B,) float32."""


def _as_input(image: Tensor, base: nn.Module) -> Tensor:
    """As FaceModel hands an image to its backbone, from [0, 1]."""
    image = image.to(next(base.parameters()).dtype) * 2 - 1
    size = base.input_size
    if image.shape[-1] != size or image.shape[-2] != size:
        image = F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)
    return image.contiguous(memory_format=torch.channels_last)


class Kept(nn.Module):
    """Passes on what a layer gives, and keeps it until it is taken."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.output: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.output = self.layer(x)
        return self.output

    def take(self) -> Tensor:
        """The layer's last output, once."""
        output, self.output = self.output, None
        assert output is not None, "take() follows a forward"
        return output


def read_fitted(path: str | None, scorer: str, where_from: str) -> tuple[dict[str, Tensor], str]:
    """Named float32 tensors of a .safetensors file, and the hash of the base they were fitted on, "" if not told.

    ValueError for no file, a damaged one, and one that says it belongs to another scorer.
    """
    file = find_file(path, scorer, "weights", where_from)
    try:
        with safe_open(file, framework="pt") as opened:
            told = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key).float() for key in opened.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(f"scorer '{scorer}': {file} is no sound .safetensors file ({error}); {where_from}") from None
    if told.get("scorer", scorer) != scorer:
        raise ValueError(f"scorer '{scorer}': {file} was fitted for '{told['scorer']}'; {where_from}")
    return tensors, told.get(BASE, "")


def write_fitted(
    path: str | Path, scorer: str, tensors: Mapping[str, Tensor], base: nn.Module | None, notes: Mapping[str, str]
) -> None:
    """What read_fitted() reads; notes go into the file's metadata. base: None for a scorer that looks through none.

    ValueError unless path ends in .safetensors.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"fitted tensors are written as .safetensors, not '{Path(path).name}'")
    told = {**notes, "scorer": scorer, **({} if base is None else {BASE: hash_tensors(base.state_dict())})}
    own = {key: tensor.detach().float().cpu().contiguous() for key, tensor in tensors.items()}
    write_atomically(path, save(own, metadata=told))


def check_base(base: nn.Module, fitted_on: str, scorer: str, any_base: bool) -> None:
    """ValueError where the base's tensors are not those with the hash `fitted_on`, naming both.

    any_base: take a file that tells no base.
    """
    if not fitted_on:
        if any_base:
            return
        raise ValueError(
            f"scorer '{scorer}': its file does not tell which base it was fitted on; fit it anew by "
            "tools/fit_scorer.py, or set any_base=True if you know"
        )
    own = hash_tensors(base.state_dict())
    if own != fitted_on:
        raise ValueError(
            f"scorer '{scorer}' was fitted on another base: on SHA-256 {fitted_on}, and this one's is {own}; "
            "fit it on this base by tools/fit_scorer.py"
        )
