"""Record files: the published ones exactly, every damage by name, and the writer's bytes."""

import filecmp
import itertools
import json
import multiprocessing
import os
import pickle
import struct
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.data.record_format import MAGIC_BYTES, split
from recognition.data.recordio import Header, RecordError, RecordReader, RecordWriter, pack, unpack
from recognition.data.records import Records

FILES = ("insightface", "magic", "plain", "vector_label")


@pytest.fixture(scope="module")
def folder(oracles: Path) -> Path:
    return oracles / "recordio"


@pytest.fixture(scope="module")
def manifest(folder: Path) -> dict[str, list[dict]]:
    return json.loads((folder / "manifest.json").read_text())


def plain_parse(data: bytes) -> list[bytes]:
    """Records of a sound file, word by word: an independent re-derivation of the format."""
    records, at, open_record = [], 0, None
    while at < len(data):
        magic, word = struct.unpack_from("<II", data, at)
        assert magic == 0xCED7230A
        kind, length = word // 2**29, word % 2**29
        body = data[at + 8 : at + 8 + length]
        open_record = body if kind in (0, 1) else open_record + struct.pack("<I", 0xCED7230A) + body
        if kind in (0, 3):
            records.append(open_record)
        at += 8 + (length + 3) // 4 * 4
    return records


@pytest.mark.parametrize("name", FILES)
def test_files_of_mxnet_are_read_as_the_manifest_says(folder, manifest, name):
    with RecordReader(folder / name) as reader:
        assert reader.keys.tolist() == [entry["key"] for entry in manifest[name]]
        for entry in manifest[name]:
            record = reader.read(entry["key"])
            assert (len(record), zlib.crc32(record)) == (entry["bytes"], entry["crc32"])
            if "flag" not in entry:
                continue
            header, payload = unpack(record)
            assert (header.flag, header.id, header.id2) == (entry["flag"], entry["id"], entry["id2"])
            assert np.atleast_1d(header.label).tolist() == entry["label"]
            assert (len(payload), zlib.crc32(payload)) == (entry["payload_bytes"], entry["payload_crc32"])
            if "shape" in entry:
                picture = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR)
                assert list(picture.shape) == entry["shape"]
                np.testing.assert_allclose(picture.reshape(-1, 3).mean(0), entry["mean_bgr"], atol=5e-4)


@pytest.mark.parametrize("name", FILES)
def test_rewriting_gives_the_same_bytes(folder, tmp_path, name):
    with RecordReader(folder / name) as reader, RecordWriter(tmp_path / name) as writer:
        for key in reader.keys.tolist():
            record = reader.read(key)
            if name != "magic":
                header, payload = unpack(record)
                assert pack(header, payload) == record
            writer.write(key, record)
    for ending in (".rec", ".idx"):
        assert filecmp.cmp(folder / (name + ending), tmp_path / (name + ending), shallow=False)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_index_is_found_by_scanning(folder, tmp_path, name):
    (tmp_path / "x.rec").write_bytes((folder / f"{name}.rec").read_bytes())
    rebuilt, indexed = RecordReader(tmp_path / "x.rec"), RecordReader(folder / name)
    assert rebuilt.index_rebuilt and not indexed.index_rebuilt
    assert rebuilt.keys.tolist() == indexed.keys.tolist()
    assert rebuilt.offsets.tolist() == indexed.offsets.tolist()
    assert not (tmp_path / "x.idx").exists()


def test_scanning_takes_keys_from_the_headers_where_they_tell_records_apart(tmp_path):
    for ids, keys in (((7, 3, 5), [7, 3, 5]), ((4, 4, 4), [0, 1, 2])):
        with RecordWriter(tmp_path / "x") as writer:
            for number, identifier in enumerate(ids):
                writer.write(number, pack(Header(0, 1.0, identifier, 0), b"jpeg"))
        (tmp_path / "x.idx").unlink()
        assert RecordReader(tmp_path / "x").keys.tolist() == keys


