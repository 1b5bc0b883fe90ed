"""Saving: what a snapshot holds, re-sharding, a full disk, failures on one process."""

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from adapters import ADAPTERS, attach
from recognition import checkpoint, distributed
from recognition.checkpoint import SaveError, Saver
from recognition.gate import Gate
from recognition.margins import MARGINS
from recognition.model import FaceModel
from recognition.partial_fc import PartialFC, class_range
from tests.disk import small_disk
from tests.launch import run_processes


class Tiny(nn.Module):
    """A backbone of one layer."""

    embedding_size, input_size = 4, 112
    adapter_targets = head_targets = checkpoint_blocks = ()

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, image):
        return self.norm(self.layer(image.mean((2, 3))))


def parts(classes=25, momentum=0.9):
    """Model, classifier and an optimizer that has moved: the same on any number of processes."""
    torch.manual_seed(3)
    gate = Gate()
    model = FaceModel(Tiny(), gate)
    attach(model.backbone, ADAPTERS.create("full"), gate)
    classifier = PartialFC(4, classes, MARGINS.create("cosface"), seed=1)
    optimizer = torch.optim.SGD([*model.parameters(), *classifier.parameters()], lr=0.1, momentum=momentum)
    generator = torch.Generator().manual_seed(4)
    for _ in range(2):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        whole = torch.randn(classes, 4, generator=generator)
        begin, end = class_range(classes, distributed.world_size(), distributed.global_rank())
        classifier.weight.grad = whole[begin:end].clone()
        optimizer.step()
    return model, classifier, optimizer


def held(model, classifier, optimizer):
    momentum = {id(p): optimizer.state[p]["momentum_buffer"] for p in (*model.parameters(), *classifier.parameters())}
    named = {**dict(model.named_parameters()), "centres": classifier.weight}
    tensors = {name: p.detach().clone() for name, p in named.items()}
    tensors |= {f"{name} momentum": momentum[id(p)].clone() for name, p in named.items()}
    return tensors


@pytest.fixture
def alone():
    distributed.start("cpu")
    yield
    distributed.stop()


def save_on(rank, folder, classes, asynchronous):
    these = parts(classes)
    if asynchronous:
        saver = Saver(Path(folder), keep=0, asynchronous=True)
        saver.save(7, *these, {"update": 7})
        assert saver.wait().path.name == "step_000000007"
        saver.close()
    else:
        checkpoint.save(Path(folder), 7, *these, {"update": 7})
    return held(*these)


def load_on(rank, folder, classes):
    these = parts(classes)
    optimizer = torch.optim.SGD([*these[0].parameters(), *these[1].parameters()], lr=0.1, momentum=0.9)
    with torch.no_grad():
        for p in (*these[0].parameters(), *these[1].parameters()):
            p.zero_()
    path = checkpoint.newest(Path(folder))
    checkpoint.check(path)
    checkpoint.read(path, these[0], these[1], optimizer)
    return held(these[0], these[1], optimizer)


def merged(processes):
    return {
        name: torch.cat([found[name] for found in processes]) if "centres" in name else value
        for name, value in processes[0].items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "writers"), [(25, 3), (5, 4), (25, 1)])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_any_number_of_processes_reads_what_any_other_wrote(tmp_path, classes, writers, asynchronous):
    written = merged(run_processes(writers, save_on, str(tmp_path), classes, asynchronous))
    assert written["centres"].shape == (classes, 4) and written["centres momentum"].abs().min() > 0
    for readers in {1, 2, 3, 4} - ({3, 2} if asynchronous else {writers}):
        read = run_processes(readers, load_on, str(tmp_path), classes)
        assert sum(len(found["centres"]) for found in read) == classes
        for name, value in merged(read).items():
            assert torch.equal(value, written[name]), name
        assert all(torch.equal(found["backbone.layer.weight"], written["backbone.layer.weight"]) for found in read)


def test_the_snapshot_is_of_the_moment_of_saving(tmp_path, alone, monkeypatch):
    these = parts()
    before = held(*these)
    let_go = threading.Event()
    from recognition.checkpoint import saver as module

    kept = module.write

    def late(*arguments):
        assert let_go.wait(20)
        return kept(*arguments)

    monkeypatch.setattr(module, "write", late)
    saver = Saver(tmp_path, keep=2, asynchronous=True)
    saver.save(1, *these, {})
    assert saver.take() is None and checkpoint.newest(tmp_path) is None  # under way
    with torch.no_grad():
        for p in (*these[0].parameters(), *these[1].parameters()):
            p.add_(1.0)
    let_go.set()
    assert saver.wait().path == checkpoint.newest(tmp_path)
    assert saver.wait() is None  # told once
    saver.close()
    checkpoint.read(checkpoint.newest(tmp_path), *these)
    for name, value in held(*these).items():
        assert torch.equal(value, before[name]), name


def test_only_tensors_and_json_lie_in_the_folder(tmp_path, alone):
    path = checkpoint.save(tmp_path, 3, *parts(), {"update": 3})
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}
    names = set().union(*(load_file(file) for file in path.glob("*.safetensors")))
    assert {"network.layer.weight", "network.norm.running_mean", "classifier.weight"} <= names
    assert {"optimizer.classifier.weight.momentum_buffer", "random.0.torch", "random.0.python"} <= names


def test_a_checkpoint_of_another_model_is_refused(tmp_path, alone):
    model, classifier, optimizer = parts()
    path = checkpoint.save(tmp_path, 3, model, classifier, optimizer, {})
    other = Tiny()
    other.more = nn.Linear(2, 2)
    attach(other, ADAPTERS.create("full"), model.gate)
    model.backbone = other
    with pytest.raises(ValueError, match=r"tensors differ, such as \['network\.more"):
        checkpoint.read(path, model, classifier, optimizer)


def test_the_same_update_can_be_saved_again(tmp_path, alone):
    these = parts()
    checkpoint.save(tmp_path, 3, *these, {"try": 1})
    path = checkpoint.save(tmp_path, 3, *these, {"try": 2})
    assert '"try": 2' in (path / "state.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000003"]


def fail_on_one(rank, folder):
    these = parts()
    checkpoint.save(Path(folder), 1, *these, {})
    if rank == 1:
        from recognition.checkpoint import saver as module

        def full(path):
            raise OSError(28, "No space left on device", str(path))

        module.digest = full
    saver = Saver(Path(folder), keep=1, asynchronous=True)
    saver.save(2, *these, {})
    outcome = saver.wait()
    saver.close()
    return outcome.path, outcome.problem


@pytest.mark.slow
def test_a_failure_on_one_process_is_known_to_all_and_loses_nothing(tmp_path):
    for path, problem in run_processes(2, fail_on_one, str(tmp_path)):
        assert path is None
        assert "no checkpoint of update 2" in problem and "No space left" in problem and "step_000000001" in problem
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000001"]


def test_a_full_disk_is_a_sentence_and_the_checkpoint_before_stands(tmp_path, alone):
    with small_disk(tmp_path / "disk", "400k") as disk:
        these = parts(classes=5000)  # 80 kB of centres, as much of momentum
        first = checkpoint.save(disk, 1, *these, {})
        for step in (2, 3):
            with pytest.raises(SaveError, match=r"No space left on device.*newest complete one is .*step_000000001"):
                (disk / "filler").write_bytes(bytes(150_000))
                checkpoint.save(disk, step, *these, {})
        assert {path.name for path in disk.iterdir()} == {"step_000000001", "filler"}
        checkpoint.check(first)
        (disk / "filler").unlink()
        checkpoint.check(checkpoint.save(disk, 4, *these, {}))
