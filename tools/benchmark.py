"""How fast the parts are on this machine, each beside the limit measured in the same run.

  python tools/benchmark.py loader
  python tools/benchmark.py loader --records data/faces/train.rec --workers 1 2 4 --batch 128
  python tools/benchmark.py checkpoint --mib 256
  python tools/benchmark.py classifier --classes 1000000 --rate 0.1
  python tools/benchmark.py iqa --set degradation.share=0
  python tools/benchmark.py step configs/lfw_lora.py configs/lfw_dora.py configs/lfw_full.py
  python tools/benchmark.py step --backbone vit_t --adapters "dual_lora rank=8" full --precision fp32 bf16
  python tools/benchmark.py scoring --cases tinyface ijbc

A row is the median of --repeats measurements of --seconds each, taken in turn with all other rows, so that a busy
machine slows them alike; each starts anew and warms up first. `of limit` compares the medians.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import sys
from collections.abc import Sequence

from recognition.bench.rows import rate, table
from recognition.bench.subjects import SUBJECTS


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
        print(f"{about}, {os.cpu_count()} cores\n")
        print(table(rates, {name: limit for name, (_, limit) in cases.items()}, subject.unit))
        if hasattr(module, "summary") and (lines := module.summary(args, rates)):
            print("", *lines, sep="\n")
    except (ValueError, OSError) as error:
        print(f"benchmark {args.subject}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
