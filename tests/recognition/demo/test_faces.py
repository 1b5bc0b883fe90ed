"""Pictures that strangers hand in: limits before decoding, folders only below the root, notes on what was done."""

from __future__ import annotations

import base64
import json
import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from recognition.answers.pictures import Picture
from recognition.data.detection import Faces
from recognition.data.named import MANIFEST, MANIFEST_FORMAT
from recognition.data.recordio import Header, RecordWriter, pack
from recognition.demo import faces
from recognition.demo.faces import handed_in, in_folder, picture_of, read_faces, reduced, sample
from recognition.distributed import World
from recognition.evaluation.embed import look_at
from recognition.evaluation.protocol import View
from tests.answering import write_picture
from tests.small import photos


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()


def packed(*files: tuple[str, bytes]) -> str:
    return json.dumps([[name, base64.b64encode(data).decode()] for name, data in files])


def test_samples_are_the_same_every_time() -> None:
    first, again = sample(3), sample(3)
    assert first == again and hash(first) == hash(again) and first != sample(2)
    assert first.name == "person B, picture 2" and first.pixels.shape == (112, 112, 3)
    with pytest.raises(ValueError, match="no sample 99"):
        sample(99)


def test_what_is_handed_in_is_unpacked() -> None:
    assert handed_in(packed(("../../etc/a.png", b"12"), ("C:\\b.jpg", b""))) == [("a.png", b"12"), ("b.jpg", b"")]
    for text in ("", "{", "[1]", '[["a", "?"]]', '[["a"]]', "[" * 5000, "null"):
        with pytest.raises(ValueError, match="did not arrive whole"):
            handed_in(text)
    with pytest.raises(ValueError, match="101 pictures"):
        handed_in(packed(*[("a", b"")] * 101))


def test_too_much_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces, "MOST_TOGETHER", 0)
    monkeypatch.setattr(faces, "MOST_BYTES", 10)
    with pytest.raises(ValueError, match="at once"):
        handed_in("x" * (2**20 + 1))
    assert "the demo takes pictures of" in picture_of("a", b"x" * 11).problem


def test_bombs_and_other_formats_are_never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 60_000, 60_000) + b"\x08\x02\x00\x00\x00"
    bmp = b"BM" + bytes(60)
    _, problems = read_faces([picture_of("a", header), picture_of("b", bmp), picture_of("c", b"GIF89a" + bytes(99))])
    assert "60000 x 60000" in problems[0] and len(problems) == 3
    assert all("no JPEG or PNG" in problems[row] for row in (1, 2))


def test_pictures_of_other_sizes_are_taken_with_a_note() -> None:
    face = photos(1)[0]
    tall = cv2.resize(face, (60, 120))
    sizes = [face, cv2.resize(face, (200, 200)), tall, face[:3, :3]]
    found, problems = read_faces([picture_of(str(n), png(one)) for n, one in enumerate(sizes)])
    assert [one.note for one in found] == ["", faces.RESIZED, faces.SQUEEZED]
    assert np.array_equal(found[0].pixels, face) and all(one.pixels.shape == (112, 112, 3) for one in found)
    assert list(problems) == [3] and "3 x 3" in problems[3]


class Detector:
    """Finds one face where a picture is light."""

    def faces(self, picture: np.ndarray) -> Faces:
        if picture.mean() < 50:
            return Faces(np.empty((0, 4)), np.empty(0), np.empty((0, 5, 2)))
        points = np.array([[[138.3, 151.7], [173.5, 151.5], [156.0, 171.7], [141.5, 192.4], [170.7, 192.2]]])
        boxes = np.array([[100, 100, 212, 212], [0, 0, 9, 9]])
        return Faces(boxes, np.array([0.9, 0.8]), np.concatenate([points, points]))


def test_a_detector_aligns_what_is_not_112_px() -> None:
    face = photos(1)[0]
    photo = np.full((300, 300, 3), 128, np.uint8)
    photo[100:212, 100:212] = face
    dark = np.zeros((300, 300, 3), np.uint8)
    given = [picture_of(str(n), png(one)) for n, one in enumerate((photo, dark, face))]
    found, problems = read_faces(given, Detector())
    assert problems == {1: "no face was found in it"}
    assert found[0].note == "aligned by five points, the largest of 2 faces" and found[1].note == ""
    assert (
        np.abs(found[0].pixels[8:-8, 8:-8].astype(int) - face[8:-8, 8:-8]).mean() < 2
    )  # the points are the template's


