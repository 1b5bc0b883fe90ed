"""Pairs: .bin files read without running anything, tables of keys, drawn pairs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from recognition.data.pairs import PairFileError, PairSet, draw_pairs, read_bin, read_pairs, write_bin

IMAGES = [b"\xff\xd8one", b"\xff\xd8two\x00\x80", b"\xff\xd8three"]
ENTRIES = [IMAGES[i] for i in (0, 1, 2, 1, 0, 0)]  # three pairs, three different images
SAME = [True, False, True]


class StandInRecords:
    """Records as the pairs need them: two shards of keys 10, 11, ..."""

    def __init__(self, labels: list[list[int]]) -> None:
        self.shards = [Path(f"shard{s}.rec") for s in range(len(labels))]
        self.shard = np.repeat(np.arange(len(labels)), [len(part) for part in labels])
        self.key = np.concatenate([10 + np.arange(len(part)) for part in labels])
        self.labels = np.concatenate([np.array(part, np.int64) for part in labels])

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, i: int) -> bytes:
        return f"image {i}".encode()

    def where(self, i: int) -> str:
        return f"{self.shards[self.shard[i]]}, key {self.key[i]}"

    def index_of(self, shard: int, key: int) -> int:
        found = np.flatnonzero((self.shard == shard) & (self.key == key))
        if not len(found):
            raise KeyError(key)
        return int(found[0])


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("entry", ["bytes", "array", "column"])
@pytest.mark.parametrize("same", ["list", "array", "scalars"])
def test_bin_of_every_kind(tmp_path: Path, protocol: int, entry: str, same: str) -> None:
    def encoded(image: bytes) -> object:
        array = np.frombuffer(image, np.uint8).copy()
        return {"bytes": image, "array": array, "column": array[:, None]}[entry]

    labels = {"list": SAME, "array": np.array(SAME), "scalars": [np.bool_(s) for s in SAME]}[same]
    path = tmp_path / "faces.bin"
    path.write_bytes(pickle.dumps(([encoded(image) for image in ENTRIES], labels), protocol))
    pairs = read_bin(path)
    assert pairs.name == "faces" and pairs.fold is None and len(pairs) == 3
    assert list(pairs.images) == IMAGES  # each once
    assert [pairs.images[i] for i in pairs.first] == ENTRIES[0::2]
    assert [pairs.images[i] for i in pairs.second] == ENTRIES[1::2]
    assert pairs.same.dtype == bool and pairs.same.tolist() == SAME


def test_bin_written_is_the_field_s(tmp_path: Path) -> None:
    pairs = PairSet("x", IMAGES, np.array([0, 2, 0]), np.array([1, 1, 0]), np.array(SAME))
    write_bin(tmp_path / "x.bin", pairs)
    with open(tmp_path / "x.bin", "rb") as file:
        images, same = pickle.load(file, encoding="bytes")  # as InsightFace's tools read it
    assert images == ENTRIES and same == SAME and all(type(s) is bool for s in same)
    again = read_bin(tmp_path / "x.bin")
    assert [again.images[i] for i in again.first] == ENTRIES[0::2]


class Payload:
    """Runs `call(*arguments)` in a reader that trusts pickle."""

    def __init__(self, call: object, *arguments: object) -> None:
        self.reduced = call, arguments

    def __reduce__(self) -> tuple:
        return self.reduced


def test_crafted_bin_is_refused(tmp_path: Path) -> None:
    made = tmp_path / "made"
    content = ([*ENTRIES[:5], Payload(os.mkdir, str(made))], SAME)
    path = tmp_path / "faces.bin"
    path.write_bytes(pickle.dumps(content, 2))
    pickle.loads(path.read_bytes())
    assert made.is_dir()  # the payload works, where it is let
    made.rmdir()
    with pytest.raises(PairFileError, match=r"refused.*wants to run (posix|nt)\.mkdir"):
        read_bin(path)
    assert not made.exists()


@pytest.mark.parametrize(
    "stream, wanted",
    [
        (b"\x80\x02cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R.", "builtins.eval"),
        (b"\x80\x02cnumpy\nload\nX\x01\x00\x00\x00x\x85R.", "numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.", "numpy.ndarray.__init__"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x05\x00\x00\x00rot13\x86R.", "_codecs.encode with 'rot13'"),
        (b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.", r"numpy.dtype\('O'\)"),
    ],
)
def test_names_outside_the_list_are_refused(tmp_path: Path, stream: bytes, wanted: str) -> None:
    (tmp_path / "x.bin").write_bytes(stream)
    with pytest.raises(PairFileError, match=wanted):
        read_bin(tmp_path / "x.bin")


@pytest.mark.parametrize("name", [b"numpy\nndarray", b"numpy\ndtype", b"_codecs\nencode"])
def test_nothing_is_written_into_what_a_name_stands_for(tmp_path: Path, name: bytes) -> None:
    # BUILD with (None, {"hacked": 1}): pickle would set attributes on the object of that name
    stream = b"\x80\x02c" + name + b"\nN}X\x06\x00\x00\x00hackedK\x01s\x86b."
    (tmp_path / "x.bin").write_bytes(stream)
    with pytest.raises(PairFileError, match="an assignment to a"):
        read_bin(tmp_path / "x.bin")


def test_damaged_bins_are_typed_errors(tmp_path: Path) -> None:
    whole = pickle.dumps(([np.frombuffer(image, np.uint8) for image in ENTRIES], SAME), 3)
    path = tmp_path / "x.bin"
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(PairFileError, match=r"x\.bin"):
            read_bin(path)


@pytest.mark.parametrize(
    "content, complaint",
    [
        ({"images": ENTRIES}, "no pair of"),
        ((ENTRIES[:5], SAME), "5 images for 3 pairs"),
        ((ENTRIES, ["yes", "no", "no"]), "booleans"),
        (([*ENTRIES[:5], "text"], SAME), "entry 5"),
        (([*ENTRIES[:5], b""], SAME), "entry 5"),
        (([], []), "0 images"),
    ],
)
def test_other_pickles_are_no_bins(tmp_path: Path, content: object, complaint: str) -> None:
    (tmp_path / "x.bin").write_bytes(pickle.dumps(content, 4))
    with pytest.raises(PairFileError, match=complaint):
        read_bin(tmp_path / "x.bin")
    with pytest.raises(FileNotFoundError):
        read_bin(tmp_path / "absent.bin")


def test_pairs_of_records(tmp_path: Path) -> None:
    records = StandInRecords([[0, 0, 1], [1, 2]])
    table = tmp_path / "p.csv"
    table.write_text("key_1,key_2,same,fold,shard_1,shard_2\n10,11,1,3,0,0\n12,10,1,4,0,1\n11,11,0,3,0,1\n")
    pairs = read_pairs(records, table)
    assert [pairs.images[i] for i in pairs.first] == [b"image 0", b"image 2", b"image 1"]
    assert [pairs.images[i] for i in pairs.second] == [b"image 1", b"image 3", b"image 4"]
    assert pairs.same.tolist() == [True, True, False] and pairs.fold.tolist() == [3, 4, 3]
    assert len(pairs.images) == 5 and "key 11" in pairs.images.where(1)
    table.write_text("key_1,key_2,same\n10,11,1\n")
    assert read_pairs(records, table).fold is None


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("key_1,key_2,same\n10,99,1\n", "line 2.*key 99"),
        ("key_1,key_2,same,shard_2,shard_1\n10,10,1,7,0\n", "line 2.*shard 7"),
        ("key_1,key_2,same\n10,11,1\n10,11,2\n", "line 3.*same is 2"),
        ("key_1,key_2,same\n10,eleven,1\n", "line 2.*whole numbers"),
        ("key_1,key_2\n10,11\n", "no column same"),
        ("key_1,key_2,same\n", "no pairs"),
    ],
)
def test_faulty_tables_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(PairFileError, match=complaint):
        read_pairs(StandInRecords([[0, 0]]), tmp_path / "p.csv")
    with pytest.raises(FileNotFoundError):
        read_pairs(StandInRecords([[0, 0]]), tmp_path / "absent.csv")


def test_drawn_pairs() -> None:
    records = StandInRecords([np.repeat(np.arange(30), 4).tolist()])
    pairs, again, other = (draw_pairs(records, 60, seed, folds=3) for seed in (5, 5, 6))
    image = np.array([int(i.split()[1]) for i in pairs.images])
    first, second = records.labels[image[pairs.first]], records.labels[image[pairs.second]]
    assert np.array_equal(first == second, pairs.same) and pairs.same.sum() == 30
    assert len({frozenset(p) for p in zip(image[pairs.first], image[pairs.second], strict=True)}) == 60
    people = [set(first[pairs.fold == f]) | set(second[pairs.fold == f]) for f in range(3)]
    assert not (people[0] & people[1] or people[0] & people[2] or people[1] & people[2])
    for f in range(3):
        assert pairs.same[pairs.fold == f].sum() == 10 and (pairs.fold == f).sum() == 20
    assert np.array_equal(pairs.first, again.first) and list(pairs.images) == list(again.images)
    assert not np.array_equal(pairs.first, other.first)


def test_too_many_drawn_pairs_are_refused() -> None:
    records = StandInRecords([[0, 0, 1, 1]])
    with pytest.raises(ValueError, match="genuine pairs, 10 are wanted"):
        draw_pairs(records, 20, folds=1)
    with pytest.raises(ValueError, match="multiple"):
        draw_pairs(records, 7, folds=2)


def test_positions_outside_the_images() -> None:
    with pytest.raises(ValueError, match="outside"):
        PairSet("x", IMAGES, np.array([0]), np.array([3]), np.array([True]))
    with pytest.raises(ValueError, match="length"):
        PairSet("x", IMAGES, np.array([0]), np.array([1, 2]), np.array([True]))


def test_real_bins(real_data: Path) -> None:
    from recognition.data.records import Records

    small = read_bin(real_data / "small_lfw.bin")
    assert len(small) == 10 and small.same.all()
    assert all(image[:2] == b"\xff\xd8" for image in small.images)
    bin_, table = (
        read_bin(real_data / "lfw/lfw_folds78.bin"),
        read_pairs(Records(real_data / "lfw/test.rec"), real_data / "lfw/test_pairs.csv"),
    )
    assert len(bin_) == len(table) == 1200 and np.array_equal(bin_.same, table.same)
    for side in ("first", "second"):
        for i, j in zip(getattr(bin_, side), getattr(table, side), strict=True):
            assert bin_.images[i] == table.images[j]
    assert np.bincount(table.fold).tolist() == [0] * 7 + [600, 600]
