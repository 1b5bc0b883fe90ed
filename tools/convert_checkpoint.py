"""Converts published weights into safetensors with a card, and checks that they fit their backbone.

    python tools/convert_checkpoint.py mobilefacenet_y1-0000.params weights/y1.safetensors
    python tools/convert_checkpoint.py petalface_swin.pt weights/petal_swin.safetensors
    python tools/convert_checkpoint.py ms1mv3_r50.pth weights/r50.safetensors --backbone r50 --licence "..."

Reads MXNet .params (InsightFace's MobileFaceNet y1), PyTorch state dicts (arcface_torch, PETALface; never unpickled
beyond tensors) and safetensors. A LoRA adapter of PETALface goes to a file of its own, OUT_adapter.safetensors.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from recognition.weights import Card

# What published weights need and their tensors cannot tell. PETALface's Swin was trained without the mask.
PUBLISHED_WITH: dict[str, dict[str, object]] = {"swin_120": {"shift_mask": False}}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; --help answers without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="weights as published")
    parser.add_argument("out", type=Path, help="the .safetensors file to write; its card is the .json beside it")
    parser.add_argument("--backbone", help="its name; default: the one whose keys and shapes fit")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an argument of the backbone")
    parser.add_argument("--licence", help="of the weights, for the card")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Converts; prints what was written. Returns 0, or 2 where the file or the settings cannot be used."""
    arguments = parse(argv)
    try:
        given = dict(_setting(text) for text in arguments.set)
        for line in convert(arguments.source, arguments.out, arguments.backbone, given, arguments.licence):
            print(line)
    except ValueError as error:
        print(f"convert_checkpoint: {error}", file=sys.stderr)
        return 2
    return 0


def convert(
    source: Path,
    out: Path,
    name: str | None = None,
    given: Mapping[str, object] | None = None,
    licence: str | None = None,
) -> list[str]:
    """Write `source` as safetensors at `out`, after it has loaded strictly into its backbone; returns lines to print.

    name: of the backbone, None to find it. given: arguments of the backbone, over what the file tells.
    ValueError where the file is none of the known kinds, holds non-finite numbers, or fits no backbone.
    """
    from recognition.types import COLOUR_ORDER, IMAGE_RANGE
    from recognition.weights import read_weights, sha256, write_weights

    if out.resolve() == source.resolve():
        raise ValueError(f"{out} is the source itself; name another file to write")
    read = read_weights(source, with_adapter=True)
    broken = [key for key, tensor in read.tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"{source}: {len(broken)} tensors hold NaN or infinity, such as '{broken[0]}'")
    name = name or read.card.get("backbone") or find_backbone(read.tensors, source)
    arguments = {**_told(name, read.tensors), **read.card.get("arguments", {}), **(given or {})}
    backbone = _fitting(name, arguments, read.tensors, source)
    card: Card = {
        "backbone": name,
        "arguments": arguments,
        "embedding_size": backbone.embedding_size,
        "input_size": backbone.input_size,
        "colour_order": COLOUR_ORDER,
        "image_range": list(IMAGE_RANGE),
        "source": source.name,
        "source_sha256": sha256(source),
        "licence": licence or read.card.get("licence", "not stated by the file; ask its publisher"),
    }
    made = f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    lines = [f"{out}: {made}, {sum(tensor.numel() for tensor in read.tensors.values()):,} numbers"]
    if read.adapter:
        beside = out.with_name(f"{out.stem}_adapter.safetensors")
        tensors, about = _adapter(backbone, read.adapter)
        write_weights(beside, tensors, {**about, "base": out.name, "source_sha256": card["source_sha256"]})
        lines.append(f"{beside}: adapter {about['adapter']} {about['arguments']}")
    write_weights(out, read.tensors, card)
    return lines


def find_backbone(tensors: Mapping[str, Tensor], source: Path) -> str:
    """Name of the one backbone whose keys and shapes are those of `tensors`.

    ValueError with the nearest backbone where none fits.
    """
    import torch

    from recognition.backbones import BACKBONES
    from recognition.weights import DERIVED

    nearest, most = "", 0.0
    for name in BACKBONES.names():
        with torch.device("meta"):
            own = {key for key in BACKBONES.create(name).state_dict() if not key.endswith(DERIVED)}
            share = len(own & set(tensors)) / len(own | set(tensors))
            if share == 1:
                shapes = BACKBONES.create(name, **_told(name, tensors)).state_dict()
                if all(tensors[key].shape == shapes[key].shape for key in own):
                    return name
        nearest, most = (name, share) if share > most else (nearest, most)
    near = f"the nearest is {nearest}, which shares {most:.0%} of the names; --backbone {nearest} says what differs"
    raise ValueError(f"{source}: fits no backbone; {near if nearest else 'it shares no name with any'}")


def _told(name: str, tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Arguments of the backbone that the file, or the fact that it is published, tells."""
    import torch

    from recognition.backbones import BACKBONES

    with torch.device("meta"):
        default = BACKBONES.create(name)
    told = dict(PUBLISHED_WITH.get(name, {}))
    projection = tensors.get(f"{default.head_targets[-1]}.weight")
    if projection is not None and projection.shape[0] != default.embedding_size:
        told["embedding_size"] = projection.shape[0]
    return told


def _fitting(name: str, arguments: Mapping[str, object], tensors: Mapping[str, Tensor], source: Path) -> nn.Module:
    from recognition.backbones import BACKBONES
    from recognition.weights import load_strictly

    backbone = BACKBONES.create(name, **arguments)
    load_strictly(backbone, tensors, source)
    return backbone


def _adapter(backbone: nn.Module, published: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Card]:
    """PETALface's adapter tensors by our names, loaded strictly into the backbone once, and their card."""
    import adapters
    from recognition.gate import Gate

    _, tensors = adapters.from_petalface(published)
    gated = any("trainable_lora_down2" in key for key in published)
    on_head = any(key.startswith(tuple(f"{layer}." for layer in backbone.head_targets)) for key in tensors)
    rank = next(tensor for key, tensor in published.items() if key.endswith("trainable_lora_down.weight")).shape[0]
    chosen: dict[str, object] = {"rank": rank}
    if on_head:
        chosen |= {"head": True} if gated else {"head_rank": rank}
    name = "dual_lora" if gated else "lora"
    adapters.attach(backbone, adapters.ADAPTERS.create(name, **chosen), Gate())
    adapters.load(backbone, tensors)
    return tensors, {"adapter": name, "arguments": chosen}


def _setting(text: str) -> tuple[str, object]:
    key, mark, value = text.partition("=")
    if not mark:
        raise ValueError(f"--set {text}: wanted KEY=VALUE, such as shift_mask=True")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


if __name__ == "__main__":
    sys.exit(main())