def test_folders_below_the_root_only(tmp_path: Path) -> None:
    inside, outside = tmp_path / "root", tmp_path / "other"
    write_picture(inside / "people" / "a.png", photos(1)[0])
    write_picture(outside / "secret.png", photos(1)[0])
    (inside / "people" / "link.png").symlink_to(outside / "secret.png")
    (inside / "way").symlink_to(outside)
    pictures = in_folder("people", inside)
    assert [one.name for one in pictures] == ["a.png", "link.png"] == [one.name for one in in_folder("people/", inside)]
    found, problems = read_faces(pictures)
    assert len(found) == 1 and "a link to outside" in problems[1]
    for where in ("..", str(outside), "../other", "way", "people/../../other", "/etc"):
        with pytest.raises(ValueError, match="start the demo with --root"):
            in_folder(where, inside)
    (inside / "ring").symlink_to("ring")
    wrong = [("", "name a folder"), ("a\0b", "name a folder"), ("gone", "there is no folder"), ("ring", "ring: ")]
    for where, said in [*wrong, ("n" * 300, "File name too long"), ("~nosuchuser/a", "home directory")]:
        with pytest.raises(ValueError, match=said):
            in_folder(where, inside)


def test_what_states_no_size_is_not_decoded_in_a_folder_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 60_000, 60_000) + b"\x08\x02\x00\x00\x00"
    webp = b"RIFF" + struct.pack("<I", 99) + b"WEBPVP8X" + bytes(90)
    for name, data in (("a.png", bomb), ("b.webp", webp), ("c.bmp", b"BM" + bytes(60)), ("d.png", b"GIF89a")):
        (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    found, problems = read_faces(in_folder(".", tmp_path))
    assert not found and "60000 x 60000" in problems[0]
    assert all("no JPEG or PNG" in problems[row] for row in (1, 2, 3))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", photos(1)[0])
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").mkdir()
    (tmp_path / "d.png").symlink_to("d.png")
    found, problems = read_faces(in_folder(".", tmp_path))
    assert len(found) == 1 and problems[1] == "it is no file, but a pipe, a socket or a device" and 2 in problems
    with pytest.raises(ValueError, match="it is a folder"):
        Picture("c.png", tmp_path / "c.png").encoded()
    reading, writing = os.pipe()
    os.write(writing, b"x")
    os.close(writing)
    assert Picture("-", Path(f"/dev/fd/{reading}")).encoded() == b"x", "as a shell hands over <(COMMAND)"
    os.close(reading)


def aligned(folder: Path, records: str, pictures: list[bytes]) -> None:
    """What tools/align.py leaves: a manifest, and the records that it names."""
    prefix = folder / records
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with RecordWriter(prefix) as writer:
        for key, data in enumerate(pictures):
            writer.write(key, pack(Header(0, 0.0, key, 0), data))
    head = {"format": MANIFEST_FORMAT, "records": records}
    lines = [head, *({"status": "aligned", "name": f"{key}.png", "key": key} for key in range(len(pictures)))]
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_aligned_folders_end_at_the_root_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, pictures = tmp_path / "root", [png(photos(1)[0]), b"BM" + bytes(60)]
    aligned(root / "own", "train.rec", pictures)
    found, problems = read_faces(in_folder("own", root))
    assert len(found) == 1 and "no JPEG or PNG" in problems[1]
    monkeypatch.setattr(faces, "MOST_BYTES", 10)
    assert "the demo takes pictures of" in read_faces(in_folder("own", root))[1][0]
    aligned(root / "al", "../../other/train.rec", pictures)
    aligned(root / "whole", str(tmp_path / "other" / "train.rec"), pictures)
    aligned(root / "linked", "train.rec", pictures)
    (root / "linked" / "train.idx").rename(tmp_path / "other.idx")
    (root / "linked" / "train.idx").symlink_to(tmp_path / "other.idx")
    (root / "way").mkdir()
    (root / "way" / MANIFEST).symlink_to(root / ".." / "other" / MANIFEST)
    (tmp_path / "other" / MANIFEST).write_text((root / "own" / MANIFEST).read_text())
    for where in ("al", "whole", "linked", "way"):
        with pytest.raises(ValueError, match="start the demo with a --root above it"):
            in_folder(where, root)
    for line in ("{", "[]", '{"format": "lrface.align/1", "records": 5}'):
        (root / "own" / MANIFEST).write_text(line)
        with pytest.raises(ValueError, match="is no manifest of aligned pictures"):
            in_folder("own", root)


def test_reduced_as_the_evaluation_does() -> None:
    """Against the pictures that the evaluation hands to a model."""
    face, seen = sample(0), []

    class Model(torch.nn.Module):
        def embed(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(torch.round((image + 1) * 127.5).permute(0, 2, 3, 1).to(torch.uint8).numpy())
            return image.mean((2, 3))

    assert reduced(face, 112) is face.pixels
    for side in (7, 14, 33):
        look_at(Model(), [png(face.pixels)], View(np.arange(1), side), world=World(0, 0, 1, torch.device("cpu")))
        assert np.array_equal(reduced(face, side), seen[-1][0])
    assert not np.array_equal(seen[-1], seen[-2])
