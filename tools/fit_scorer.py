"""Fits what a quality scorer needs to know of a base: the head of cr_fiqa (ex_fiqa takes it too), or the centre of
recognizability. The base itself is not touched. The scorer degradation needs no base: its network learns from faces.

    python tools/fit_scorer.py cr_fiqa weights/base.safetensors data/mine/train.rec weights/base_cr_fiqa.safetensors
    python tools/fit_scorer.py recognizability runs/petal data/mine/train.rec weights/base_centre.safetensors
    python tools/fit_scorer.py cr_fiqa mobilefacenet_y1-0000.params data/lfw OUT.safetensors --sides 112 28 14
    python tools/fit_scorer.py degradation data/demo data/demo_pretrain data/lfw/train.rec iqa/degradation.safetensors

A run means the base that it started from. Faces are reduced to each side and brought back, as in evaluation. The head
learns on people whose class is not divisible by 8, and is measured on the others, who are as well no part of any
training that holds out the same ones; so does degradation's network, of which each record set is an equal part.
Then: config.scorer = edict(name="cr_fiqa", weights=OUT).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from recognition import config as settings

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from recognition.data.records import Records
    from recognition.distributed import World

SIDES = {"cr_fiqa": (112, 56, 28, 14, 7), "recognizability": (7, 5, 4)}  # pixels
HOLD_OUT = 8


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Answers --help without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scorers = parser.add_subparsers(dest="scorer", required=True, metavar="NAME")
    for name, sides in SIDES.items():
        one = scorers.add_parser(name, help="fitted to a base")
        one.add_argument("base", metavar="RUN_OR_WEIGHTS", help="a run, or the base's weights with their card")
        one.add_argument("records", type=Path, metavar="RECORDS", help="a .rec file or a folder of shards")
        one.add_argument("--sides", type=int, nargs="+", default=sides, metavar="PIXELS", help="faces are reduced to")
        one.add_argument("--backbone", default="", metavar="NAME", help="of weights without a card")
        _add_common(one)
    network = scorers.add_parser("degradation", help="a network of its own")
    network.add_argument("records", type=Path, nargs="+", metavar="RECORDS", help=".rec files or folders of shards")
    network.add_argument("--epochs", type=int, default=8, help="over the faces (default: %(default)s)")
    network.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    _add_common(network)
    arguments = parser.parse_args(argv)
    if arguments.out.suffix != ".safetensors":
        parser.error(f"fitted tensors are written as .safetensors, not '{arguments.out.name}'")
    sides = getattr(arguments, "sides", ())
    if not all(1 <= side <= 112 for side in sides):
        parser.error(f"--sides {' '.join(map(str, sides))}: a side is 1 to 112 pixels")
    if getattr(arguments, "epochs", 1) < 1 or getattr(arguments, "seed", 0) < 0:
        parser.error("--epochs is 1 or more, and --seed 0 or more")
    if arguments.images < 2:
        parser.error(f"--images is {arguments.images}; it must be at least 2")
    return arguments


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="the .safetensors file")
    parser.add_argument("--images", type=int, default=20_000, help="at most so many faces (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")


def main(argv: list[str] | None = None) -> int:
    """Fits and writes. Returns 0, or 2 where base or records cannot be used."""
    arguments = parse(argv)
    try:
        if arguments.scorer == "degradation":
            lines = fit_degradation(
                arguments.records,
                arguments.out,
                arguments.images,
                epochs=arguments.epochs,
                seed=arguments.seed,
                device=arguments.device,
            )
        else:
            lines = fit_scorer(
                arguments.scorer,
                arguments.base,
                arguments.records,
                arguments.out,
                arguments.sides,
                arguments.images,
                backbone=arguments.backbone,
                device=arguments.device,
            )
    except (ValueError, FileNotFoundError) as error:
        print(f"{getattr(arguments, 'base', arguments.scorer)}: {error}", file=sys.stderr)
        return 2
    print(*lines, sep="\n")
    return 0


def fit_scorer(
    scorer: str,
    base: str,
    records: Path,
    out: Path,
    sides: tuple[int, ...],
    images: int,
    *,
    backbone: str = "",
    device: str = "auto",
) -> list[str]:
    """Write the scorer's file for this base as `out`; returns lines to print.

    ValueError for a base or records that cannot be used, and for too few people or images.
    """
    from iqa._model import write_fitted
    from recognition import distributed
    from recognition.data.records import Records

    network = _base(base, backbone)
    found = Records(str(records))
    world = distributed.start(device)
    try:
        network.to(world.device)
        tensors, lines = (_head if scorer == "cr_fiqa" else _centre)(network, found, sides, images, world)
    finally:
        distributed.stop()
    notes = {"sides": " ".join(map(str, sides)), "records": found.fingerprint(), "base": base}
    write_fitted(out, scorer, tensors, network, notes)
    return [*lines, f"written to {out}: config.scorer = edict(name='{scorer}', weights='{out}')"]


def fit_degradation(
    records: list[Path], out: Path, images: int, *, epochs: int, seed: int, device: str = "auto"
) -> list[str]:
    """Write a file of the scorer degradation as `out`; returns lines to print.

    ValueError for records that cannot be used, or of too few people.
    """
    import numpy as np

    from iqa._model import write_fitted
    from recognition import degradation_fit, distributed
    from recognition.data.records import Records

    sets = [Records(str(path)) for path in records]
    held = [degradation_fit.held_out(found) for found in sets]
    if not all(rows.any() and not rows.all() for rows in held):
        raise ValueError("a record set is of too few people to hold some out: give one of more people")
    world = distributed.start(device)
    try:
        learned = [(found, np.flatnonzero(~rows)) for found, rows in zip(sets, held, strict=True)]
        shown = degradation_fit.make_worse(learned, images, seed)
        network = degradation_fit.fit(shown, epochs, seed, world.device)
        unseen = [(found, np.flatnonzero(rows)) for found, rows in zip(sets, held, strict=True)]
        lines = degradation_fit.report(network, unseen, seed + 1)
    finally:
        distributed.stop()
    notes = {
        "records": " ".join(map(str, records)),
        "fingerprints": " ".join(found.fingerprint() for found in sets),
        "images": str(len(shown.level)),
        "epochs": str(epochs),
        "seed": str(seed),
    }
    write_fitted(out, "degradation", network.state_dict(), None, notes)
    lines = [f"{path}: {line}" for path, line in zip(records, lines, strict=True)]
    return [f"{len(shown.level):,} faces, {epochs} epochs", *lines, f"written to {out}, {out.stat().st_size:,} bytes"]


def _base(path: str, backbone: str) -> nn.Module:
    from easydict import EasyDict

    from recognition.model import build_backbone
    from recognition.weights import read_weights
    from recognition.weights.hub import local_path

    if local_path(path).is_file():
        name = read_weights(path).card.get("backbone", backbone)
        if not name:
            raise ValueError("it has no card that names its backbone: say which by --backbone NAME")
        return build_backbone(EasyDict(backbone=EasyDict(name=name)), path).eval()
    config = settings.from_json(settings.run_of(path) / "config.json")
    if not config.backbone.weights:
        raise ValueError("this run started from random weights, so it has no base to look through")
    return build_backbone(config, config.backbone.weights).eval()


def _head(
    network: nn.Module, records: Records, sides: tuple[int, ...], images: int, world: World
) -> tuple[dict[str, Tensor], list[str]]:
    """cr_fiqa's weight and bias, and how well they predict held-out people's targets."""
    import torch

    from iqa.cr_fiqa import fit, similarities, target

    rows = _of_several(records, images)
    label = torch.from_numpy(records.labels[rows]).to(world.device)
    best = _embed(network, records, rows, 112, world)
    embeddings = [best if side == 112 else _embed(network, records, rows, side, world) for side in sides]
    wanted = [target(*similarities(embedding, best, label)) for embedding in embeddings]
    own = torch.from_numpy(records.class_ids).to(label)[label] % HOLD_OUT != 0
    if own.all() or not own.any():
        raise ValueError(f"{len(own)} images are of too few people to hold some out: give more by --images or records")
    weight, bias = fit(torch.cat([e[own] for e in embeddings]), torch.cat([w[own] for w in wanted]))
    lines = [f"{len(rows):,} images of {len(label.unique()):,} people, {int((~own).sum()):,} of them held out"]
    told = [embedding[~own] @ weight + bias for embedding in embeddings]
    held = [one[~own] for one in wanted]
    for side, mine, true in zip(sides, told, held, strict=True):
        near = _correlation(mine, true)
        lines.append(f"  {side:3} px: target {true.mean():.3f}, head {mine.mean():.3f}, correlation {near:.2f}")
    lines.append(f"  all: correlation {_correlation(torch.cat(told), torch.cat(held)):.2f} on held-out people")
    return {"weight": weight, "bias": bias}, lines


def _centre(
    network: nn.Module, records: Records, sides: tuple[int, ...], images: int, world: World
) -> tuple[dict[str, Tensor], list[str]]:
    """recognizability's centre, and how near good and unrecognisable faces are to it."""
    import torch
    from torch.nn import functional

    from iqa.recognizability import centre_of

    rows = _spread(len(records), images)
    poor = torch.cat([_embed(network, records, rows, side, world) for side in sides])
    centre = centre_of(poor)
    good = _embed(network, records, rows, 112, world)
    distances = [1 - functional.normalize(e) @ centre for e in (good, poor)]
    lines = [
        f"{len(rows):,} images: distance to the centre {distances[0].mean():.3f} as they are, "
        f"{distances[1].mean():.3f} reduced to {', '.join(map(str, sides))} px"
    ]
    return {"centre": centre}, lines


