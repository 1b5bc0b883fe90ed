"""What torch.save wrote: every format and wrapping read as it was written, other things refused in words."""

from __future__ import annotations

import enum
import functools
import os
import re
import zipfile
from collections import defaultdict, deque
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recognition.weights import read_weights
from recognition.weights.torch_files import read_torch
from tests.weight_files import network, own, same, saved


def everything() -> dict:
    """What a training saves: tensors of every kind that is read, nested beside numbers and texts."""
    kinds = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16)
    tensors = {str(dtype): torch.arange(-3, 9).to(dtype) for dtype in (*kinds, torch.int8, torch.uint8, torch.bool)}
    base = torch.arange(24.0).view(4, 6)
    tensors |= {"view": base[1:3, 2:], "turned": base.T, "tied": base, "steps": base[::2, ::3], "empty": base[:0]}
    tensors |= {
        "scalar": torch.tensor(2.5),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    tensors |= {"parameter": nn.Parameter(base + 1), "frozen": nn.Parameter(base + 2, requires_grad=False)}
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.8, 0.9))
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    plan = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    return {
        "tensors": tensors,
        "model": model.state_dict(),  # an OrderedDict with an attribute, _metadata
        "optimizer": optimizer.state_dict(),
        "plan": plan.state_dict(),  # with a Counter
        "epoch": 3,
        "size": base.shape,
        "texts": ["é", None, True, (1, 2.5)],
    }


def alike(one: object, two: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and [*one] == [*two] and all(alike(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(alike(a, b) for a, b in zip(one, two, strict=True))
    return type(one) is type(two) and one == two


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_everything_of_a_training_is_read_as_it_was_written(tmp_path, zipped, protocol):
    path, written = tmp_path / "net.pt", everything()
    torch.save(written, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    read = read_torch(path)
    assert alike(read, written)
    if protocol == 2:  # torch's own, and the only one that weights_only reads
        assert alike(read, torch.load(path, weights_only=True))
    read["tensors"]["tied"][1, 2] = -1  # tensors that shared their numbers share them again
    assert read["tensors"]["view"][0, 0] == read["tensors"]["turned"][2, 1] == -1
    assert all(not tensor.requires_grad for tensor in read["tensors"].values())


def test_torch_files_of_the_old_format(tmp_path):
    model = network()
    torch.save(model.state_dict(), tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    assert same(read_weights(tmp_path / "net.pth").tensors, own(model))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state},
        lambda state: {"state_dict_backbone": state, "epoch": 3, "state_dict_softmax_fc": {}},
        lambda state: {f"module.{k}": v for k, v in state.items()},
        lambda state: {f"module._orig_mod.{k}": v for k, v in state.items()},
    ],
)
def test_torch_files_in_every_wrapping(tmp_path, wrap):
    model = network()
    read = read_weights(saved(tmp_path / "net.pt", wrap(model.state_dict())))
    assert same(read.tensors, own(model))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1).expand(1000),
        torch.ones(3).to_sparse(),
        torch.ones(3, device="meta"),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(3).to(torch.float8_e4m3fn),
    ],
    ids=["expanded", "sparse", "meta", "complex", "float8"],
)
def test_tensors_of_other_kinds_are_refused(tmp_path, tensor):
    with pytest.raises(ValueError, match=r"net\.pt"):
        read_weights(saved(tmp_path / "net.pt", {"a": tensor}))


def test_a_zip_that_unpacks_to_more_is_refused(tmp_path):
    path = saved(tmp_path / "net.pt", {"a": torch.zeros(100_000)})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(ValueError, match="compressed"):
        read_weights(tmp_path / "small.pt")


