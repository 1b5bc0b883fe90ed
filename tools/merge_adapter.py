"""Merges a trained adapter into plain weights of its backbone, which need no adapter, no scorer and no gate any more.

    python tools/merge_adapter.py runs/lora_tinyface weights/tinyface.safetensors
    python tools/merge_adapter.py runs/petal weights/gallery.safetensors --gate 0.9
    python tools/merge_adapter.py runs/petal weights/probe.safetensors --gate 0.2 --records data/demo_test/test.rec
    python tools/merge_adapter.py downloads/probe_adapter weights/probe.safetensors --gate 0.2 --base weights/base.pt

A run, one of its checkpoints, or an adapter's folder with the base it was trained on. LoRA merges exactly. A gated
adapter mixes its branches per image, so it merges exactly at one gate: two calls make a model for good galleries and
one for poor probes out of one adapter. The largest error of an embedding is printed; the file is written only where it
is rounding. The file is read as any weights: tools/evaluate.py, tools/convert_checkpoint.py, config.backbone.weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from recognition import config as settings

if TYPE_CHECKING:
    from torch import Tensor

    from recognition.model import FaceModel
    from recognition.types import Adapter
    from recognition.weights import Card

LARGEST_ERROR = 1e-3  # of the largest magnitude in the embeddings; beyond, it is no rounding


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Answers --help without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source", type=Path, metavar="RUN_OR_FOLDER", help="a run, a checkpoint, or an adapter's folder"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the .safetensors file, its card as .json beside it")
    parser.add_argument("--gate", type=float, help="merge a gated adapter at this gate: 0 = low quality, 1 = high")
    parser.add_argument("--base", type=Path, help="weights the adapter was trained on; a run tells its own")
    parser.add_argument("--any-base", action="store_true", help="believe --base where the card tells no base")
    parser.add_argument("--records", type=Path, help="measure the error on pictures of this .rec file, not drawn ones")
    parser.add_argument("--images", type=int, default=8, help="how many pictures (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.out.suffix != ".safetensors":
        parser.error(f"weights are written as .safetensors, not '{arguments.out.name}'")
    if arguments.gate is not None and not 0 <= arguments.gate <= 1:
        parser.error(f"--gate is {arguments.gate:g}; a gate lies in [0, 1]")
    if arguments.images < 1:
        parser.error(f"--images is {arguments.images}; it must be at least 1")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Merges and reports. Returns 0, or 2 where the adapter cannot be merged."""
    arguments = parse(argv)
    try:
        lines = merge_adapter(
            arguments.source,
            arguments.out,
            arguments.gate,
            arguments.base,
            arguments.records,
            arguments.images,
            any_base=arguments.any_base,
        )
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(f"{arguments.source}: {error}", file=sys.stderr)
        return 2
    print(*lines, sep="\n")
    return 0


def merge_adapter(
    source: Path,
    out: Path,
    gate_value: float | None = None,
    base: Path | None = None,
    records: Path | None = None,
    images: int = 8,
    *,
    any_base: bool = False,
) -> list[str]:
    """Write the backbone of `source` with its adapter in the weights as `out`; returns lines to print.

    gate_value: for a gated adapter. base: weights that an adapter's folder goes on; a run's own settings name them.
    any_base: believe it although the folder's card tells no base, as those converted from published files.
    ValueError for an adapter that does not merge, or not so, and for a wrong base; RuntimeError where the merged
    network's embeddings are others: then nothing is written.
    """
    import torch

    import adapters
    from recognition.backbones import BACKBONES
    from recognition.weights import DERIVED, check_fit, write_weights

    model, card = _load(source, base, any_base)
    adapter = adapters.attached(model.backbone).adapter
    _check_mergeable(adapter, gate_value)
    pictures = _pictures(records, images)
    with torch.no_grad():
        wanted = _embed(model, pictures, gate_value)
        by_image = model.embed(pictures) if model.needs_gate and model.scorer.needs in ("image", "model") else None
        adapters.merge(model.backbone, gate_value)
        found = _embed(model, pictures, None)
    error = ((found - wanted).abs().max() / wanted.abs().max()).item()
    at = "" if gate_value is None else f" at gate {gate_value:g}"
    lines = [
        f"largest error of an embedding{at}, over {len(pictures)} {'records' if records else 'drawn pictures'}: "
        f"{error:.1e} of the largest magnitude; lowest cosine {_lowest_cosine(found, wanted):.7f}"
    ]
    if not error <= LARGEST_ERROR:
        raise RuntimeError(f"{lines[0]}; at most {LARGEST_ERROR:g} wanted: nothing was written")
    if by_image is not None:
        lines.append(
            f"against each picture's own gate, from the scorer: lowest cosine {_lowest_cosine(found, by_image):.4f}; "
            "this is what fixing the gate costs"
        )
    tensors = {k: t for k, t in model.backbone.state_dict().items() if k.rsplit(".", 1)[-1] not in DERIVED}
    with torch.device("meta"):
        check_fit(BACKBONES.create(card["backbone"], **card["arguments"]), tensors, out)
    merged = {"adapter": card.pop("adapter"), "gate": gate_value, "largest_error": error}
    write_weights(out, tensors, {**card, "merged": merged})
    return [*lines, f"{out}: {card['backbone']}, {sum(t.numel() for t in tensors.values()):,} numbers, no adapter"]


