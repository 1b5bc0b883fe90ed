"""Bad records while training: the same replacements for every loader, listed once, or the run stops naming them."""

from __future__ import annotations

import importlib.util
import itertools
import json
import multiprocessing
import zlib
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from easydict import EasyDict

from recognition.data.augment import flips
from recognition.data.bad_records import OPENING, BadRecord, BadRecords
from recognition.data.classes import Images
from recognition.data.dali_loader import DaliLoader
from recognition.data.fetch import replacement
from recognition.data.order import SampleOrder
from recognition.data.recordio import Header, RecordError, RecordReader, RecordWriter, pack
from recognition.data.records import Records
from recognition.data.torch_loader import TorchLoader
from recognition.distributed import World
from recognition.inputs import class_means, open_bad_records, open_records, some_images
from recognition.types import Batch
from tests.launch import run_processes

needs_dali = pytest.mark.skipif(
    importlib.util.find_spec("nvidia.dali") is None, reason="nvidia.dali is not installed: pip install -e '.[dali]'"
)
LOADERS = [
    pytest.param(TorchLoader, 0, id="torch, in process"),
    pytest.param(TorchLoader, 2, id="torch, 2 workers"),
    pytest.param(DaliLoader, 0, id="dali, 0 workers", marks=needs_dali),
    pytest.param(DaliLoader, 2, id="dali, 2 threads", marks=needs_dali),
]
IMAGES, CLASSES, SEED, GLOBAL_BATCH, STEPS = 30, 5, 3, 7, 10
CPU = torch.device("cpu")


def picture(number: int, side: int = 112) -> np.ndarray:
    coarse = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def jpeg(number: int, side: int = 112, *options: int) -> bytes:
    return cv2.imencode(".jpg", picture(number, side), options)[1].tobytes()


def with_frame(jpeg: bytes, **changes: int) -> bytes:
    """The JPEG with its frame header changed: height, width, or number of components."""
    changed, at = bytearray(jpeg), jpeg.index(b"\xff\xc0")
    for name, value in changes.items():
        begin, size = {"height": (5, 2), "width": (7, 2), "components": (9, 1)}[name]
        changed[at + begin : at + begin + size] = value.to_bytes(size, "big")
    return bytes(changed)


def table_damage(jpeg: bytes) -> bytes:
    """Markers stay whole, so that DALI gets it and finds out itself."""
    at = jpeg.index(b"\xff\xc4") + 5
    return jpeg[:at] + b"\xff" + jpeg[at + 1 :]


# by record number: the picture that is put there, and what must be said of it
DAMAGES = {
    2: (jpeg(2)[:900], "do not decode"),
    5: (b"these are words", "15 bytes that do not decode"),
    6: (table_damage(jpeg(6)), "do not decode"),
    11: (jpeg(11, 1), "1 x 1 pixels; a face takes at least 4 x 4"),
    12: (cv2.imencode(".png", picture(12, 3))[1].tobytes(), "3 x 3 pixels"),
    17: (with_frame(jpeg(17), height=32767, width=32767), "it states 32767 x 32767 pixels"),
    18: (with_frame(jpeg(18), components=2), "do not decode"),
    21: (jpeg(21), "not those that were written: their checksum is"),  # one bit of it flipped in the file
    26: (cv2.imencode(".png", picture(26))[1].tobytes()[:-200], "do not decode"),
}


def key_of(index: int) -> tuple[int, int]:
    """Two shards; keys of the second start at 100."""
    return (0, index) if index < 16 else (1, 100 + index - 16)


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bad")
    with (
        RecordWriter(folder / "a", checksum=True) as a,
        RecordWriter(folder / "b", checksum=True) as b,
    ):
        for index in range(IMAGES):
            shard, key = key_of(index)
            image = DAMAGES[index][0] if index in DAMAGES else jpeg(index)
            (a, b)[shard].write(key, pack(Header(0, float(index % CLASSES), key, 0), image))
    reader = RecordReader(folder / "b")
    at = int(reader.offsets[reader.row(key_of(21)[1])]) + 8 + 24 + len(jpeg(21)) * 2 // 3
    data = bytearray((folder / "b.rec").read_bytes())
    data[at] ^= 4
    (folder / "b.rec").write_bytes(data)
    return [folder / "a.rec", folder / "b.rec"]


@pytest.fixture(scope="module")
def records(paths) -> Records:
    return Records(paths, "shared")


