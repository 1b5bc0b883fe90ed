"""What was found in somebody's settings, before any of it means anything to us."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

BY_DEFAULT = "by default"  # the place of what no file says


@dataclass(frozen=True)
class Unknown:
    """A value that only running the config would tell."""

    why: str


@dataclass(frozen=True)
class Setting:
    """A value and where it was written, such as "ms1mv3_r50.py line 12".

    default: nobody wrote it for this training.
    """

    value: object
    place: str
    default: bool = False


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

    def get(self, name: str) -> object:
        """A setting's value, None where there is none or nobody can know it."""
        value = self.settings[name].value if name in self.settings else None
        return None if isinstance(value, Unknown) else value

    def written(self, name: str) -> bool:
        """Whether the setting was written, and is no default."""
        return name in self.settings and not self.settings[name].default
