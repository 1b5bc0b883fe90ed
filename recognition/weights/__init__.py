"""Network weights from and to files: safetensors with a JSON card, PyTorch state dicts, MXNet parameters.

A file is known by its first bytes, not by its name. Nothing in it is run, and a card is only looked at. In memory every
network is one for RGB pictures in [-1, 1], whatever it was published for.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from recognition.files import flush, replacing
from recognition.weights.adapter_part import MARKS, Publisher, split_adapter
from recognition.weights.cards import HASH, LARGEST_CARD, OURS, Card, card_path, check_hash, read_card
from recognition.weights.colours import as_rgb
from recognition.weights.fitting import build_strictly, check_fit, first_line, load_strictly, without_memory
from recognition.weights.hub import local_path
from recognition.weights.kinds import of_bytes
from recognition.weights.mxnet import MXNET_LIST, by_our_names, read_mxnet
from recognition.weights.names import CONTAINERS, DERIVED, LONGEST_NAME, looks_like, plain_tensors, state_dict
from recognition.weights.origins import Order, recognise
from recognition.weights.torch_files import LIGHTNING, MAGIC_BYTES, ZIP, read_torch

__all__ = [
    "CONTAINERS",
    "DERIVED",
    "HASH",
    "LARGEST_CARD",
    "LONGEST_NAME",
    "Card",
    "Order",
    "Weights",
    "as_rgb",
    "build_strictly",
    "card_path",
    "check_fit",
    "check_out",
    "load_strictly",
    "looks_like",
    "plain_tensors",
    "read_card",
    "read_mxnet",
    "read_weights",
    "sha256",
    "without_memory",
    "write_weights",
]


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


def read_weights(
    where: str | Path, *, with_adapter: bool = False, as_published: bool = False, colour_order: Order = ""
) -> Weights:
    """Read .safetensors (and the .json card beside it), .pt/.pth/.ckpt state dicts, or MXNet's .params, onto the CPU.

    where: a path, or an address on the hub, hf://owner/repo/file. Wrapper prefixes, derived buffers and class centres
    are dropped, and published names become ours. The card is found beside safetensors, and known for MXNet's networks,
    AdaFace's and CVLface's; otherwise it is empty.
    The tensors are those of a network for RGB in [-1, 1], and so says the card; as_published: both as in the file.
    with_adapter: return a published adapter's tensors too, apart; without it a file that holds some is refused.
    colour_order: of the pictures that the file was trained on, over what the file or its publisher tells.
    ValueError for a file that is none of these, is cut short, holds something else than tensors, or others than its
    card speaks of; and for a network that takes another range than one around 0.
    """
    path = local_path(where)
    kind = _kind_of(path)
    card: Card = {}
    lightning = False
    if kind == "safetensors":
        tensors, card = _read_safetensors(path), read_card(path)
    elif kind == "torch":
        saved = read_torch(path)
        lightning = isinstance(saved, dict) and LIGHTNING in saved
        tensors = state_dict(saved, path)
    else:
        tensors, card = by_our_names({name: torch.from_numpy(array) for name, array in read_mxnet(path).items()}, path)
    tensors = plain_tensors(tensors, path)
    check_hash(tensors, card, path)
    if lightning and not tensors:
        raise ValueError(f"{path}: a Lightning checkpoint whose state dict holds no tensors")
    tensors, whose = recognise(tensors, path, kind == "safetensors" and not OURS.isdisjoint(card), colour_order)
    if lightning and not whose:
        raise ValueError(
            f"{path}: a Lightning checkpoint, but of another program than AdaFace{looks_like(tensors)}: one of its "
            f"tensors is '{next(iter(tensors))}'; save the network's own state_dict() alone"
        )
    card = {key: value for key, value in {**card, **whose}.items() if key != HASH}
    tensors, adapter, publisher = split_adapter(tensors, path)
    if adapter and not with_adapter:
        raise ValueError(
            f"{path}: besides the base's {len(tensors)} tensors it holds {len(adapter)} of {MARKS[publisher].words} "
            f"such as '{next(iter(adapter))}', and the base alone is another network; tools/convert_checkpoint.py "
            "makes a base and an adapter's folder of it; read_weights(path, with_adapter=True) returns them apart"
        )
    if not tensors:
        raise ValueError(f"{path}: holds no weights of a network")
    rgb, of_rgb = as_rgb(tensors, card, path, adapter)
    return Weights(tensors, card, adapter, publisher) if as_published else Weights(rgb, of_rgb, adapter, publisher)


def sha256(where: str | Path) -> str:
    """Of a file's bytes, in hexadecimal; where: a path, or an address on the hub."""
    with local_path(where).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_weights(path: str | Path, tensors: Mapping[str, Tensor], card: Card) -> None:
    """Write safetensors and the JSON card beside; each file is complete or, after a crash, what it was before.

    tensors: on any device; tied ones are written once per name. card: without colour_order and image_range it says that
    they are for RGB in [-1, 1]. ValueError unless path ends in .safetensors.
    """
    path = Path(path)
    check_out(path)
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    own = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
    with replacing(card_path(path)) as card_file, replacing(path) as tensor_file:
        card_file.write_text(text, encoding="utf-8")
        flush(card_file)  # some disks tell only now that they are full; the weights must not be in place by then
        tensor_file.write_bytes(save(own, metadata={"format": "pt"}))  # save_file hides a full disk's errno


def check_out(path: Path) -> None:
    """ValueError where write_weights could not write there: another ending, a folder, a path below a file."""
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weights are written as .safetensors, not as '{path.name}'; name such a file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a .safetensors file to write")
    above = next(place for place in path.absolute().parents if os.path.lexists(place))
    if not above.is_dir():
        raise ValueError(f"{path}: {above} is no folder, so nothing can be written below it")


def _kind_of(path: Path) -> Literal["safetensors", "torch", "mxnet"]:
    """By the first bytes. ValueError for any other file, saying what it looks like."""
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
    if not head:
        raise ValueError(f"{path}: the file is empty; a download or a copy may have been cut short")
    seen = of_bytes(head, path.suffix)
    raise ValueError(
        f"{path}: not a weights file: it {f'looks like {seen}' if seen else f'begins with {head[:8]!r}'}, "
        f"wanted safetensors, a PyTorch state dict (.pt, .pth) or MXNet parameters (.params)"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: the safetensors file is damaged or cut short ({first_line(error)})") from None
