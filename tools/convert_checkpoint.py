"""Converts published weights into safetensors with a card, or checkpoints of arcface_torch into a run of ours.

    python tools/convert_checkpoint.py mobilefacenet_y1-0000.params weights/y1.safetensors
    python tools/convert_checkpoint.py petalface_swin.pt weights/petal_swin.safetensors
    python tools/convert_checkpoint.py ms1mv3_r50.pth weights/r50.safetensors --backbone r50 --licence "..."
    python tools/convert_checkpoint.py work_dirs/wf4m_r50 runs/wf4m_r50 --recipe configs/wf4m_r50.py

Weights: MXNet .params (InsightFace's MobileFaceNet y1), PyTorch state dicts (arcface_torch, PETALface) and safetensors,
checked to load strictly into their backbone. A LoRA adapter of PETALface goes to a file of its own,
OUT_adapter.safetensors.
With --recipe and section.setting=value: arcface_torch's checkpoint_gpu_0.pt, checkpoint_gpu_1.pt, ..., of any number of
processes, become a run folder with backbone, class centres and optimizer. The same recipe then continues it on any
number of processes: tools/train.py configs/wf4m_r50.py. Nothing in any of these files is run.
"""

from __future__ import annotations

import argparse
import ast
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

    from recognition.weights import Card

# What published weights need and their tensors cannot tell. PETALface's Swin was trained without the mask.
PUBLISHED_WITH: dict[str, dict[str, object]] = {"swin_120": {"shift_mask": False}}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; --help answers without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="weights as published; a folder of checkpoint_gpu_*.pt, or one of it")
    parser.add_argument("out", type=Path, help="the .safetensors file, its card as .json beside it; or the run folder")
    parser.add_argument("overrides", nargs="*", metavar="section.setting=value", help="laid over --recipe")
    parser.add_argument("--recipe", help="what the checkpoints were trained with; makes OUT a run folder")
    parser.add_argument("--backbone", help="its name; default: the one whose keys and shapes fit")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an argument of the backbone")
    parser.add_argument("--licence", help="of the weights, for the card")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.recipe and (arguments.backbone or arguments.set or arguments.licence):
        parser.error("with --recipe everything is set by section.setting=value, such as backbone.name=r50")
    if arguments.overrides and not arguments.recipe:
        parser.error(f"{arguments.overrides[0]} changes a --recipe, and none is named")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Converts; prints what was written. Returns 0, or 2 where the file or the settings cannot be used."""
    arguments = parse(argv)
    try:
        if arguments.recipe:
            lines = convert_set(arguments.source, arguments.out, arguments.recipe, arguments.overrides)
        else:
            given = dict(_setting(text) for text in arguments.set)
            lines = convert(arguments.source, arguments.out, arguments.backbone, given, arguments.licence)
    except (ValueError, OSError) as error:
        print(f"convert_checkpoint: {error}", file=sys.stderr)
        return 2
    print(*lines, sep="\n")
    return 0


def convert_set(source: Path, run: Path, recipe: str, overrides: Sequence[str] = ()) -> list[str]:
    """Write arcface_torch's checkpoint set as the run folder `run`; returns lines to print.

    ValueError as of recognition.import_set, and for a recipe that cannot be.
    """
    from recognition import config as settings

    config = settings.load(recipe, list(overrides))  # before torch is imported

    from recognition import distributed
    from recognition.import_set import import_set

    distributed.start("cpu")
    try:
        return import_set(source, run, config)
    finally:
        distributed.stop()


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
    from recognition.backbones import BACKBONES
    from recognition.types import COLOUR_ORDER, IMAGE_RANGE
    from recognition.weights import build_strictly, read_weights, sha256, write_weights

    if out.resolve() == source.resolve():
        raise ValueError(f"{out} is the source itself; name another file to write")
    read = read_weights(source, with_adapter=True)
    everything = {**read.tensors, **read.adapter}
    broken = [key for key, tensor in everything.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"{source}: {len(broken)} tensors hold NaN or infinity, such as '{broken[0]}'")
    name = name or read.card.get("backbone") or find_backbone(read.tensors, source)
    try:
        BACKBONES.check(name, ())
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    arguments = {**_told(name, read.tensors), **read.card.get("arguments", {}), **(given or {})}
    backbone = build_strictly(lambda: BACKBONES.create(name, **arguments), read.tensors, source)
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
        tensors, about = _adapter(backbone, lambda: BACKBONES.create(name, **arguments), read.adapter, source)
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

    nearest, most = "", 0.0
    for name in BACKBONES.names():
        own = set(_default(name).shapes)
        share = len(own & set(tensors)) / len(own | set(tensors))
        if share == 1:
            with torch.device("meta"):
                shapes = BACKBONES.create(name, **_told(name, tensors)).state_dict()
            if all(tensors[key].shape == shapes[key].shape for key in own):
                return name
        nearest, most = (name, share) if share > most else (nearest, most)
    near = f"the nearest is {nearest}, which shares {most:.0%} of the names; --backbone {nearest} says what differs"
    raise ValueError(f"{source}: fits no backbone; {near if nearest else 'it shares no name with any'}")


class Default(NamedTuple):
    """A backbone as its name alone makes it."""

    shapes: dict[str, tuple[int, ...]]
    embedding_size: int
    projection: str  # key of the weight whose rows are the embedding


@functools.cache
def _default(name: str) -> Default:
    import torch

    from recognition.backbones import BACKBONES
    from recognition.weights import DERIVED

    with torch.device("meta"):
        made = BACKBONES.create(name)
    shapes = {key: tuple(tensor.shape) for key, tensor in made.state_dict().items() if not key.endswith(DERIVED)}
    return Default(shapes, made.embedding_size, f"{made.head_targets[-1]}.weight")


def _told(name: str, tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Arguments of the backbone that the file, or the fact that it is published, tells."""
    told, default = dict(PUBLISHED_WITH.get(name, {})), _default(name)
    projection = tensors.get(default.projection)
    if projection is not None and projection.dim() and projection.shape[0] != default.embedding_size:
        told["embedding_size"] = projection.shape[0]
    return told


