import json
import math
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from recognition import checkpoint, distributed, doctor, machine, random_state
from recognition import config as settings
from recognition.distributed import World
from recognition.doctor import Finding
from recognition.model import assemble
from recognition.trainer import Trainer
from recognition.weights import write_weights
from tests.disk import fill, small_disk
from tests.launch import run_processes
from tests.small import write_recipe

CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture
def recipe(tmp_path):
    """A small recipe that starts from weights of its own, so that every adapter can train."""
    path = write_recipe(tmp_path)
    write_weights(tmp_path / "base.safetensors", assemble(settings.load(path)).model.backbone.state_dict(), {})
    path.write_text(path.read_text() + f"config.backbone.weights = {str(tmp_path / 'base.safetensors')!r}\n")
    return path


def build(recipe, *overrides, world=None):
    return Trainer(settings.load(recipe, overrides), world or World(0, 0, 1, CPU))


@pytest.fixture
def alone():
    yield distributed.start("cpu")
    distributed.stop()


def lines_of(recipe, *overrides, world=None):
    """What the doctor says, by the first word."""
    trainer = build(recipe, *overrides, world=world)
    found = doctor.check(trainer)
    trainer.close()
    assert len({finding.name for finding in found}) == len(found)
    return {finding.name: str(finding) for finding in found}


