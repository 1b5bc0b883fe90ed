"""What a run does with records that cannot be read: as data.on_bad_record says, and the same after a resume."""

import json

import pytest
import torch

from recognition import distributed
from recognition.data.recordio import Header, RecordReader, RecordWriter, pack, unpack
from tests.launch import run_processes
from tests.tiny import nameable
from tests.training import QUIET, run_trainer, tiny_recipe, train, train_and_kill, until

COMMON = ("adapter.name=lora", "optim.name=sgd", "optim.lr=0.01", "schedule.epochs=2.0", "train.save_every=0.0", *QUIET)
SKIP = (*COMMON, "train.save_every_updates=1", "data.on_bad_record=skip", "data.bad_record_limit=0.2")


@pytest.fixture
def recipe(tmp_path):
    """Records 7 and 19 are no pictures; record 3 has a label that is no number."""
    path = tiny_recipe(tmp_path)
    with RecordReader(tmp_path / "train.rec") as reader:
        records = {key: unpack(reader.read(key)) for key in reader.keys.tolist()}
    with RecordWriter(tmp_path / "train") as writer:
        for key, (header, picture) in records.items():
            label = float("nan") if key == 3 else header.label
            writer.write(key, pack(Header(0, label, key, 0), b"no picture" if key in (7, 19) else picture))
    with nameable():
        yield path


def listed(recipe, name="small"):
    path = recipe.parent / "runs" / name / "bad_records.jsonl"
    return sorted(path.read_text().splitlines()) if path.is_file() else None


def test_the_first_bad_record_stops_a_run_by_name_and_it_goes_on_with_skip(recipe):
    with pytest.raises(ValueError, match=r"key 3, offset \d+: .*label is NaN"):
        train(recipe, *COMMON)
    _, losses = train(recipe, *SKIP)
    assert max(losses) == round(2 * 29 / 6)  # of 29 images that are left


def test_bad_records_are_listed_counted_and_replaced(recipe, capsys):
    world = distributed.start("cpu")
    found = run_trainer(recipe, *SKIP, world=world)
    distributed.stop()
    lines = [json.loads(line) for line in listed(recipe)]
    assert {line["key"] for line in lines} == {3, 7, 19}
    assert all(line["offset"] > 0 and line["problem"] for line in lines)
    keys = [key for update in found.keys.values() for _, key in update]
    assert len(keys) == 6 * len(found.keys) and not {3, 7, 19} & set(keys)
    assert "left out 1 bad records" in capsys.readouterr().out


def test_too_many_of_them_stop_the_run(recipe):
    with pytest.raises(ValueError, match="bad_record_limit"):
        train(recipe, *SKIP, "data.bad_record_limit=0.04")


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["torch", "dali"])
def test_a_killed_run_lists_what_the_undisturbed_one_lists(recipe, loader):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    common = (*SKIP, f"data.loader={loader}")
    straight = run_processes(1, until, recipe, (*common, "run.name=straight"), None, None)[0]
    train_and_kill(1, recipe, (*common, "run.name=broken"), 7)
    resumed = run_processes(1, until, recipe, (*common, "run.name=broken"), None, None)[0]
    assert listed(recipe, "broken") == listed(recipe, "straight")
    assert all(torch.equal(value, resumed.tensors[name]) for name, value in straight.tensors.items())
    assert all(resumed.keys[update] == straight.keys[update] for update in resumed.keys)
