"""One set from many files: what is an image, which class it has, and what is refused."""

import multiprocessing
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from recognition.data.record_format import MAGIC_BYTES
from recognition.data.recordio import Header, RecordError, RecordReader, RecordWriter, pack, unpack
from recognition.data.records import Records, find_shards
from recognition.data.survey import EMPTY, HEADER, IDENTITY, IMAGE, survey


def write(path: Path, labels: list, keys: list[int] | None = None) -> Path:
    """A set whose image of label l and key k is the bytes `l:k`."""
    with RecordWriter(path) as writer:
        for key, label in zip(keys or range(len(labels)), labels, strict=True):
            writer.write(key, pack(Header(0, label, key, 0), f"{label}:{key}".encode()))
    return path


def test_insightface_layout_gives_images_only(oracles):
    records = Records(oracles / "recordio" / "insightface.rec")
    assert (records.num_images, records.num_classes, len(records)) == (14, 4, 14)
    assert records.counts == {"image": 14, "header": 1, "identity": 4, "empty": 0}
    assert records.labels.tolist() == [0] * 3 + [1] * 5 + [2] * 2 + [3] * 4
    assert records.labels.dtype == np.int64 and records.empty_classes == 0
    assert records.key.tolist() == list(range(1, 15)) and not records.shard.any()
    for i in range(14):
        header, image = unpack(RecordReader(oracles / "recordio" / "insightface").read(i + 1))
        assert records.read(i) == image and records.header(i) == header
        assert records.index_of(0, i + 1) == i
    assert records.where(3).endswith("insightface.rec, key 4, offset 16408")
    for key, what in ((0, "no image record"), (15, "no image record"), (19, "no record with key 19")):
        with pytest.raises(RecordError, match=what):
            records.index_of(0, key)


def test_label_vectors_give_their_first_value(oracles):
    records = Records(oracles / "recordio" / "vector_label")
    assert records.labels.tolist() == [0, 1, 2, 3]
    assert records.header(1).label.tolist() == [1.0, *map(float, range(1, 11))]
    assert len(records.read(1)) == 5281


def test_survey_agrees_with_reading_each_record_by_itself(tmp_path):
    """Among them headers cut through by the magic word, empty records and several parts."""
    draw = np.random.default_rng(0)
    with RecordWriter(tmp_path / "x") as writer:
        for key in range(1, 400):
            label = float(draw.integers(100)) if draw.random() < 0.5 else [float(draw.integers(100)), 0.25, -7.0]
            identifier = int(draw.choice([key, 0xCED7230A, 0xCED7230A << 32]))
            payload = draw.bytes(int(draw.integers(0, 4))) + MAGIC_BYTES * int(draw.integers(0, 3))
            writer.write(key, pack(Header(0, label, identifier, 0), payload))
        writer.write(400, b"")
    reader = RecordReader(tmp_path / "x")
    found = survey(reader)
    assert not found.problem.any()
    for row in range(399):
        header, payload = unpack(reader.read_row(row))
        assert found.kind[row] == (IMAGE if payload else EMPTY)
        assert found.flag[row] == header.flag and found.image_bytes[row] == len(payload)
        assert found.label[row] == np.atleast_1d(header.label)[0]
    assert found.kind[399] == EMPTY
    records = Records(tmp_path / "x")
    images = [unpack(reader.read_row(row))[1] for row in np.flatnonzero(found.kind == IMAGE)]
    assert [records.read(i) for i in range(len(records))] == images and len(images) > 100


def test_empty_records_are_counted_and_left_out(tmp_path):
    with RecordWriter(tmp_path / "x") as writer:
        writer.write(0, pack(Header(0, [3.0, 5.0], 0, 0), b""))  # announces identity records 3 and 4
        writer.write(1, pack(Header(0, 0.0, 1, 0), b"jpeg"))
        writer.write(2, pack(Header(0, 6.0, 2, 0), b""))  # an image without pixels
        writer.write(3, pack(Header(0, [1.0, 2.0], 3, 0), b""))
        writer.write(4, pack(Header(0, [2.0, 3.0], 4, 0), b""))
    assert survey(RecordReader(tmp_path / "x")).kind.tolist() == [HEADER, IMAGE, EMPTY, IDENTITY, IDENTITY]
    records = Records(tmp_path / "x")
    assert records.counts == {"image": 1, "header": 1, "identity": 2, "empty": 1}
    assert (records.num_images, records.num_classes) == (1, 1)


