"""Network weights from and to files: safetensors with a JSON card, PyTorch state dicts, MXNet parameters.

A file is known by its first bytes, not by its name. Nothing is unpickled but tensors (torch.load's weights_only).
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recognition.weights.mxnet import MXNET_LIST, Y1_CARD, Y1_MARK, read_mxnet, rename_y1

Card = dict[str, object]  # what JSON can say about a file's tensors

DERIVED = ("num_batches_tracked", "relative_position_index", "attn_mask")  # last part of the names dropped on reading
ADAPTER_MARK = "trainable_lora_"  # in every adapter key of PETALface
WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
CONTAINERS = ("state_dict_backbone", "state_dict")  # arcface_torch's resume files, and the common habit

LOOKS_LIKE = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (b"<!doctype html", "a web page; the download gave no file"),
    (b"<html", "a web page; the download gave no file"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7-zip archive; unpack it first"),
    (b"\x93numpy", "a numpy array"),
    (b"pk\x03\x04", "a zip archive without torch's data.pkl, or a cut one; numpy's .npz begins so too"),
    (b"\x80", "a pickle; only tensors saved by torch.save are read"),
    (b"{", "JSON; name the weights, not the card"),
)


@dataclass(slots=True)
class Weights:
    """Tensors by the key names of our backbones, and what is known about them.

    adapter: PETALface's `trainable_lora_*` tensors by their published names; empty unless asked for.
    """

    tensors: dict[str, Tensor]
    card: Card
    adapter: dict[str, Tensor] = field(default_factory=dict)


def read_weights(path: str | Path, *, with_adapter: bool = False) -> Weights:
    """Read .safetensors (and the .json card beside it), .pt/.pth state dicts, or MXNet's .params, onto the CPU.

    Wrapper prefixes and derived buffers are dropped and MXNet's names of "y1" become ours; a card is found beside
    safetensors, and known for MXNet's "y1", otherwise empty.
    with_adapter: return PETALface's LoRA tensors too; without it a file that holds some is refused.
    ValueError for a file that is none of these, is cut short or holds something else than tensors.
    """
    path = Path(path)
    kind = _kind_of(path)
    card: Card = {}
    if kind == "safetensors":
        tensors, card = _read_safetensors(path), read_card(path)
    elif kind == "torch":
        tensors = _read_torch(path)
    else:
        tensors = {name: torch.from_numpy(array) for name, array in read_mxnet(path).items()}
        if Y1_MARK in tensors:
            tensors, card = rename_y1(tensors, path), dict(Y1_CARD)
        else:
            tensors = {name.split(":", 1)[-1]: tensor for name, tensor in tensors.items()}
    tensors = {_plain(key): tensor for key, tensor in tensors.items()}
    tensors = {key: tensor for key, tensor in tensors.items() if key.rsplit(".", 1)[-1] not in DERIVED}
    adapter = {key: tensors.pop(key) for key in list(tensors) if ADAPTER_MARK in key}
    if adapter and not with_adapter:
        raise ValueError(
            f"{path}: besides the base's {len(tensors)} tensors it holds {len(adapter)} of a LoRA adapter, such as "
            f"'{next(iter(adapter))}', and the base alone is another network; ask for them with "
            f"read_weights(path, with_adapter=True), which returns them apart"
        )
    if not tensors:
        raise ValueError(f"{path}: holds no weights of a network")
    return Weights(tensors, card, adapter if with_adapter else {})


def sha256(path: str | Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def card_path(path: str | Path) -> Path:
    """Where the card of a weights file lies: the same name ending in .json."""
    return Path(path).with_suffix(".json")


def read_card(path: str | Path) -> Card:
    """The card beside a weights file; empty where there is none. ValueError if it is not a JSON object."""
    beside = card_path(path)
    if not beside.is_file():
        return {}
    try:
        card = json.loads(beside.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{beside}: the card is not JSON ({error}); write it again or take it away") from None
    if not isinstance(card, dict):
        raise ValueError(f"{beside}: the card is a JSON {type(card).__name__}, not an object")
    return card


def write_weights(path: str | Path, tensors: Mapping[str, Tensor], card: Card) -> None:
    """Write safetensors and the JSON card beside; each file is complete or, after a crash, what it was before.

    tensors: on any device; tied ones are written once per name. ValueError unless path ends in .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are written as .safetensors, not '{path.name}'")
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
    beside = {path: _temporary(path), card_path(path): _temporary(card_path(path))}
    try:
        save_file(own, beside[path], metadata={"format": "pt"})
        beside[card_path(path)].write_text(text, encoding="utf-8")
        for temporary in beside.values():
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        for final, temporary in beside.items():
            os.replace(temporary, final)
    finally:
        for temporary in beside.values():
            temporary.unlink(missing_ok=True)


