"""lrface COMMAND ...: the tools by name, from any folder, in a source tree and in an installed LRFace alike."""

from __future__ import annotations

import ast
import contextlib
import os
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

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
    """Runs a tool as `python tools/COMMAND.py` would. Returns its code, or that of ended(); 2 where there is none."""
    given = sys.argv[1:] if argv is None else argv
    return ended(lambda: _command(given))


def ended(work: Callable[[], int]) -> int:
    """What the work returns; 141 where nobody reads its output any more, 130 after Ctrl-C, both without a word; 2 after
    a sentence where its output cannot be written, or the system refuses it something else.
    """
    try:
        try:
            return work()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # at the interpreter's end it would be too late for a word
    except BrokenPipeError:
        _write_no_more()
        return 141
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        _write_no_more()
        print(f"lrface: {error}", file=sys.stderr)
        return 2


def _write_no_more() -> None:
    """What is still to be written goes nowhere, or its failure would be told once more at the interpreter's end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _command(given: list[str]) -> int:
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
    sys.argv = [f"lrface {name}", *given[1:]]  # which argparse shows in `usage:`
    _run(files[name])
    return 0


def _run(path: Path) -> None:
    """The file as a script; as of runpy.run_path, which would have its own word in sys.argv."""
    module, before = ModuleType("__main__"), sys.modules["__main__"]
    module.__file__ = str(path)
    sys.modules["__main__"] = module  # where processes that are spawned look
    try:
        _Script("__main__", str(path)).exec_module(module)
    finally:
        sys.modules["__main__"] = before


class _Script(SourceFileLoader):
    def set_data(self, path: str, data: bytes, *, _mode: int = 0o666) -> None:
        """Leaves no bytecode behind, which nobody would uninstall."""


if __name__ == "__main__":
    sys.exit(main())
