"""Images by name: a folder of pictures, or aligned records with the manifest that says which name each has."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from recognition.data.lazy import LazyImages
from recognition.data.pairs import RecordImages
from recognition.data.records import Records

MANIFEST = "manifest.jsonl"
MANIFEST_FORMAT = "lrface.align/1"
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")


class NamedImages(LazyImages):
    """Encoded images of one folder, read when asked for, each under its name: its path in the folder, with slashes.

    names: (N) in sorted order. failed: by name, why a picture came to nothing when the folder was aligned, such as
    "no face" ("" where the manifest does not say); they are no images of it.
    """

    def __init__(self, folder: str | Path) -> None:
        """folder: pictures, in folders of any depth; or one written by tools/align.py, with its manifest.

        FileNotFoundError where there is no such folder; ValueError where it holds no picture, or its manifest is
        damaged.
        """
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"there is no folder {self.folder}")
        self.failed: dict[str, str] = {}
        self._records: RecordImages | None = None
        if (self.folder / MANIFEST).is_file():
            self.names, self._records, self.failed = _aligned(self.folder)
        else:
            self.names = sorted(_pictures(self.folder))
        if not self.names:
            raise ValueError(f"{self.folder} holds no picture (looked for {', '.join(ENDINGS)} and for {MANIFEST})")
        self._row = {name: row for row, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def image(self, i: int) -> bytes:
        """Image i, encoded."""
        return (self.folder / self.names[i]).read_bytes() if self._records is None else self._records[i]

    def rows(self, names: Sequence[str]) -> np.ndarray:
        """Positions of these names, (n,) int64; -1 where there is no such image."""
        return np.array([self._row.get(name, -1) for name in names], np.int64)

    def where(self, i: int) -> str:
        """The picture's path, for messages."""
        return str(self.folder / self.names[i])


def _pictures(folder: Path) -> Iterator[str]:
    """Names of all pictures below a folder. A link to a folder is not followed, as it may lead back."""
    for above, _, files in os.walk(folder):  # half a million paths are too many to make objects of
        inside = os.path.relpath(above, folder).replace(os.sep, "/")
        prefix = "" if inside == "." else f"{inside}/"
        yield from (prefix + name for name in files if name.lower().endswith(ENDINGS))


def _aligned(folder: Path) -> tuple[list[str], RecordImages, dict[str, str]]:
    """Names, records in the order of the names, and what failed and why, of what tools/align.py wrote."""
    path = folder / MANIFEST
    kept: list[tuple[str, int]] = []
    failed: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8") as lines:  # one by one: IJB-C has 469,375
            head = json.loads(next(lines, "{}"))
            if head.get("format") != MANIFEST_FORMAT:
                raise ValueError(f"its first line is not of format {MANIFEST_FORMAT}")
            for line in lines:
                entry = json.loads(line)
                if entry["status"] == "failed":
                    failed[entry["name"]] = str(entry.get("reason", ""))
                else:
                    kept.append((entry["name"], int(entry["key"])))
        records = Records(str(folder / head["records"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no manifest of aligned pictures, or damaged ({error}): align them again") from None
    kept.sort()
    try:
        indices = np.array([records.index_of(0, key) for _, key in kept], np.int64)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} and {head['records']} do not belong together: {error}") from None
    return [name for name, _ in kept], RecordImages((records, indices)), failed
