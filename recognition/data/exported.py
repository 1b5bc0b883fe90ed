"""Record sets on their way out: what is told of each picture, and under which names it is written."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np

from recognition.data.recordio import RecordError
from recognition.data.records import Records
from recognition.data.tar_format import tar_member
from recognition.data.value_forms import describe, picture_ending

CLASSES = "classes.txt"
SAFE = "".join(chr(c) for c in range(32, 127) if chr(c) not in '/\\%:*?"<>|')
_EXPORTED = re.compile(r"\d{9,}\.(jpg|png|webp|bmp)")


@dataclass(slots=True)
class About:
    """What lies beside the records of a set, image by image.

    names: what each class is called, empty where nothing says so. landmarks: float32 (N, 5, 2) or None. scores: by
    scorer, float32 (N,) or (N, k). notes: what was left out and why, for the user.
    """

    names: list[str] = field(default_factory=list)
    landmarks: np.ndarray | None = None
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def classes(self) -> str:
        """The names as classes.txt has them."""
        return "".join(f"{number}\t{name}\n" for number, name in enumerate(self.names))

    def update(self, digest: hashlib._Hash) -> None:
        """Let a digest depend on all of it."""
        digest.update(json.dumps([self.names, sorted(self.scores)]).encode())
        for values in (self.landmarks, *(self.scores[name] for name in sorted(self.scores))):
            digest.update(b"" if values is None else np.ascontiguousarray(values).data)


def about(records: Records) -> About:
    """Names, landmarks and scores of a set. ValueError for a classes.txt that does not fit it.

    Landmarks and scores that belong to other records than lie there now, or to some of the images only, are left out
    with a note.
    """
    found = About(read_classes(records.shards[0].parent / CLASSES, records))
    beside = [path.name for shard in records.shards for path in shard.parent.glob(f"{_stem(shard)}.*")]
    if any(name.endswith(".landmarks.npz") for name in beside):
        from recognition.data.landmarks import read_landmarks  # imports torch

        try:
            found.landmarks = read_landmarks(records)
        except (ValueError, OSError) as error:
            found.notes.append(f"landmarks left out: {error}")
    if any(".scores." in name for name in beside):
        _read_scores(records, found)
    return found


def read_classes(path: Path, records: Records) -> list[str]:
    """What each class of a set is called: lines `number TAB name`; [] where there is no such file."""
    if not path.is_file():
        return []
    names: dict[int, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8; mend it, or move it away to go on without names") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        label, tab, name = line.rstrip("\r").partition("\t")
        if not tab or not name.strip() or not (label.isascii() and label.isdecimal()) or int(label) in names:
            raise ValueError(f"{path}, line {number}: found {line[:80]!r}, wanted `number TAB name`, each number once")
        names[int(label)] = name
    missing = [label for label in range(records.num_classes) if label not in names]
    if missing:
        raise ValueError(
            f"{path} names {len(names)} classes, but not class {missing[0]} of the {records.num_classes} in "
            f"{records.shards[0]}: it is another set's; move it away to go on without names"
        )
    return [names[label] for label in range(records.num_classes)]


def picture(records: Records, i: int) -> tuple[bytes, str]:
    """Image i and the ending that its bytes ask for. ValueError with the reason where it is no picture."""
    data = records.read(i)
    ending = picture_ending(data)
    if not ending:
        raise RecordError(f"{records.where(i)}: no JPEG, PNG, WebP or BMP ({describe(data)})")
    return data, ending


def sample(records: Records, told: About, i: int) -> bytes:
    """Image i as members of a tar: NUMBER.jpg, NUMBER.cls and NUMBER.json."""
    data, ending = picture(records, i)
    label, key = int(records.labels[i]), f"{i:09d}"
    facts: dict[str, object] = {"label": label}
    if told.names:
        facts["identity"] = told.names[label]
    facts |= {"file": records.shards[records.shard[i]].name, "key": int(records.key[i])}
    if told.landmarks is not None:
        facts["landmarks"] = _numbers(told.landmarks[i])
    if scores := {name: _numbers(values[i]) for name, values in told.scores.items()}:
        facts["scores"] = scores
    text = json.dumps(facts, ensure_ascii=False, allow_nan=False)
    return b"".join(
        tar_member(f"{key}{end}", content)
        for end, content in ((ending, data), (".cls", b"%d" % label), (".json", text.encode()))
    )


def folder_names(records: Records, told: About) -> list[str]:
    """The folder of each class: its name, what no folder may be called written as %2F; or its number.

    ValueError where two classes have one name.
    """
    if not told.names:
        width = len(str(records.num_classes - 1))
        return [f"{label:0{width}d}" for label in range(records.num_classes)]
    names = [_folder(name) for name in told.names]
    first: dict[str, int] = {}
    for label, name in enumerate(names):
        if name in first:
            raise ValueError(
                f"classes {first[name]} and {label} are both called {told.names[label]!r}, and would share a folder: "
                f"change one in {records.shards[0].parent / CLASSES}"
            )
        first[name] = label
    return names


def not_exported(folder: Path) -> str:
    """The first that lies in a folder of folders and was not written by an export; "" where there is none."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            if other := next((one for one in os.scandir(entry.path) if not _EXPORTED.fullmatch(one.name)), None):
                return f"{entry.name}/{other.name}"
        elif entry.name != CLASSES:
            return entry.name
    return ""


def _folder(name: str) -> str:
    """Other letters than ASCII's stay; a dot in front would hide the folder, or lead out of it."""
    plain = "".join(c if c.isprintable() and ord(c) > 126 else quote(c, safe=SAFE) for c in name)
    return f"%2E{plain[1:]}" if plain.startswith(".") else plain


def _numbers(values: np.ndarray) -> object:
    """float32 as the shortest numbers that stand for it; NaN as null."""
    if np.ndim(values):
        return [_numbers(value) for value in values]
    return None if np.isnan(values) else float(str(values))


def _stem(shard: Path) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in shard.with_suffix("").name)


def _read_scores(records: Records, found: About) -> None:
    """All scores beside the first shard that the other shards have as well."""
    from safetensors import SafetensorError, safe_open

    from recognition.data.scores import ENDING, PART, ScorerIdentity, ShardScores

    first = records.shards[0]
    for path in sorted(first.parent.glob(f"{_stem(first)}.scores.*{ENDING}")):
        if PART in path.name:
            continue
        try:
            with safe_open(path, framework="np") as opened:
                said = opened.metadata() or {}
            texts = {name: said[name] for name in ("scorer", "arguments", "weights", "base", "needs")}
            identity = ScorerIdentity(**texts, version=int(said["version"]), columns=int(said["columns"]))
        except (SafetensorError, OSError, KeyError, ValueError):
            found.notes.append(f"{path.name} left out: it holds no scores, or is damaged")
            continue
        values = identity.empty(len(records)) if 1 <= identity.columns <= 64 else np.empty(0, np.float32)
        problem = "" if len(values) else "it has more columns than any scorer"
        for number, shard in enumerate(records.shards if len(values) else []):
            here = records.shard == number
            stored = ShardScores(shard, identity).read(records.key[here])
            values[here], problem = stored.scores, problem or stored.problem
        if problem:
            found.notes.append(f"scores of {identity.scorer} left out: {problem}")
        else:
            found.scores[identity.scorer if identity.scorer not in found.scores else str(identity)] = values