def _check_mergeable(adapter: Adapter, gate_value: float | None) -> None:
    kind = type(adapter).__name__
    if adapter.mergeable == "none":
        raise ValueError(
            f"a {kind} adapter computes what no plain weights of the backbone can: it cannot be merged; "
            "tools/export_onnx.py writes the adapted network as it is"
        )
    if adapter.mergeable == "at_gate" and gate_value is None:
        raise ValueError(
            f"a {kind} adapter weighs its branches per image, so no plain weights equal it; it merges at one gate: "
            "--gate 0.2 for poor probes, say, and --gate 0.9 for a good gallery"
        )
    if adapter.mergeable == "exact" and gate_value is not None:
        raise ValueError(f"a {kind} adapter has no gate: leave --gate out (got {gate_value:g})")


def _load(source: Path, base: Path | None, any_base: bool) -> tuple[FaceModel, Card]:
    """The adapted model, and what the card of the merged weights says of it."""
    import adapters
    from recognition.runs import load_adapters, load_run
    from recognition.types import COLOUR_ORDER, IMAGE_RANGE
    from recognition.weights import read_weights, sha256

    try:
        run = settings.run_of(source)
    except FileNotFoundError:
        run = None
    if run is not None:
        if base is not None:
            raise ValueError("a run's own settings name its base: leave --base out")
        model, config = load_run(source), settings.from_json(run / "config.json")
        name, arguments = config.backbone.name, settings.arguments(config.backbone, "backbone")
        adapter, weights = {"name": config.adapter.name}, config.backbone.weights
        adapter |= settings.arguments(config.adapter, "adapter")
    else:
        saved = adapters.read_folder(source)
        made = saved.make()
        if base is None and (made.freezes_base or not made.keeps_base_keys):
            raise ValueError(f"{source} is an adapter without its base: name the base's weights by --base")
        weights = saved.path if base is None else base  # a whole backbone stands on its own
        model, bank = load_adapters({"merged": source}, weights, any_base=any_base)
        bank.activate("merged")
        told = saved.card if "backbone" in saved.card else read_weights(weights).card
        name, arguments = told["backbone"], told.get("arguments", {})
        adapter = {"name": saved.name, **saved.arguments}
    card: Card = {
        "backbone": name,
        "arguments": arguments,
        "embedding_size": model.backbone.embedding_size,
        "input_size": model.backbone.input_size,
        "colour_order": COLOUR_ORDER,
        "image_range": list(IMAGE_RANGE),
        "adapter": adapter,
        "base_sha256": sha256(weights) if weights else "",
    }
    licence = read_weights(weights).card.get("licence") if weights else None
    return model, {**card, **({"licence": licence} if licence else {})}


def _pictures(records: Path | None, count: int) -> Tensor:
    """(count, 3, 112, 112) float RGB in [-1, 1]: of the records, or drawn with falling detail."""
    import torch
    import torch.nn.functional as F

    from recognition.types import IMAGE_SIZE

    if records is None:
        generator = torch.Generator().manual_seed(0)
        drawn = []
        for i in range(count):
            side = (112, 56, 28, 14, 7)[i % 5]
            coarse = torch.rand(1, 3, side, side, generator=generator)
            drawn.append(F.interpolate(coarse, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False))
        return torch.cat(drawn) * 2 - 1
    from recognition.data.decode import decode
    from recognition.data.records import Records
    from recognition.inputs import some_images

    stored = some_images(Records(records), count)
    images = [torch.from_numpy(decode(stored[i], IMAGE_SIZE, stored.where(i))) for i in range(len(stored))]
    return torch.stack(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def _embed(model: FaceModel, pictures: Tensor, gate_value: float | None) -> Tensor:
    """Embeddings with all pictures at one gate."""
    import torch
    import torch.nn.functional as F

    size = model.backbone.input_size
    if pictures.shape[-1] != size:
        pictures = F.interpolate(pictures, size=(size, size), mode="bilinear", align_corners=False)
    with model.gate.scope(None if gate_value is None else torch.full((len(pictures),), gate_value)):
        return model.backbone(pictures.contiguous(memory_format=torch.channels_last))


def _lowest_cosine(one: Tensor, two: Tensor) -> float:
    import torch.nn.functional as F

    return F.cosine_similarity(one.double(), two.double()).min().item()


if __name__ == "__main__":
    sys.exit(main())
