"""Conversions for the tests, loaded as recipes."""

from __future__ import annotations

from pathlib import Path

from recognition import config as settings
from recognition.migration.convert import Conversion, Row, convert
from recognition.migration.sources import find
from tests.recognition.migration.sources import write

EMPTY = "from easydict import EasyDict as edict\nconfig = edict()\n"


def converted(
    tmp_path: Path, text: str, *overrides: str, name: str = "theirs.py", processes: int | None = 8, **choices
):
    """(the loaded recipe, the conversion) of a config with this text"""
    source = write(tmp_path / "configs" / name, text)
    return loaded(tmp_path, convert(find(str(source), processes=processes), tmp_path / "mine.py", overrides, **choices))


def petal(tmp_path: Path, text: str, *overrides: str):
    """The same of a launch script."""
    return loaded(tmp_path, convert(find(str(write(tmp_path / "run.sh", text))), tmp_path / "mine.py", overrides))


def loaded(tmp_path: Path, done: Conversion):
    """(the recipe as it is loaded, the conversion)"""
    return settings.load(write(tmp_path / "mine.py", done.text)), done


def rows(done: Conversion) -> dict[str, Row]:
    """By setting; of what its program does by itself, the last one."""
    return {row.setting: row for row in done.rows}
