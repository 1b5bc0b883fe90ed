"""Recipe files: where they are, one's own or those that ship with the project, and what stands under them."""

from __future__ import annotations

import functools
import os
import runpy
import sys
from pathlib import Path

from recognition.registry import nearest

_PACKAGE = Path(__file__).resolve().parent
# what a wheel carries inside this package (setup.py) lies at the root of a source tree; beside an installed package
# `configs` and `tools` would be somebody else's
SHIPPED = _PACKAGE / "shipped" if (_PACKAGE / "shipped").is_dir() else _PACKAGE.parent
BASE = SHIPPED / "configs" / "base.py"


class ConfigError(ValueError):
    """A setting that cannot be: unknown, of the wrong type, or a plugin that does not take it."""


def find(recipe: str | Path, folder: str | Path = ".") -> Path:
    """The recipe's file: the one of that name in the folder, else the shipped one: demo, demo.py or configs/demo.py.

    Says on standard error where a shipped one lies. ConfigError with the nearest names where there is neither.
    """
    path = Path(folder) / recipe
    if path.is_file():
        return path
    bare = path.suffix in ("", ".py") and Path(recipe).parent in (Path(), Path("configs"))
    if bare and (shipped := BASE.with_name(f"{path.stem}.py")).is_file():
        _say(f"{recipe}: the recipe that ships with LRFace, {shipped}")
        return shipped
    folders = [*([path.parent] if path.suffix and path.parent.is_dir() else []), *([BASE.parent] if bare else [])]
    near = nearest(path.name, {p.name for folder in folders for p in folder.glob("*.py")}) if folders else ""
    raise ConfigError(f"no recipe at {path}{near}")


def read(path: Path) -> dict:
    """What a recipe defines, by name. It is code, and is run."""
    return runpy.run_path(str(path))


def or_shipped(path: str) -> str:
    """The path, or where the file lies that ships with the project: a user's folder has no weights/ of ours."""
    shipped = SHIPPED / path
    return str(shipped) if path.startswith("weights/") and not Path(path).exists() and shipped.is_file() else path


def with_parents(path: Path) -> list[Path]:
    """The recipe's file after those it stands on. ConfigError where they go round in a circle."""
    chain = [path]
    while parent := read(chain[0]).get("parent"):
        above = find(parent, chain[0].parent)
        if above in chain:
            raise ConfigError(f"{path}: its parents go round in a circle at {above}")
        chain.insert(0, above)
    return chain


@functools.cache  # once
def _say(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)
