"""Records from LMDBs of every form, read by a reader of our own as the package lmdb reads them."""

from __future__ import annotations

import pickle
import struct
import sys
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from recognition.data.records import Records
from tests.tools.sources import NUMBERS, datum, holds, jpeg, made, packed, pictures, refused, wanted, write_lmdb

__all__ = ["pictures"]


VALUES: dict[str, Callable[[int, str, bytes], list[tuple[bytes, bytes]]]] = {
    "msgpack": lambda i, name, data: [(b"%d" % i, packed(data, NUMBERS[name.split("/")[0]]))],
    "pickle": lambda i, name, data: [(b"%d" % i, pickle.dumps((data, NUMBERS[name.split("/")[0]]), i % 6))],
    "array": lambda i, name, data: [
        (b"%d" % i, pickle.dumps({"image": np.frombuffer(data, np.uint8), "label": NUMBERS[name.split("/")[0]]}, i % 6))
    ],
    "numpy number": lambda i, name, data: [
        (
            b"%d" % i,
            pickle.dumps((data, (np.int64, np.int32, np.uint8, np.float32)[i % 4](NUMBERS[name.split("/")[0]])), i % 6),
        )
    ],
    "datum": lambda i, name, data: [(b"%08d_x" % i, datum(data, NUMBERS[name.split("/")[0]]))],
    "keys": lambda i, name, data: [(name.encode(), data)],
    "beside": lambda i, name, data: [
        (b"image-%09d" % i, data),
        (b"label-%09d" % i, name.split("/")[0].encode()),
        (b"num-samples", b"9"),
    ],
}


@pytest.mark.parametrize("way", VALUES)
def test_databases_of_every_form(pictures, tmp_path, way):
    pairs = [pair for i, (name, data) in enumerate(pictures.items()) for pair in VALUES[way](i, name, data)]
    about = [(b"__len__", b"\x09"), (b"__keys__", b"\x90"), (b"__classnum__", b"\x03")]
    write_lmdb(tmp_path / "faces.lmdb", pairs + about)
    out = made(tmp_path / "faces.lmdb", tmp_path / "out", "--checksum")
    assert holds(out) == wanted(pictures)
    write_lmdb(tmp_path / "folder", pairs, subdir=True)
    ordered = Records(made(tmp_path / "folder", tmp_path / "ordered", "--keep-order"))
    if way != "keys":
        assert [ordered.read(i) for i in range(9)] == list(pictures.values())