def make(kind, records, workers, bad_records, rank=0, world_size=1):
    order = SampleOrder(len(records), SEED, GLOBAL_BATCH, rank, world_size)
    return kind(records, order, None, workers=workers, seed=SEED, device=CPU, bad_records=bad_records)


def take(loader, steps: int, first_step: int = 0) -> list[Batch]:
    with closing(loader.batches(first_step)) as batches:
        return list(itertools.islice(batches, steps))


def expected(position: int) -> tuple[int, list[int]]:
    """The record that is trained on at a position, and the bad ones met before it: by the words of the contract."""
    index, bad = int(SampleOrder(IMAGES, SEED, GLOBAL_BATCH).indices(np.array([position]))[0]), []
    for attempt in itertools.count():
        if index not in DAMAGES:
            return index, bad
        if index not in bad:
            bad.append(index)
        index = replacement(SEED, position, attempt, IMAGES)


def expected_lines(end: int, begin: int = 0) -> set[tuple]:
    """(shard, key, position, replacement) of the list after positions begin .. end - 1."""
    met = ((position, *expected(position)) for position in range(begin, end))
    return {(*key_of(i), position, key_of(taken)) for position, taken, bad in met for i in bad}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def listed(path: Path) -> set[tuple]:
    found = [(said["shard"], said["key"], said["position"], tuple(said["replacement"])) for said in lines(path)]
    assert len(set(found)) == len(found), "a line stands twice"
    return set(found)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(("kind", "workers"), LOADERS)
def test_bad_records_are_replaced_and_listed_alike(records, tmp_path, kind, workers, world_size):
    path, positions_seen = tmp_path / "run" / "bad_records.jsonl", 0
    for rank in range(world_size):  # each with an object of its own, as processes have
        bad_records = BadRecords(path, IMAGES, 1.0)
        loader = make(kind, records, workers, bad_records, rank, world_size)
        for step, batch in enumerate(take(loader, STEPS)):
            positions = loader.order.positions(step)
            wanted = [expected(position)[0] for position in positions.tolist()]
            assert batch.key.tolist() == [[*key_of(i)] for i in wanted]
            assert batch.label.tolist() == [i % CLASSES for i in wanted]
            for image, i, flipped in zip(batch.image, wanted, flips(SEED, positions), strict=True):
                seen = ((image.flip(2) if flipped else image).permute(1, 2, 0).flip(2) + 1) * 127.5
                assert np.abs(seen.numpy() - cv2.imdecode(np.frombuffer(jpeg(i), np.uint8), 1)).max() < 0.01
            positions_seen += len(positions)
    assert positions_seen == STEPS * GLOBAL_BATCH
    assert listed(path) == expected_lines(STEPS * GLOBAL_BATCH)
    assert len(bad_records) == len(DAMAGES)
    for said in lines(path):
        index = said["key"] if said["shard"] == 0 else said["key"] - 100 + 16
        assert DAMAGES[index][1] in said["problem"] and str(path) not in said["problem"]
        assert said["file"] == str(records.shards[said["shard"]])
        assert f"key {said['key']}, offset {said['offset']}" in records.where(index)


def test_replacements_are_a_function_of_seed_position_and_attempt():
    drawn = {replacement(*args, 2**40) for args in itertools.product((0, 1, 2**63), range(40), range(3))}
    assert len(drawn) == 3 * 40 * 3
    counts = np.bincount([replacement(7, position, 0, 10) for position in range(5000)], minlength=10)
    assert (np.abs(counts - 500) < 100).all()


@pytest.mark.parametrize(("kind", "workers"), LOADERS)
def test_a_stopped_run_lists_what_an_undisturbed_one_lists(records, tmp_path, kind, workers):
    path = tmp_path / "bad_records.jsonl"
    bad_records = BadRecords(path, IMAGES, 1.0)
    bad_records.add([BadRecord("a.rec", 0, 99, 0, "found at opening")])
    first = take(make(kind, records, workers, bad_records), 8)
    assert {said[2] for said in listed_later(path)} <= set(range(8 * GLOBAL_BATCH)), "listed before it was consumed"
    assert listed_later(path) == expected_lines(8 * GLOBAL_BATCH)
    resumed = BadRecords(path, IMAGES, 1.0)  # from a checkpoint of step 3
    resumed.cut(3 * GLOBAL_BATCH)
    assert listed_later(path) == expected_lines(3 * GLOBAL_BATCH)
    resumed.add([BadRecord("a.rec", 0, 99, 0, "found at opening")])
    again = take(make(kind, records, workers, resumed), STEPS - 3, first_step=3)
    for one, two in zip(first[3:], again, strict=False):
        assert torch.equal(one.image, two.image) and torch.equal(one.key, two.key) and torch.equal(one.label, two.label)
    assert listed_later(path) == expected_lines(STEPS * GLOBAL_BATCH)
    assert sum(said["position"] == OPENING for said in lines(path)) == 1


