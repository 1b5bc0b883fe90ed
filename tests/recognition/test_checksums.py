"""Checksums beside records: every flipped bit is found, and a checksum file that is not theirs is refused."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.data.checksums import read_checksums, write_checksums
from recognition.data.record_format import MAGIC_BYTES
from recognition.data.recordio import Header, RecordError, RecordReader, RecordWriter, pack, unpack
from recognition.data.records import Records
from recognition.data.survey import survey

FLIPS = 500


def faces(folder: Path, count: int = 8, checksum: bool = True) -> Path:
    with RecordWriter(folder / "x", checksum=checksum) as writer:
        for key in range(count):
            coarse = np.random.default_rng(key).integers(0, 256, (9, 9, 3), dtype=np.uint8)
            pixels = cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_CUBIC)
            payload = cv2.imencode(".jpg", pixels)[1].tobytes()
            writer.write(key, pack(Header(0, float(key % 3), key, 0), payload))
    return folder / "x"


def test_the_file_holds_the_crc32_of_each_payload(tmp_path):
    payloads = {7: b"", 3: b"12345", 10**17: MAGIC_BYTES * 3 + b"z", 4: pack(Header(0, 2.0, 4, 0), b"picture")}
    with RecordWriter(tmp_path / "x", checksum=True) as writer:
        for key, payload in payloads.items():
            writer.write(key, payload)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.crc", "x.idx", "x.rec"]
    lines = [f"{key}\t{zlib.crc32(payload):08x}\n" for key, payload in payloads.items()]
    assert (tmp_path / "x.crc").read_text() == "".join(lines)
    reader = RecordReader(tmp_path / "x")
    assert reader.checksums.dtype == np.uint32
    assert {key: reader.read(key) for key in payloads} == payloads
    (tmp_path / "x.crc").write_text("".join(lines[::-1]).replace("\n", "\r\n"))  # the order does not matter
    assert {key: RecordReader(tmp_path / "x").read(key) for key in payloads} == payloads


def test_all_of_500_flipped_bits_are_found_most_of_which_still_decode(tmp_path):
    path = faces(tmp_path)
    with RecordReader(path) as reader:
        sound = {key: reader.read(key) for key in reader.keys.tolist()}
        offsets = dict(zip(reader.keys.tolist(), reader.offsets.tolist(), strict=True))
    whole = Path(f"{path}.rec").read_bytes()
    draw, decoded = np.random.default_rng(0), 0
    for _ in range(FLIPS):
        key = int(draw.integers(len(sound)))
        bit = int(draw.integers(24 * 8, len(sound[key]) * 8))  # of the JPEG behind the image header
        data = bytearray(whole)
        data[offsets[key] + 8 + bit // 8] ^= 1 << bit % 8
        Path(f"{path}.rec").write_bytes(data)
        reader = RecordReader(path)
        with pytest.raises(
            RecordError, match=rf"x\.rec, key {key}, offset {offsets[key]}: .*x\.crc says [0-9a-f]{{8}}"
        ):
            reader.read(key)
        assert all(reader.read(other) == sound[other] for other in sound if other != key)
        _, jpeg = unpack(reader.read_row(reader.row(key), check=False))
        decoded += cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) is not None
    print(f"{FLIPS} flipped bits of JPEGs found, of which {decoded} still decode")
    assert decoded > FLIPS * 0.8, "checksums are for damage that decodes"


def test_flipped_labels_are_found_when_read(tmp_path):
    path = faces(tmp_path)
    data = bytearray(Path(f"{path}.rec").read_bytes())
    data[RecordReader(path).offsets[2] + 8 + 4 : RecordReader(path).offsets[2] + 8 + 8] = np.float32(1).tobytes()
    Path(f"{path}.rec").write_bytes(data)
    records = Records(path)
    assert records.labels[2] == 1, "opening looks at headers only"
    with pytest.raises(RecordError, match=r"key 2, .*checksum"):
        records.read(2)


def test_a_damaged_header_record_is_a_bad_one(tmp_path):
    with RecordWriter(tmp_path / "x", checksum=True) as writer:
        writer.write(0, pack(Header(0, [2.0, 2.0], 0, 0), b""))
        writer.write(1, pack(Header(0, 0.0, 1, 0), b"picture"))
    assert not survey(RecordReader(tmp_path / "x")).problem.any()
    data = bytearray((tmp_path / "x.rec").read_bytes())
    data[8 + 16] ^= 1  # its id2
    (tmp_path / "x.rec").write_bytes(data)
    with pytest.raises(RecordError, match="key 0, offset 0: bad record, its bytes are not those that were written"):
        Records(tmp_path / "x")
    assert len(Records(tmp_path / "x", bad_record_limit=1.0)) == 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda lines: lines[:-1], r"no checksum for key 7 \(7 lines for 8 records\)"),
        (lambda lines: [], "no checksum for key 0"),
        (lambda lines: [*lines, lines[3]], "key 3 stands in it more than once"),
        (lambda lines: [*lines[:2], b"2\tzzzzzzzz\n", *lines[3:]], "line 3: found no checksum of 8 digits"),
        (lambda lines: [*lines[:2], b"2\t1234567\n", *lines[3:]], "shorter than"),
        (lambda lines: [*lines[:2], b"22\t1234567\n", *lines[3:]], "line 3: found no checksum"),
        (lambda lines: [*lines[:2], b"2\t112345678\n", *lines[3:]], "line 3: more than 8 digits"),
        (lambda lines: [*lines[:2], b"2 12345678\n", *lines[3:]], "line 3: found .*wanted `key TAB crc32"),
        (lambda lines: [*lines[:2], b"-2\t12345678\n", *lines[3:]], "line 3: found"),
        (lambda lines: [*lines[:2], b"2\t1234567A\n", *lines[3:]], "line 3: found no checksum"),
        (lambda lines: [*lines[:7], lines[7][:-4]], "line 8: found no checksum|shorter"),
        (lambda lines: [b"\n"], "no checksum for key 0"),
        (lambda lines: [*lines[:2], b"\n", *lines[3:]], "shorter"),
    ],
)
def test_checksum_files_that_cannot_be_are_refused(tmp_path, change, what):
    path = faces(tmp_path)
    beside = Path(f"{path}.crc")
    beside.write_bytes(b"".join(change(beside.read_bytes().splitlines(keepends=True))))
    with pytest.raises(RecordError, match=what) as raised:
        RecordReader(path)
    assert str(beside) in str(raised.value)


def test_a_file_of_many_keys_is_read_in_pieces_and_may_name_more(tmp_path):
    draw = np.random.default_rng(0)
    keys, checksums = draw.permutation(600_000), draw.integers(0, 2**32, 600_000)
    pairs = zip(keys.tolist(), checksums.tolist(), strict=True)
    write_checksums(tmp_path / "x.crc", pairs)
    asked = draw.integers(0, 600_000, 1000)
    order = np.argsort(keys)
    assert (read_checksums(tmp_path / "x.crc", asked) == checksums[order[asked]]).all()
    with pytest.raises(RecordError, match="no checksum for key 600000"):
        read_checksums(tmp_path / "x.crc", np.array([3, 600_000]))


def test_new_records_never_stand_beside_old_checksums(tmp_path):
    faces(tmp_path)
    path = faces(tmp_path, 5, checksum=False)
    assert not Path(f"{path}.crc").exists() and RecordReader(path).checksums is None
    faces(tmp_path, 6)
    assert len(RecordReader(path).checksums) == 6
    with pytest.raises(KeyboardInterrupt), RecordWriter(path, checksum=True) as writer:
        writer.write(0, b"")
        raise KeyboardInterrupt
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.crc", "x.idx", "x.rec"]
    assert len(RecordReader(path).checksums) == 6


def test_a_writer_takes_up_its_checksums(tmp_path):
    with RecordWriter(tmp_path / "whole", checksum=True) as writer:
        for key in range(9):
            writer.write(key, bytes([key]) * key)
    writer = RecordWriter(tmp_path / "x", checksum=True)
    for key in range(5):
        writer.write(key, bytes([key]) * key)
    sizes = writer.checkpoint()
    writer.write(5, b"lost")
    writer.suspend()
    with RecordWriter(tmp_path / "x", resume_at=sizes, checksum=True) as writer:
        for key in range(5, 9):
            writer.write(key, bytes([key]) * key)
    for ending in ("rec", "idx", "crc"):
        assert (tmp_path / f"x.{ending}").read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
    assert not re.search("partial", " ".join(path.name for path in tmp_path.iterdir()))