def test_classes_of_several_files_are_shared_or_shifted(tmp_path):
    paths = [write(tmp_path / "a", [0, 2, 2]), write(tmp_path / "b.rec", [1, 0], [7, 3])]
    shifted = Records(paths, classes="offset")
    assert shifted.labels.tolist() == [0, 2, 2, 4, 3]
    assert (shifted.num_classes, shifted.empty_classes) == (5, 1)
    assert shifted.shard.tolist() == [0, 0, 0, 1, 1] and shifted.key.tolist() == [0, 1, 2, 7, 3]
    assert [shifted.read(i) for i in range(5)] == [b"0:0", b"2:1", b"2:2", b"1:7", b"0:3"]
    assert [shifted.index_of(int(s), int(k)) for s, k in zip(shifted.shard, shifted.key, strict=True)] == list(range(5))
    shared = Records(paths, classes="shared")
    assert shared.labels.tolist() == [0, 2, 2, 1, 0]
    assert (shared.num_classes, shared.empty_classes) == (3, 0)


def test_shards_of_one_set_share_their_classes(tmp_path):
    write(tmp_path / "set-00000-of-00002", [0, 1])
    write(tmp_path / "set-00001-of-00002", [1, 2])
    other = write(tmp_path / "other", [0])
    records = Records([tmp_path / "set", other], classes="offset")
    assert records.labels.tolist() == [0, 1, 1, 2, 3]
    assert [path.name for path in records.shards] == ["set-00000-of-00002.rec", "set-00001-of-00002.rec", "other.rec"]
    assert Records(records.shards, classes="offset").labels.tolist() == records.labels.tolist()


def test_held_out_classes_are_left_out_or_kept_alone(tmp_path):
    a, b = write(tmp_path / "a", [0, 1, 2, 3, 4, 5]), write(tmp_path / "b", [0, 1, 2, 3])
    kept = Records([a, b], "offset", hold_out=4)
    alone = Records([a, b], "offset", hold_out=4, held_out=True)
    assert kept.class_ids.tolist() == [1, 2, 3, 5, 6, 7, 9] and alone.class_ids.tolist() == [0, 4, 8]
    assert kept.labels.tolist() == list(range(7)) and alone.labels.tolist() == [0, 1, 2]
    assert (kept.num_classes, alone.num_classes) == (7, 3) and kept.empty_classes == 0
    assert [alone.read(i) for i in range(3)] == [b"0:0", b"4:4", b"2:2"]
    assert alone.shard.tolist() == [0, 0, 1] and alone.index_of(1, 2) == 2
    with pytest.raises(RecordError, match="left out by hold_out"):
        kept.index_of(0, 4)
    assert Records([a, b], "offset").class_ids.tolist() == list(range(10))
    for wrong in ({"hold_out": 1}, {"hold_out": -2}, {"held_out": True}):
        with pytest.raises(ValueError, match="at least 2"):
            Records(a, **wrong)


@pytest.mark.parametrize(
    ("label", "what"),
    [
        (float("nan"), r"NaN or infinite \(nan\)"),
        (float("inf"), r"NaN or infinite \(inf\)"),
        (-1.0, r"negative \(-1\)"),
        (0.5, r"no whole number \(0.5\)"),
        (2.0**25, "over 2"),
        ([float("nan"), 1.0], "NaN"),
    ],
)
def test_labels_that_are_no_class_are_named_by_file_and_key(tmp_path, label, what):
    write(tmp_path / "x", [0, 1, label, label], keys=[5, 6, 17, 18])
    with pytest.raises(RecordError, match=rf"x\.rec, key 17, offset 72: bad record, .*{what}.*; 1 more bad ones"):
        Records(tmp_path / "x")


def test_truncated_and_corrupt_files_are_named_at_opening(tmp_path, oracles):
    source = oracles / "recordio"
    index, data = (source / "insightface.idx").read_bytes(), (source / "insightface.rec").read_bytes()
    (tmp_path / "x.idx").write_bytes(index)
    for damaged, what in (
        (data[:-40], r"x\.idx, key 18: offset 77004"),
        (data[:-8], r"x\.rec, key 18, offset 77004: .*the file is truncated within it"),
        (data[:5720] + b"\0" + data[5721:], r"x\.rec, key 2, offset 5720: .*its frame is corrupt"),
        (data[:5728] + struct.pack("<I", 9999) + data[5732:], r"key 2, offset 5720: .*label vector is longer"),
        (data[:5724] + struct.pack("<I", 8) + data[5728:], r"key 2, offset 5720: .*shorter than an image header"),
    ):
        (tmp_path / "x.rec").write_bytes(damaged)
        with pytest.raises(RecordError, match=what):
            Records(tmp_path / "x")
    (tmp_path / "x.rec").write_bytes(b"")
    (tmp_path / "x.idx").write_bytes(b"")
    with pytest.raises(RecordError, match=r"x\.rec: no image records"):
        Records(tmp_path / "x")
    with pytest.raises(RecordError, match=r"magic\.rec, key 0, offset 0: .*shorter than an image header.*5 more"):
        Records(source / "magic")


