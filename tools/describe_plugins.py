"""Writes the reference pages: docs/plugins/*.md, docs/recipes.md, and the table of packages in docs/licences.md.

    python tools/describe_plugins.py                          all of them
    python tools/describe_plugins.py --out -                  the plugins' pages to the screen, with those of packages
    python tools/describe_plugins.py --kind adapter --out -   one kind alone

All of it is read off the plugins, recipes and packages themselves: from their files, from what they declare, and from
what they do to networks without memory. What installed packages add stands in no file of ours.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from recognition.registry import KINDS

KINDS_SHOWN = (*KINDS, "augmentation")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Answers --help without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="docs", metavar="DIR", help="folder of the pages; '-' for the screen")
    parser.add_argument("--kind", choices=KINDS_SHOWN, help="this kind of plugin alone")
    return parser.parse_args(argv)


def pages(kind: str | None = None, everybody: bool = False) -> dict[str, str]:
    """Text by path under docs/. kind: that page alone. everybody: plugins of installed packages, too."""
    from recognition.reference import plugins, recipes

    chosen = [page for page in plugins.PAGES if kind in (None, page.kind)]
    names = {page.kind: page.registry.names() if everybody else plugins.ours(page.registry) for page in chosen}
    written = {f"plugins/{page.file}": plugins.write(page, names[page.kind]) for page in chosen}
    if kind is None:
        written["plugins/README.md"] = plugins.index(names)
        written["recipes.md"] = recipes.write()
    return written


def main(argv: list[str] | None = None) -> int:
    """Writes the pages. Returns 0, or 2 where one cannot be written."""
    from recognition.reference import packages, write_files

    arguments = parse(argv)
    if arguments.out == "-":
        shown = pages(arguments.kind, everybody=True)
        print("\n".join(text for path, text in shown.items() if path.startswith("plugins/")), end="")
        return 0
    written = pages(arguments.kind)
    licences = Path(arguments.out, "licences.md")
    if arguments.kind is None and licences.is_file():
        written[licences.name] = packages.renewed(licences.read_text())
    return write_files(arguments.out, written.items())


if __name__ == "__main__":
    sys.exit(main())
