"""The loaders' rows over shards and page caches, and the rows of a large index."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.bench import index as index_bench
from recognition.bench import loader as loader_bench
from recognition.bench.page_cache import disk_of, evict, resident
from recognition.data.record_format import parse_index
from recognition.data.recordio import Header, RecordWriter, pack
from recognition.data.records import Records
from tools import benchmark

QUICK = ["--repeats", "1", "--seconds", "0.01", "--warm-up", "0", "--batch", "4", "--device", "cpu"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    with RecordWriter(tmp_path / "x") as writer:
        for key in range(6):
            payload = cv2.imencode(".jpg", np.full((112, 112, 3), 40 * key, np.uint8))[1].tobytes()
            writer.write(key, pack(Header(0, float(key % 3), key, 0), payload))
    return tmp_path / "x"


def test_every_loader_stands_beside_as_many_bare_processes(pictures, capsys, monkeypatch):
    monkeypatch.setattr(loader_bench, "COLD_RECORDS", 20)
    monkeypatch.setattr(loader_bench, "find_spec", lambda name: None)  # DALI's rows are made alike
    arguments = [
        "loader",
        "--records",
        str(pictures),
        "--workers",
        "1",
        "--shards",
        "1",
        "3",
        "--cache",
        "warm",
        "cold",
    ]
    assert benchmark.main([*arguments, *QUICK]) == 0
    about, _, _, _, *rows = capsys.readouterr().out.splitlines()
    assert "24 images" in about and "of the pages stay when they are asked to leave" in about  # 4 times 6
    names = [row.split("|")[1].strip() for row in rows]
    assert names == [
        f"{what}, {files}, {cache}"
        for files in ("1 file", "3 files")
        for cache in ("warm", "cold")
        for what in ("OpenCV decode, 1 process", "torch loader, 1 worker")
    ]
    assert [row.endswith("| limit |") for row in rows] == [True, False] * 4


def test_pages_leave_the_cache_and_come_back(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(1 << 20))
    assert resident([path]) == 1
    evict([path])
    left = resident([path])
    path.read_bytes()
    assert 0 <= left <= 1 and resident([path]) == 1 and disk_of(path)
    assert resident([]) == 0


@pytest.mark.parametrize("arguments", [["--batch", "0"], ["--workers", "-1"], ["--shards", "0"]])
def test_impossible_loaders_are_refused(capsys, arguments):
    assert benchmark.main(["loader", *arguments]) == 1
    assert "1 file or more" in capsys.readouterr().err


@pytest.mark.parametrize("shards", [1, 3])
def test_the_set_of_many_records_is_one(tmp_path, shards, monkeypatch):
    monkeypatch.setattr(index_bench, "CHUNK", 64)
    size = index_bench.make(tmp_path, 1205, shards)
    assert size == sum(file.stat().st_size for file in tmp_path.iterdir())
    records = Records(tmp_path)
    assert len(records) == 1205 and records.num_classes == 61 and len(records.shards) == shards
    assert records.key.tolist() == list(range(1205)) == [records.header(i).id for i in range(1205)]
    for shard in records.shards:
        keys, offsets = parse_index(shard.with_suffix(".idx"))
        assert (np.diff(offsets) == index_bench.SIZE).all() and (np.diff(keys) == 1).all()


def test_an_index_is_measured_in_processes_of_their_own(tmp_path, capsys):
    arguments = ["index", "--records", "3000", "--shards", "2", "--repeats", "1", "--batch", "16"]
    assert benchmark.main([*arguments, "--folder", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "3,000 records" in text and "2 file(s)" in text and not list(tmp_path.iterdir())
    rows = re.findall(r"^\| (.+?) \| ([\d.,]+)", text, re.MULTILINE)
    assert [name.split(",")[0] for name, _ in rows] == [
        "opened for the first time",
        "opened again",
        "records/s in random order",
        "records/s of bare slices of the mapped file",
        "private MiB of a forked worker that reads",
        "seconds until the shuffle of an epoch is there",
        "seconds until the first step of another epoch is there (a resume)",
        "private MiB of one epoch's shuffle",
        "private MiB of two epochs'",
        "microseconds for the record numbers of a step",
    ]
    assert benchmark.main(["index", "--records", "1", "--shards", "2"]) == 1
    assert "1 at least" in capsys.readouterr().err
