"""The report on record files, and what it finds."""

import shutil
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.data.recordio import Header, RecordReader, RecordWriter, pack
from tools import inspect_records


@pytest.fixture
def small(tmp_path: Path, oracles: Path) -> Path:
    for ending in (".rec", ".idx"):
        shutil.copyfile(oracles / "recordio" / f"insightface{ending}", tmp_path / f"small{ending}")
    return tmp_path / "small"


def report(capsys, *arguments: object) -> tuple[int, str]:
    status = inspect_records.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_a_sound_file_is_described(small, capsys):
    status, text = report(capsys, small, "--decode")
    assert status == 0 and "bad" not in text
    assert "19: 14 image, 1 header, 4 identity" in text
    assert "112x112 (14)" in text and "smallest" in text and "index: small.idx" in text
    assert "4 (labels 0 to 3), 0 of them without an image; images per class: 2 to 5, mean 3.5" in text
    bars = {line.split()[0]: int(line.split()[3]) for line in text.splitlines() if "per class " in line and "#" in line}
    assert bars == {"2": 1, "3-4": 2, "5-8": 1}


def test_histogram_counts_classes_by_their_images():
    counts = np.array([1, 1, 2, 3, 4, 5, 8, 9, 16, 17])
    found = {line.split()[0]: int(line.split()[3]) for line in inspect_records.histogram(counts)}
    assert found == {"1": 2, "2": 1, "3-4": 2, "5-8": 2, "9-16": 2, "17-32": 1}


def test_bad_records_are_listed_by_key_and_offset(small, capsys):
    data = bytearray(Path(f"{small}.rec").read_bytes())
    data[5720 + 32 : 5720 + 40] = b"no image"  # key 2: its JPEG's first bytes
    data[11172 + 12 : 11172 + 16] = np.float32(-4).tobytes()  # key 3: its label
    data[16408] ^= 1  # key 4: its magic word
    Path(f"{small}.rec").write_bytes(data)
    status, text = report(capsys, small, "--decode")
    assert status == 1 and "14 image" not in text
    bad = [line for line in text.splitlines() if line.startswith("bad: ")]
    assert len(bad) == 3 and "3 bad" in text
    for line, what in zip(
        bad,
        (
            "key 2, offset 5720: 5417 bytes that do not decode as an image",
            "key 3, offset 11172: its label is negative (-4)",
            "key 4, offset 16408: its frame is corrupt",
        ),
        strict=True,
    ):
        assert what in line


