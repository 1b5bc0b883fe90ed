"""Converts published weights into safetensors with a card, or checkpoints of arcface_torch into a run of ours.

    python tools/convert_checkpoint.py mobilefacenet_y1-0000.params weights/y1.safetensors
    python tools/convert_checkpoint.py petalface_swin.pt weights/petal.safetensors        # and weights/petal_adapter/
    python tools/convert_checkpoint.py ms1mv3_r50.pth weights/r50.safetensors --backbone r50 --licence "..."
    python tools/convert_checkpoint.py work_dirs/wf4m_r50 runs/wf4m_r50 --recipe configs/wf4m_r50.py

Weights: MXNet .params (InsightFace's MobileFaceNet y1), PyTorch state dicts (arcface_torch, PETALface, FaceMoE,
CVLface) and safetensors, checked to load strictly into their backbone. An adapter in them (LoRA of PETALface or
CVLface, experts of FaceMoE) becomes an adapter's folder, OUT_adapter, as a run delivers one: for
tools/merge_adapter.py, recognition.runs.load_adapters, and config.adapter.weights, to train on from it.
With --recipe and section.setting=value: arcface_torch's checkpoint_gpu_0.pt, checkpoint_gpu_1.pt, ..., of any number of
processes, become a run folder with backbone, class centres and optimizer. The same recipe then continues it on any
number of processes: tools/train.py configs/wf4m_r50.py. Nothing in any of these files is run.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from recognition.weights import Card


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

    An adapter in it goes to the folder OUT_adapter, after it has been held against the backbone.
    name: of the backbone, None to find it. given: arguments of the backbone, over what the file tells.
    ValueError where the file is none of the known kinds, holds non-finite numbers, or fits no backbone.
    """
    from recognition import published
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
    found = published.sort_out(read, source)
    name = name or read.card.get("backbone") or published.find_backbone(found, source)
    try:
        BACKBONES.check(name, ())
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    arguments = {**published.backbone_arguments(name, found), **read.card.get("arguments", {}), **(given or {})}

    def make() -> nn.Module:
        return BACKBONES.create(name, **arguments)

    backbone = build_strictly(make, found.base, source)
    whose: Card = {
        "backbone": name,
        "arguments": arguments,
        "source": source.name,
        "source_sha256": sha256(source),
        "licence": licence or read.card.get("licence", "not stated by the file; ask its publisher"),
    }
    card: Card = {
        **whose,
        "embedding_size": backbone.embedding_size,
        "input_size": backbone.input_size,
        "colour_order": COLOUR_ORDER,
        "image_range": list(IMAGE_RANGE),
    }
    made = f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    lines = [f"{out}: {made}, {sum(tensor.numel() for tensor in found.base.values()):,} numbers"]
    chosen, about = published.complete_adapter(found, make, source) if found.adapter else ({}, {})
    write_weights(out, found.base, card)
    if found.adapter:
        folder = out.with_name(f"{out.stem}_adapter")
        published.write_adapter(folder, found, chosen, {**whose, **about}, out)
        count = sum(tensor.numel() for tensor in found.adapter.values())
        shown = ", ".join(f"{key}={value!r}" for key, value in chosen.items())
        lines.append(f"{folder}: {found.name}({shown}), {count:,} numbers")
    return lines


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
