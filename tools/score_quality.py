"""Scores every stored picture of a record set once, and keeps the scores beside it, where training finds them.

    python tools/score_quality.py configs/demo.py                     the recipe's scorer, base and records
    python tools/score_quality.py configs/demo.py scorer.name=brisque --check
    python tools/score_quality.py --records data/faces --scorer sharpness --argument measure=tenengrad
    torchrun --nproc-per-node 8 tools/score_quality.py configs/mine.py

Beside x.rec comes x.scores.SCORER-HASH.safetensors, one file for each scorer with its arguments and weights. It is
bound to the records: where those, the scorer or its weights have changed, it is stale and is computed anew. An
interrupted run goes on where it was. Training writes the same files by itself where data.scores says so.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from recognition import config as settings

if TYPE_CHECKING:
    from easydict import EasyDict

    from recognition.scoring import Scored

STALE = 1  # exit code of --check
INTERRUPTED = 130


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Answers --help without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="names scorer, records and base")
    parser.add_argument("overrides", nargs="*", metavar="section.setting=value", help="laid over the recipe")
    parser.add_argument("--records", nargs="+", metavar="RECORDS", help="without a recipe: .rec files or folders")
    parser.add_argument("--scorer", metavar="NAME", help="and a scorer that needs no model")
    parser.add_argument("--argument", nargs="+", default=[], metavar="KEY=VALUE", help="of that scorer")
    parser.add_argument("--check", action="store_true", help="say whether the files are fresh; exit code 1 if not")
    parser.add_argument("--threads", type=int, default=4, help="that decode, in each process (default: %(default)s)")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.records and arguments.recipe:  # settings alone, such as train.device=cpu
        arguments.overrides.insert(0, arguments.recipe)
        arguments.recipe = None
    if bool(arguments.records) != bool(arguments.scorer) or (arguments.argument and not arguments.scorer):
        parser.error("--records and --scorer go together, and --argument with them")
    if not arguments.recipe and not arguments.records:
        parser.error("name a recipe, or give --records and --scorer in its place")
    if arguments.threads < 1:
        parser.error(f"--threads is {arguments.threads}; it must be at least 1")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Scores and reports. Returns 0; 1 where --check finds files that are not fresh; 2 where settings or files cannot
    be used; 130 after Ctrl-C.
    """
    arguments = parse(argv)
    speaks = os.environ.get("RANK", "0") == "0"
    try:
        config = _settings(arguments)
        code = _score(arguments, config)
    except (ValueError, OSError) as error:
        print(f"score_quality: {error}", file=sys.stderr, flush=True)
        return _leave(2)
    except KeyboardInterrupt:
        if speaks:
            print("interrupted; the same command goes on from what is done", file=sys.stderr, flush=True)
        return _leave(INTERRUPTED)
    return code


def _settings(arguments: argparse.Namespace) -> EasyDict:
    if arguments.recipe:
        config = settings.load(arguments.recipe, arguments.overrides)
        if missing := settings.missing_needs(config):
            raise ValueError("\n".join(missing))
        return config
    own = [f"data.records={arguments.records!r}", "data.classes=shared", f"scorer.name={arguments.scorer}"]
    return settings.load(settings.BASE, [*own, *(f"scorer.{one}" for one in arguments.argument), *arguments.overrides])


def _score(arguments: argparse.Namespace, config: EasyDict) -> int:
    from recognition import distributed, scoring
    from recognition.inputs import open_records
    from recognition.model import lone_scorer

    given = settings.arguments(config.scorer, "scorer")
    world = distributed.start(config.train.device, config.train.timeout_minutes)
    skips = config.data.on_bad_record == "skip"
    scorer = lone_scorer(config).to(world.device)  # an adapter is no part of what a scorer sees
    if why := scoring.obstacle(scorer):
        raise ValueError(f"scores of '{config.scorer.name}' cannot be kept: {why}")
    records, identity = open_records(config), scoring.identify(config.scorer.name, given, scorer)
    code = 0
    if arguments.check:
        found = scoring.check(records, identity, bad_allowed=skips) if world.is_main else {}
        for path, problem in found.items():
            print(f"stale   {problem}" if problem else f"fresh   {path}")
        code = STALE if any(found.values()) else 0
    else:
        limit = config.data.bad_record_limit if skips else None
        done = scoring.complete(records, scorer, identity, world, threads=arguments.threads, bad_record_limit=limit)
        if world.is_main:
            print("\n".join(_report(config.scorer.name, done, world.world_size)))
    scorer = None
    distributed.stop()
    return code


def _report(name: str, done: Scored, processes: int) -> list[str]:
    import numpy as np

    from iqa._calibration import histogram

    columns = done.scores.reshape(len(done.scores), -1)
    sound = ~np.isnan(columns).any(axis=1)
    bad = int((~sound).sum())
    lines = [f"stale   {reason}" for reason in done.reasons]
    images = f"{len(done.scores):,} images"
    if done.computed:
        speed = done.computed / done.seconds
        images += f", {done.computed:,} scored in {done.seconds:.1f} s by {processes} process(es): {speed:,.0f}/s"
    else:
        images += ", nothing to do"
    lines += [f"scores  {images}{f'; {bad:,} bad records have none' if bad else ''}", ""]
    for number, column in enumerate(columns[sound].T, 1):
        lines += histogram({f"{name} {number}" if columns.shape[1] > 1 else name: column})
    return [*lines, "", *(f"file    {path}" for path in done.paths)]


def _leave(code: int) -> int:
    """Of several processes, end this one now: at exit it would wait for others that are gone."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    from recognition import distributed

    distributed.stop()
    return code


if __name__ == "__main__":
    sys.exit(main())
