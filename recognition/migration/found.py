"""What was found in somebody's settings, before any of it means anything to us."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

BY_DEFAULT = "by default"  # the place of what no file says


@dataclass(frozen=True)
class Unknown:
    """A value that only running the config would tell.

    help: what to give in its place, "" = the plain value.
    """

    why: str
    help: str = ""


@dataclass(frozen=True)
class Setting:
    """A value and where it was written, such as "ms1mv3_r50.py line 12".

    default: no file says it, it is known here. inherited: a base.py says it, not the config itself.
    """

    value: object
    place: str
    default: bool = False
    inherited: bool = False


@dataclass(frozen=True)
class Above:
    """A program's own file, above its configs. power: of its schedule, None = it is none of those known.

    reads: settings that stand in it as cfg.NAME.
    """

    name: str = ""
    schedule: str = ""
    power: float | None = None
    reads: frozenset[str] = frozenset()

    @property
    def margin(self) -> str:
        """Which setting gives its margin: margin_list, loss, or "" where its file does not tell."""
        told = [name for name in ("margin_list", "loss") if name in self.reads]
        if len(told) == 1:
            return told[0]
        return "margin_list" if not told and self.schedule == "PolynomialLRWarmup" else ""  # always since there is one


@dataclass(frozen=True)
class Found:
    """The settings of one training, of a program whose rules are known."""

    program: str  # arcface_torch, FaceMoE or PETALface
    source: str  # the file's name, or "a command line"
    settings: Mapping[str, Setting]  # by name, nested ones as a.b
    script: str = ""  # the program's file that was started, such as train_fc.py; "" = not known
    processes: int | None = None
    processes_by: str = ""  # what tells their number
    notes: tuple[str, ...] = field(default=())  # what was not run
    files: tuple[Path, ...] = ()  # that it was read from
    above: Above = field(default=Above())  # the program above a config

    def get(self, name: str) -> object:
        """A setting's value, None where there is none or nobody can know it."""
        value = self.settings[name].value if name in self.settings else None
        return None if isinstance(value, Unknown) else value

    def written(self, name: str) -> bool:
        """Whether a file says it, config or base.py: it is no default known here."""
        return name in self.settings and not self.settings[name].default
