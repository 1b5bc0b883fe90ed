"""Lists the recipes that ship with LRFace, or copies some of them to be changed.

python tools/recipes.py                         every recipe with what it does
python tools/recipes.py demo lfw_lora --to DIR  copies; a `parent` that is not copied is found all the same
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path

from recognition.command import ended
from recognition.files import write_atomically
from recognition.recipes import BASE, shipped_recipe
from recognition.registry import nearest


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="recipes to copy (default: list all)")
    parser.add_argument("--to", type=Path, metavar="DIR", help="where to; what is there already stays")
    arguments = parser.parse_args(argv)
    if bool(arguments.names) != bool(arguments.to):
        parser.error("name recipes and where they go, such as demo --to configs; or nothing, to list them")
    return arguments


def copy(names: list[str], to: Path) -> list[Path]:
    """The copies. ValueError for a name that is no recipe's and for a file that is there; then nothing is written."""
    recipes: dict[Path, Path] = {}
    for name in names:
        if (path := shipped_recipe(name)) is None:
            raise ValueError(f"no recipe '{name}' ships with LRFace{nearest(name, _recipes())}")
        recipes[to / path.name] = path
    copies = [*recipes]
    if there := [str(path) for path in copies if path.exists()]:
        raise ValueError(f"{', '.join(there)} exists: remove it, or name another folder")
    to.mkdir(parents=True, exist_ok=True)
    for copied, path in recipes.items():
        write_atomically(copied, path.read_text())
    return copies


def main(argv: list[str] | None = None) -> int:
    """Returns 0; 2 where nothing can be copied."""
    arguments = parse(argv)
    if not arguments.names:
        for name, path in _recipes().items():
            summary = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0]
            print(f"{name:<24} {' '.join(summary.split())}")
        return 0
    try:
        for path in copy(arguments.names, arguments.to):
            print(path)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _recipes() -> dict[str, Path]:
    return {path.stem: path for path in sorted(BASE.parent.glob("*.py"))}


if __name__ == "__main__":
    sys.exit(ended(main))