def everything_under(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def facts(**changes):
    """One healthy process."""
    return {
        "host": "a", "write_problem": "", "sees_main": True, "free": 100 * MIB, "shared": 2 * MIB, "own": MIB,
        "memory": 1000 * MIB, "estimate": 100 * MIB, "device": "", "device_free": 0, "reduced": 1.0,
        "reduce_seconds": 0.01, "read_problem": "", "read_seconds": 0.5, "read_images": 50, "read_bytes": 10**6,
    } | changes  # fmt: skip


def in_a_process(rank, recipe, overrides):
    """Lines, and this process's parts of a checkpoint."""
    world = World(rank, rank, dist.get_world_size(), CPU)
    return lines_of(recipe, *overrides, world=world), parts_of_a_checkpoint(recipe, world)


def parts_of_a_checkpoint(recipe, world=None):
    """Bytes of what all share, and of class centres and what is kept of them on this process."""
    trainer = build(recipe, world=world)
    shared, own = doctor.checkpoint_bytes(trainer.learner)
    trainer.close()
    return shared, own - sum(state.nbytes for state in random_state.capture().values())


# one process


def test_a_healthy_recipe_passes_and_nothing_stays_behind(recipe, alone):
    before = everything_under(recipe.parent)
    found = lines_of(recipe)
    assert everything_under(recipe.parent) == before
    assert not [text for text in found.values() if "WARN" in text or "FAIL" in text]
    assert list(found) == ["folder", "disk", "memory", "group", "reading"]
    assert f"free at {recipe.parent}/runs, a checkpoint takes" in found["disk"] and "room for" in found["disk"]
    assert found["group"] == "group     1 process(es) on 1 machine(s), gloo: nothing to exchange"
    assert found["reading"].startswith("reading   30 records of ")


def test_a_folder_that_is_there_stays_as_it_is(recipe, alone):
    (recipe.parent / "runs" / "small").mkdir(parents=True)
    (recipe.parent / "runs" / "small" / "mine").write_text("x")
    before = everything_under(recipe.parent)
    lines_of(recipe)
    assert everything_under(recipe.parent) == before


@pytest.mark.parametrize("overrides", [(), ("adapter.name=dual_lora",), ("optim.name=sgd", "margin.name=arcface")])
def test_the_size_is_that_of_a_real_checkpoint(recipe, alone, overrides):
    trainer = build(recipe, *overrides, "evaluation.sets=[]", "schedule.epochs=0.2")
    shared, own = doctor.checkpoint_bytes(trainer.learner)
    trainer.train()
    path = checkpoint.newest(trainer.run / "checkpoints")
    tensors = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    headers = sum(8 + int.from_bytes(file.read_bytes()[:8], "little") for file in path.glob("*.safetensors"))
    trainer.close()
    assert tensors - headers == shared + own


def test_a_file_in_the_place_of_the_folder_is_told_and_the_rest_is_checked(recipe, alone):
    (recipe.parent / "runs").write_text("not a folder")
    found = lines_of(recipe)
    assert found["folder"].startswith(f"folder    FAIL {recipe.parent}/runs/small cannot be written on ")
    assert "File exists" in found["folder"] and "run.root" in found["folder"]
    assert "FAIL" not in found["disk"] and (recipe.parent / "runs").read_text() == "not a folder"


def test_a_read_only_disk_is_told(recipe, alone):
    with small_disk(recipe.parent / "runs", options="ro"):
        assert "FAIL" in (line := lines_of(recipe)["folder"]) and "Read-only file system" in line


def test_a_disk_too_small_is_told_with_what_is_missing(recipe, alone):
    with small_disk(recipe.parent / "runs", "8m"):
        line = lines_of(recipe)["disk"]
    assert line.startswith("disk      FAIL 8.0 MiB free at") and "room for 1, but 4 are wanted" in line
    with small_disk(recipe.parent / "runs", "40m"):
        assert "FAIL" not in lines_of(recipe)["disk"] and "FAIL" in lines_of(recipe, "train.keep=6")["disk"]
        fill(recipe.parent / "runs")
        found = lines_of(recipe)
        assert "No space left on device" in found["folder"] and "room for 0" in found["disk"]


def test_memory_too_small_is_told(recipe, alone, monkeypatch):
    monkeypatch.setattr(doctor, "memory_left", lambda: 50 * MIB)
    line = lines_of(recipe)["memory"]
    assert line.startswith("memory    FAIL 1 process(es) need about") and "data.batch_size" in line


def test_a_damaged_record_is_named(recipe, alone):
    path = recipe.parent / "train.rec"
    clean = path.read_bytes()
    start = clean.index(b"\xff\xd8\xff", 60_000)
    path.write_bytes(clean[: start + 2] + bytes(200) + clean[start + 202 :])
    found = lines_of(recipe)["reading"]
    assert found.startswith("reading   FAIL on ") and "train.rec, key " in found and "inspect_records" in found
    assert doctor.judge_records([facts(read_problem="it")], skips=True).level == "WARN"


# several processes


def test_two_processes_agree_and_leave_nothing(recipe):
    before = everything_under(recipe.parent)
    (first, parts), (second, other_parts) = run_processes(2, in_a_process, recipe, ())
    assert first == second and everything_under(recipe.parent) == before
    assert not [text for text in first.values() if "WARN" in text or "FAIL" in text]
    assert first["group"].startswith("group     2 process(es) on 1 machine(s), gloo: all-reduce of 4.0 MiB right, ")
    assert "MB/s (2(n-1)/n x size / time, median of 7)" in first["group"]
    assert first["memory"].startswith("memory    2 process(es) need about")
    one = run_processes(1, in_a_process, recipe, ())[0][1]
    count = 4  # AdamW's count of steps, one for each tensor, is not split
    assert (parts[0], other_parts[0]) == (one[0], one[0]) and parts[1] + other_parts[1] - count == one[1]


def test_two_processes_tell_of_a_folder_that_cannot_be(recipe):
    (recipe.parent / "runs").write_text("not a folder")
    (first, _), (second, _) = run_processes(2, in_a_process, recipe, ())
    assert first == second and "FAIL" in first["folder"]


def other_machine(rank, recipe, root):
    """What it says when the second process has a disk of its own."""
    return in_a_process(rank, recipe, [f"run.root='{root / str(rank)}'"])


def test_a_disk_that_is_not_shared_is_told(recipe):
    found = run_processes(2, other_machine, recipe, recipe.parent / "disks")
    assert "FAIL" in found[0][0]["folder"] and "a disk that all machines share" in found[0][0]["folder"]
    assert not (recipe.parent / "disks").exists()


# the judges


def test_a_finding_is_one_aligned_line():
    assert str(Finding("disk", "words")) == "disk      words"
    assert str(Finding("disk", "words", "WARN")) == "disk      WARN words"


def test_a_checkpoint_is_all_processes_parts_together_and_the_fullest_disk_counts():
    everyone = [facts(free=60 * MIB), facts(host="b", free=50 * MIB)]
    found = doctor.judge_disk(everyone, Path("runs/it"), 4)
    assert found.text == "50.0 MiB free at runs, a checkpoint takes 4.0 MiB: room for 12" and found.level == "ok"
    found = doctor.judge_disk(everyone, Path("runs/it"), 13)
    assert found.level == "FAIL" and "13 are wanted" in found.text and "free 2.0 MiB" in found.text


def test_processes_of_one_machine_share_its_memory():
    everyone = [facts(memory=160 * MIB), facts(host="b", memory=160 * MIB)]
    assert doctor.judge_memory(everyone).level == "ok"
    everyone = [facts(), facts(host="b", memory=190 * MIB), facts(host="b", memory=200 * MIB)]
    found = doctor.judge_memory(everyone)
    assert found.level == "FAIL" and "2 process(es) need about 200.0 MiB, b has 190.0 MiB left" in found.text
    assert doctor.judge_memory([facts(memory=105 * MIB)]).level == "WARN"


def test_on_cuda_each_device_counts_for_itself():
    everyone = [facts(device="H", device_free=170 * MIB), facts(device="H", device_free=180 * MIB)]
    assert doctor.judge_memory(everyone).level == "ok"
    assert doctor.judge_memory([*everyone, facts(device="H", device_free=110 * MIB)]).level == "WARN"
    found = doctor.judge_memory([*everyone, facts(device="H", device_free=90 * MIB)])
    assert found.level == "FAIL" and "H of a has 90.0 MiB left" in found.text


def test_a_wrong_sum_is_told_with_its_process():
    everyone = [facts(reduced=6.0), facts(reduced=6.0), facts(host="b", reduced=math.nan)]
    found = doctor.judge_group(everyone, "gloo")
    assert found.level == "FAIL" and "gave nan on process 2 instead of 6" in found.text and "on b" in found.text


def test_bandwidth_is_that_of_the_slowest():
    everyone = [facts(reduced=10.0, reduce_seconds=s) for s in (0.01, 0.02, 0.01, 0.01)]
    expected = 1.5 * 4 * 2**20 / 0.02 / 1e6
    assert f"20.00 ms, {expected:,.0f} MB/s" in doctor.judge_group(everyone, "gloo").text


def test_the_slowest_reader_is_shown():
    text = doctor.judge_records([facts(), facts(host="b", read_seconds=2.0)], skips=False).text
    assert "on b: 0.5 MB/s, 25 images/s" in text


def test_devices_are_named_and_unequal_ones_are_a_warning():
    same = doctor.judge_devices([facts(device="H100"), facts(device="H100")])
    assert (same.text, same.level) == ("2 x H100", "ok")
    assert doctor.judge_devices([facts(device="H100"), facts(device="A100")]).level == "WARN"


def test_facts_travel_as_json(recipe, alone):
    trainer = build(recipe)
    found = doctor.measure(trainer)
    trainer.close()
    assert json.loads(json.dumps(found)) == found and found["host"] == socket.gethostname()
    assert set(found) == set(facts())


def test_keeping_all_checkpoints_counts_those_of_the_whole_run(recipe, alone):
    for overrides, expected in (
        (("train.keep=0", "schedule.epochs=7"), 7 + 2),
        (("train.keep=0", "train.save_every=0", "train.save_every_updates=5", "schedule.epochs=7"), 7 + 2),
        (("train.keep=3",), 5),
    ):
        trainer = build(recipe, *overrides)
        assert doctor.checkpoints_to_come(trainer) == expected
        trainer.close()


# the machine


def machine_root(tmp_path, available, files):
    for path, text in {"proc/meminfo": f"MemTotal: 9 kB\nMemAvailable:   {available} kB\n", **files}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_memory_without_cgroups_is_what_the_system_says(tmp_path):
    assert machine.memory_left(machine_root(tmp_path, 5000, {})) == 5000 * 1024


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 1000 * 1024), ("600000", 600_000 - 500_000 + 100_000), ("10000000", 1000 * 1024)]
)
def test_a_limit_of_version_2_counts_at_any_depth(tmp_path, limit, expected):
    files = {
        "proc/self/cgroup": "0::/pod/box\n",
        "sys/fs/cgroup/pod/memory.max": f"{limit}\n",
        "sys/fs/cgroup/pod/memory.current": "500000\n",
        "sys/fs/cgroup/pod/memory.stat": "anon 400000\ninactive_file 100000\n",
        "sys/fs/cgroup/pod/box/memory.max": "max\n",
    }
    assert machine.memory_left(machine_root(tmp_path, 1000, files)) == expected


@pytest.mark.parametrize("path", ["/box", "/", "/not/seen/here", "/../elsewhere"])
def test_a_limit_of_version_1(tmp_path, path):
    files = {
        "proc/self/cgroup": f"5:cpu,cpuacct:/x\n4:memory:{path}\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "700000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "500000\n",
        "sys/fs/cgroup/memory/memory.stat": "cache 9\ntotal_inactive_file 50000\n",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "9223372036854771712\n",
    }
    assert machine.memory_left(machine_root(tmp_path, 1000, files)) == 250_000


def test_this_machine_has_some_memory():
    assert 2**20 < machine.memory_left() < 2**50


def test_sizes_are_readable():
    sizes = (0, 1023, 8.4 * MIB, 12.3 * 2**30, 2**42)
    assert [machine.readable_size(n) for n in sizes] == ["0 bytes", "1,023 bytes", "8.4 MiB", "12.3 GiB", "4,096.0 GiB"]
