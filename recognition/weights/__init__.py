"""Network weights from and to files: safetensors with a JSON card, PyTorch state dicts, MXNet parameters.

A file is known by its first bytes, not by its name. Nothing in it is run, and a card is only looked at.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from recognition.files import flush, replacing
from recognition.pickled import shown
from recognition.weights.adapter_part import MARKS, Publisher, split_adapter
from recognition.weights.mxnet import MXNET_LIST, Y1_CARD, Y1_MARK, read_mxnet, rename_y1
from recognition.weights.torch_files import DTYPES, MAGIC_BYTES, ZIP, read_torch

Card = dict[str, object]  # what JSON can say about a file's tensors

DERIVED = ("num_batches_tracked", "relative_position_index", "attn_mask")  # last part of the names dropped on reading
WRAPPERS = re.compile(r"(module\.|_orig_mod\.)*")  # of DistributedDataParallel and torch.compile
CONTAINERS = ("state_dict_backbone", "state_dict")  # arcface_torch's resume files, and the common habit

LONGEST_NAME = 300  # characters of a tensor's name
LARGEST_CARD = 2**23  # bytes; a part of an evaluation takes some 3 kB

LOOKS_LIKE = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (b"<!doctype html", "a web page; the download gave no file"),
    (b"<html", "a web page; the download gave no file"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7-zip archive; unpack it first"),
    (b"\x93numpy", "a numpy array"),
    (b"\x80", "a pickle; only tensors saved by torch.save are read"),
    (b"{", "JSON; name the weights, not the card"),
)


@dataclass(slots=True)
class Weights:
    """Tensors by the key names of our backbones, and what is known about them.

    adapter: tensors of a published adapter (PETALface's, FaceMoE's, CVLface's) by their published names; empty unless
    asked for. publisher: of the adapter.
    """

    tensors: dict[str, Tensor]
    card: Card
    adapter: dict[str, Tensor] = field(default_factory=dict)
    publisher: Publisher = ""


def read_weights(path: str | Path, *, with_adapter: bool = False) -> Weights:
    """Read .safetensors (and the .json card beside it), .pt/.pth state dicts, or MXNet's .params, onto the CPU.

    Wrapper prefixes and derived buffers are dropped and MXNet's names of "y1" become ours; a card is found beside
    safetensors, and known for MXNet's "y1", otherwise empty.
    with_adapter: return a published adapter's tensors too, apart; without it a file that holds some is refused.
    ValueError for a file that is none of these, is cut short or holds something else than tensors.
    """
    path = Path(path)
    kind = _kind_of(path)
    card: Card = {}
    if kind == "safetensors":
        tensors, card = _read_safetensors(path), read_card(path)
    elif kind == "torch":
        tensors = _state_dict(read_torch(path), path)
    else:
        tensors = {name: torch.from_numpy(array) for name, array in read_mxnet(path).items()}
        if Y1_MARK in tensors:
            tensors, card = rename_y1(tensors, path), dict(Y1_CARD)
        else:
            tensors = _renamed(tensors, lambda name: name.split(":", 1)[-1], path)
    tensors = plain_tensors(tensors, path)
    tensors, adapter, publisher = split_adapter(tensors, path)
    if adapter and not with_adapter:
        raise ValueError(
            f"{path}: besides the base's {len(tensors)} tensors it holds {len(adapter)} of {MARKS[publisher].words} "
            f"such as '{next(iter(adapter))}', and the base alone is another network; tools/convert_checkpoint.py "
            "makes a base and an adapter's folder of it; read_weights(path, with_adapter=True) returns them apart"
        )
    if not tensors:
        raise ValueError(f"{path}: holds no weights of a network")
    return Weights(tensors, card, adapter, publisher)


def plain_tensors(saved: Mapping[object, object], path: str | Path) -> dict[str, Tensor]:
    """A part of what torch.save wrote as tensors by name, without wrapper prefixes and derived buffers.

    path: for the messages. ValueError where it holds something else.
    """
    tensors = _renamed(_named(saved, path), _unwrapped, path)
    _check(tensors, path)
    return {key: tensor for key, tensor in tensors.items() if key.rsplit(".", 1)[-1] not in DERIVED}


def sha256(path: str | Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def card_path(path: str | Path) -> Path:
    """Where the card of a weights file lies: the same name ending in .json."""
    return Path(path).with_suffix(".json")


def read_card(path: str | Path) -> Card:
    """The card beside a weights file; empty where there is none.

    A path in it is never opened. ValueError if it is not a JSON object, or names a backbone or arguments that are none.
    """
    beside = card_path(path)
    if not beside.is_file():
        return {}
    if beside.stat().st_size > LARGEST_CARD:
        raise ValueError(f"{beside}: a card of {beside.stat().st_size:,} bytes; one has {LARGEST_CARD:,} at most")
    try:
        card = json.loads(beside.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON or UTF-8, a number of thousands of digits, nested too deep
        raise ValueError(f"{beside}: the card is not JSON ({error}); write it again or take it away") from None
    if not isinstance(card, dict):
        raise ValueError(f"{beside}: the card is a JSON {type(card).__name__}, not an object")
    backbone, arguments = card.get("backbone", ""), card.get("arguments", {})
    if not isinstance(backbone, str) or len(backbone) > LONGEST_NAME:
        raise ValueError(f"{beside}: the card's backbone is {shown(repr(backbone))}; it is the name of one")
    if not isinstance(arguments, dict) or not all(map(_is_plain, arguments.values())):
        raise ValueError(f"{beside}: the card's arguments are {shown(repr(arguments))}; wanted names and plain values")
    return card


def write_weights(path: str | Path, tensors: Mapping[str, Tensor], card: Card) -> None:
    """Write safetensors and the JSON card beside; each file is complete or, after a crash, what it was before.

    tensors: on any device; tied ones are written once per name. ValueError unless path ends in .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are written as .safetensors, not '{path.name}'")
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    own = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
    with replacing(card_path(path)) as card_file, replacing(path) as tensor_file:
        card_file.write_text(text, encoding="utf-8")
        flush(card_file)  # some disks tell only now that they are full; the weights must not be in place by then
        tensor_file.write_bytes(save(own, metadata={"format": "pt"}))  # save_file hides a full disk's errno


def build_strictly(make: Callable[[], nn.Module], tensors: Mapping[str, Tensor], path: str | Path) -> nn.Module:
    """The network that `make` gives, with the tensors loaded strictly.

    It is made without memory first: sizes that a file's card tells cost nothing before its tensors bear them out.
    ValueError as of load_strictly, and where torch cannot make a network of such sizes.
    """
    try:
        with torch.device("meta"):
            plan = make()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # a text for a size; a negative or huge one
        raise ValueError(f"{path}: the network for it cannot be made: {_first_line(error)}") from None
    check_fit(plan, tensors, path)
    network = make()
    load_strictly(network, tensors, path)
    return network


def load_strictly(backbone: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy tensors into the backbone, every key exactly once; derived buffers stay as they are.

    path: for the message only. ValueError with all that is missing, unexpected or of another shape; the backbone is
    unchanged then.
    """
    check_fit(backbone, tensors, path)
    backbone.load_state_dict(dict(tensors), strict=False)


def check_fit(backbone: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """ValueError with all that is missing, unexpected or of another shape; path: for the message only."""
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


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(one is None or isinstance(one, bool | int | float | str) for one in value)
    return value is None or isinstance(value, bool | int | float | str)


def _kind_of(path: Path) -> Literal["safetensors", "torch", "mxnet"]:
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a weights file; name a .safetensors, .pt, .pth or .params in it")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    with path.open("rb") as file:
        head = file.read(512)
    if len(head) >= 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    if head.startswith(ZIP) or (head.startswith(b"\x80") and MAGIC_BYTES in head[:32]):
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
        raise ValueError(f"{path}: the safetensors file is damaged or cut short ({_first_line(error)})") from None


def _state_dict(saved: object, path: Path) -> dict[str, Tensor]:
    """The state dict in what torch.save wrote: plain, or under one of CONTAINERS."""
    for container in CONTAINERS:
        if isinstance(saved, dict) and isinstance(saved.get(container), dict):
            saved = saved[container]
            break
    if not isinstance(saved, dict):
        raise ValueError(f"{path}: holds a {type(saved).__name__}, wanted a state dict: names to tensors")
    return _named(saved, path)


def _unwrapped(key: str) -> str:
    return key[WRAPPERS.match(key).end() :]


def _named(saved: Mapping[object, object], path: str | Path) -> dict[str, Tensor]:
    if not all(isinstance(key, str) for key in saved):
        raise ValueError(f"{path}: some of its entries have no texts as names; wanted a state dict: names to tensors")
    others = [
        f"'{shown(key)}' ({type(value).__name__})" for key, value in saved.items() if not isinstance(value, Tensor)
    ]
    if others:
        raise ValueError(
            f"{path}: {_listed('of its entries are no tensors', others)}; wanted a state dict, plain or "
            f"under one of the keys {', '.join(CONTAINERS)}"
        )
    return dict(saved)


def _renamed(tensors: Mapping[str, Tensor], rename: Callable[[str], str], path: str | Path) -> dict[str, Tensor]:
    """ValueError where two names become one: a tensor would be lost."""
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = rename(key)
        if name in renamed:
            raise ValueError(f"{path}: two of its tensors are named '{shown(name)}', with prefixes and without")
        renamed[name] = tensor
    return renamed


def _check(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Names short enough for messages and comparisons; numbers of the kinds that networks have."""
    for key, tensor in tensors.items():
        if len(key) > LONGEST_NAME or not key.isprintable():
            raise ValueError(f"{path}: '{shown(key)}' is no name of a tensor: too long, or not printable")
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{path}: '{key}' is of {tensor.dtype}, which no network here has")


def _listed(what: str, names: list[str], most: int = 4) -> str:
    if not names:
        return ""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} {what}: {', '.join(names[:most])}{more}"
