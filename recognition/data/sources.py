"""What make_records can be given: a folder per identity, a list, an LMDB, or a WebDataset."""

from __future__ import annotations

from pathlib import Path

from recognition.data.lists import plan_list
from recognition.data.lmdb_format import lmdb_file
from recognition.data.lmdb_pictures import plan_lmdb
from recognition.data.pictures import Plan, plan_folder
from recognition.data.tar_format import is_tar
from recognition.data.tars import expand_braces, plan_tars

OWN_CLASS, FEW = 0.9, 4  # share of classes among pictures that is suspicious, in sets that are larger than FEW


def open_source(source: Path, root: Path | None = None, keep_order: bool = False) -> Plan:
    """The pictures of a source, whatever kind it is of; see docs/records.md.

    source: a folder of folders, of tars, or with data.mdb; a list, a tar or an LMDB file; tars as
        faces-{000000..000099}.tar. root: folder that a list's pictures are relative to (the list's own).
    keep_order: a list's pictures in the order of its lines, not by class; other sources have one order only.
    ValueError saying what it found where it is none of these, or a class has a name that classes.txt cannot hold.
    """
    if root is not None and not root.is_dir():
        raise ValueError(f"--root {root} is no folder")
    if source.is_file() and _is_list(source):
        plan = plan_list(source, root or source.parent, keep_order)
    elif root is not None:
        raise ValueError(f"--root is for lists; {source} is none")
    elif source.is_dir():
        plan = _of_folder(source)
    elif source.is_file():
        plan = plan_lmdb(source) if _is_lmdb(source) else plan_tars([source], source)
    elif "{" in source.name:
        files = expand_braces(str(source))
        if missing := [file for file in files if not file.is_file()]:
            raise ValueError(f"{source}: {missing[0]} is not there, {len(missing)} of {len(files)} tars are missing")
        plan = plan_tars(files, source)
    else:
        raise ValueError(f"{source} is neither a folder nor a file")
    _check_names(plan, source)
    if len(plan) > FEW and len(plan.names) > OWN_CLASS * len(plan):
        plan.notes.append(
            f"{len(plan.names)} classes for {len(plan)} pictures: nearly every picture is a class of its own, as if "
            "captions or numbers of files had been taken for labels"
        )
    return plan


def _check_names(plan: Plan, source: Path) -> None:
    wrong = [number for number, name in enumerate(plan.names) if not _fits_a_line(name)]
    if wrong:
        first = plan.name(next(i for i, label in enumerate(plan.labels) if label == wrong[0]))
        raise ValueError(
            f"{source}: the class {plan.names[wrong[0]]!a} (of {first!a}) has a name that a line of "
            "classes.txt cannot hold: it must be UTF-8, without line breaks and tabs, and not blank"
            + (f"; so have {len(wrong) - 1} more" if wrong[1:] else "")
            + ". Rename it"
        )


def _fits_a_line(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return bool(name.strip()) and not any(character in name for character in "\n\r\t\0")


def _of_folder(source: Path) -> Plan:
    if (source / "data.mdb").is_file():
        return plan_lmdb(source / "data.mdb")
    inside = sorted(source.iterdir())
    folders = [path for path in inside if path.is_dir()]
    tars = [path for path in inside if path.suffix.lower() == ".tar" and path.is_file()]
    if tars and not folders:
        return plan_tars(tars, source)
    if (records := [path for path in inside if path.suffix == ".rec"]) and not folders:
        raise ValueError(
            f"{source} holds record files already ({records[0].name}): train on it as it is, or take it apart with "
            "tools/export_records.py"
        )
    if (packed := [path for path in inside if path.name.endswith((".tar.gz", ".tgz", ".zip"))]) and not folders:
        raise ValueError(f"{packed[0]} is compressed as a whole: unpack it first")
    plan = plan_folder(source)
    if tars:
        plan.notes.append(f"{len(tars)} tars beside the folders were left aside")
    return plan


def _is_lmdb(source: Path) -> bool:
    return lmdb_file(source) is not None or source.suffix.lower() in (".mdb", ".lmdb")


def _is_list(source: Path) -> bool:
    """Whether a file can only be a list. ValueError for what is known and cannot be read here."""
    if _is_lmdb(source) or is_tar(source):
        return False
    if source.suffix == ".rec":
        raise ValueError(
            f"{source} is a record file already: train on it as it is, or take it apart with tools/export_records.py"
        )
    if source.name.endswith((".tar.gz", ".tgz", ".zip", ".tar.bz2", ".tar.xz", ".tar.zst")):
        raise ValueError(f"{source} is compressed as a whole: unpack it first")
    if source.suffix.lower() in (".tfrecord", ".tfrecords"):
        raise ValueError(f"{source} is a TFRecord, which is not read here: write a folder per identity from it")
    return True
