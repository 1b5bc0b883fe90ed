"""Trains or adapts a face-recognition model by a recipe.

torchrun --nproc-per-node 8 tools/train.py configs/petal_tinyface.py
python tools/train.py configs/demo.py optim.lr=1e-3      any setting can be changed
python tools/train.py configs/demo.py --dry-run          check everything, run one step, stop
python tools/train.py --list                             every plugin of every kind
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback

from recognition import config as settings
from recognition.recipes import TRY
from recognition.registry import KINDS, registry_of

PATIENCE = 10  # seconds: torchrun ends all processes with the first, so the one that speaks must not be the second


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Answers --help without importing torch."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="settings and their defaults:\n" + settings.describe_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", nargs="?", help="a file of configs/, or your own")
    parser.add_argument("overrides", nargs="*", metavar="section.setting=value", help="laid over the recipe")
    parser.add_argument("--dry-run", action="store_true", help="check config and data, show the plan, run one step")
    parser.add_argument("--list", action="store_true", help="print every plugin with its summary and stop")
    arguments = parser.parse_intermixed_args(argv)
    if not arguments.recipe and not arguments.list:
        parser.error("name a recipe, such as configs/demo.py, or ask for --list")
    return arguments


def list_plugins() -> str:
    """Every plugin of every kind, one line each."""
    lines = []
    for kind in KINDS:
        registry = registry_of(kind)
        told = {name: registry.summary(name) for name in registry.names()} | registry.doubled()
        lines += [f"{kind}s", *(f"  {name:<18} {text}" for name, text in sorted(told.items())), ""]
    return "\n".join(lines)


def leave(code: int) -> int:
    """Of several processes, end this one now: a thread that still waits for the others would abort it at exit."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def main(argv: list[str] | None = None) -> int:
    """Runs the recipe. Returns 0; 1 where a dry run found the machine unfit, or the run cannot go on; 2 where settings
    or files cannot be used; 3 where another process was lost; what recognition.signals says of a run that was stopped.
    """
    arguments = parse(argv)
    if arguments.list:
        try:
            print(list_plugins())
        except ValueError as error:  # two files of ours that hold one name
            print(error, file=sys.stderr)
            return 2
        return 0
    speaks = os.environ.get("RANK", "0") == "0"  # one voice under torchrun
    try:
        config = settings.load(arguments.recipe, arguments.overrides)
        missing = settings.missing_needs(config)
        if missing:
            more = [] if TRY.endswith(f" {arguments.recipe}") else [f"Or try it all on synthetic faces: {TRY}"]
            raise settings.ConfigError("\n".join([*missing, *more]))
    except settings.ConfigError as error:
        if not speaks:
            time.sleep(PATIENCE)
            return 2
        print(f"{arguments.recipe}: {error}", file=sys.stderr)
        return 2

    import torch.distributed

    from recognition import distributed
    from recognition.signals import exit_code
    from recognition.trainer import Trainer

    rank = os.environ.get("RANK", "0")
    try:
        world = distributed.start(config.train.device, config.train.timeout_minutes, config.train.deterministic)
        trainer = Trainer(config, world)
        healthy = True
        if arguments.dry_run:
            healthy = trainer.dry_run()
        else:
            trainer.train()
        stopped_by = trainer.stopped_by
        trainer.close()
    except (ValueError, OSError, ImportError) as error:
        print(f"{arguments.recipe}: process {rank}: {error}", file=sys.stderr, flush=True)  # only one may know it
        return leave(2)
    except RuntimeError as error:
        if "gloo" not in str(error) and not isinstance(error, torch.distributed.DistBackendError):
            traceback.print_exc()
            return leave(1)
        lost = "another process is gone or out of reach; the same command continues from the newest checkpoint"
        print(f"{arguments.recipe}: process {rank}: {lost} ({error})", file=sys.stderr, flush=True)
        return leave(3)
    trainer = None  # nothing may hold the process group when it stops
    distributed.stop()
    return exit_code(stopped_by) if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
