"""Images by name: folders of pictures, and what tools/align.py wrote."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.data.named import MANIFEST, MANIFEST_FORMAT, NamedImages
from recognition.data.recordio import Header, RecordWriter, pack


def picture(value: int) -> bytes:
    return cv2.imencode(".png", np.full((4, 4, 3), value, np.uint8))[1].tobytes()


def write_aligned(folder: Path, lines: list[dict] | None = None) -> Path:
    """Three records under keys 5, 7, 9, and the manifest of four pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with RecordWriter(folder / "aligned.rec") as writer:
        for key in (5, 7, 9):
            writer.write(key, pack(Header(0, float(key), key, 0), picture(key)))
    names = {"z.jpg": (9, "aligned"), "a/b.jpg": (5, "aligned"), "a/c.jpg": (7, "fallback"), "no.jpg": (None, "failed")}
    lines = lines or [
        {"format": MANIFEST_FORMAT, "records": "aligned.rec"},
        *({"name": name, "key": key, "status": status} for name, (key, status) in names.items()),
    ]
    (folder / MANIFEST).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/1.png", "a.pgm", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    images = NamedImages(tmp_path)
    assert images.names == ["a.pgm", "b/1.png", "b/2.PNG"] and images.failed == {}
    assert images[1] == b"b/1.png" and images[0:2] == [b"a.pgm", b"b/1.png"]
    assert images.rows(["b/2.PNG", "b/3.png", "a.pgm"]).tolist() == [2, -1, 0]
    assert images.where(2) == str(tmp_path / "b/2.PNG")


def test_aligned_records_have_their_pictures_names(tmp_path: Path) -> None:
    images = NamedImages(write_aligned(tmp_path))
    assert images.names == ["a/b.jpg", "a/c.jpg", "z.jpg"] and set(images.failed) == {"no.jpg"}
    shades = [int(cv2.imdecode(np.frombuffer(images[i], np.uint8), cv2.IMREAD_COLOR)[0, 0, 0]) for i in range(3)]
    assert shades == [5, 7, 9]


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([{"format": "other"}], "first line is not of format"),
        ([[1]], "no manifest"),
        ([{"format": MANIFEST_FORMAT, "records": "aligned.rec"}, {"name": "a"}], "'status'"),
        ([{"format": MANIFEST_FORMAT}], "'records'"),
        (
            [{"format": MANIFEST_FORMAT, "records": "aligned.rec"}, {"name": "a", "key": 8, "status": "aligned"}],
            "do not belong together",
        ),
    ],
)
def test_a_damaged_manifest_is_told(tmp_path: Path, lines: list, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        NamedImages(write_aligned(tmp_path, lines))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no picture"):
        NamedImages(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        NamedImages(tmp_path / "absent")