def _adapter(
    backbone: nn.Module, make: Callable[[], nn.Module], published: Mapping[str, Tensor], source: Path
) -> tuple[dict[str, Tensor], Card]:
    """PETALface's adapter tensors by our names, loaded strictly into the backbone once, and their card.

    make: gives such a backbone anew. ValueError where the tensors are not those of one adapter on it.
    """
    import torch

    import adapters
    from recognition.gate import Gate
    from recognition.weights import DERIVED, check_fit

    rank = _rank(published, source)
    try:
        _, tensors = adapters.from_petalface(published)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    gated = any("trainable_lora_down2" in key for key in published)
    on_head = any(key.startswith(tuple(f"{layer}." for layer in backbone.head_targets)) for key in tensors)
    chosen: dict[str, object] = {"rank": rank}
    if on_head:
        chosen |= {"head": True} if gated else {"head_rank": rank}
    name = "dual_lora" if gated else "lora"
    with torch.device("meta"):  # what the adapter would be, before it takes any memory
        plan = make()
        adapters.attach(plan, adapters.ADAPTERS.create(name, **chosen), Gate())
    base = {key: tensor for key, tensor in backbone.state_dict().items() if not key.endswith(DERIVED)}
    check_fit(plan, {**base, **tensors}, source)
    adapters.attach(backbone, adapters.ADAPTERS.create(name, **chosen), Gate())
    adapters.load(backbone, tensors)
    return tensors, {"adapter": name, "arguments": chosen}


def _rank(published: Mapping[str, Tensor], source: Path) -> int:
    """The one rank of all layers. ValueError where they are not pairs of matrices with one rank between them."""
    ranks = set()
    for key, tensor in published.items():
        down = ".trainable_lora_down" in key
        first = published.get(key.replace("down2.weight", "down.weight").replace("up2.weight", "up.weight"), tensor)
        if tensor.dim() != 2 or first.shape != tensor.shape or not (down or ".trainable_lora_up" in key):
            raise ValueError(f"{source}: '{key}' {tuple(tensor.shape)} is no half of one of PETALface's LoRA layers")
        ranks.add(tensor.shape[0 if down else 1])
    if len(ranks) != 1 or 0 in ranks:
        raise ValueError(f"{source}: its LoRA layers have the ranks {sorted(ranks)[:5]}; wanted one above 0")
    return ranks.pop()


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