def _embed(network: nn.Module, records: Records, rows: np.ndarray, side: int, world: World) -> Tensor:
    from recognition.data.pairs import RecordImages
    from recognition.evaluation.embed import embed
    from recognition.model import FaceModel

    return embed(FaceModel(network), RecordImages((records, rows)), world=world, side=side)


def _of_several(records: Records, images: int) -> np.ndarray:
    """Images of people with two or more, whole people from all over the set until there are `images`."""
    import numpy as np

    counts = np.bincount(records.labels, minlength=records.num_classes)
    people = np.flatnonzero(counts >= 2)
    people = np.random.default_rng(0).permutation(people)
    people = people[: max(2, int(np.searchsorted(np.cumsum(counts[people]), images, side="right")))]
    if len(people) < 2:
        raise ValueError("a head learns from people with two images or more, and these records hold fewer than two")
    return np.flatnonzero(np.isin(records.labels, people))


def _spread(count: int, images: int) -> np.ndarray:
    import numpy as np

    return np.unique(np.linspace(0, count - 1, min(count, images)).astype(np.int64))


def _correlation(one: Tensor, two: Tensor) -> float:
    import torch

    return float(torch.corrcoef(torch.stack([one, two]).double())[0, 1])


if __name__ == "__main__":
    sys.exit(main())