def test_random_payloads_round_trip_and_split_only_at_aligned_magic_words(tmp_path):
    draw = np.random.default_rng(1)
    cases = [b"", MAGIC_BYTES, MAGIC_BYTES[:3], b"ab" + MAGIC_BYTES, MAGIC_BYTES * 3 + b"z"]
    for _ in range(500):
        pieces = [MAGIC_BYTES if draw.random() < 0.4 else draw.bytes(int(draw.integers(0, 9))) for _ in range(6)]
        cases.append(b"".join(pieces))
    with RecordWriter(tmp_path / "x") as writer:
        for key, payload in enumerate(cases):
            writer.write(key, payload)
    assert plain_parse((tmp_path / "x.rec").read_bytes()) == cases
    reader = RecordReader(tmp_path / "x")
    assert [reader.read(key) for key in range(len(cases))] == cases
    for payload in cases:
        aligned = sum(payload[at : at + 4] == MAGIC_BYTES for at in range(0, len(payload), 4))
        assert len(list(split(payload))) == aligned + 1


def test_keys_in_any_order_are_found(tmp_path):
    with RecordWriter(tmp_path / "x") as writer:
        for key in (5, 2, 9, 0):
            writer.write(key, b"%d" % key)
    reader = RecordReader(tmp_path / "x")
    assert reader.keys.tolist() == [5, 2, 9, 0]
    assert [reader.read(key) for key in (0, 2, 5, 9)] == [b"0", b"2", b"5", b"9"]
    assert [reader.row(key) for key in (0, 2, 5, 9)] == [3, 1, 0, 2]
    assert 9 in reader and 1 not in reader and len(reader) == 4
    with pytest.raises(RecordError, match=r"x\.rec has no record with key 7: it has 4 keys from 0 to 9"):
        reader.read(7)


def test_pack_takes_numbers_and_vectors():
    header, payload = unpack(pack(Header(99, 3, 2**64 - 1, 7), b"jpeg"))
    assert header == Header(0, 3.0, 2**64 - 1, 7) and payload == b"jpeg"
    header, payload = unpack(pack(Header(0, [1.5, -2.0], 4, 5), b""))
    assert (header.flag, header.label.tolist(), header.id, payload) == (2, [1.5, -2.0], 4, b"")
    assert pack(Header(0, np.float32(2), 1, 0), b"") == pack(Header(0, 2.0, 1, 0), b"")
    for wrong in (Header(0, 1e40, 0, 0), Header(0, 1.0, -1, 0), Header(0, 1.0, 2**64, 0)):
        with pytest.raises(ValueError, match="float32"):
            pack(wrong, b"")
    for short, what in ((b"abc", "no image header"), (struct.pack("<IfQQ", 3, 0, 0, 0) + b"12345678", "3 labels")):
        with pytest.raises(RecordError, match=what):
            unpack(short)


def test_nothing_appears_when_writing_fails(tmp_path):
    with RecordWriter(tmp_path / "x") as writer:
        writer.write(0, b"old")
    with pytest.raises(RuntimeError, match="stop"), RecordWriter(tmp_path / "x") as writer:
        writer.write(0, b"new")
        raise RuntimeError("stop")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.idx", "x.rec"]
    assert RecordReader(tmp_path / "x").read(0) == b"old"


