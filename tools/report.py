"""Writes one self-contained HTML page about a run, or about several side by side.

    python tools/report.py runs/demo                          to runs/demo/report/report.html
    python tools/report.py runs/lora runs/dual_lora           differences from the first; into the first one's report
    python tools/report.py runs/demo --no-pictures            nobody's face on the page
    python tools/report.py runs/demo --pictures 8 --output demo.html
    python tools/report.py runs/demo --tensorboard            the same plots and the projector into runs/demo/logs

Nothing is evaluated again: the page tells what training and tools/evaluate.py left in RUN/report, what --edc left in
RUN/edc, and how to get what is missing. Pictures are read from the run's own evaluation sets.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Answers --help without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder; the first is the reference")
    parser.add_argument("--output", metavar="FILE", help="the page, in place of RUN/report/report.html")
    faces = parser.add_mutually_exclusive_group()
    faces.add_argument(
        "--pictures", type=int, default=4, metavar="N", help="faces of each kind for each part (default 4)"
    )
    faces.add_argument("--no-pictures", dest="pictures", action="store_const", const=0, help="no faces at all")
    parser.add_argument("--tensorboard", action="store_true", help="add the plots to each RUN/logs, and write no page")
    arguments = parser.parse_args(argv)
    if arguments.pictures < 0:
        parser.error(f"--pictures {arguments.pictures}: write 0 or more")
    if arguments.tensorboard and arguments.output:
        parser.error("--tensorboard writes to RUN/logs: leave --output out")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Writes the page, or the plots. Returns 0, 2 where runs cannot be read or nothing be written, 130 after Ctrl-C."""
    arguments = parse(argv)
    try:
        (_board if arguments.tensorboard else _page)(arguments)
    except (OSError, ValueError) as error:
        print(f"tools/report.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _page(arguments: argparse.Namespace) -> None:
    from recognition.page.document import write_page
    from recognition.page.numbers import size
    from recognition.page.runs import read_runs

    if arguments.output and Path(arguments.output).is_dir():
        raise ValueError(
            f"{arguments.output} is a folder; name the file to write, such as {Path(arguments.output) / 'report.html'}"
        )
    runs = read_runs(arguments.runs)
    path = Path(arguments.output or runs[0].path / "report" / "report.html")
    write_page(path, runs, count=arguments.pictures)
    print(f"written to {path} ({size(path.stat().st_size)})")


def _board(arguments: argparse.Namespace) -> None:
    from recognition import distributed
    from recognition.page.board import add_to_logs
    from recognition.page.runs import read_runs

    runs = read_runs(arguments.runs)
    world = distributed.start(runs[0].config.train.device)
    for run in runs:
        print("\n".join(add_to_logs(run, world, faces=arguments.pictures > 0)))
    distributed.stop()


if __name__ == "__main__":
    sys.exit(main())
