"""Small sources of pictures for the tests of tools/make_records.py: nine faces of three people, in every packing."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest

from recognition.data.records import Records
from tools import make_records

PEOPLE = {"zoe": 4, "ann": 2, "bob smith": 3}
NUMBERS = {"ann": 0, "bob smith": 1, "zoe": 2}


def jpeg(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_CUBIC))[1].tobytes()


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    """Nine JPEGs of 112 x 112 by `identity/number.jpg`."""
    names = [f"{person}/{number}.jpg" for person, count in PEOPLE.items() for number in range(count)]
    return {name: jpeg(seed) for seed, name in enumerate(names)}


@pytest.fixture
def faces(tmp_path: Path, pictures: dict[str, bytes]) -> Path:
    for name, data in pictures.items():
        (tmp_path / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / name).write_bytes(data)
    return tmp_path / "faces"


@contextmanager
def stopped(after: int = 5) -> Iterator[None]:
    """make_records ends as by Ctrl-C at the first picture after so many."""
    encode, calls = make_records.encode, []

    def stops(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) > after:
            raise KeyboardInterrupt
        return encode(*arguments)

    with mock.patch.object(make_records, "encode", stops):
        yield


def holds(out: Path) -> set[tuple[int, bytes]]:
    records = Records(out)
    return {(int(records.labels[i]), records.read(i)) for i in range(len(records))}


def wanted(pictures: dict[str, bytes]) -> set[tuple[int, bytes]]:
    return {(NUMBERS[name.split("/")[0]], data) for name, data in pictures.items()}


def made(*arguments: object) -> Path:
    assert make_records.main([str(argument) for argument in arguments]) == 0
    return Path(str(arguments[1]))


def refused(capsys: pytest.CaptureFixture, *arguments: object, code: int = 2) -> str:
    assert make_records.main([str(argument) for argument in arguments]) == code
    return capsys.readouterr().err


def write_tars(folder: Path, samples: list[list[tuple[str, bytes]]], shards: int = 1) -> list[Path]:
    """Tars as Python's tarfile writes them, the samples dealt out in runs."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for k in range(shards):
        files.append(folder / f"faces-{k:06d}.tar")
        with tarfile.open(files[-1], "w") as tar:
            for members in samples[len(samples) * k // shards : len(samples) * (k + 1) // shards]:
                for name, data in members:
                    entry = tarfile.TarInfo(name)
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    return files


def as_samples(pictures: dict[str, bytes], way: str) -> list[list[tuple[str, bytes]]]:
    samples = []
    for i, (name, data) in enumerate(pictures.items()):
        person, label = name.split("/")[0], NUMBERS[name.split("/")[0]]
        named = json.dumps({"label": label, "identity": person}).encode()
        samples.append(
            {
                "cls": [(f"{i:05d}.jpg", data), (f"{i:05d}.cls", b"%d\n" % label)],
                "json": [(f"{i:05d}.json", json.dumps({"identity": person}).encode()), (f"{i:05d}.jpg", data)],
                "txt": [(f"a.b/{i:05d}.seg.jpeg", data), (f"a.b/{i:05d}.txt", person.encode())],
                "named": [(f"{i}.jpg", data), (f"{i}.cls", b"%d" % label), (f"{i}.json", named)],
                "folder": [(f"{person}/{i}.jpg", data)],
                "long": [("x" * 150 + f"/{i}é.jpg", data), ("x" * 150 + f"/{i}é.cls", b"%d" % label)],
            }[way]
        )
    return samples


def packed(data: bytes, label: int) -> bytes:
    """msgpack.dumps((data, label)), from the specification: an array of two, bin 16, a number."""
    return b"\x92\xc5" + struct.pack(">H", len(data)) + data + bytes([label])


def datum(data: bytes, label: int, encoded: bool = True) -> bytes:
    """Caffe's Datum, from its .proto; pixels where not encoded."""
    if not encoded:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        data = pixels.transpose(2, 0, 1).tobytes()
    size = b""
    for shift in (0, 7, 14):
        size += bytes([len(data) >> shift & 127 | (128 if len(data) >> shift + 7 else 0)])
        if not len(data) >> shift + 7:
            break
    return b"\x08\x03\x10\x70\x18\x70\x22" + size + data + b"\x28" + bytes([label]) + (b"\x38\x01" if encoded else b"")


def write_lmdb(path: Path, pairs: list[tuple[bytes, bytes]], subdir: bool = False) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), subdir=subdir, map_size=2**26, lock=False) as database:
        for begin in range(0, len(pairs), 3):  # several writings: the newest meta page counts
            with database.begin(write=True) as writing:
                for key, value in pairs[begin : begin + 3]:
                    writing.put(key, value)
