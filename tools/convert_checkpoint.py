"""Converts published weights into safetensors with a card, or checkpoints of arcface_torch into a run of ours.

    python tools/convert_checkpoint.py mobilefacenet_y1-0000.params weights/y1.safetensors
    python tools/convert_checkpoint.py petalface_swin.pt weights/petal.safetensors        # and weights/petal_adapter/
    python tools/convert_checkpoint.py ms1mv3_r50.pth weights/r50.safetensors --backbone r50 --licence "..."
    python tools/convert_checkpoint.py adaface_ir50_ms1mv2.ckpt weights/ir50.safetensors
    python tools/convert_checkpoint.py hf://OWNER/REPOSITORY/pretrained_model/model.pt weights/x.safetensors
    python tools/convert_checkpoint.py work_dirs/wf4m_r50 runs/wf4m_r50 --recipe configs/wf4m_r50.py

Weights: MXNet .params (InsightFace's MobileFaceNet y1 and ResNets), PyTorch state dicts (arcface_torch, AdaFace,
CVLface, PETALface, FaceMoE), safetensors and ONNX graphs of known networks, checked to load strictly into their
backbone. The tensors are written as published, the card says for which colour order and range, and loading makes them
a network for RGB in [-1, 1]. An adapter in them (LoRA of PETALface or CVLface, experts of FaceMoE) becomes an
adapter's folder, OUT_adapter, as a run delivers one: for tools/merge_adapter.py, recognition.runs.load_adapters, and
config.adapter.weights, to train on from it.
With --recipe and section.setting=value: arcface_torch's checkpoint_gpu_0.pt, checkpoint_gpu_1.pt, ..., of any number of
processes, become a run folder with backbone, class centres and optimizer. The same recipe then continues it on any
number of processes: tools/train.py configs/wf4m_r50.py. Nothing in any of these files is run.
"""

from __future__ import annotations

import argparse
import ast
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from easydict import EasyDict
    from torch import nn

    from recognition.published import Published
    from recognition.weights import Card, Order, Weights


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; --help answers without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="weights as published; a folder of checkpoint_gpu_*.pt, or one of it")
    parser.add_argument("out", type=Path, help="the .safetensors file, its card as .json beside it; or the run folder")
    parser.add_argument("overrides", nargs="*", default=[], metavar="section.setting=value", help="laid over --recipe")
    parser.add_argument("--recipe", help="what the checkpoints were trained with; makes OUT a run folder")
    parser.add_argument("--backbone", help="its name; default: the one that fits, which takes seconds to find for ONNX")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an argument of the backbone")
    parser.add_argument("--licence", help="of the weights, for the card")
    parser.add_argument(
        "--colour-order",
        choices=("RGB", "BGR"),
        default="",
        help="of the pictures it was trained on, if you know better",
    )
    parser.add_argument("--sha256", default="", metavar="HEX", help="what the source's SHA-256 must be")
    arguments = parser.parse_intermixed_args(argv)
    of_weights = (arguments.backbone, arguments.set, arguments.licence, arguments.colour_order, arguments.sha256)
    if arguments.recipe and any(of_weights):
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
            about = (arguments.licence, arguments.colour_order, arguments.sha256)
            lines = convert(arguments.source, arguments.out, arguments.backbone, given, *about)
    except (ValueError, OSError, ImportError) as error:  # ImportError: an optional package, with its install line
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
    go_on = _how_to_go_on(run, recipe, config, overrides)  # the import names the run in the settings

    from recognition import distributed
    from recognition.import_set import import_set

    distributed.start("cpu")
    try:
        return [*import_set(source, run, config), go_on]
    finally:
        distributed.stop()


def _how_to_go_on(run: Path, recipe: str, config: EasyDict, overrides: Sequence[str]) -> str:
    """The command that continues the run: named where the recipe alone would begin another one."""
    from recognition.recipes import spelled

    where = []
    if Path(config.run.root, config.run.name).resolve() != run.resolve():
        where = [f"run.root={run.parent}", f"run.name={run.name}"]
    return spelled(f"go on: {shlex.join(['python', 'tools/train.py', recipe, *overrides, *where])}")


