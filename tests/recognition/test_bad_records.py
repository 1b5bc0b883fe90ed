"""The list of bad records: its lines, the share that stops a run, several processes, and what is cut off it."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from recognition.data.bad_records import OPENING, BadRecord, BadRecords


def bad(key: int, position: int = OPENING, shard: int = 0) -> BadRecord:
    instead = None if position == OPENING else (1, 8)
    return BadRecord("x.rec", shard, key, 72, "its label is NaN", position, instead)


def positions(path: Path) -> list[tuple[int, int]]:
    return [(said["key"], said["position"]) for said in map(json.loads, path.read_text().splitlines())]


def test_a_line_says_where_what_and_what_came_instead(tmp_path):
    bad_records = BadRecords(tmp_path / "run" / "bad.jsonl", 100, 1.0)
    bad_records.add([])
    assert not (tmp_path / "run").exists(), "nothing was bad, so nothing is written"
    bad_records.add([bad(5), bad(6, 40)])
    first, second = (tmp_path / "run" / "bad.jsonl").read_text().splitlines()
    assert json.loads(first) == {
        "file": "x.rec",
        "shard": 0,
        "key": 5,
        "offset": 72,
        "problem": "its label is NaN",
        "position": -1,
        "replacement": None,
    }
    assert json.loads(second)["position"] == 40 and json.loads(second)["replacement"] == [1, 8]
    assert str(bad(5)) == "x.rec, key 5, offset 72: its label is NaN"


def test_records_are_counted_once_and_listed_at_each_position_once(tmp_path):
    path = tmp_path / "bad.jsonl"
    bad_records = BadRecords(path, 100, 0.03)
    for _ in range(3):
        bad_records.add([bad(5, 10), bad(5, 110), bad(5), bad(5, 10, shard=1), bad(6, 10)])
    assert positions(path) == [(5, 10), (5, 110), (5, -1), (5, 10), (6, 10)]
    assert len(bad_records) == 3
    with pytest.raises(
        ValueError,
        match=r"4 of 100 records are bad \(4\.000%\), which is more than config\.data\.bad_record_limit=0\.03 allows; "
        r"one is x\.rec, key 9, offset 72: .*NaN; .*bad\.jsonl names the others",
    ):
        bad_records.add([bad(9, 12)])
    assert positions(path)[-1] == (9, 12), "what stopped the run is listed"


@pytest.mark.parametrize(("images", "limit", "allowed"), [(30, 0.001, 0), (1000, 0.001, 1), (30, 0.0, 0), (3, 1.0, 3)])
def test_the_share_is_exact_for_small_sets_too(images, limit, allowed):
    bad_records = BadRecords(None, images, limit)
    bad_records.add(bad(key) for key in range(allowed))
    assert len(bad_records) == allowed
    if allowed < images:
        with pytest.raises(ValueError, match=rf"{allowed + 1} of {images}"):
            bad_records.add([bad(allowed)])


def test_what_other_processes_list_counts(tmp_path):
    path = tmp_path / "bad.jsonl"
    one, two = BadRecords(path, 100, 0.03), BadRecords(path, 100, 0.03)
    one.add([bad(1, 1), bad(2, 2)])
    two.add([bad(2, 3)])
    assert (len(one), len(two)) == (2, 2)
    one.add([bad(3, 4)])
    with pytest.raises(ValueError, match="4 of 100"):
        two.add([bad(4, 5)])


def _append(path: Path, rank: int) -> None:
    bad_records = BadRecords(path, 10**6, 1.0)
    for number in range(200):
        bad_records.add([bad(number, 4 * number + rank)])


def test_several_processes_append_whole_lines(tmp_path):
    path, context = tmp_path / "bad.jsonl", multiprocessing.get_context("fork")
    processes = [context.Process(target=_append, args=(path, rank)) for rank in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(positions(path)) == sorted((n, 4 * n + rank) for n in range(200) for rank in range(4))
    reader = BadRecords(path, 10**6, 1.0)
    reader.add([bad(0, 0)])
    assert len(reader) == 200


def test_cut_drops_what_a_continued_run_meets_again(tmp_path):
    path = tmp_path / "bad.jsonl"
    BadRecords(path, 100, 1.0).cut(0)
    assert not path.exists()
    kept = BadRecords(path, 100, 1.0)
    kept.add([bad(1), bad(2, 39), bad(3, 40), bad(2, 41), bad(4, 12)])
    before = path.stat().st_ino
    kept.cut(1000)
    assert path.stat().st_ino == before, "nothing to cut, nothing is written"
    kept.cut(40)
    assert positions(path) == [(1, -1), (2, 39), (4, 12)]
    kept.add([bad(3, 40), bad(1)])
    assert positions(path) == [(1, -1), (2, 39), (4, 12), (3, 40)] and len(kept) == 4
    other = BadRecords(path, 100, 1.0)
    other.add([bad(7, 50)])
    kept.cut(0)
    assert positions(path) == [(1, -1)]
    other.add([bad(7, 50)])  # another process sees that the file is a new one
    assert positions(path) == [(1, -1), (7, 50)] and len(other) == 2
    kept.cut(OPENING)
    assert not path.exists()


def test_half_a_line_is_cut_and_a_foreign_one_is_named(tmp_path):
    path = tmp_path / "bad.jsonl"
    BadRecords(path, 100, 1.0).add([bad(1, 1), bad(2, 2)])
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) - 40):
        path.write_bytes(whole[:size])
        BadRecords(path, 100, 1.0).cut(100)
        assert positions(path) == [(1, 1)]
    for line in (
        b"words\n",
        b"{}\n",
        b'{"key": 3}\n',
        b"[1]\n",
        whole.splitlines()[0].replace(b'"key": 1', b'"key": "x"'),
    ):
        path.write_bytes(whole + line.rstrip() + b"\n")
        with pytest.raises(ValueError, match=r"bad\.jsonl, line 3: found .* no bad record; remove the line"):
            BadRecords(path, 100, 1.0).add([bad(9)])
        assert path.read_bytes().startswith(whole)


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", lambda file, line: 3)
    with pytest.raises(OSError, match=r"bad\.jsonl: only 3 of .* bytes could be written; is the disk full"):
        BadRecords(tmp_path / "bad.jsonl", 100, 1.0).add([bad(1)])
