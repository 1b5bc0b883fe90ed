"""Fits the quality gate of a recipe to images: what they score, and the midpoint and slope that tell them apart.

    python tools/calibrate_gate.py configs/demo.py                          the images as training sees them
    python tools/calibrate_gate.py configs/demo.py --all scorer.name=brisque
    python tools/calibrate_gate.py configs/demo.py --gallery data/hq --probe data/cctv --rule roles
    python tools/calibrate_gate.py configs/demo.py --write configs/mine.py  a recipe that stands on this one

Rules: roles = the medians of poor and good images get the gates 0 and 1; otsu = the means of two heaps of scores,
whichever images they are; quantiles = a tenth of all images at 0 and a tenth at 1. Training does the same at its start
where the recipe says gate.fit=roles. A trained adapter's gate is a part of it, and stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from recognition import config as settings

if TYPE_CHECKING:
    import numpy as np
    from easydict import EasyDict

    from recognition.calibration import Sample
    from recognition.distributed import World
    from recognition.quality import Quality

RULES = ("roles", "otsu", "quantiles")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Answers --help without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe whose adapter has a gate")
    parser.add_argument("overrides", nargs="*", metavar="section.setting=value", help="laid over the recipe")
    parser.add_argument("--rule", choices=RULES, help="default: the recipe's gate.fit, else roles")
    parser.add_argument("--images", type=int, metavar="N", help="look at N images (of each set); default gate.sample")
    parser.add_argument("--all", action="store_true", help="look at an epoch of images, or at the whole of both sets")
    parser.add_argument("--gallery", metavar="RECORDS", help="good images, with --probe; scored as they are stored")
    parser.add_argument("--probe", metavar="RECORDS", help="poor images")
    parser.add_argument("--picture", metavar="PNG", help="default: gate_NAME.png in the folder of the runs")
    parser.add_argument("--write", metavar="RECIPE", help="write a recipe with the fitted gate that stands on this one")
    arguments = parser.parse_intermixed_args(argv)
    if bool(arguments.gallery) != bool(arguments.probe):
        parser.error("--gallery and --probe go together: one role alone fits nothing")
    if arguments.images is not None and (arguments.all or arguments.images < 2):
        parser.error("--images takes 2 or more, and not --all beside it")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Scores, fits and reports. Returns 0, or 2 where settings or files cannot be used."""
    arguments = parse(argv)
    try:
        if arguments.write:
            check_target(Path(arguments.write), Path(arguments.recipe), arguments.overrides)
        config = settings.load(arguments.recipe, arguments.overrides)
        _calibrate(arguments, config)
    except (ValueError, OSError) as error:
        print(f"{arguments.recipe}: {error}", file=sys.stderr)
        return 2
    return 0


def check_target(path: Path, recipe: Path, overrides: list[str]) -> None:
    """ValueError where --write names no new recipe beside the one it stands on."""
    if path.is_dir() or (path.parent / "config.json").is_file():
        raise ValueError(
            f"--write {path}: a run's adapter was trained with its gate, and with another it gives other embeddings: "
            "write a recipe and train by it"
        )
    if path.suffix != ".py" or path.exists() or path.resolve().parent != recipe.resolve().parent:
        raise ValueError(f"--write {path}: name a new file .py in {recipe.parent}, beside the recipe it stands on")
    if overrides:
        raise ValueError(f"--write would leave out {overrides}: put them into a recipe, and calibrate that one")


def recipe_text(recipe: Path, line: str, how: str) -> str:
    """A recipe that stands on another one and says its gate."""
    return (
        f'"""As {recipe.name}, its gate fitted to the images: {how}."""\n\n'
        f"from easydict import EasyDict as edict\n\nparent = {recipe.name!r}\nconfig = edict()\n{line}\n"
    )


def _calibrate(arguments: argparse.Namespace, config: EasyDict) -> None:
    from iqa._calibration import fit
    from recognition import calibration, distributed
    from recognition.evaluation.report import write_figure
    from recognition.loss_parts import quality

    if missing := settings.missing_needs(config):
        raise ValueError("\n".join(missing))
    world = distributed.start(config.train.device)
    try:
        model = quality(config).to(world.device).eval()
        if not model.needs_gate:
            raise ValueError(
                f"neither adapter '{config.adapter.name}' nor margin '{config.margin.name}' reads a gate: name one "
                "that does, such as dual_lora or quality_margin"
            )
        if calibration.brings_gate(config):
            raise ValueError(
                f"config.adapter.weights={config.adapter.weights} brings a gate of its own, which training does not "
                "fit anew: calibrate without it, for an adapter that starts anew"
            )
        if getattr(model.scorer, "columns", 1) > 1:
            raise ValueError(
                f"scorer '{config.scorer.name}' gives several scores: look at each scorer alone; when training "
                "starts, gate.fit=roles (or otsu, quantiles) fits a midpoint and slope for each"
            )
        sample = _sample(arguments, config, model, world)
    finally:
        distributed.stop()
    _tell(model, sample, "the gate as the recipe has it", scores=True)
    found = fit(sample.scores, arguments.rule or config.gate.fit or "roles", sample.poor)
    midpoint, slope = calibration.numbers(found, model)
    model.quality_gate.place(midpoint, slope)
    how = f"rule {found.rule}, {found.images} images, scores {found.low:.4g} to {found.high:.4g}"
    gates = _tell(model, sample, f"fitted by {how}")
    print("\n".join(calibration.gate_histogram(sample, gates)))
    picture = Path(arguments.picture or Path(config.run.root) / f"gate_{config.run.name}.png")
    write_figure(picture, calibration.draw(sample, gates))
    line = f'config.gate = edict(shape="{config.gate.shape}", midpoint={midpoint!r}, slope={slope!r}, fit="")'
    print(f"\npicture: {picture}\nfor the recipe:\n\n    {line}\n")
    if arguments.write:
        recipe = Path(arguments.recipe)
        Path(arguments.write).write_text(recipe_text(recipe, line, how))
        print(f"written: {arguments.write}, which stands on {recipe.name}")


def _tell(model: Quality, sample: Sample, what: str, *, scores: bool = False) -> np.ndarray:
    """Print the gates of the images, and a warning where they are all one. Returns them."""
    from torch import from_numpy

    from iqa import GateRange
    from recognition import calibration

    seen, gates = GateRange(), calibration.gates_of(model, sample)
    seen.see(from_numpy(gates))
    lines = calibration.describe_scores(sample) if scores else []
    lines += ["", f"{what}: {model.quality_gate.extra_repr()}", *calibration.describe_gates(sample, gates)]
    print("\n".join([*lines, *filter(None, [seen.warning()])]))
    return gates


def _sample(arguments: argparse.Namespace, config: EasyDict, model: Quality, world: World) -> Sample:
    from recognition import calibration
    from recognition.data.records import Records
    from recognition.inputs import build_order, open_records

    count = 0 if arguments.all else arguments.images or config.gate.sample
    if arguments.gallery:
        return calibration.of_sets(model, Records(arguments.gallery), Records(arguments.probe), world, count)
    records = open_records(config)
    order = build_order(config, records, config.data.batch_size * world.world_size, world)
    return calibration.of_training(config, model, records, order, world, count)


if __name__ == "__main__":
    sys.exit(main())
