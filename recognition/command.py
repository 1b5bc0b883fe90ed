"""lrface COMMAND ...: the tools by name, from any folder, in a source tree and in an installed LRFace alike."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import recognition
from recognition.recipes import SHIPPED
from recognition.registry import nearest

HEAD = """usage: lrface COMMAND [ARGUMENT ...]

`lrface train demo` is `python tools/train.py configs/demo.py` of a source tree; `lrface COMMAND --help` tells the rest.
A recipe is a file, or the name of one that ships with LRFace. Several processes:
    torchrun --no-python --nproc-per-node 8 lrface train petal_tinyface
"""


def tools() -> dict[str, Path]:
    """Every command's file, by name."""
    return {path.stem: path for path in sorted((SHIPPED / "tools").glob("*.py"))}


def described() -> str:
    """The commands with the first sentences of their files, none of which is run."""
    lines = []
    for name, path in tools().items():
        paragraph = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0]
        lines.append(f"  {name:<18} {' '.join(paragraph.split()).split('. ')[0].rstrip('.')}")
    return "\n".join([HEAD, "commands:", *lines, "", "lrface --version tells the version"])


def main(argv: list[str] | None = None) -> int:
    """Runs a tool as `python tools/COMMAND.py` would. Returns its code; 2 for a command that is none."""
    given = sys.argv[1:] if argv is None else argv
    name = given[0] if given else "--help"
    if name in ("--help", "-h"):
        print(described())
        return 0 if given else 2
    if name == "--version":
        print(f"lrface {recognition.__version__}")
        return 0
    files = tools()
    if name not in files:
        print(f"unknown command '{name}'{nearest(name, files)}", file=sys.stderr)
        return 2
    sys.argv = [str(files[name]), *given[1:]]
    runpy.run_path(str(files[name]), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
