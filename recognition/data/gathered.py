"""Raw pictures to align: which there are, under which names, and of which class."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from recognition.data.lists import plan_list, read_list
from recognition.data.pictures import PICTURES

LabelFrom = Literal["folder", "list", "none"]
LABEL_FROM = ("folder", "list", "none")


@dataclass(slots=True)
class Gathered:
    """names, paths, labels: of each picture, in the order in which records are written: by class, then by name.

    labels: "" throughout where there are none. label_from: what they were taken from.
    """

    names: list[str]
    paths: list[Path]
    labels: list[str]
    label_from: LabelFrom
    notes: list[str] = field(default_factory=list)  # what was left aside, for the user


def gather(source: Path, listed: Path | None = None, label_from: LabelFrom | None = None) -> Gathered:
    """The pictures of a folder of any depth, or those that a list names.

    source: the folder, or a list whose names are relative to its own place. listed: a list of names in the folder.
    label_from: "folder", the first part of a name; "list", the last word of each line (after a TAB, or the last
        blank); "none". None: for a list, "list" where every line has a TAB, else "none"; for a folder, "folder" where
        every picture lies in a folder of it, else "none".
    ValueError where there is no picture, a name stands there twice, or there are no such labels.
    """
    if source.is_dir():
        root = source
    elif source.is_file() and listed is None:
        root, listed = source.parent, source
    else:
        raise ValueError(f"{source} is no folder" if listed else f"{source} is neither a folder nor a list")
    notes: list[str] = []
    if listed is None:
        if label_from == "list":
            raise ValueError("--label-from list takes the labels of a list: name one with --list")
        paths, labels = _of_folder(root, notes), []
    else:
        paths, labels, label_from = _of_list(listed, root, label_from)
    names = [path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix() for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name, again in itertools.groupby(sorted(names)) if len(list(again)) > 1)
        raise ValueError(f"{listed}: {twice} stands there twice")
    if label_from in (None, "folder"):
        tops = [PurePosixPath(name).parts for name in names]
        flat = next((name for name, parts in zip(names, tops, strict=True) if len(parts) < 2), None)
        if label_from and flat:
            raise ValueError(f"{flat} lies in no folder of {root}: wanted <identity>/<picture>, or --label-from none")
        label_from = "none" if flat else "folder"
        labels = [] if flat else [parts[0] for parts in tops]
    return Gathered(names, paths, labels or [""] * len(names), label_from, notes)


def _of_folder(root: Path, notes: list[str]) -> list[Path]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file() or _leads_nowhere(path)]
    pictures = [path for path in files if path.suffix.lower() in PICTURES]
    if not pictures:
        raise ValueError(f"no pictures in {root}: looked for {' '.join(sorted(PICTURES))} at any depth")
    if len(pictures) < len(files):
        notes.append(f"{len(files) - len(pictures)} files are no pictures by their names and were left aside")
    return pictures


def _leads_nowhere(path: Path) -> bool:
    """A link to a picture that is gone: it must fail by its name, not be missing without a word."""
    return path.is_symlink() and not path.exists()


def _of_list(listed: Path, root: Path, label_from: LabelFrom | None) -> tuple[list[Path], list[str], LabelFrom | None]:
    lines = [line for line in read_list(listed).split("\n") if line.strip()]
    if not lines:
        raise ValueError(f"{listed} names no pictures")
    if label_from is None:
        label_from = "list" if all("\t" in line for line in lines) else "none"
    if label_from == "list":
        plan = plan_list(listed, root)
        if plan.bad:
            raise ValueError(f"{plan.bad[0][0]}: {plan.bad[0][1]}")
        return plan.paths, [plan.names[label] for label in plan.labels], label_from
    return sorted(root / line.split("\t")[0].strip() for line in lines), [], label_from
