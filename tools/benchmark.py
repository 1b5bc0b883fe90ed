"""How fast the parts are on this machine, each beside the limit measured in the same run.

  python tools/benchmark.py loader
  python tools/benchmark.py loader --records data/faces/train.rec --workers 1 2 4 --batch 128
  python tools/benchmark.py checkpoint --mib 256
  python tools/benchmark.py classifier --classes 1000000 --rate 0.1
  python tools/benchmark.py iqa --set degradation.share=0
  python tools/benchmark.py step configs/lfw_lora.py configs/lfw_dora.py configs/lfw_full.py
  python tools/benchmark.py scoring --cases tinyface ijbc

A row is the median of --repeats measurements of --seconds each, taken in turn with all other rows, so that a busy
machine slows them alike; each starts anew and warms up first. `of limit` compares the medians.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    """Something to measure. A new one is a line in SUBJECTS and a module.

    module: has cases(args), a context manager of (a line about what is measured, cases by name); a case is a pair: a
        function that returns an endless iterator of how many units each piece of work had, and the name of its limit
        ("" = none). It may have summary(args, rates), more lines to print. For work that has an end, it
        has report(args) instead, all lines to print.
    """

    summary: str
    unit: str
    module: str
    arguments: Callable[[argparse.ArgumentParser], None]
    warm_up_pieces: int = 24  # at least: what a loader decoded ahead, before it was the limit, must be used up
    endless: bool = True  # measured for --seconds; False: by report(args)


def loader_arguments(parser: argparse.ArgumentParser) -> None:
    cores = os.cpu_count() or 1
    parser.add_argument("--records", help="record set (default: synthetic faces, made for this run)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=sorted({1, cores}), help="processes or threads (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=128, help="images (default: %(default)s)")
    parser.add_argument("--degrade", action="store_true", help="with the default degradation to low resolution")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mib", type=int, default=64, help="class centres and momentum (default: %(default)s)")
    parser.add_argument("--folder", help="where to write (default: the system's temporary folder)")


def step_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", nargs="+", help="what to train; the first is what the others are compared with")
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.SETTING=VALUE", help="laid over every recipe")
    parser.add_argument("--batch", type=int, default=16, help="images (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def iqa_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", default="", help="with a gate (default: lfw_dual_lora, else demo)")
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.SETTING=VALUE", help="laid over the recipe")
    parser.add_argument(
        "--scorers", nargs="+", default=[], metavar="SCORER", help="such as sharpness 'brisque weights=A ranges=B'"
    )
    parser.add_argument("--batch", type=int, default=32, help="images (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def classifier_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--classes", type=int, default=10_000, help="(default: %(default)s)")
    parser.add_argument("--rate", type=float, default=0.1, help="classifier.sample_rate (default: %(default)s)")
    parser.add_argument("--embedding", type=int, default=512, help="numbers (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images (default: %(default)s)")
    parser.add_argument("--sampling", default="uniform", help="classifier.sampling (default: %(default)s)")
    parser.add_argument("--state", default="all", help="classifier.state (default: %(default)s)")
    parser.add_argument("--precision", default="fp32", help="classifier.precision (default: %(default)s)")
    parser.add_argument("--no-linear", action="store_true", help="leave out nn.Linear with cross-entropy")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def scoring_arguments(parser: argparse.ArgumentParser) -> None:
    cases = ("tinyface", "survface", "ijbc")
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases, help="(default: all, which takes minutes)")
    parser.add_argument("--scale", type=int, default=1, help="divide the numbers of images by (default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=1000, help="of the intervals (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each (default: %(default)s)")


SUBJECTS = {
    "classifier": Subject(
        "images/s of the classifier's updates, and their memory",
        "images",
        "recognition.classifier_bench",
        classifier_arguments,
        1,
    ),
    "checkpoint": Subject(
        "MiB/s of saving, and of what training waits for", "MiB", "recognition.checkpoint.bench", checkpoint_arguments
    ),
    "iqa": Subject(
        "what the scores behind the gate cost a training step", "images", "recognition.iqa_bench", iqa_arguments, 2
    ),
    "loader": Subject(
        "images/s of the loaders and of the bare decoders", "images", "recognition.data.bench", loader_arguments
    ),
    "scoring": Subject(
        "seconds and memory of benchmarks from embeddings to figures",
        "images",
        "recognition.scoring_bench",
        scoring_arguments,
        endless=False,
    ),
    "step": Subject(
        "images/s of training steps, and what they keep in memory",
        "images",
        "recognition.step_bench",
        step_arguments,
        2,
    ),
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subjects = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    for name, subject in SUBJECTS.items():
        sub = subjects.add_parser(name, help=subject.summary, description=subject.summary)
        subject.arguments(sub)
        if not subject.endless:
            continue
        sub.add_argument("--repeats", type=int, default=5, help="measurements per row (default: %(default)s)")
        sub.add_argument("--seconds", type=float, default=1.0, help="of each measurement (default: %(default)s)")
        sub.add_argument("--warm-up", type=float, default=0.5, help="seconds before each (default: %(default)s)")
    args = parser.parse_args(argv)
    if SUBJECTS[args.subject].endless and (args.seconds <= 0 or args.warm_up < 0):
        parser.error("--seconds must be above 0, --warm-up 0 or more")
    if any(getattr(args, name, 1) < 1 for name in ("repeats", "scale", "resamples", "threads")):
        parser.error("--repeats, --scale, --resamples and --threads must be at least 1")
    return args


def rate(start: Callable[[], Iterator[int]], seconds: float, warm_up: float, warm_up_pieces: int) -> float:
    """Units per second of one fresh run, once it is warm."""
    with closing(start()) as work:
        begin = time.perf_counter()
        for pieces, _ in enumerate(work, 1):
            if pieces >= warm_up_pieces and time.perf_counter() - begin >= warm_up:
                break
        done, begin = 0, time.perf_counter()
        for units in work:
            done += units
            if (elapsed := time.perf_counter() - begin) >= seconds:
                return done / elapsed
    raise AssertionError("a case must never end")


def table(rates: dict[str, list[float]], limits: dict[str, str], unit: str) -> str:
    """Markdown: median, range and share of the limit of each row."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    lines = [f"| | {unit}/s, median | min - max | of limit |", "|---|---:|---:|---:|"]
    for name, values in rates.items():
        limit = limits[name]
        share = f"{100 * medians[name] / medians[limit]:.0f} %" if limit else ""
        share = "limit" if limit == name else share
        lines.append(f"| {name} | {medians[name]:,.0f} | {min(values):,.0f} - {max(values):,.0f} | {share} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    subject = SUBJECTS[args.subject]
    try:
        module = importlib.import_module(subject.module)
        if not subject.endless:
            print(*module.report(args), sep="\n")
            return 0
        with module.cases(args) as (about, cases):
            rates: dict[str, list[float]] = {name: [] for name in cases}
            for _, (name, (start, _)) in itertools.product(range(args.repeats), cases.items()):
                rates[name].append(rate(start, args.seconds, args.warm_up, subject.warm_up_pieces))
    except (ValueError, OSError) as error:
        print(f"benchmark {args.subject}: {error}", file=sys.stderr)
        return 1
    print(f"{about}, {os.cpu_count()} cores\n")
    print(table(rates, {name: limit for name, (_, limit) in cases.items()}, subject.unit))
    if hasattr(module, "summary"):
        print("", *module.summary(args, rates), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