def listed_later(path: Path) -> set[tuple]:
    found = [said for said in lines(path) if said["position"] != OPENING]
    return {(said["shard"], said["key"], said["position"], tuple(said["replacement"])) for said in found}


@pytest.mark.parametrize(("kind", "workers"), LOADERS)
def test_too_many_bad_records_stop_the_run(records, tmp_path, kind, workers):
    """At the first step whose bad records, different ones, are more than the share: not before it is consumed."""
    path, limit = tmp_path / "bad_records.jsonl", 4 / IMAGES
    so_far, at = set(), -1
    while len(so_far) <= 4:
        at += 1
        so_far |= {line[:2] for line in expected_lines((at + 1) * GLOBAL_BATCH, at * GLOBAL_BATCH)}
    with closing(make(kind, records, workers, BadRecords(path, IMAGES, limit)).batches()) as batches:
        assert len(list(itertools.islice(batches, at))) == at
        with pytest.raises(ValueError, match=rf"{len(so_far)} of 30 records are bad .*bad_record_limit=0\.133.*jsonl"):
            next(batches)
    assert {line[:2] for line in listed(path)} == so_far
    assert not multiprocessing.active_children()


def without(records: Records, numbers: list[int]) -> None:
    """Take these images out of a set."""
    kept = np.delete(np.arange(len(records)), numbers)
    files = [Images.of(reader) for reader in records._readers]
    for file, begin in zip(files, records._begins, strict=False):
        file.choose(np.isin(np.arange(begin, begin + len(file.rows)), kept))
    records._keep(files)


EACH = [pytest.param(*case.values, i, marks=case.marks, id=f"{case.id}, {i}") for case in LOADERS[::2] for i in DAMAGES]
EACH += [pytest.param(*case.values, 21, marks=case.marks, id=f"{case.id}, 21") for case in LOADERS[1::2]]


@pytest.mark.parametrize(("kind", "workers", "index"), EACH)
def test_without_the_policy_each_is_an_error_at_its_step(records, kind, workers, index):
    alone = Records(records.shards, "shared")
    without(alone, [i for i in DAMAGES if i != index])
    (number,) = np.flatnonzero((alone.shard == key_of(index)[0]) & (alone.key == key_of(index)[1]))
    loader = make(kind, alone, workers, None)
    step = next(step for step in range(9) if number in loader.order.indices(loader.order.positions(step)))
    with closing(loader.batches()) as batches:
        assert len(list(itertools.islice(batches, step))) == step
        with pytest.raises(ValueError, match=DAMAGES[index][1]) as raised:
            next(batches)
    assert f"key {key_of(index)[1]}, offset" in str(raised.value) and "Traceback" not in str(raised.value)


@pytest.mark.parametrize(("kind", "workers"), LOADERS)
def test_a_set_without_a_sound_record_is_given_up(tmp_path, kind, workers):
    with RecordWriter(tmp_path / "x") as writer:
        for key in range(8):
            writer.write(key, pack(Header(0, 0.0, key, 0), b"no picture"))
    records = Records(tmp_path / "x")
    with pytest.raises(ValueError, match=r"bad, and so are 7 others that were to replace it.*cannot be trained on"):
        take(make(kind, records, workers, BadRecords(None, 8, 1.0)), 1)


def channels() -> list[tuple[bytes, np.ndarray]]:
    """Pictures of other channel counts and depths, and the BGR pixels that they stand for."""
    colour = picture(40)
    grey = cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)
    alpha = np.dstack([colour, picture(41)[:, :, 0]])

    def png(pixels: np.ndarray) -> bytes:
        return cv2.imencode(".png", pixels)[1].tobytes()

    repeated = np.repeat(grey[:, :, None], 3, 2)
    return [
        (png(grey), repeated),
        (cv2.imencode(".jpg", grey)[1].tobytes(), None),
        (png(alpha), colour),
        (png(colour.astype(np.uint16) * 256 + 77), colour),
        (png(grey.astype(np.uint16) * 256 + 200), repeated),
        (png(np.dstack([colour.astype(np.uint16) * 256, np.full((112, 112), 9, np.uint16)])), colour),
    ]