def convert(
    source: Path,
    out: Path,
    name: str | None = None,
    given: Mapping[str, object] | None = None,
    licence: str | None = None,
    colour_order: Order = "",
    checksum: str = "",
) -> list[str]:
    """Write `source` as safetensors at `out`, after it has loaded strictly into its backbone; returns lines to print.

    The tensors stay as published, and the card says for which pictures. An adapter in the source goes to the folder
    OUT_adapter, after it has been held against the backbone.
    name: of the backbone, None to find it. given: arguments of the backbone, over what the file tells.
    colour_order: of the pictures it was trained on, over what the file tells. checksum: SHA-256 the source must have.
    ValueError where the file is none of the known kinds, holds non-finite numbers, fits no backbone, or is another.
    """
    from recognition import published
    from recognition.backbones import BACKBONES
    from recognition.hashes import hash_tensors
    from recognition.weights import HASH, as_rgb, build_strictly, check_out, sha256, write_weights
    from recognition.weights.hub import is_address, local_path, pin

    check_out(out)
    if name:
        BACKBONES.check(name, given or ())
    file = local_path(source)
    if out.resolve() == file.resolve():
        raise ValueError(f"{out} is the source itself; name another file to write")
    if checksum and (got := sha256(file)) != checksum.lower():
        raise ValueError(f"{source}: its SHA-256 is {got}, not {checksum.lower()}: another file, or a damaged one")
    read, told = _read(file, name, colour_order)
    everything = {**read.tensors, **read.adapter}
    broken = [key for key, tensor in everything.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"{source}: {len(broken)} tensors hold NaN or infinity, such as '{broken[0]}'")
    found = published.sort_out(read, source)
    name = name or read.card.get("backbone") or published.find_backbone(found, source)
    try:
        BACKBONES.check(name, ())
        arguments = {**published.backbone_arguments(name, found), **read.card.get("arguments", {}), **(given or {})}
        BACKBONES.check(name, arguments)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None

    def make() -> nn.Module:
        return BACKBONES.create(name, **arguments)

    backbone = build_strictly(make, as_rgb(found.base, read.card, source)[0], source)
    whose: Card = {
        "backbone": name,
        "arguments": arguments,
        **_comes_from(pin(source) if is_address(source) else file.name, sha256(file), read.card),
        "licence": licence or read.card.get("licence", "not stated by the file; ask its publisher"),
    }
    card = {**whose, **_takes(backbone, read.card), HASH: hash_tensors(found.base)}
    made = f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    lines = [f"{out}: {made}, {sum(tensor.numel() for tensor in found.base.values()):,} numbers"]
    chosen, about = published.complete_adapter(found, make, source) if found.adapter else ({}, {})
    try:
        write_weights(out, found.base, card)
    except OSError as error:
        raise ValueError(f"{out} could not be written: {error.strerror or error}") from None
    if found.adapter:
        lines.append(_write_adapter(out, found, chosen, {**whose, **about}))
    return [*lines, *told, *_of_pictures(card)]


def _comes_from(name: str, checksum: str, card: Card) -> Card:
    """What the card says of the source: the publisher's file, and the converted one between where there was one."""
    first = {key: card.get(key) for key in ("source", "source_sha256")}
    if not all(isinstance(value, str) and value for value in first.values()):
        return {"source": name, "source_sha256": checksum}
    return {**first, "converted_from": name, "converted_from_sha256": checksum}


def _read(file: Path, name: str | None, colour_order: Order) -> tuple[Weights, list[str]]:
    """The source as published, and lines to print on it. name: of the backbone, None to find it."""
    from recognition.weights import Weights, read_weights

    if file.suffix.lower() != ".onnx":
        return read_weights(file, with_adapter=True, as_published=True, colour_order=colour_order), []
    from recognition.from_onnx import read_onnx

    graph = read_onnx(file, name, colour_order)
    card: Card = {**graph.card, "backbone": graph.name, "arguments": graph.arguments}
    return Weights(dict(graph.tensors), card), [f"{file.name}: {graph.note}"]


def _takes(backbone: nn.Module, card: Card) -> Card:
    """What the card says of pictures: as the source's card, or as everything here, RGB in [-1, 1]."""
    from recognition.types import COLOUR_ORDER, IMAGE_RANGE

    kept = {key: card[key] for key in ("publisher", "quirks", "left_out") if key in card}
    return {
        "embedding_size": backbone.embedding_size,
        "input_size": backbone.input_size,
        "colour_order": card.get("colour_order", COLOUR_ORDER),
        "image_range": card.get("image_range", list(IMAGE_RANGE)),
        **kept,
    }


def _of_pictures(card: Card) -> list[str]:
    from recognition.types import COLOUR_ORDER, IMAGE_RANGE

    order, (low, high) = card["colour_order"], card["image_range"]
    if (order, low, high) == (COLOUR_ORDER, *IMAGE_RANGE):
        return []
    return [f"published for {order} pictures in [{low:g}, {high:g}]; loading makes it one for RGB in [-1, 1]"]


def _write_adapter(out: Path, found: Published, chosen: Mapping[str, object], card: Card) -> str:
    from recognition import published

    folder = out.with_name(f"{out.stem}_adapter")
    published.write_adapter(folder, found, dict(chosen), card, out)
    count = sum(tensor.numel() for tensor in found.adapter.values())
    shown = ", ".join(f"{key}={value!r}" for key, value in chosen.items())
    return f"{folder}: {found.name}({shown}), {count:,} numbers"


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
