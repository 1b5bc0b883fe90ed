"""Draws the pictures of docs/ideas.md from the code that they explain: docs/ideas/*.svg.

    python tools/draw_ideas.py                         all of them
    python tools/draw_ideas.py gate sample_order       these
    python tools/draw_ideas.py --out /tmp/ideas        elsewhere

Scores, gates, class shards, sampled classes and sample orders are what the code gives, cosines those of the base model
that ships, figures of forgetting those of docs/results.md.
"""

from __future__ import annotations

import argparse
import sys

NAMES = ("gate", "gate_forms", "two_branches", "face_to_embedding", "partial_fc", "sample_order", "forgetting")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Answers --help without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--out", default="docs/ideas", metavar="DIR", help="folder of the pictures")
    return parser.parse_args(argv)


def draw(name: str) -> str:
    """One picture as SVG, the same in every call."""
    from recognition.reference import faces, processes

    return {**faces.FIGURES, **processes.FIGURES}[name]()


def main(argv: list[str] | None = None) -> int:
    """Draws. Returns 0, or 2 for an unknown picture or a folder that cannot be written."""
    from recognition.reference import write_files
    from recognition.registry import nearest

    arguments = parse(argv)
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        print(f"unknown picture '{unknown[0]}'{nearest(unknown[0], NAMES)}", file=sys.stderr)
        return 2
    return write_files(arguments.out, ((f"{name}.svg", draw(name)) for name in arguments.names or NAMES))


if __name__ == "__main__":
    sys.exit(main())
