"""Bad records and bad files at opening: refused in words, or left out and listed."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from recognition.data.bad_records import OPENING
from recognition.data.recordio import Header, RecordError, RecordReader, RecordWriter, pack
from recognition.data.records import Records


def write(path: Path, labels: list, keys: list[int] | None = None) -> Path:
    """A set whose image of label l and key k is the bytes `l:k`."""
    with RecordWriter(path) as writer:
        for key, label in zip(keys or range(len(labels)), labels, strict=True):
            writer.write(key, pack(Header(0, label, key, 0), f"{label}:{key}".encode()))
    return path.with_suffix(".rec")


def change(path: Path, at: int, new: bytes) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:at] + new + data[at + len(new) :])


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, dict[int, str]]:
    """Thirty records, and what is wrong with some of them, by key."""
    labels: list = [n % 6 for n in range(30)]
    labels[3], labels[4], labels[5] = float("nan"), -1.0, 0.5
    labels[6], labels[7], labels[8] = float("inf"), 9_999_999.0, 2.0**25
    path = write(tmp_path / "x", labels)
    offset = RecordReader(path).offsets
    change(path, int(offset[10]), b"\0")  # magic word
    change(path, int(offset[11]) + 4, struct.pack("<I", 8))  # length
    change(path, int(offset[12]) + 8, struct.pack("<I", 999))  # labels announced
    change(path, int(offset[29]) + 4, struct.pack("<I", 4000))  # length, the last record
    index = path.with_suffix(".idx")
    lines = index.read_text().splitlines()
    lines[13], lines[14] = "13\t123456788", f"14\t{offset[14] + 2}"
    index.write_text("\n".join(lines))
    return path, {
        3: "NaN or infinite (nan)",
        4: "negative (-1)",
        5: "no whole number (0.5)",
        6: "NaN or infinite (inf)",
        7: "too high: no more classes than the set has images, unless config.data.most_classes allows more (9999999)",
        8: "its label is over 2**24, where float32 no longer tells classes apart (33554432)",
        10: "frame is corrupt",
        11: "shorter than an image header",
        12: "label vector is longer",
        13: "its offset is no multiple of 4 or lies beyond the file's end",
        14: "its offset is no multiple of 4",
        29: "the file is truncated within it",
    }


def test_skipping_leaves_bad_records_out_and_says_why(damaged):
    path, problems = damaged
    records = Records(path, most_classes=0, bad_record_limit=0.5)
    assert [bad.key for bad in records.left_out] == [*problems]
    for bad, problem in zip(records.left_out, problems.values(), strict=True):
        assert problem in bad.problem
        assert (bad.file, bad.shard, bad.position, bad.replacement) == (str(path), 0, OPENING, None)
        assert bad.offset == RecordReader(path, strict=False).offsets[bad.key]
    kept = [key for key in range(30) if key not in problems]
    assert records.key.tolist() == kept and records.num_images == 18 and records.num_classes == 6
    assert records.counts == {"image": 18, "header": 0, "identity": 0, "empty": 0}
    assert records.labels.tolist() == [key % 6 for key in kept]
    assert [records.read(i) for i in range(18)] == [f"{key % 6}:{key}".encode() for key in kept]
    for key in problems:
        with pytest.raises(RecordError, match="no image record"):
            records.index_of(0, key)


def test_too_many_at_opening_are_an_error_that_gives_the_figures(damaged):
    path, problems = damaged
    for limit, too_many in ((11 / 30, True), (12 / 30, False), (0.001, True), (1.0, False)):
        if too_many:
            with pytest.raises(ValueError, match=rf"12 of 30 records are bad \(40.000%\).*limit={limit:g}.*key 3"):
                Records(path, most_classes=0, bad_record_limit=limit)
        else:
            assert len(Records(path, most_classes=0, bad_record_limit=limit).left_out) == len(problems)


def test_without_the_policy_the_first_is_named(damaged, tmp_path):
    path, _ = damaged
    with pytest.raises(RecordError, match=r"x\.idx, key 13: offset 123456788 does not lie in x\.rec"):
        Records(path)
    lines = path.with_suffix(".idx").read_text().splitlines()
    path.with_suffix(".idx").write_text("\n".join(lines[:13] + lines[15:]))
    with pytest.raises(RecordError, match=r"x\.rec, key 3, offset \d+: bad record, .*NaN.*; 9 more bad ones"):
        Records(path, most_classes=0)


def test_what_was_left_out_is_part_of_the_fingerprint(tmp_path):
    prints = set()
    for bad in (1, 2):
        labels = [0.0, 0.0, 0.0, 0.0]
        labels[bad] = float("nan")
        path = write(tmp_path / str(bad) / "x", labels)
        prints.add(Records(path, bad_record_limit=1.0).fingerprint())
    assert len(prints) == 2, "the same labels and index, but other images"


def test_labels_beyond_the_number_of_images_need_a_word(tmp_path):
    whole = write(tmp_path / "whole", [0, 1, 2, 3])  # every class has one image: the most that there can be
    assert Records(whole, most_classes=0).num_classes == 4
    part = write(tmp_path / "part", [70, 3, 70, 12])  # a part of a larger set
    with pytest.raises(RecordError, match=r"key 0, .*most_classes allows more \(70\); 2 more bad ones"):
        Records(part, most_classes=0)
    assert Records(part, most_classes=71).num_classes == 71
    with pytest.raises(RecordError, match=r"key 0, .*too high"):
        Records(part, most_classes=70)
    assert Records(part).num_classes == 71, "evaluation has no class centres, and takes any label"
    write(tmp_path / "s-00000-of-00002", [0, 5])
    write(tmp_path / "s-00001-of-00002", [1, 2, 3, 4])
    assert Records(tmp_path / "s", most_classes=0).num_classes == 6, "images of all shards count"
    with pytest.raises(RecordError, match=r"whole.rec, key 0|part\.rec, key 0"):
        Records([whole, part], "offset", most_classes=0)


def test_equal_labels_in_two_sets_need_a_word(tmp_path):
    one, two = write(tmp_path / "one", [0, 1, 2]), write(tmp_path / "two", [2, 3, 2])
    with pytest.raises(
        ValueError,
        match=r"one and .*two both have label 2 \(1 labels in common\)\. Set config\.data\.classes=shared where equal "
        r"labels are the same person in both, or config\.data\.classes=offset where they are other people",
    ):
        Records([one, two])
    assert Records([one, two], "shared").labels.tolist() == [0, 1, 2, 2, 3, 2]
    assert Records([one, two], "offset").labels.tolist() == [0, 1, 2, 5, 6, 5]
    other = write(tmp_path / "other", [5, 4, 3])
    assert Records([one, other]).labels.tolist() == [0, 1, 2, 5, 4, 3], "other numbers are other people"
    assert Records([one, other]).num_classes == 6
    write(tmp_path / "s-00000-of-00002", [3, 4])
    write(tmp_path / "s-00001-of-00002", [3, 5])
    assert Records([one, tmp_path / "s"]).labels.tolist() == [0, 1, 2, 3, 4, 3, 5], "shards of one set are one set"
    with pytest.raises(ValueError, match=r"two and .*s both have label 3"):
        Records([two, tmp_path / "s"])


@pytest.mark.parametrize("limit", [None, 1.0])
def test_a_file_without_an_image_is_named(tmp_path, limit):
    write(tmp_path / "s-00000-of-00002", [0, 1])
    empty = write(tmp_path / "s-00001-of-00002", [])
    with pytest.raises(RecordError, match=r"s-00001-of-00002\.rec: no image records \(0 records, 0 of them bad\)"):
        Records(tmp_path / "s", bad_record_limit=limit)
    with RecordWriter(empty) as writer:
        writer.write(0, pack(Header(0, 1.0, 0, 0), b""))
    with pytest.raises(RecordError, match=r"s-00001-of-00002\.rec: no image records \(1 records"):
        Records(tmp_path / "s", bad_record_limit=limit)
    for name in ("rec", "idx"):
        (tmp_path / f"nothing.{name}").write_bytes(b"")
    with pytest.raises(RecordError, match=r"nothing\.rec: no image records"):
        Records(tmp_path / "nothing", bad_record_limit=limit)


def test_a_shard_of_bad_records_only_is_named(tmp_path):
    write(tmp_path / "s-00000-of-00002", [0, 1, 1, 0, 0, 1])
    write(tmp_path / "s-00001-of-00002", [float("nan")])
    with pytest.raises(RecordError, match=r"s-00001-of-00002\.rec: no image records \(1 records, 1 of them bad\)"):
        Records(tmp_path / "s", bad_record_limit=0.5)


@pytest.mark.parametrize("limit", [None, 1.0])
def test_faults_of_whole_files_are_errors_by_any_policy(tmp_path, limit):
    path = write(tmp_path / "x", [0, 1, 2])
    index = path.with_suffix(".idx")
    sound = index.read_text()
    for text, what in (
        (sound.replace("1\t", "1 "), r"x\.idx, line 2: found"),
        (sound + "1\t0\n", "key 1 stands in the index more than once"),
        (sound.replace("2\t", "2222222222222222222\t"), "line 3: found"),
    ):
        index.write_text(text)
        with pytest.raises(RecordError, match=what):
            Records(path, bad_record_limit=limit)
    index.unlink()
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(RecordError, match=r"after 2 whole records, offset 72: .*truncated"):
        Records(path, bad_record_limit=limit)


def test_a_file_that_was_cut_loses_its_last_records_only_by_the_policy(tmp_path):
    path = write(tmp_path / "x", [n % 5 for n in range(100)])
    cut = int(RecordReader(path).offsets[98]) + 20
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(RecordError, match="key 99: offset"):
        Records(path)
    with pytest.raises(ValueError, match="2 of 100 records are bad"):
        Records(path, bad_record_limit=0.01)
    records = Records(path, bad_record_limit=0.02)
    assert [bad.key for bad in records.left_out] == [98, 99] and len(records) == 98
    assert np.bincount(records.labels).tolist() == [20, 20, 20, 19, 19]
