"""Which files a set of records lies in."""

from __future__ import annotations

import os
import re
from pathlib import Path

from recognition.data.record_format import record_paths

_SHARD = re.compile(r"(?P<set>.+)-(?P<shard>\d{5})-of-(?P<shards>\d{5})")


def find_shards(path: str | os.PathLike) -> list[Path]:
    """The .rec files a path stands for.

    path: "x.rec"; the prefix "x" of x.rec or of x-00000-of-00004.rec ...; or a folder that holds train.rec, shards of
        `train`, or one set only.
    FileNotFoundError where there are none, ValueError where a shard is missing or a folder holds several sets.
    """
    path = Path(path)
    if path.is_dir():
        return _shards_of_folder(path)
    single = record_paths(path)[0]
    if single.is_file():
        return [single]
    shards = [file for file in sorted(path.parent.glob("*.rec")) if set_of(file) == path]
    if not shards:
        raise FileNotFoundError(
            f"there is no record file {single}, nor shards {path.name}-00000-of-NNNNN.rec beside it"
        )
    return _complete(shards)


def _shards_of_folder(folder: Path) -> list[Path]:
    sets: dict[Path, list[Path]] = {}
    for file in sorted(folder.glob("*.rec")):
        sets.setdefault(set_of(file), []).append(file)
    if not sets:
        raise FileNotFoundError(f"there is no .rec file in {folder}; tools/make_records.py makes them from pictures")
    chosen = folder / "train" if folder / "train" in sets else next(iter(sets))
    if len(sets) > 1 and chosen.name != "train":
        names = ", ".join(str(name) for name in sets)
        raise ValueError(f"{folder} holds several record sets: name one of {names}")
    return _complete(sets[chosen])


def set_of(file: Path) -> Path:
    """The prefix that the shards of one set share; the file's own where it is no shard."""
    match = _SHARD.fullmatch(file.name.removesuffix(".rec"))
    return file.with_name(match["set"] if match else file.name.removesuffix(".rec"))


def _complete(shards: list[Path]) -> list[Path]:
    """ValueError unless the shards of one set are all there."""
    matches = [_SHARD.fullmatch(file.name.removesuffix(".rec")) for file in shards]
    numbered = [match for match in matches if match]
    if len(numbered) < len(shards):
        if len(shards) == 1:
            return shards
        raise ValueError(f"both one file and numbered shards: {', '.join(map(str, shards))}; remove the older ones")
    counts = {int(match["shards"]) for match in numbered}
    there = {int(match["shard"]) for match in numbered}
    if len(counts) > 1:
        raise ValueError(f"shards of different sets are mixed: {', '.join(map(str, shards))}; remove the older ones")
    if missing := sorted(set(range(counts.pop())) - there):
        raise ValueError(f"{set_of(shards[0])}: shard {missing[0]} is missing ({len(there)} are there)")
    return shards