def test_an_earlier_index_never_stands_beside_a_new_file(tmp_path, monkeypatch):
    with RecordWriter(tmp_path / "x") as writer:
        writer.write(0, b"old and long")
        writer.write(1, b"old")
    replace = os.replace

    def dies_at_the_index(source, target):
        if str(target).endswith(".idx"):
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", dies_at_the_index)
    with pytest.raises(OSError, match="disk full"), RecordWriter(tmp_path / "x") as writer:
        writer.write(0, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x.rec"]
    assert RecordReader(tmp_path / "x").read(0) == b"new"


def test_writer_refuses_bad_keys(tmp_path):
    with RecordWriter(tmp_path / "x") as writer:
        writer.write(4, b"a")
        writer.write(2, b"b")
        for key, what in ((4, "already"), (2, "already"), (-1, "between 0")):
            with pytest.raises(ValueError, match=f"key {key} .*{what}"):
                writer.write(key, b"c")
    assert RecordReader(tmp_path / "x").keys.tolist() == [4, 2]


def test_a_suspended_writer_goes_on_behind_its_checkpoint(tmp_path):
    def write(writer, keys):
        for key in keys:
            writer.write(key, bytes([key]) * key + MAGIC_BYTES)

    with RecordWriter(tmp_path / "whole") as writer:
        write(writer, range(20))
    writer = RecordWriter(tmp_path / "x")
    write(writer, range(8))
    reached = writer.checkpoint()
    write(writer, range(8, 11))  # written, but behind the checkpoint: as after a kill
    writer.suspend()
    with RecordWriter(tmp_path / "x", resume_at=reached) as writer:
        with pytest.raises(ValueError, match="already"):
            writer.write(7, b"")
        write(writer, range(8, 20))
    for ending in (".rec", ".idx"):
        assert filecmp.cmp(tmp_path / f"whole{ending}", tmp_path / f"x{ending}", shallow=False)
    with pytest.raises(RecordError, match="begin again"):
        RecordWriter(tmp_path / "nothing", resume_at=(8, 4))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: 16408 + 100], r"insightface\.idx, key 5: offset 21732 does not lie in insightface\.rec"),
        (lambda data: data[:-4], r"insightface\.rec, key 18, offset 77004: 32 bytes must follow.*77040.*truncated"),
        (lambda data: data[:1] * 40 + data[40:], r"insightface\.rec, key 0, offset 0: found 0x0a0a0a0a"),
        (lambda data: data[:7] + b"\x40" + data[8:], r"key 0, offset 0: found a part of kind 2 at the beginning"),
        (lambda data: data[:7] + b"\x20" + data[8:], r"key 0, offset 40: found a part of kind 0 within a record"),
    ],
)
def test_damage_is_named_by_file_key_and_offset(folder, tmp_path, damage, message):
    (tmp_path / "insightface.rec").write_bytes(damage((folder / "insightface.rec").read_bytes()))
    (tmp_path / "insightface.idx").write_bytes((folder / "insightface.idx").read_bytes())
    with pytest.raises(RecordError, match=message):
        reader = RecordReader(tmp_path / "insightface")
        for key in reader.keys.tolist():
            reader.read(key)


def test_scanning_a_truncated_file_says_how_much_is_whole(folder, tmp_path):
    (tmp_path / "x.rec").write_bytes((folder / "insightface.rec").read_bytes()[:5700])
    with pytest.raises(RecordError, match=r"x\.rec, after 1 whole records, offset 40: 5669 bytes must follow"):
        RecordReader(tmp_path / "x")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("0\t0\n1\tx\n", 2),
        ("0 0\n", 1),
        ("0\t0\n\n1\t40\n", 2),
        ("0\t0\n1\n", 2),
        ("0\t-4\n", 1),
        ("0\t" + "9" * 19, 1),
    ],
)
def test_a_malformed_index_is_named_by_line(folder, tmp_path, text, line):
    (tmp_path / "x.rec").write_bytes((folder / "plain.rec").read_bytes())
    (tmp_path / "x.idx").write_text(text)
    with pytest.raises(RecordError, match=rf"x\.idx, line {line}: .*wanted `key TAB offset`"):
        RecordReader(tmp_path / "x")


def test_an_index_may_end_lines_as_windows_does_but_not_repeat_a_key(folder, tmp_path):
    (tmp_path / "x.rec").write_bytes((folder / "plain.rec").read_bytes())
    (tmp_path / "x.idx").write_bytes(b"3\t4148\r\n1\t0\r\n\r\n")
    reader = RecordReader(tmp_path / "x")
    assert (reader.keys.tolist(), reader.offsets.tolist()) == ([3, 1], [4148, 0])
    (tmp_path / "x.idx").write_bytes(b"3\t4148\n3\t0\n")
    with pytest.raises(RecordError, match="key 3 stands in the index more than once"):
        RecordReader(tmp_path / "x")


def test_empty_and_missing_files(tmp_path):
    with RecordWriter(tmp_path / "x"):
        pass
    reader = RecordReader(tmp_path / "x.rec")
    assert len(reader) == 0 and (tmp_path / "x.idx").read_bytes() == b""
    with pytest.raises(RecordError, match="it is empty"):
        reader.read(0)
    with pytest.raises(FileNotFoundError, match=r"no record file .*y\.rec"):
        RecordReader(tmp_path / "y")


