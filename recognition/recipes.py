"""Recipe files: where they are, one's own or those that ship with the project, and what stands under them."""

from __future__ import annotations

import functools
import os
import re
import runpy
import sys
import traceback
from pathlib import Path

from recognition.registry import nearest

_PACKAGE = Path(__file__).resolve().parent
# what a wheel carries inside this package (setup.py) lies at the root of a source tree; beside an installed package
# `configs` and `tools` would be somebody else's
SHIPPED = _PACKAGE / "shipped" if (_PACKAGE / "shipped").is_dir() else _PACKAGE.parent
BASE = SHIPPED / "configs" / "base.py"
IN_TREE = _PACKAGE.parent == SHIPPED
TRY = "make demo" if IN_TREE else "lrface train demo"


class ConfigError(ValueError):
    """A setting that cannot be: unknown, of the wrong type, or a plugin that does not take it."""


def find(recipe: str | Path, folder: str | Path = ".", child: Path | None = None) -> Path:
    """The recipe's file: the one of that name in the folder, else the shipped one: demo, demo.py or configs/demo.py.

    child: the recipe that stands on this one; it does not mean itself, so a changed copy stands on the shipped one.
    Says on standard error where a shipped one lies. ConfigError with the nearest names where there is neither.
    """
    path = Path(folder) / recipe
    here = path.is_file()
    if here and (child is None or path.resolve() != child.resolve()):
        return path
    if (shipped := shipped_recipe(recipe)) is not None:
        _say(f"{recipe}: the recipe that ships with LRFace, {shipped}")
        return shipped
    if here:
        return path  # its own parent
    raise ConfigError(f"no recipe at {path}{_instead(path, Path(recipe))}")


def shipped_recipe(name: str | Path) -> Path | None:
    """The file of a shipped recipe by demo, demo.py or configs/demo.py; None where it is no such name."""
    name = Path(name)
    path = BASE.with_name(f"{name.stem}.py")
    bare = name.suffix in ("", ".py") and name.parent in (Path(), Path("configs"))
    return path if bare and path.is_file() else None


def _instead(path: Path, asked: Path) -> str:
    """What there is in place of a recipe that is not there."""
    if path.with_name(f"{path.name}.py").is_file():
        return f": write {path}.py"
    told = "" if path.suffix in ("", ".py") else "; a recipe is a Python file, .py"
    told += "" if path.parent.is_dir() else f"; there is no folder {path.parent}"
    ships = asked.parent in (Path(), Path("configs"))
    if not ships and (shipped := shipped_recipe(asked.name)) is not None:
        told += f"; {shipped.stem} alone is the recipe that ships with LRFace"
    folders = [path.parent] if path.suffix or asked.parent != Path() else []
    known = {found.name for place in [*folders, *([BASE.parent] if ships else [])] for found in place.glob("*.py")}
    return told + (nearest(path.name, known) if known else "")


def read(path: Path) -> dict:
    """What a recipe defines, by name. It is code, and is run. ConfigError with the line where that fails."""
    try:
        return runpy.run_path(str(path))
    except SyntaxError as error:
        where = f"{path}" if error.lineno is None else f"{error.filename}, line {error.lineno}"
        raise ConfigError(f"{where}: this is no Python: {error.msg}") from error
    except (Exception, SystemExit) as error:  # whatever somebody's code does
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else f"{path}"
        raise ConfigError(f"{where}: {type(error).__name__}: {error}") from error


def or_shipped(path: str | Path) -> Path:
    """The path, or where the file lies that ships with the project: a user's folder has no weights/ of ours.

    Asked for where a file is opened; settings and cards keep the name, which is the same wherever LRFace lies.
    """
    path = Path(path)
    ours = path.parts[:1] == ("weights",) and ".." not in path.parts and not path.exists()
    return SHIPPED / path if ours and (SHIPPED / path).is_file() else path


def with_parents(path: Path) -> list[tuple[Path, dict]]:
    """The recipe after those it stands on, each with what it defines. ConfigError where they go round in a circle."""
    chain = [(path, read(path))]
    while parent := chain[0][1].get("parent"):
        child = chain[0][0]
        if not isinstance(parent, str | Path):
            raise ConfigError(f'{child}: its parent is {parent!r}; write the name of a recipe, such as "demo.py"')
        above = find(parent, child.parent, child)
        if above.resolve() in [one.resolve() for one, _ in chain]:
            raise ConfigError(f"{path}: its parents go round in a circle at {above}")
        chain.insert(0, (above, read(above)))
    return chain


def spelled(text: str) -> str:
    """The text; where LRFace is installed, with `python tools/train.py` in it as `lrface train`."""
    if IN_TREE:
        return text
    text = re.sub(r"torchrun (?=[^;]*tools/\w+\.py)", "torchrun --no-python ", text)
    return re.sub(r"(?:python )?\btools/(\w+)\.py", r"lrface \1", text)


@functools.cache  # once
def _say(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)