def load_strictly(backbone: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy tensors into the backbone, every key exactly once; derived buffers stay as they are.

    path: for the message only. ValueError with all that is missing, unexpected or of another shape; the backbone is
    unchanged then.
    """
    own = {k: v for k, v in backbone.state_dict().items() if k.rsplit(".", 1)[-1] not in DERIVED}
    faults = [
        _listed("missing", [k for k in own if k not in tensors]),
        _listed("unexpected", [k for k in tensors if k not in own]),
        _listed(
            "of another shape",
            [
                f"{k} {tuple(tensors[k].shape)} instead of {tuple(v.shape)}"
                for k, v in own.items()
                if k in tensors and tensors[k].shape != v.shape
            ],
        ),
    ]
    if any(faults):
        raise ValueError(
            f"{path}: its weights do not fit the network {type(backbone).__name__}\n  "
            + "\n  ".join(fault for fault in faults if fault)
            + "\nset the backbone's name and arguments to what the file's card or source says"
        )
    backbone.load_state_dict(dict(tensors), strict=False)


def _kind_of(path: Path) -> Literal["safetensors", "torch", "mxnet"]:
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a weights file; name a .safetensors, .pt, .pth or .params in it")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    with path.open("rb") as file:
        head = file.read(512)
    if len(head) >= 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    zipped = zipfile.is_zipfile(path)  # torch.save: a zip since torch 1.6, a bare pickle before
    if head.startswith(b"\x80\x02") or (
        zipped and any(n.endswith("/data.pkl") for n in zipfile.ZipFile(path).namelist())
    ):
        return "torch"
    if head.startswith(MXNET_LIST.to_bytes(8, "little")):
        return "mxnet"
    seen = next((words for mark, words in LOOKS_LIKE if mark in head.lstrip()[: len(mark)].lower()), None)
    if path.suffix == ".onnx":
        seen = "an ONNX graph, whose weights have lost their names"
    raise ValueError(
        f"{path}: not a weights file: it {f'looks like {seen}' if seen else f'begins with {head[:8]!r}'}, "
        f"wanted safetensors, a PyTorch state dict (.pt, .pth) or MXNet parameters (.params)"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: the safetensors file is damaged or cut short ({error})") from None


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{path}: holds other things than tensors, or is no PyTorch file, and is not unpickled ({reason}); "
            f"save the network's state_dict() alone"
        ) from None
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: the PyTorch file is damaged or cut short ({error})") from None
    for container in CONTAINERS:
        if isinstance(saved, dict) and isinstance(saved.get(container), dict):
            saved = saved[container]
            break
    if not isinstance(saved, dict):
        raise ValueError(f"{path}: holds a {type(saved).__name__}, wanted a state dict: names to tensors")
    others = [f"'{key}' ({type(value).__name__})" for key, value in saved.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(
            f"{path}: {_listed('of its entries are no tensors', others)}; wanted a state dict, plain or "
            f"under one of the keys {', '.join(CONTAINERS)}"
        )
    return saved


def _plain(key: str) -> str:
    while key.startswith(WRAPPERS):
        key = key.split(".", 1)[1]
    return key


def _listed(what: str, names: list[str], most: int = 4) -> str:
    if not names:
        return ""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} {what}: {', '.join(names[:most])}{more}"


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
