"""The manifest of a checkpoint: every file with its size and SHA-256, written last. Without one it is not whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from recognition.files import flush, write_atomically

MANIFEST = "manifest.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # plain names: what a manifest lists lies in its own folder
BLOCK = 1 << 20  # bytes hashed at a time


class DamagedError(ValueError):
    """A checkpoint whose files are not those that were written."""


def digest(path: Path) -> list:
    """[size in bytes, SHA-256 in hex] of a file."""
    hashed, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            hashed.update(block)
            size += len(block)
    return [size, hashed.hexdigest()]


def write_manifest(folder: Path, files: Mapping[str, list]) -> None:
    """Seal a folder. files: digest() of each by name. RuntimeError where the folder holds others than these."""
    there = {path.name for path in folder.iterdir()}
    if there != set(files):
        raise RuntimeError(f"{folder} holds {sorted(there ^ set(files))} besides or instead of what was written")
    for name in files:
        flush(folder / name)
    write_atomically(folder / MANIFEST, _text(files))
    flush(folder)


def read_manifest(folder: Path) -> dict[str, list]:
    """digest() of each file by name. DamagedError where it is not what write_manifest writes, byte for byte."""
    path = folder / MANIFEST
    try:
        text = path.read_text()
        files = json.loads(text)["files"]
        whole = all(
            NAME.fullmatch(name) and isinstance(size, int) and re.fullmatch("[0-9a-f]{64}", sha)
            for name, (size, sha) in files.items()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged or missing ({error})") from None
    if not whole or text != _text(files):
        raise DamagedError(f"{path} is damaged: it is not as it was written")
    return files


def verify(folder: Path, part: int = 0, parts: int = 1) -> None:
    """Compare files with the manifest; SHA-256 of every `parts`-th one, from number `part` on.

    DamagedError naming the file that is missing, new, a link, or of other contents.
    """
    files = read_manifest(folder)
    there = {path.name for path in os.scandir(folder)}
    if strange := there - {*files, MANIFEST}:
        raise DamagedError(f"{folder / min(strange)} is not in the manifest: it was put there later; remove it")
    for number, (name, (size, sha)) in enumerate(sorted(files.items())):
        path = folder / name
        if name not in there or path.is_symlink() or not path.is_file():
            raise DamagedError(f"{path} is missing, or no plain file")
        if path.stat().st_size != size:
            raise DamagedError(f"{path} has {path.stat().st_size} bytes, {size} were written")
        if number % parts == part and (found := digest(path)[1]) != sha:
            raise DamagedError(f"{path} is damaged: its SHA-256 begins with {found[:12]}, {sha[:12]} was written")


def _text(files: Mapping[str, list]) -> str:
    return json.dumps({"format": 1, "files": {name: files[name] for name in sorted(files)}}, indent=1) + "\n"
