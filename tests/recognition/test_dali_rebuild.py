"""DALI gives up in the middle of a run: the run goes on, with the batches of an undisturbed one."""

from __future__ import annotations

import itertools
import os
import warnings
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from recognition.data import dali_loader
from recognition.data.bad_records import BadRecords
from recognition.data.dali_loader import MOST_FAILURES, DaliLoader
from recognition.data.degrade import Degradation
from recognition.data.order import SampleOrder
from recognition.data.recordio import Header, RecordWriter, pack
from recognition.data.records import Records
from recognition.data.torch_loader import TorchLoader
from recognition.types import Batch

pytest.importorskip("nvidia.dali", reason="nvidia.dali is not installed: pip install -e '.[dali]'")

IMAGES, SEED, STEPS = 23, 5, 9
GARBAGE = np.frombuffer(b"\xff\xd8\xff\xc0 this is no picture", np.uint8)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Records:
    path: Path = tmp_path_factory.mktemp("records") / "x"
    with RecordWriter(path) as writer:
        for key in range(IMAGES):
            coarse = np.random.default_rng(key).integers(0, 256, (9, 9, 3), dtype=np.uint8)
            pixels = cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_CUBIC)
            ending = ".png" if key % 5 == 0 else ".jpg"  # DALI does not get the PNGs
            writer.write(key, pack(Header(0, float(key % 4), key, 0), cv2.imencode(ending, pixels)[1].tobytes()))
    return Records(path)


def loader(kind: type, records: Records, **options) -> TorchLoader | DaliLoader:
    order = SampleOrder(IMAGES, SEED, 4)
    return kind(records, order, Degradation(noise=2.0), workers=2, seed=SEED, device=torch.device("cpu"), **options)


def take(loader: TorchLoader | DaliLoader, steps: int, first_step: int = 0) -> list[Batch]:
    with closing(loader.batches(first_step)) as batches:
        return list(itertools.islice(batches, steps))


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int] | range) -> list[int]:
    """From now on DALI gets garbage at these steps, and fails in its own threads. Returns the steps it was fed."""
    feed, fed = dali_loader._Feed.__call__, []

    def spoiled(self, info):
        encoded, other_size = feed(self, info)
        fed.append(self.first_step + info.iteration)
        if fed[-1] in steps:
            encoded[0] = GARBAGE
        return encoded, other_size

    monkeypatch.setattr(dali_loader._Feed, "__call__", spoiled)
    return fed


@pytest.mark.parametrize("steps", [{0}, {3}, {3, 4}, {2, 5, 8}])
def test_batches_are_those_of_an_undisturbed_run(records, monkeypatch, steps):
    undisturbed = take(loader(DaliLoader, records), STEPS)
    by_opencv = take(loader(TorchLoader, records), STEPS)
    fed = spoil(monkeypatch, steps)
    with pytest.warns(RuntimeWarning, match="DALI refused a step whose records OpenCV decodes") as caught:
        disturbed = take(loader(DaliLoader, records), STEPS)
    assert len(caught) == 1, "said once"
    assert len(fed) > len(set(fed)), "nothing was fed twice, so nothing was begun anew"
    for one, two, three in zip(undisturbed, disturbed, by_opencv, strict=True):
        assert torch.equal(one.image, two.image) and torch.equal(one.image, three.image)
        assert torch.equal(one.key, two.key) and torch.equal(one.label, two.label)


def test_a_start_in_the_middle_begins_anew_at_its_own_step(records, monkeypatch):
    undisturbed = take(loader(DaliLoader, records), STEPS)
    spoil(monkeypatch, {6})
    with pytest.warns(RuntimeWarning, match="and the 3 records of the same step"):
        later = take(loader(DaliLoader, records), STEPS - 5, first_step=5)
    for one, two in zip(undisturbed[5:], later, strict=True):
        assert torch.equal(one.image, two.image) and torch.equal(one.key, two.key)


def test_a_dali_that_never_works_ends_the_run_in_words(records, monkeypatch):
    spoil(monkeypatch, range(2, 1000))
    with closing(loader(DaliLoader, records).batches()) as batches, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        given = []
        with pytest.raises(
            RuntimeError, match=rf"refused {MOST_FAILURES} steps in a row.*data\.loader=torch.*says: \w"
        ):
            for batch in batches:
                given.append(batch.key)
    assert MOST_FAILURES - 1 <= len(given) <= MOST_FAILURES + 1, "an error may come ahead of its step, never behind it"
    for key, batch in zip(given, take(loader(TorchLoader, records), len(given)), strict=True):
        assert torch.equal(key, batch.key)


def test_bad_records_beside_a_refusal_are_treated_by_the_policy(tmp_path, records, monkeypatch):
    with RecordWriter(tmp_path / "x") as writer:
        for index in range(IMAGES):
            writer.write(index, pack(records.header(index), b"words" if index == 7 else records.read(index)))
    damaged = Records(tmp_path / "x")
    spoil(monkeypatch, {0, 1, 2, 3, 4, 5})
    lists = [BadRecords(tmp_path / name, IMAGES, 1.0) for name in ("torch", "dali")]
    reference = take(loader(TorchLoader, damaged, bad_records=lists[0]), 6)
    with pytest.warns(RuntimeWarning, match="DALI refused"):
        found = take(loader(DaliLoader, damaged, bad_records=lists[1]), 6)
    for one, two in zip(reference, found, strict=True):
        assert torch.equal(one.image, two.image) and torch.equal(one.key, two.key)
    assert (tmp_path / "torch").read_text() == (tmp_path / "dali").read_text() != ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(ValueError, match=r"key 7, offset .*do not decode"):
            take(loader(DaliLoader, damaged), 6)


def test_pipelines_begun_anew_leave_no_threads(records, monkeypatch):
    take(loader(DaliLoader, records), 2)
    before = len(os.listdir("/proc/self/task"))
    spoil(monkeypatch, {2, 4, 6, 8, 10, 12, 14, 16})
    with pytest.warns(RuntimeWarning):
        take(loader(DaliLoader, records), 18)
    assert len(os.listdir("/proc/self/task")) <= before + 1