@pytest.mark.parametrize(("kind", "workers"), LOADERS)
def test_other_channels_become_three_as_opencv_does_it(tmp_path, kind, workers):
    cases = channels()
    with RecordWriter(tmp_path / "x") as writer:
        for key, (image, _) in enumerate(cases):
            writer.write(key, pack(Header(0, 0.0, key, 0), image))
    records = Records(tmp_path / "x")
    order = SampleOrder(len(cases), SEED, len(cases))
    loader = kind(records, order, None, workers=workers, flip=False, device=CPU)
    (batch,) = take(loader, 1)
    for image, (_, key) in zip(batch.image, batch.key.tolist(), strict=True):
        seen = ((image.permute(1, 2, 0).flip(2) + 1) * 127.5).round().to(torch.uint8).numpy()
        encoded, wanted = cases[key]
        if wanted is None:
            grey = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)
            wanted = np.repeat(grey[:, :, None], 3, 2)
        assert (seen == wanted).all(), key


class Colours:
    """A stand-in for a model: the mean colour of each third of the picture."""

    def embed(self, image, score=None):
        return image.unflatten(2, (4, 28)).mean((3, 4)).flatten(1)

    def eval(self):
        return self

    def modules(self):
        return iter(())


def settings(paths: list[Path], **data) -> EasyDict:
    section = {"classes": "shared", "hold_out": 0, "most_classes": 0, "on_bad_record": "skip", "bad_record_limit": 1.0}
    return EasyDict(data={"records": [str(path) for path in paths], **section, **data})


def means(rank: int, paths: list[Path], path: Path) -> tuple[torch.Tensor, int]:
    config = settings(paths)
    records = open_records(config)
    bad_records = open_bad_records(config, records, path)
    return class_means(Colours(), records, World(rank, rank, 2, CPU), bad_records), records.num_images


def wanted_means() -> torch.Tensor:
    sums = torch.zeros(CLASSES, 12)
    for index in set(range(IMAGES)) - set(DAMAGES):
        pixels = cv2.imdecode(np.frombuffer(jpeg(index), np.uint8), 1)[:, :, ::-1].astype(np.float32)
        embedding = Colours().embed(torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None])[0]
        sums[index % CLASSES] += embedding / embedding.norm()
    return sums / sums.norm(dim=1, keepdim=True)


def test_class_means_leave_bad_records_out_and_list_them(records, tmp_path):
    path = tmp_path / "bad_records.jsonl"
    found = class_means(Colours(), records, World(0, 0, 1, CPU), BadRecords(path, IMAGES, 1.0))
    torch.testing.assert_close(found, wanted_means(), rtol=1e-4, atol=1e-5)
    assert_all_listed(path)
    with pytest.raises(ValueError, match="do not decode"):
        class_means(Colours(), records, World(0, 0, 1, CPU))


@pytest.mark.slow
def test_class_means_by_two_processes_list_each_bad_record_once(paths, tmp_path):
    path = tmp_path / "bad_records.jsonl"
    for result, images in run_processes(2, means, paths, path):
        torch.testing.assert_close(result, wanted_means(), rtol=1e-4, atol=1e-5)
        assert images == IMAGES
    assert_all_listed(path)


def assert_all_listed(path: Path) -> None:
    assert [(said["shard"], said["key"]) for said in lines(path)] == [key_of(i) for i in DAMAGES]
    assert all(said["position"] == OPENING and said["replacement"] is None for said in lines(path))


def test_pictures_to_look_at_are_sound_ones(records):
    with_bad = some_images(records, IMAGES)
    assert len(with_bad) == IMAGES
    sound = some_images(records, IMAGES, BadRecords(None, IMAGES, 1.0))
    assert [zlib.crc32(image) for image in sound] == [zlib.crc32(jpeg(i)) for i in range(IMAGES) if i not in DAMAGES]
    assert len(some_images(records, 200)) == IMAGES


def test_the_policys_settings(paths, tmp_path):
    records = open_records(settings(paths))
    assert open_bad_records(settings(paths, on_bad_record="error"), records, tmp_path / "x") is None
    assert open_bad_records(settings(paths), records, tmp_path / "x").num_images == IMAGES
    with pytest.raises(ValueError, match="on_bad_record is 'ignore'; it must be error or skip"):
        open_records(settings(paths, on_bad_record="ignore"))
    for limit in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"bad_record_limit is .*0 to 1"):
            open_records(settings(paths, bad_record_limit=limit))
    with pytest.raises(RecordError, match="checksum is"):
        records.read(21)
