"""Trains and evaluates several recipes at one budget and writes one table with paired intervals.

    python tools/compare.py runs/compare/lfw configs/lfw_full.py configs/lfw_lora.py configs/lfw_dual_lora.py \\
        --seeds 0 1 2 --setting mixed --setting low_only degradation.share=1.0 degradation.sides=[7,28] \\
        --jobs 2 --threads 1

    python tools/compare.py runs/compare/gates configs/lfw_lora.py \\
        --variant soft configs/lfw_dual_lora.py gate.slope=0.1

Resumable: a finished run is not repeated, an interrupted one continues from its checkpoint. Overrides after `--` go to
every run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from recognition import config as settings

TRAIN = Path(__file__).with_name("train.py")


@dataclass(frozen=True)
class Job:
    """One training: a recipe in a setting with a seed."""

    name: str  # of the recipe or variant, in the table
    recipe: Path
    setting: str
    overrides: tuple[str, ...]
    seed: int
    folder: Path
    evaluates_base: bool  # every run starts from the same model: one of them measures it

    @property
    def run(self) -> Path:
        return self.folder / f"{self.name}-{self.setting}-s{self.seed}"

    @property
    def own_overrides(self) -> list[str]:
        own = [f"run.root={self.folder}", f"run.name={self.run.name}", f"run.seed={self.seed}"]
        return [*own, f"evaluation.at_start={self.evaluates_base}"]

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(TRAIN), str(self.recipe), *self.overrides, *self.own_overrides]

    @property
    def done(self) -> bool:
        return (self.run / "model" / "adapter.safetensors").is_file()


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; what follows `--` is laid over every run."""
    argv = sys.argv[1:] if argv is None else argv
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the runs and the table")
    parser.add_argument("recipes", nargs="*", type=Path)
    parser.add_argument(
        "--variant",
        nargs="+",
        action="append",
        default=[],
        metavar="NAME RECIPE [OVERRIDE]",
        help="a recipe under a name of its own, with overrides; repeatable",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--setting", nargs="+", action="append", metavar="NAME [OVERRIDE]", help="a name and its overrides; repeatable"
    )
    parser.add_argument("--against", default="", metavar="NAME", help="compare all others with this one, too")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=0, help="threads of each run, 0 = torch's choice")
    arguments = parser.parse_args(argv[:cut])
    arguments.common = argv[cut + 1 :]
    arguments.against = Path(arguments.against).stem
    if any(len(variant) < 2 for variant in arguments.variant):
        parser.error("--variant takes a name, a recipe and its overrides")
    arguments.compared = [(recipe.stem, recipe, ()) for recipe in arguments.recipes]
    arguments.compared += [(name, Path(recipe), tuple(own)) for name, recipe, *own in arguments.variant]
    names = [name for name, *_ in arguments.compared]
    if not names:
        parser.error("there is nothing to compare: name recipes, or variants of one")
    if arguments.against and arguments.against not in names:
        parser.error(f"--against {arguments.against} is none of the recipes and variants")
    return arguments


def jobs_of(arguments: argparse.Namespace) -> list[Job]:
    """Every combination; seeds outermost, so that one whole table stands early.

    ConfigError for a recipe that does not resolve, recipes that start from different models, and two runs of one name.
    """
    bases = {str(settings.load(recipe, [*own, *arguments.common]).backbone) for _, recipe, own in arguments.compared}
    if len(bases) > 1:
        raise settings.ConfigError(f"the recipes start from different models, so they share no base: {sorted(bases)}")
    combinations = [
        (seed, setting, (*overrides, *own), name, recipe)
        for seed in arguments.seeds
        for setting, *overrides in arguments.setting or [["default"]]
        for name, recipe, own in arguments.compared
    ]
    jobs = [
        Job(name, recipe, setting, (*overrides, *arguments.common), seed, arguments.out, evaluates_base=number == 0)
        for number, (seed, setting, overrides, name, recipe) in enumerate(combinations)
    ]
    names = [job.run.name for job in jobs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise settings.ConfigError(
            f"two runs would share a folder: {', '.join(sorted(twice))}; give each recipe or variant a name, each "
            "setting a name and each seed once"
        )
    return jobs


def changed_settings(job: Job) -> str:
    """A sentence where a finished run was made by other settings than the job's; else empty."""
    wanted = settings.load(job.recipe, [*job.overrides, *job.own_overrides])
    free = ("run.root", "needs", "evaluation.at_start", "data.loader", "data.workers", "train")
    changed = settings.differences(wanted, settings.from_json(job.run / "config.json"), free)
    return f"{job.run} was made by other settings ({'; '.join(changed)}): take another folder" if changed else ""


def execute(job: Job, threads: int) -> float:
    """Run the job, its output in run.log. Returns the seconds it took. RuntimeError with the log's end if it fails."""
    environment = dict(os.environ)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    log = job.folder / f"{job.run.name}.log"
    began = time.time()
    with log.open("a") as output:
        code = subprocess.run(job.command, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode
    if code:
        end = "\n".join(log.read_text().splitlines()[-15:])
        raise RuntimeError(f"{' '.join(job.command)} ended with {code}; {log} ends:\n{end}")
    return time.time() - began


def main(argv: list[str] | None = None) -> int:
    """Runs what is not done, then writes the table. Returns 1 where a run failed, 2 where the call cannot be."""
    arguments = parse(argv)
    try:
        jobs = jobs_of(arguments)
    except settings.ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    stale = [problem for job in jobs if job.done and (problem := changed_settings(job))]
    if stale:
        print("\n".join(stale), file=sys.stderr)
        return 2
    waiting = [job for job in jobs if not job.done]
    print(f"{len(jobs)} runs, {len(jobs) - len(waiting)} of them done already", flush=True)
    failed = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for job, future in [(job, pool.submit(execute, job, arguments.threads)) for job in waiting]:
            try:
                print(f"{job.run.name}: {future.result():.0f} s", flush=True)
            except RuntimeError as error:
                failed += 1
                print(error, file=sys.stderr, flush=True)
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)
                print("stopped; the same command goes on where this one ended", file=sys.stderr)
                return 130

    from recognition.evaluation.comparison import write_comparison

    finished = [job for job in jobs if job.done]
    if finished:
        runs = {(job.setting, job.name, job.seed): job.run for job in finished}
        print(write_comparison(arguments.out, runs, arguments.against))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
