"""A Python config, laid over the base.py beside it, as the program that reads them would have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from recognition.migration import arcface_torch, facemoe
from recognition.migration.arcface_values import of_2021
from recognition.migration.found import BY_DEFAULT, Above, Found, Setting, Unknown
from recognition.migration.programs import look
from recognition.migration.python_config import read_config

PROGRAMS_ABOVE = ("train_v2.py", "train.py")
THEIRS = {
    *(name for program in (arcface_torch.PROGRAM, facemoe.PROGRAM) for name in (*program.rules, *program.dropped)),
}
FROM_COMMAND_LINE = Unknown(
    "the command line of a program of 2021, --network",
    "its program of 2021 took the network from its command line: give it, backbone.name=NAME",
)
NO_MARGIN = Unknown(
    "the command line of a program of 2021, --loss",
    "its program of 2021 took the loss from its command line: give it, margin.name=arcface or margin.name=cosface "
    "margin.margin=0.4",
)
UNSET_MARGIN = Unknown(
    "base.py, which is not here",
    "its program reads margin_list and ignores loss, and no file here sets margin_list: give margin.name",
)
UNSET_LOSS = Unknown("loss, which is not here", "its program reads loss, which no file here sets: give margin.name")
TWO_MARGINS = Unknown(
    "the program, which is not here",
    "loss and margin_list are both set, and which of them its program reads is not known: give margin.name, or have "
    "train_v2.py or train.py above the configs",
)


def find_config(
    path: Path,
    script: str = "",
    processes: int | None = None,
    by: str = "--processes",
    notes: tuple[str, ...] = (),
    files: tuple[Path, ...] = (),
) -> Found:
    """The settings of a Python config, of arcface_torch or of FaceMoE.

    script: the program that was started with it. processes, by: their number, and what tells it. notes, files: of what
    named the config. ValueError naming file and line for what only running it would tell.
    """
    read = _Files(path)
    theirs, where = read.base()
    settings = {**theirs, **read.written(path, theirs)}
    moe = any(name in settings for name in ("num_experts", "use_moe")) or settings["network"].value == "swin_moe"
    defaults = facemoe.DEFAULTS if moe else arcface_torch.DEFAULTS
    settings = {**{key: Setting(value, BY_DEFAULT, True) for key, value in defaults.items()}, **settings}
    if processes is None:
        processes, by = _by_name(path.stem)
    above = look(path, (script,) if script else PROGRAMS_ABOVE)
    found = Found(
        "FaceMoE" if moe else "arcface_torch",
        path.name,
        settings,
        script,
        processes,
        by,
        (*notes, f"defaults: {where}", *_told(path, script, above), *read.notes),
        (*files, *read.files),
        above,
    )
    return found if moe else replace(found, settings=_margins(found, _without_command_line(found)))


def _by_name(stem: str) -> tuple[int | None, str]:
    if "onegpu" in stem:
        return 1, "its name"
    found = arcface_torch.GPUS.search(stem)
    return (int(found[1]), "its name") if found else (None, "")


def _told(path: Path, script: str, above: Above) -> list[str]:
    if not above.schedule:
        return []
    other = look(path, PROGRAMS_ABOVE[1:]) if not script else above
    differs = other.schedule and other.schedule != above.schedule
    more = f"; {other.name} beside that has {other.schedule}: convert the line that starts the one that counts"
    return [f"schedule: {above.schedule}, by {above.name} above{more if differs else ''}"]


class _Files:
    """Reads a config and what it imports from beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: list[Path] = []
        self.notes: list[str] = []

    def base(self) -> tuple[dict[str, Setting], str]:
        """Settings of the base.py beside the config over those known; and which these are."""
        known = {key: Setting(value, BY_DEFAULT, True) for key, value in arcface_torch.DEFAULTS.items()}
        known_here = "those of arcface_torch's configs/base.py, as known here"
        beside = self.path.parent / "base.py"
        if self.path.name == "base.py" or not beside.is_file():
            return known, known_here
        found, notes = read_config(beside, lambda name: None)
        if len(THEIRS & {*found}) < 2:
            few = ", ".join([*found][:3]) or "nothing"
            self.notes.append(f"the base.py beside it is not used: it sets {few}, and no config of theirs does")
            return known, known_here
        self.files.append(beside)
        self.notes += notes
        return {**known, **{key: replace(one, inherited=True) for key, one in found.items()}}, "the base.py beside it"

    def written(self, path: Path, theirs: Mapping[str, Setting]) -> dict[str, Setting]:
        """What the config says itself, or a config that it imports."""

        def imported(name: str) -> Mapping[str, Setting] | None:
            beside = path.parent / f"{name}.py"
            if name == "base":
                return theirs
            if beside in self.files:
                raise ValueError(f"{path.name} imports {beside.name}, which imports it in turn")
            return {**theirs, **self.written(beside, theirs)} if beside.is_file() else None

        self.files.append(path)
        found, notes = read_config(path, imported)
        self.notes += notes
        return {
            key: one
            for key, one in found.items()
            if key not in theirs or (one.place, one.value) != (theirs[key].place, theirs[key].value)
        }


def _without_command_line(found: Found) -> dict[str, Setting]:
    """In the first generation network and loss are nowhere in the config: no default of a later one stands for them."""
    settings = dict(found.settings)
    if of_2021(found):
        if not found.written("network"):
            settings["network"] = Setting(FROM_COMMAND_LINE, BY_DEFAULT, True)
        if not found.written("loss") and not found.written("margin_list"):
            settings["margin_list"] = Setting(NO_MARGIN, BY_DEFAULT, True)
    return settings


def _margins(found: Found, settings: dict[str, Setting]) -> dict[str, Setting]:
    """Where loss is set, one of loss and margin_list counts: the one that its program reads."""
    both = found.written("margin_list")
    reads = found.above.margin
    if not found.written("loss"):
        unset = replace(settings["margin_list"], value=UNSET_LOSS)
        return {**settings, "margin_list": unset} if reads == "loss" else settings
    if reads == "margin_list" and not both:
        return {**settings, "margin_list": Setting(UNSET_MARGIN, settings["loss"].place)}
    if not reads and both:
        return {**settings, "margin_list": replace(settings["margin_list"], value=TWO_MARGINS)}
    return settings if both else {name: one for name, one in settings.items() if name != "margin_list"}