def test_a_zip_entry_marked_as_a_folder_is_refused(tmp_path):
    path = saved(tmp_path / "net.pt", {"a": torch.ones(3)})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "folder.pt", "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            entry.external_attr = (
                0x10 if entry.filename.endswith("data/0") else 0
            )  # torch.load gives what lay in memory
            new.writestr(entry, content)
    with pytest.raises(ValueError, match="marked as folders"):
        read_weights(tmp_path / "folder.pt")


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch exploded",))


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        ({"a": Bomb()}, "not unpickled"),
        (nn.Linear(2, 2), "state_dict"),
        ([torch.ones(1)], "list"),
        ({"epoch": 3, "weight": torch.ones(1)}, "'epoch' \\(int\\)"),
        ({}, "no weights"),
        ({"bn.num_batches_tracked": torch.tensor(1)}, "no weights"),
    ],
)
def test_torch_files_that_hold_other_things(tmp_path, monkeypatch, thing, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        read_weights(saved(tmp_path / "net.pt", thing))
    assert not (tmp_path / "exploded").exists()


class Colour(enum.Enum):
    RED = 1


class Words(str):
    pass


class Several(list):
    pass


class Slots:
    __slots__ = ("a",)

    def __init__(self) -> None:
        self.a = 1


COMMON = {
    "deque": deque([1, 2], maxlen=5),
    "a list of its own": Several([1, 2]),
    "sets": [{1, 2}, frozenset([3])],
    "dicts of their own": [defaultdict(list, {1: [2]}), Several([{}])],
    "keys": [{Colour.RED: 1}, {Words("x"): 1}, {Path("x"): 1}, {(1, 2): 3}, {(Colour.RED,): 3}, {int: 1}, {None: 1}],
    "numbers": [1 + 2j, 10**3000, Decimal("1.5"), datetime(2020, 1, 2), range(3), ..., slice(1, 2), b"x"],
    "arrays": [np.ones(3), np.array([1, "a"], dtype=object), np.dtype("f4"), np.random.default_rng(1)],
    "functions": [os.path.join, functools.partial(print, 1), Slots(), nn.Linear(2, 2), nn.Linear],
    "tensors": [torch.ones(2, dtype=kind) for kind in (torch.complex64, torch.complex128, torch.float8_e4m3fn)],
    "storages": [torch.ones(2, dtype=torch.uint16), torch.eye(2).to_sparse(), torch.nn.Parameter(torch.ones(2))],
}
FORMATS = ({}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4})


@pytest.mark.parametrize("options", FORMATS, ids=["zip", "older", "protocol 4"])
@pytest.mark.parametrize("name", COMMON)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_lightning_checkpoints_with_common_objects_are_read(tmp_path, monkeypatch, name, options):
    monkeypatch.chdir(tmp_path)
    net = {"model.body.0.res_layer.5.weight": torch.ones(2), "model.input_layer.0.weight": torch.rand(2, 3, 1, 1)}
    saved = {"hyper_parameters": {"x": COMMON[name]}, "callbacks": {Colour: {}}, "bomb": Bomb()}
    torch.save({"pytorch-lightning_version": "1.4.4", **saved, "state_dict": net}, "x.ckpt", **options)
    read = read_weights("x.ckpt", as_published=True)
    assert same(read.tensors, {key.removeprefix("model."): tensor for key, tensor in net.items()})
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        ({"a": {(1, 2): torch.ones(1)}}, "holds what is not read here (a tuple as a key of a dict"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "holds what is not read here (a persistent id"),
        ({"a": torch.ones(1).expand(1000)}, "holds what is not read here (a tensor of 1000 numbers"),
        ({"a": {(1, 2)}}, "not unpickled"),
    ],
)
def test_what_is_not_read_here_is_not_called_damaged(tmp_path, thing, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        read_weights(saved(tmp_path / "net.pt", thing))
    assert "damaged" not in str(caught.value)


def test_a_lightning_checkpoint_without_tensors_says_so(tmp_path):
    lightning = {"pytorch-lightning_version": "1.4.4", "callbacks": {Colour: {}}}
    with pytest.raises(ValueError, match="a Lightning checkpoint whose state dict holds no tensors"):
        read_weights(saved(tmp_path / "net.ckpt", {**lightning, "state_dict": {}}))
    tensors = {"a": torch.ones(2, dtype=torch.uint16), "b": Slots()}
    with pytest.raises(ValueError, match=r"2 of its entries are no tensors: 'a' \(not read here\), 'b' \(not read"):
        read_weights(saved(tmp_path / "net.ckpt", {**lightning, "state_dict": tensors}))


@pytest.mark.parametrize("options", FORMATS[:2], ids=["zip", "older"])
def test_a_lightning_checkpoint_cut_short_is_called_damaged(tmp_path, options):
    path = tmp_path / "net.ckpt"
    lightning = {"pytorch-lightning_version": "1.4.4", "callbacks": {Colour: {}}}
    torch.save({**lightning, "state_dict": {"a": torch.ones(1000)}}, path, **options)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="damaged or cut short"):
        read_weights(path)
