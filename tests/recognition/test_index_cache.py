"""The cache of a large index: as good as the index, and never believed where it is not."""

import multiprocessing
import os
import pickle
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

from recognition.data import index_cache, opened
from recognition.data.index_cache import HEAD, places
from recognition.data.opened import open_reader
from recognition.data.record_format import parse_index
from recognition.data.record_index import BLOCK_BITS, Offsets, as_array, chunks
from recognition.data.recordio import Header, RecordError, RecordReader, RecordWriter, pack
from recognition.data.records import Records
from recognition.data.survey import Survey

LABELS = [0, 0, 1, 2, 2, 2, 4, 4, 7, 7]


@pytest.fixture(autouse=True)
def small_indexes_are_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(index_cache, "LEAST_BYTES", 0)
    monkeypatch.setattr(index_cache, "SETTLED", -1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the cache's log says."""
    said: list[str] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(index_cache._log, level, lambda form, *values: said.append(form % values))
    return said


def write(path: Path, labels: list[float] = LABELS, keys: list[int] | None = None, checksum: bool = False) -> Path:
    with RecordWriter(path, checksum=checksum) as writer:
        for key, label in zip(keys or range(len(labels)), labels, strict=True):
            writer.write(key, pack(Header(0, label, key, 0), f"{label}:{key}".encode()))
    return path


def cache_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.idx.cache")


def described(records: Records) -> list[object]:
    """Everything that is known of a set."""
    return [
        [records.read(i) for i in range(len(records))],
        [records.where(i) for i in range(len(records))],
        *(values.tolist() for values in (records.labels, records.shard, records.key, records.class_ids)),
        [str(bad) for bad in records.left_out],
        (records.counts, records.num_classes, records.empty_classes, records.fingerprint()),
        records.labels_of(np.arange(len(records))).tolist(),
        records.identities(np.arange(len(records))).tolist(),
    ]


def uncached(paths: object, monkeypatch: pytest.MonkeyPatch, **options: object) -> list[object]:
    with monkeypatch.context() as patch:
        patch.setattr(index_cache, "LEAST_BYTES", 1 << 60)
        return described(Records(paths, **options))


OPTIONS = {
    "plain": {},
    "most classes": {"most_classes": 0, "bad_record_limit": 1.0},
    "left out": {"hold_out": 2, "classes": "shared"},
    "held out": {"hold_out": 2, "held_out": True, "classes": "shared"},
    "offset": {"classes": "offset"},
}
SETS = {
    "counted": lambda folder: [write(folder / "a")],
    "other keys, checksums": lambda folder: [write(folder / "a", keys=[9, 3, 5, 4, 8, 0, 1, 2, 7, 6], checksum=True)],
    "two files": lambda folder: [write(folder / "a", [0, 2, 2]), write(folder / "b", [3, 5], [10, 11])],
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("make", SETS.values(), ids=SETS)
def test_a_cached_set_is_the_set(tmp_path, monkeypatch, make, options):
    paths = make(tmp_path)
    plain = uncached(paths, monkeypatch, **options)
    assert not cache_of(paths[0]).exists()
    first = described(Records(paths, **options))
    assert all(cache_of(path).is_file() for path in paths)
    monkeypatch.setattr("recognition.data.opened.survey", None)  # it must not be needed
    monkeypatch.setattr("recognition.data.recordio.parse_index", None)
    again = Records(paths, **options)
    assert plain == first == described(again) == described(pickle.loads(pickle.dumps(again)))
    assert len(pickle.dumps(again)) < 8000


def test_bad_records_are_remembered_and_refused_alike(tmp_path, monkeypatch):
    path = write(tmp_path / "a", [0, 1, float("nan"), -1, 1])
    with open(path.with_suffix(".idx"), "a") as file:
        file.write("77\t123456788\n")
    plain = uncached(path, monkeypatch, bad_record_limit=1.0)
    assert plain == described(Records(path, bad_record_limit=1.0)) == described(Records(path, bad_record_limit=1.0))
    assert cache_of(path).is_file()
    with pytest.raises(RecordError, match="key 77: offset 123456788 does not lie in"):
        Records(path)


def test_large_and_odd_offsets_are_told_exactly():
    few = np.arange(5, dtype=np.int64) * 40
    many = np.arange((1 << BLOCK_BITS) * 2 + 3, dtype=np.int64) * 4400 + (1 << 50)
    mixed = np.random.default_rng(0).permutation(many)
    for offsets in (few, many, mixed[:1000], many[::-1]):
        packed = Offsets.of(offsets)
        assert np.array_equal(as_array(packed), offsets) and packed[3] == offsets[3]
        assert np.array_equal(np.concatenate(list(chunks(packed))), offsets)
        assert np.array_equal(packed[np.array([4, 0, 2])], offsets[[4, 0, 2]])
    assert Offsets.of(few + 1 + np.arange(5)) is None and Offsets.of(np.array([0, 1 << 34])) is None
    assert Offsets.of(np.empty(0, np.int64)) is None


def test_a_set_that_changed_is_read_anew(tmp_path, monkeypatch):
    path = write(tmp_path / "a")
    old = described(Records(path))
    rec, idx = path.with_suffix(".rec"), path.with_suffix(".idx")
    content, times = rec.read_bytes(), rec.stat().st_mtime_ns
    changed = bytearray(content)
    changed[12:16] = np.float32(3).tobytes()  # the first label
    rec.write_bytes(changed)
    os.utime(rec, ns=(times, times))  # as long and as old as before
    assert Records(path).labels[0] == 3 and uncached(path, monkeypatch) == described(Records(path))
    rec.write_bytes(content)
    assert described(Records(path)) == old
    lines = idx.read_text().splitlines(keepends=True)
    idx.write_text("".join(lines[:-1]))
    assert len(Records(path)) == len(LABELS) - 1
    idx.write_text("".join(lines))
    assert described(Records(path)) == old
    path.with_suffix(".crc").write_text("0\t00000000\n")
    with pytest.raises(RecordError, match="has no checksum for key 1"):
        Records(path)


def test_no_damaged_cache_is_believed(tmp_path, told):
    path = write(tmp_path / "a", checksum=True)
    sound = described(Records(path))
    cache = cache_of(path)
    whole = cache.read_bytes()
    draw = np.random.default_rng(0)
    damaged = [whole[: int(n)] for n in draw.integers(0, len(whole), 20)] + [b"", whole + bytes(64)]
    for at in draw.integers(0, len(whole), 60).tolist():
        damaged.append(whole[:at] + bytes([whole[at] ^ 1 << int(draw.integers(8))]) + whole[at + 1 :])
    for content in damaged:
        cache.write_bytes(content)
        assert described(Records(path)) == sound
        assert cache.read_bytes() == whole, "it was not made anew"
    assert len(told) >= len(damaged) and all("is made anew" in line for line in told)


def forged(whole: bytes, old: bytes, new: bytes) -> bytes:
    """A cache whose header says something else, its checksums right again."""
    magic, length, _ = HEAD.unpack_from(whole)
    text = whole[HEAD.size : HEAD.size + length]
    assert text.count(old) == 1
    new_text = text.replace(old, new)
    return HEAD.pack(magic, len(new_text), zlib.crc32(new_text)) + new_text + whole[HEAD.size + length :]


FORGED = {
    "fewer labels": (b'"labels": 10', b'"labels": 9'),
    "more labels": (b'"labels": 10', b'"labels": 99999'),
    "no number": (b'"labels": 10', b'"labels": "10"'),
    "less than none": (b'"labels": 10', b'"labels": -1'),
    "no labels": (b'"labels"', b'"labelz"'),
    "rows beyond": (b'"rows": [0, 10]', b'"rows": [1, 11]'),
    "other keys": (b'"keys": [0, 10]', b'"keys": [0, 9]'),
    "no kinds": (b'"counts": [10, 0, 0, 0]', b'"counts": [10]'),
    "a list": (b'{"sources"', b'[{"sources"'),
    "no sources": (b'"sources"', b'"source"'),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_cache_whose_parts_do_not_fit_is_made_anew(tmp_path, name):
    path = write(tmp_path / "a")
    sound, whole = described(Records(path)), cache_of(path).read_bytes()
    cache_of(path).write_bytes(forged(whole, *FORGED[name]))
    assert described(Records(path)) == sound and cache_of(path).read_bytes() == whole


def test_where_the_folder_cannot_be_written_the_users_cache_holds_it(tmp_path, monkeypatch, told):
    path = write(tmp_path / "a")
    beside, home = places(path.with_suffix(".rec"))
    assert home.is_relative_to(tmp_path / "home" / "lrface")
    beside.mkdir()  # a name that no file can take
    plain = uncached(path, monkeypatch)
    assert described(Records(path)) == plain and home.is_file()
    with monkeypatch.context() as patch:
        patch.setattr("recognition.data.opened.survey", None)
        assert described(Records(path)) == plain
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert described(Records(path)) == plain
    assert "neither beside it nor in the cache folder" in told[-1]


def test_a_user_without_a_home_has_no_cache_there(tmp_path, monkeypatch, told):
    """Nor an error: a container's user may be a number alone."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    path = write(tmp_path / "a")
    (beside,) = places(path.with_suffix(".rec"))
    beside.mkdir()
    assert described(Records(path)) == uncached(path, monkeypatch) and "neither beside it" in told[-1]


def test_what_is_small_or_was_changed_a_moment_ago_is_not_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(index_cache, "SETTLED", 2_000_000_000)
    Records(write(tmp_path / "a"))
    monkeypatch.setattr(index_cache, "SETTLED", -1)
    monkeypatch.setattr(index_cache, "LEAST_BYTES", 8 << 20)
    Records(tmp_path / "a")
    assert not list(tmp_path.rglob("*.cache"))


def _opened(path: Path, queue: multiprocessing.Queue, seen: Path) -> None:
    plainly = opened.survey

    def told(reader: RecordReader) -> Survey:
        with open(seen, "a") as file:
            file.write("read\n")
        return plainly(reader)

    opened.survey = told  # in a process of its own
    queue.put(described(Records(path)))


def test_processes_that_open_at_once_agree_and_leave_one_cache(tmp_path, monkeypatch):
    path = write(tmp_path / "a")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    seen = tmp_path.with_name(f"{tmp_path.name}.log")
    processes = [context.Process(target=_opened, args=(path, queue, seen)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert seen.read_text() == "read\n", "one reads the index, the others wait for its cache"
    assert found == [uncached(path, monkeypatch)] * 4
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == [
        "a.idx",
        "a.idx.cache",
        "a.idx.cache.fingerprints",
        "a.rec",
    ]


def test_a_remembered_fingerprint_that_is_damaged_is_computed_again(tmp_path):
    path = write(tmp_path / "a")
    first = Records(path).fingerprint()
    memory = Path(f"{cache_of(path)}.fingerprints")
    asked, answer, check = memory.read_bytes().split()
    for content in (b"", asked, b" ".join([asked, b"0" + answer[1:], check]), b"\xff\x00 \n  \n"):
        memory.write_bytes(content)
        assert Records(path).fingerprint() == first
    assert Records(path, hold_out=2).fingerprint() != first == Records(path).fingerprint()


def test_a_remembered_fingerprint_is_of_the_same_classes(tmp_path):
    """Shards of one set share their classes; the same files in two folders are two sets."""
    first, second = (
        write(tmp_path / f"x-0000{k}-of-00002", [0, 1]).with_name(f"x-0000{k}-of-00002.rec") for k in (0, 1)
    )
    (tmp_path / "other").mkdir()
    for file in (second, second.with_suffix(".idx")):
        shutil.copy2(file, tmp_path / "other" / file.name)
    together, apart = (Records([first, one], "offset") for one in (second, tmp_path / "other" / second.name))
    assert (together.num_classes, apart.num_classes) == (2, 4)
    assert together.fingerprint() != apart.fingerprint() == apart._digest()


def test_a_number_is_looked_up_without_a_copy_of_all(tmp_path, monkeypatch):
    path = write(tmp_path / "a", keys=[9, 3, 5, 4, 8, 0, 1, 2, 7, 6])
    records, looked = Records(path, hold_out=2), []
    plainly = np.searchsorted
    monkeypatch.setattr(np, "searchsorted", lambda a, v, *more: looked.append((a, v)) or plainly(a, v, *more))
    assert [records.index_of(0, key) for key in records.key.tolist()] == list(range(len(records)))
    assert all(np.result_type(a, v) == a.dtype for a, v in looked) and records._rows[0].dtype == np.uint32
    assert sum(a is records._rows[0] and isinstance(v, np.uint32) for a, v in looked) == len(records)


def test_a_pickled_set_whose_cache_is_gone_says_so(tmp_path):
    path = write(tmp_path / "a")
    Records(path)
    pickled = pickle.dumps(Records(path))
    cache_of(path).unlink()
    with pytest.raises(RecordError, match=r"was there when .*a\.rec was opened"):
        pickle.loads(pickled)


def test_scores_and_landmarks_see_the_same_index(tmp_path):
    path = write(tmp_path / "a", keys=[9, 3, 5, 4, 8, 0, 1, 2, 7, 6])
    Records(path)
    cached, plain = open_reader(path), RecordReader(path, strict=False)
    assert cached.index.stored is not None and plain.index.stored is None
    assert np.array_equal(cached.keys, plain.keys) and np.array_equal(cached.offsets, plain.offsets)
    assert [cached.row(key) for key in range(10)] == [plain.row(key) for key in range(10)]


def test_an_index_is_parsed_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("recognition.data.record_format._TEXT", 16)
    lines = [f"{key}\t{key * 40}\n" for key in range(50)]
    for text in (
        "".join(lines),
        "".join(lines).rstrip(),
        "".join(lines) + "\n\n\n" * 20,
        "".join(lines).replace("\n", "\r\n"),
    ):
        (tmp_path / "x.idx").write_text(text, newline="")
        keys, offsets = parse_index(tmp_path / "x.idx")
        assert keys.tolist() == list(range(50)) and offsets.tolist() == [40 * k for k in range(50)]
    (tmp_path / "x.idx").write_text("".join([*lines[:30], "x\n", *lines[30:]]))
    with pytest.raises(RecordError, match="line 31"):
        parse_index(tmp_path / "x.idx")