def test_a_jpeg_without_its_end_is_bad(tmp_path, capsys):
    _, coded = cv2.imencode(".jpg", np.full((112, 112, 3), 90, np.uint8))
    whole = coded.tobytes()
    with RecordWriter(tmp_path / "x") as writer:
        for key, jpeg in enumerate((whole, whole[:-2], whole[: len(whole) // 2], b"\x89PNG")):
            writer.write(key, pack(Header(0, 0.0, key, 0), jpeg))
    status, text = report(capsys, tmp_path / "x", "--decode")
    assert status == 1 and "3 bad" in text and "key 0," not in text


def test_a_missing_index_is_rebuilt_on_demand(small, capsys):
    index = Path(f"{small}.idx")
    before = index.read_bytes()
    assert report(capsys, small, "--rebuild-index") == (
        2,
        f"error: {index} is there already: move it away to have it rebuilt\n",
    )
    index.unlink()
    status, text = report(capsys, small)
    assert status == 0 and "none, keys found by scanning" in text and not index.exists()
    assert report(capsys, f"{small}.rec", "--rebuild-index") == (0, f"{index}: 19 records\n")
    assert index.read_bytes() == before


def test_truncated_files_and_partial_indexes_are_told(small, tmp_path, capsys):
    lines = Path(f"{small}.idx").read_text().splitlines(keepends=True)
    Path(f"{small}.idx").write_text("".join(lines[:-1]))
    status, text = report(capsys, small)
    assert status == 0 and "not indexed    40 bytes" in text
    Path(f"{small}.rec").write_bytes(Path(f"{small}.rec").read_bytes()[:30000])
    status, text = report(capsys, small)
    assert status == 1 and "small.idx, key 7: offset 32" in text and "truncated" in text
    Path(f"{small}.idx").unlink()
    status, text = report(capsys, small, "--rebuild-index")
    assert status == 1 and "after 6 whole records" in text and not Path(f"{small}.idx").exists()
    assert report(capsys, tmp_path / "nothing")[0] == 2


def test_shards_of_one_set_are_counted_together(tmp_path, capsys):
    _, coded = cv2.imencode(".jpg", np.full((112, 112, 3), 90, np.uint8))
    for shard, labels in enumerate(((0, 1), (1, 3))):
        with RecordWriter(tmp_path / f"set-{shard:05d}-of-00002") as writer:
            for key, label in enumerate(labels):
                writer.write(key, pack(Header(0, label, key, 0), coded.tobytes()))
    status, text = report(capsys, tmp_path)
    assert status == 0 and "4 images in 2 shards" in text
    assert "4 (labels 0 to 3), 1 of them without an image; images per class: 1 to 2" in text


def test_a_sheet_shows_pictures(small, tmp_path, capsys, oracles):
    status, text = report(capsys, small, oracles / "recordio" / "plain", "--sheet", tmp_path / "s.png", "--columns", 4)
    assert status == 0 and "sheet of 20 pictures" in text
    page = cv2.imread(str(tmp_path / "s.png"))
    assert page.shape == (5 * 126, 4 * 112, 3)
    cells = [page[y * 126 : y * 126 + 112, x * 112 : x * 112 + 112] for y in range(5) for x in range(4)]
    assert all(cell.std() > 10 for cell in cells)
    with pytest.raises(SystemExit):
        inspect_records.main([str(small), "--sheet", "sheet.gif"])


def test_checksums_are_written_once_and_verified(small, capsys):
    path = Path(f"{small}.crc")
    status, text = report(capsys, small, "--checksum")
    assert status == 2 and "small.crc is not there; --write-checksum makes it" in text
    assert report(capsys, small, "--write-checksum") == (0, f"{path}: 19 records\n")
    reader = RecordReader(small)
    assert path.read_text() == "".join(f"{key}\t{zlib.crc32(reader.read(key)):08x}\n" for key in reader.keys.tolist())
    status, text = report(capsys, small, "--write-checksum")
    assert status == 2 and "is there already: --checksum verifies it" in text
    status, text = report(capsys, small, "--checksum")
    assert status == 0 and text == f"{small}.rec: 19 of 19 records agree with small.crc\n"


def test_each_record_that_does_not_agree_is_named_by_key_and_offset(small, capsys):
    report(capsys, small, "--write-checksum")
    data = bytearray(Path(f"{small}.rec").read_bytes())
    for offset in (5720, 16408):  # keys 2 and 4
        data[offset + 3000] ^= 1
    data[-6] ^= 1  # the last identity record: its id2
    Path(f"{small}.rec").write_bytes(data)
    status, text = report(capsys, small)
    assert status == 1 and "key 2, offset 5720" in text, "a plain look reads the pictures too"
    status, text = report(capsys, small, "--checksum")
    bad = [line for line in text.splitlines() if line.startswith("bad: ")]
    assert status == 1 and "16 of 19 records agree" in text and "3 bad" in text
    for line, place in zip(bad, ("key 2, offset 5720", "key 4, offset 16408", "key 18, offset 77004"), strict=True):
        assert f"small.rec, {place}: its " in line and "not those that were written" in line
    Path(f"{small}.crc").write_text("0\tno\n")
    assert report(capsys, small, "--checksum")[0] == 1


def test_no_checksum_is_written_of_damage(small, capsys):
    data = bytearray(Path(f"{small}.rec").read_bytes())
    data[16408] ^= 1  # key 4: its magic word
    Path(f"{small}.rec").write_bytes(data)
    status, text = report(capsys, small, "--write-checksum")
    assert status == 1 and "key 4, offset 16408" in text
    assert sorted(path.name for path in small.parent.iterdir()) == ["small.idx", "small.rec"]


def test_pictures_that_training_refuses_are_bad(tmp_path, capsys):
    def jpeg(side: int) -> bytes:
        return cv2.imencode(".jpg", np.full((side, side, 3), 90, np.uint8))[1].tobytes()

    at = (whole := jpeg(112)).index(b"\xff\xc0") + 5
    with RecordWriter(tmp_path / "x") as writer:
        for key, image in enumerate((whole, jpeg(1), jpeg(4), whole[:at] + b"\x7f\xff" * 2 + whole[at + 4 :])):
            writer.write(key, pack(Header(0, 0.0, key, 0), image))
    status, text = report(capsys, tmp_path / "x", "--decode")
    assert status == 1 and "2 bad" in text
    assert "key 1, offset" in text and "1 x 1 pixels; a face takes at least 4 x 4" in text
    assert "key 3, offset" in text and "it states 32767 x 32767 pixels" in text