def test_pixels_in_a_datum_are_coded_anew(pictures, tmp_path):
    write_lmdb(tmp_path / "x.lmdb", [(b"a", datum(jpeg(3), 5, encoded=False))])
    records = Records(made(tmp_path / "x.lmdb", tmp_path / "out", "--quality", 100))
    found = cv2.imdecode(np.frombuffer(records.read(0), np.uint8), cv2.IMREAD_COLOR)
    pixels = cv2.imdecode(np.frombuffer(jpeg(3), np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(found.astype(int) - pixels).mean() < 1.5


def test_values_of_no_known_form_say_what_they_look_like(tmp_path, capsys):
    class Foreign:
        def __reduce__(self) -> tuple:
            return (print, ("it ran",))

    write_lmdb(
        tmp_path / "x.lmdb",
        [
            (b"a", pickle.dumps((Foreign(), 1))),
            (b"b", pickle.dumps(("text", 1))),
            (b"c", struct.pack("<5i", 0, 0, 0, 0, 1) + b"\xff\xff\xff\xff" + bytes(50)),
            (b"d", b"just text"),
            (b"e", b""),
            (b"f", jpeg(1)),
            (b"image-1", jpeg(1)),
            (b"g", packed(b"no picture", 3)),
        ],
    )
    said = refused(capsys, tmp_path / "x.lmdb", tmp_path / "out")
    assert "holds no picture with a label" in said and "builtins.print" in said and "it ran" not in said
    write_lmdb(tmp_path / "x.lmdb", [(b"z/1", jpeg(1))])
    said = refused(capsys, tmp_path / "x.lmdb", tmp_path / "out", code=1)
    for text in (
        "a: a pickle that asks for builtins.print",
        "b: a pickle of (str, int), in which no picture and one label were found",
        "that look like pyarrow.serialize",
        "d: the text 'just text'; wanted a JPEG",
        "e: it is empty",
        "f: a picture without a label: the key names no folder",
        "image-1: a picture without a label: there is none under the key 'label-1'",
        "g: msgpack of (bytes, int)",
        "8 of 9 pictures",
    ):
        assert text in said, text


def test_arrays_of_pixels_and_databases_within_are_not_called_damaged(tmp_path, capsys):
    arrays = [np.zeros((112, 112, 3), np.uint8), np.zeros((3, 4), np.float32)]
    pairs = [(b"%d" % i, pickle.dumps({"image": arrays[i % 2], "label": 1}, i)) for i in range(6)]
    write_lmdb(tmp_path / "x.lmdb", [*pairs, (b"z/1", jpeg(1))])
    said = refused(capsys, tmp_path / "x.lmdb", tmp_path / "out", code=1)
    assert said.count("an array of 112 x 112 x 3 numbers (u1), pixels instead of an encoded picture") == 3
    assert said.count("an array of 3 x 4 numbers (f4)") == 3 and "damaged" not in said
    lmdb = pytest.importorskip("lmdb")
    for number, kind in enumerate(({}, {"dupsort": True})):
        path = tmp_path / f"{number}.lmdb"
        with lmdb.open(str(path), subdir=False, map_size=2**20, max_dbs=2, lock=False) as database:
            inner = database.open_db(b"faces", **kind)
            with database.begin(write=True, db=inner) as writing:
                writing.put(b"a/1", jpeg(0)[:400])
        said = refused(capsys, path, tmp_path / "out2")
        assert "b'faces' is a database within the database" in said and "damaged" not in said


def test_a_large_database_is_read_as_lmdb_reads_it(tmp_path):
    """Branches, overflow pages, freed pages, many writings: every value as the package gives it."""
    lmdb = pytest.importorskip("lmdb")
    from recognition.data.lmdb_format import LmdbFile

    draw = np.random.default_rng(0)
    with lmdb.open(str(tmp_path / "x.mdb"), subdir=False, map_size=2**28, lock=False) as database:
        for step in range(12):
            with database.begin(write=True) as writing:
                for key in draw.integers(0, 20_000, 900).tolist():
                    name = b"%d/" % key * int(draw.integers(1, 9))
                    if step % 4 == 3:
                        writing.delete(name)
                    else:
                        writing.put(name, draw.bytes(int(draw.choice([0, 1, 40, 700, 2030, 5000, 9000]))))
        with database.begin() as reading:
            there = [(bytes(key), bytes(value)) for key, value in reading.cursor()]
            assert database.stat()["depth"] >= 3
    with LmdbFile(tmp_path / "x.mdb") as mine:
        assert [(value.key, mine.read(value)) for value in mine.values()] == there


def test_an_empty_or_cut_database(tmp_path, capsys, pictures):
    write_lmdb(tmp_path / "empty.lmdb", [])
    assert "holds no picture" in refused(capsys, tmp_path / "empty.lmdb", tmp_path / "out")
    write_lmdb(tmp_path / "x.lmdb", [(name.encode(), data) for name, data in pictures.items()])
    whole = (tmp_path / "x.lmdb").read_bytes()
    for length in (0, 100, 5000, len(whole) // 2):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / "data.mdb").write_bytes(whole[:length])
        assert "damaged, or no LMDB" in refused(capsys, tmp_path / "folder", tmp_path / "out")
    (tmp_path / "x.lmdb").write_bytes(bytes(len(whole)))
    assert "damaged, or no LMDB" in refused(capsys, tmp_path / "x.lmdb", tmp_path / "out")


def test_without_lmdb_installed(pictures, tmp_path, monkeypatch):
    write_lmdb(tmp_path / "x.lmdb", [(name.encode(), data) for name, data in pictures.items()])
    monkeypatch.setitem(sys.modules, "lmdb", None)
    assert holds(made(tmp_path / "x.lmdb", tmp_path / "out")) == wanted(pictures)
