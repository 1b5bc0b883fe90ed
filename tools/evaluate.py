"""Evaluates a trained run, or a file of weights, and writes its report.

    python tools/evaluate.py runs/demo                       the run's own evaluation settings
    python tools/evaluate.py runs/demo/checkpoints/best      a checkpoint, to RUN/evaluation
    python tools/evaluate.py runs/demo --base                beside the model that the run started from
    python tools/evaluate.py runs/demo --set low_res=[112,14,[112,14]] --set flip=True
    python tools/evaluate.py runs/demo --config configs/other.py evaluation.far=[1e-3]
    python tools/evaluate.py weights.safetensors --config configs/demo.py
    torchrun --nproc-per-node 8 tools/evaluate.py runs/demo
    python tools/evaluate.py runs/demo --protocol tinyface --data TinyFace/Testing_Set
    python tools/evaluate.py weights.safetensors --protocol bin --data lfw.bin --output results/lfw
    python tools/evaluate.py runs/demo --protocol scface --data SCface --argument failures=miss
    python tools/evaluate.py runs/demo --edc                 are quality scores good ones? error-versus-discard curves
    python tools/evaluate.py runs/demo --edc --scorer sharpness:variance --scorer "attn_fiqa base=runs/vit"

By the run's own settings the report, the numbers and the ROC go to RUN/report, beside those of training; with
--set or --config to RUN/evaluation. --output puts them elsewhere.

--protocol NAME evaluates by one benchmark in place of the recipe's sets; `python tools/train.py --list` shows them all
with their arguments. --data is its first argument, the folder or file with its data, --argument KEY=VALUE another one.
Its report goes to RUN/evaluation/NAME.

--edc goes to RUN/edc: the model is the matcher, every image of a set of pairs gets a resolution of its own (settings
evaluation.edc), and the curves say which scorer finds the pairs that the matcher gets wrong. A scorer that cannot be
made here is listed with the reason.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from recognition import config as settings
from recognition.recipes import or_shipped
from recognition.values import literal


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Answers --help without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", metavar="RUN_OR_WEIGHTS", help="a run folder, or weights (a file, hf://owner/repo/file)"
    )
    parser.add_argument("overrides", nargs="*", metavar="section.setting=value", help="laid over --config")
    parser.add_argument("--config", help="take the evaluation settings of this recipe; weights need one")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change evaluation.KEY")
    parser.add_argument("--base", action="store_true", help="evaluate the model that the run started from, too")
    parser.add_argument("--protocol", metavar="NAME", help="one benchmark, in place of the settings' sets")
    parser.add_argument("--data", help="with --protocol: its data, a folder or a file")
    parser.add_argument(
        "--argument", action="append", default=[], metavar="KEY=VALUE", help="with --protocol: one of its arguments"
    )
    parser.add_argument("--edc", action="store_true", help="compare quality scorers on the model's errors")
    parser.add_argument(
        "--scorer",
        action="append",
        default=[],
        metavar="SPEC",
        help="with --edc, in place of evaluation.edc.scorers: NAME[:ARGUMENT] [KEY=VALUE ...] [base=RUN_OR_WEIGHTS], "
        "quoted; may be repeated",
    )
    parser.add_argument("--output", help="folder of the report, in place of RUN/report")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.base if arguments.edc else arguments.scorer:
        parser.error("--scorer goes with --edc, and --base does not: curves are of one matcher")
    is_run = _is_run(arguments)
    if (arguments.data or arguments.argument) and not arguments.protocol:
        parser.error("--data and --argument go with --protocol NAME")
    if not is_run and not arguments.config and not arguments.protocol:
        parser.error(f"{arguments.model} is no run folder: weights are evaluated by the settings of a --config")
    if not is_run and (arguments.base or not arguments.output):
        parser.error("weights have no run folder and no base: name an --output, and leave --base out")
    if not is_run and not _on_hub(arguments) and not or_shipped(arguments.model).exists():
        parser.error(f"there is no {arguments.model}")
    if arguments.overrides and not arguments.config:
        parser.error("section.setting=value changes a --config; change the run's own settings by --set KEY=VALUE")
    return arguments


def chosen_config(arguments: argparse.Namespace) -> dict:
    """The recipe's settings, or the run's, with --set laid over the evaluation section."""
    if arguments.config:
        config = settings.load(arguments.config, arguments.overrides)
    elif _is_run(arguments):
        config = settings.from_json(settings.run_of(arguments.model) / "config.json")
    else:
        config = settings.defaults()
    if arguments.protocol:
        config.evaluation.sets = [_chosen_set(arguments)]
    for change in arguments.set:
        if "=" not in change:
            raise settings.ConfigError(f"--set {change}: write KEY=VALUE, such as low_res=[112,14]")
    settings.override(config, [f"evaluation.{change}" for change in arguments.set])
    return config


def _chosen_set(arguments: argparse.Namespace) -> dict:
    """The one set that --protocol asks for, as a recipe would have it."""
    from recognition.evaluation.protocols import PROTOCOLS

    name, chosen = arguments.protocol, {}
    PROTOCOLS.check(name, ())
    if arguments.data:
        chosen[PROTOCOLS.parameters(name)[0]] = arguments.data
    for text in arguments.argument:
        key, equals, value = text.partition("=")
        if not equals:
            raise settings.ConfigError(f"--argument {text}: write KEY=VALUE, such as failures=miss")
        chosen[key] = literal(value)
    PROTOCOLS.check(name, chosen)
    return {"name": name, "kind": name, **chosen}


def main(argv: list[str] | None = None) -> int:
    """Evaluates and reports. Returns 0, 2 where the settings or files cannot be used, 130 after Ctrl-C."""
    arguments = parse(argv)
    speaks = os.environ.get("RANK", "0") == "0"  # one voice under torchrun
    try:
        config = chosen_config(arguments)
        (_compare_scorers if arguments.edc else _evaluate)(arguments, config)
    except (ValueError, OSError, ImportError) as error:
        if speaks:
            print(f"{arguments.model}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if speaks:
            print("interrupted", file=sys.stderr)
        return 130
    return 0


def _evaluate(arguments: argparse.Namespace, config: dict) -> None:
    from recognition import delivery, distributed
    from recognition.evaluation.report import report, write_report
    from recognition.evaluation.results import about, load_results, save_results
    from recognition.evaluation.runner import evaluate
    from recognition.evaluation.sets import open_sets

    sets = open_sets(config.evaluation)
    world = distributed.start(config.train.device)
    results = {}
    names = ["before", "after"] if arguments.base else ["after" if _is_run(arguments) else "weights"]
    for name in names:
        model = _load(arguments.model, config, name == "before").to(world.device)
        results[name] = evaluate(model, config.evaluation, world, sets)
        del model
    if world.is_main:
        changed = arguments.set or arguments.config or arguments.protocol
        kind = f"evaluation/{arguments.protocol or ''}".rstrip("/") if changed else "report"
        folder = Path(arguments.output or _folder(Path(arguments.model), kind))
        for name, found in results.items():
            save_results(folder / name, found, about(sets, config.evaluation))
        if "before" not in results and not changed and (folder / "before" / "results.json").is_file():
            results = {"before": load_results(folder / "before"), **results}
        if not changed and not arguments.output and folder.parent == Path(arguments.model):
            delivery.refresh_card(folder.parent)
        print(report(results))
        print(f"\nwritten to {write_report(folder, results)}")
    distributed.stop()


def _compare_scorers(arguments: argparse.Namespace, config: dict) -> None:
    from recognition import distributed
    from recognition.evaluation import quality, scorers
    from recognition.evaluation.quality_report import quality_report, save_quality
    from recognition.evaluation.sets import open_sets

    wanted = scorers.sections(config, arguments.scorer or config.evaluation.edc.scorers)
    quality.edc_settings(config.evaluation)
    sets = open_sets(config.evaluation)
    if not sets:
        raise ValueError("evaluation.sets is empty: name at least one set of pairs")
    world = distributed.start(config.train.device)
    model = _load(arguments.model, config, base=False).to(world.device)
    base = arguments.model if _is_run(arguments) else model.backbone
    made, missing = scorers.make(wanted, base, [one.protocol.images for one in sets], world.device)
    results = quality.measure_quality(model, made, config.evaluation, world, sets)
    if world.is_main:
        folder = Path(arguments.output or _folder(Path(arguments.model), "edc"))
        path = save_quality(folder, results, missing)
        print(quality_report(results, missing))
        print(f"\nwritten to {path}")
    del model, base, made
    distributed.stop()


def _is_run(arguments: argparse.Namespace) -> bool:
    """False for a file of weights. A checkpoint counts as its run; `best` is the name of one, not of a folder."""
    path = Path(arguments.model)
    return not _on_hub(arguments) and (path.is_dir() or path.parent.name == "checkpoints")


def _on_hub(arguments: argparse.Namespace) -> bool:
    return arguments.model.startswith("hf:/")


def _folder(path: Path, name: str) -> Path:
    run = settings.run_of(path)
    return run / name if run == path else run / "evaluation" / path.name / name.partition("/")[2]


def _load(path: str, config: dict, base: bool):
    from easydict import EasyDict

    from recognition.model import FaceModel, build_backbone
    from recognition.runs import load_run
    from recognition.weights import read_weights
    from recognition.weights.hub import local_path

    if not local_path(path).is_file():
        return load_run(path, base=base)
    card = read_weights(path).card
    if "backbone" in card:
        config.backbone = EasyDict(name=card["backbone"], weights=path, **card.get("arguments", {}))
    return FaceModel(build_backbone(config, path))


if __name__ == "__main__":
    sys.exit(main())