def test_threads_share_a_reader(folder):
    reader = RecordReader(folder / "insightface")
    expected = {key: zlib.crc32(RecordReader(folder / "insightface").read(key)) for key in reader.keys.tolist()}
    wrong: list[int] = []

    def work(seed: int) -> None:
        for key in np.random.default_rng(seed).permutation(np.repeat(reader.keys, 200)).tolist():
            if zlib.crc32(reader.read(key)) != expected[key]:
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _checksums(reader: RecordReader, queue) -> None:
    queue.put([zlib.crc32(reader.read(key)) for key in reader.keys.tolist()])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_open_the_map_for_themselves(folder, method):
    reader = RecordReader(folder / "insightface")
    expected = [zlib.crc32(reader.read(key)) for key in reader.keys.tolist()]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_checksums, args=(reader, queue))
    process.start()
    assert queue.get(timeout=60) == expected
    process.join()
    copy = pickle.loads(pickle.dumps(reader))
    assert [zlib.crc32(copy.read(key)) for key in copy.keys.tolist()] == expected
    reader.close()
    assert zlib.crc32(reader.read(0)) == expected[0]


def damage(data: bytes, way: int, draw: np.random.Generator) -> tuple[bytes, list[int]]:
    """Cut off (way 0), insert (1), or change bytes or bits (2 and more). Returns the bytes and the places changed."""
    target = bytearray(data)
    places = sorted(draw.integers(0, len(target), int(draw.integers(1, 4))).tolist())
    if way == 0:
        del target[places[0] :]
    elif way == 1:
        target[places[0] : places[0]] = draw.bytes(int(draw.integers(1, 9)))
    else:
        for place in places:
            target[place] = int(draw.integers(0, 256)) if way < 4 else target[place] ^ 1 << int(draw.integers(0, 8))
    return bytes(target), places


def write_small_set(path: Path, draw: np.random.Generator) -> None:
    with RecordWriter(path) as writer:
        writer.write(0, pack(Header(2, [7, 9], 0, 0), b""))
        for key in range(1, 6):
            payload = b"\xff\xd8" + draw.bytes(20) + b"\0" * (key % 4) + MAGIC_BYTES * (key == 3) + b"\xff\xd9"
            writer.write(key, pack(Header(0, float(key // 2), key, 0), payload))
        writer.write(6, pack(Header(0, [2.0, 1.0, 5.0], 6, 0), b"\xff\xd8 vector \xff\xd9"))
        writer.write(7, pack(Header(2, [1, 3], 7, 0), b""))


def test_two_thousand_damaged_files_give_the_right_answer_or_a_record_error(tmp_path):
    """A record whose own bytes did not change is read as before or refused, and nothing else than RecordError comes."""
    draw = np.random.default_rng(3)
    write_small_set(tmp_path / "sound", draw)
    reference = RecordReader(tmp_path / "sound")
    bounds = [*reference.offsets.tolist(), reference.size]
    sound = {ending: (tmp_path / f"sound{ending}").read_bytes() for ending in (".rec", ".idx")}
    errors = answers = 0
    for number in range(2000):
        ending, way, indexed = ".rec" if number % 4 else ".idx", number % 5, bool(number % 3)
        files = dict(sound)
        files[ending], places = damage(sound[ending], way, draw)
        (tmp_path / "x.rec").write_bytes(files[".rec"])
        (tmp_path / "x.idx").unlink(missing_ok=True)
        if indexed or ending == ".idx":
            (tmp_path / "x.idx").write_bytes(files[".idx"])
        touched = [
            ending == ".rec" and (way < 2 or any(begin <= place < end for place in places))
            for begin, end in itertools.pairwise(bounds)
        ]
        try:
            reader = RecordReader(tmp_path / "x")
            for row, offset in enumerate(reader.offsets.tolist()):
                if offset in bounds and not touched[k := bounds.index(offset)]:
                    assert reader.read_row(row) == reference.read_row(k), f"case {number}: row {row}"
                    answers += 1
            records = Records(tmp_path / "x")
            for i in range(len(records)):
                assert records.read(i) == unpack(reader.read(int(records.key[i])))[1]
            assert records.labels.min() >= 0 and records.num_classes == records.labels.max() + 1
        except RecordError:
            errors += 1
    assert errors > 1000 and answers > 1000