def test_paths_that_stand_for_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no record file .*nothing\.rec"):
        find_shards(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"no \.rec file in"):
        find_shards(tmp_path)
    with pytest.raises(ValueError, match="empty"):
        Records([])
    for name in ("b", "c"):
        write(tmp_path / name, [0])
    with pytest.raises(ValueError, match="several record sets: name one of"):
        find_shards(tmp_path)
    write(tmp_path / "train", [0, 1])
    assert find_shards(str(tmp_path)) == [tmp_path / "train.rec"] == find_shards(tmp_path / "train.rec")
    with pytest.raises(ValueError, match="named twice"):
        Records([tmp_path / "b", tmp_path / "b.rec"])
    with pytest.raises(ValueError, match="'offset', 'shared' or empty"):
        Records(tmp_path, classes="both")
    folder = tmp_path / "sharded"
    write(folder / "train-00000-of-00003", [0])
    write(folder / "train-00002-of-00003", [0])
    with pytest.raises(ValueError, match="shard 1 is missing"):
        Records(folder)
    write(folder / "train-00001-of-00003", [0])
    assert len(Records(folder)) == len(Records(folder / "train")) == 3
    write(folder / "train-00000-of-00001", [0])
    with pytest.raises(ValueError, match="different sets are mixed"):
        Records(folder)


def test_the_fingerprint_changes_with_the_data_and_not_with_the_place(tmp_path):
    first = Records([write(tmp_path / "a", [0, 1, 2]), write(tmp_path / "b", [0, 1])], "offset")
    moved = Records([write(tmp_path / "moved" / "a", [0, 1, 2]), write(tmp_path / "moved" / "b", [0, 1])], "offset")
    assert first.fingerprint() == moved.fingerprint() == first.fingerprint()
    (tmp_path / "a.idx").unlink()
    others = [
        Records([tmp_path / "a", tmp_path / "b"], classes="shared"),
        Records([tmp_path / "b", tmp_path / "a"], "offset"),
        Records([tmp_path / "a", tmp_path / "b"], "offset", hold_out=2),
        Records([write(tmp_path / "c", [0, 1, 2]), tmp_path / "b"], "offset"),
        Records([write(tmp_path / "d" / "a", [0, 1, 1]), tmp_path / "b"], "offset"),
    ]
    assert (
        Records([tmp_path / "a", tmp_path / "b"], "offset").fingerprint() == first.fingerprint()
    )  # index found by scanning
    assert len({first.fingerprint(), *(other.fingerprint() for other in others)}) == 6


def _read_all(records: Records, queue) -> None:
    queue.put([records.read(i) for i in range(len(records))])


def test_forked_and_pickled_sets_read_alike(oracles):
    records = Records(oracles / "recordio" / "plain")
    images = [records.read(i) for i in range(len(records))]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_read_all, args=(records, queue))
    process.start()
    assert queue.get(timeout=60) == images
    process.join()
    copy = pickle.loads(pickle.dumps(records))
    assert [copy.read(i) for i in range(len(copy))] == images and copy.fingerprint() == records.fingerprint()


def test_opening_reads_headers_without_a_python_step_per_record(tmp_path, monkeypatch):
    write(tmp_path / "x", [k % 7 for k in range(5000)])
    reads = []
    monkeypatch.setattr(RecordReader, "read_row", lambda self, row: reads.append(row))
    assert len(Records(tmp_path / "x")) == 5000 and not reads


def test_real_sets_are_counted(real_data):
    train = Records(real_data / "lfw")
    assert (train.num_images, train.num_classes) == (4849, 926)
    assert train.counts["header"] == 1 and train.counts["identity"] == 926
    assert (real_data / "lfw" / "property").read_text().strip() == f"{train.num_classes},112,112"
    held_out = Records(real_data / "lfw", hold_out=8, held_out=True)
    rest = Records(real_data / "lfw" / "train", hold_out=8)
    assert held_out.num_classes == 116 and held_out.num_classes + rest.num_classes == 926
    assert held_out.num_images + rest.num_images == 4849
