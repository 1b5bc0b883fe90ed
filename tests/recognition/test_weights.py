"""Weights from and to files: every format read, what is refused and with which words, strict loading."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recognition.weights import build_strictly, load_strictly, read_mxnet, read_weights, write_weights
from recognition.weights.torch_files import read_torch


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))


def saved(path: Path, thing: object) -> Path:
    torch.save(thing, path)
    return path


def own(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a)


def mxnet_file(path: Path, arrays: dict[str, np.ndarray], version: int = 0xF993FAC9) -> Path:
    """MXNet's list of arrays as its own writer lays it out."""
    kinds = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}
    out = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        out += struct.pack("<I", version) + (struct.pack("<i", 0) if version == 0xF993FAC9 else b"")
        out += struct.pack(f"<I{array.ndim}q", array.ndim, *array.shape)
        out += struct.pack("<iii", 1, 0, kinds[array.dtype.name]) + array.tobytes()
    out += struct.pack("<Q", len(arrays))
    for name in arrays:
        out += struct.pack("<Q", len(name)) + name.encode()
    path.write_bytes(out)
    return path


def test_safetensors_and_card_come_back(tmp_path):
    path, tensors = tmp_path / "deep" / "net.safetensors", own(network())
    tensors["transposed"] = torch.arange(6.0).view(2, 3).T
    tensors["tied"] = tensors["3.weight"]
    tensors["half"] = torch.ones(2, dtype=torch.bfloat16)
    card = {"backbone": "r18", "arguments": {"embedding_size": 5}, "colour_order": "RGB"}
    write_weights(path, tensors, card)
    read = read_weights(path)
    assert same(read.tensors, tensors) and read.card == card and read.adapter == {}
    assert read.tensors["half"].dtype == torch.bfloat16
    assert sorted(p.name for p in path.parent.iterdir()) == ["net.json", "net.safetensors"]
    (tmp_path / "deep" / "net.json").unlink()
    assert read_weights(path).card == {}


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    write_weights(path, {"a": torch.zeros(3)}, {"version": 1})

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_weights(path, {"a": torch.ones(3)}, {"version": 2})
    assert read_weights(path).card == {"version": 1} and read_weights(path).tensors["a"].sum() == 0
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match=r"\.safetensors"):
        write_weights(tmp_path / "net.pt", {"a": torch.zeros(3)}, {})


def test_a_card_that_is_no_json_object_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    write_weights(path, {"a": torch.zeros(3)}, {})
    (tmp_path / "net.json").write_text("[1]")
    with pytest.raises(ValueError, match="list, not an object"):
        read_weights(path)
    (tmp_path / "net.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        read_weights(path)


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


def test_torch_files_of_the_old_format(tmp_path):
    model = network()
    torch.save(model.state_dict(), tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    assert same(read_weights(tmp_path / "net.pth").tensors, own(model))


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


def test_names_that_become_one_are_refused(tmp_path):
    path = saved(tmp_path / "net.pt", {"module.a": torch.ones(1), "a": torch.zeros(1)})
    with pytest.raises(ValueError, match="two of its tensors are named 'a'"):
        read_weights(path)
    path = mxnet_file(tmp_path / "net.params", {"arg:a": np.ones(1, np.float32), "aux:a": np.ones(2, np.float32)})
    with pytest.raises(ValueError, match="two of its arrays have one name"):
        read_weights(path)
    with pytest.raises(ValueError, match="no name of a tensor"):
        read_weights(saved(tmp_path / "net.pt", {"a" * 1000: torch.ones(1)}))
    long = {"module." * 200_000 + "a": torch.ones(1)}
    assert [*read_weights(saved(tmp_path / "net.pt", long)).tensors] == ["a"]


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


@pytest.mark.parametrize("shape", [{"a": 2**60}, {"a": -1}, {"a": "many"}])
def test_a_network_is_made_only_if_the_tensors_bear_it_out(shape):
    def make() -> nn.Module:
        made.append(torch.get_default_device().type)
        return nn.Linear(2, shape["a"])

    made: list[str] = []
    with pytest.raises(ValueError, match=r"net\.pt"):
        build_strictly(make, {"weight": torch.ones(3, 2), "bias": torch.ones(3)}, "net.pt")
    assert made == ["meta"]
    shape["a"] = 3
    network = build_strictly(make, {"weight": torch.ones(3, 2), "bias": torch.ones(3)}, "net.pt")
    assert made == ["meta", "meta", "cpu"] and (network.weight == 1).all()


def test_derived_buffers_are_dropped_by_their_last_name(tmp_path):
    state = {"a.weight": torch.ones(1), "a.relative_position_index": torch.ones(2), "b.attn_mask": torch.ones(3)}
    state |= {"attn_mask.weight": torch.ones(4), "bn.num_batches_tracked": torch.tensor(4)}
    assert set(read_weights(saved(tmp_path / "net.pt", state)).tensors) == {"a.weight", "attn_mask.weight"}


def test_adapter_tensors_are_handed_out_only_on_request(tmp_path):
    state = {"qkv.weight": torch.ones(1), "qkv.trainable_lora_down.weight": torch.ones(2)}
    path = saved(tmp_path / "net.pt", state)
    with pytest.raises(ValueError, match=r"1 of a LoRA adapter.*with_adapter=True"):
        read_weights(path)
    read = read_weights(path, with_adapter=True)
    assert set(read.tensors) == {"qkv.weight"} and set(read.adapter) == {"qkv.trainable_lora_down.weight"}


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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b'{"backbone": "r18"}', "JSON"),
        (pickle.dumps([1, 2], protocol=4), "pickle"),
        (b"PK\x03\x04 and nothing else", "zip"),
        (b"", "begins with b''"),
        (struct.pack("<Q", 40) + b'{"a": {"dtype": "F32"}' + b" " * 40, "damaged"),
        (struct.pack("<QQQ", 0x112, 0, 3), "cut short"),
    ],
)
def test_other_files_are_named_for_what_they_look_like(tmp_path, content, words):
    path = tmp_path / "net.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


def test_numpy_archives_folders_and_absent_files_are_refused(tmp_path):
    np.savez(tmp_path / "net.npz", a=np.ones(3))
    with pytest.raises(ValueError, match="npz"):
        read_weights(tmp_path / "net.npz")
    with pytest.raises(ValueError, match="folder"):
        read_weights(tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        read_weights(tmp_path / "absent.pt")


def test_files_cut_short_are_refused(tmp_path):
    state = {"a": torch.ones(1000)}
    write_weights(tmp_path / "net.safetensors", state, {})
    files = [tmp_path / "net.safetensors", saved(tmp_path / "net.pt", state)]
    files.append(mxnet_file(tmp_path / "net.params", {"arg:a": np.ones(1000, np.float32)}))
    for path in files:
        whole = path.read_bytes()
        for part in (len(whole) - 1, len(whole) // 2, 30):
            path.write_bytes(whole[:part])
            with pytest.raises(ValueError, match=path.name):
                read_weights(path)


@pytest.mark.parametrize("version", [0xF993FAC9, 0xF993FAC8])
def test_mxnet_arrays_of_every_type(tmp_path, version):
    kinds = (np.float32, np.float64, np.float16, np.uint8, np.int32, np.int8, np.int64)
    arrays = {f"arg:{np.dtype(kind).name}": np.arange(6, dtype=kind).reshape(1, 2, 3) for kind in kinds}
    path = mxnet_file(tmp_path / "net.params", arrays, version)
    read = read_mxnet(path)
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype and np.array_equal(read[name], array)
    assert set(read_weights(path).tensors) == {name.removeprefix("arg:") for name in arrays}


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (24, 0xF993FACB, "storage version"),
        (28, 1, "sparse"),
        (32, 0, "0 axes"),
        (32, 10**6, "axes"),
        (52, 9, "type 9"),
        (36, 10**6, "cut short"),
    ],
)
def test_damaged_mxnet_files_are_refused(tmp_path, at, value, words):
    path = mxnet_file(tmp_path / "net.params", {"arg:a": np.ones(3, np.float32)})
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, at, value)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=words):
        read_mxnet(path)


def test_a_foreign_name_among_those_of_y1_is_refused(tmp_path):
    arrays = {"arg:dconv_23_conv_sep_conv2d_weight": np.ones((2, 2, 1, 1), np.float32), "arg:other": np.ones(1)}
    with pytest.raises(ValueError, match="'arg:other'"):
        read_weights(mxnet_file(tmp_path / "net.params", arrays))


def test_names_of_y1_in_the_real_file(real_data):
    path = real_data / "weights" / "mobilefacenet_y1-0000.params"
    raw, read = read_mxnet(path), read_weights(path)
    with np.load(real_data / "weights" / "mobilefacenet_y1.npz") as again:
        assert set(raw) == set(again) and all(np.array_equal(raw[name], again[name]) for name in raw)
    assert len(read.tensors) == len(raw) == 284 and read.card["backbone"] == "mobilefacenet_y1"
    pairs = {
        "conv_1_conv2d_weight": "layers.0.layers.0.weight",
        "conv_2_dw_batchnorm_beta": "layers.1.layers.1.bias",
        "dconv_34_conv_proj_conv2d_weight": "layers.4.layers.2.layers.0.weight",
        "res_4_block5_conv_dw_relu_gamma": "layers.5.layers.5.layers.1.layers.2.weight",
        "conv_6dw7_7_conv2d_weight": "features.layers.0.layers.0.weight",
    }
    for theirs, ours in pairs.items():
        assert np.array_equal(raw[f"arg:{theirs}"], read.tensors[ours].numpy())
    assert (read.tensors["features.layers.3.weight"] == 1).all()


def test_strict_loading_copies_everything():
    source, target = network(), network()
    with torch.no_grad():
        source[1].running_mean.fill_(3)
    target[1].num_batches_tracked.fill_(7)
    load_strictly(target, {k: v.half() for k, v in own(source).items()}, "net.pt")
    assert target[0].weight.dtype == torch.float32
    assert torch.allclose(target[0].weight, source[0].weight, atol=1e-3) and (target[1].running_mean == 3).all()
    assert target[1].num_batches_tracked == 7


def test_strict_loading_lists_what_does_not_fit():
    target = network()
    before = {k: v.clone() for k, v in own(target).items()}
    tensors = own(network())
    tensors["0.weight"] = torch.ones(9, 9)
    del tensors["3.bias"]
    tensors |= {f"extra.{i}": torch.ones(1) for i in range(6)}
    with pytest.raises(ValueError) as caught:
        load_strictly(target, tensors, "net.pt")
    message = str(caught.value)
    assert message.startswith("net.pt: ")
    assert "1 missing: 3.bias" in message
    assert "6 unexpected: extra.0, extra.1, extra.2, extra.3, and 2 more" in message
    assert "1 of another shape: 0.weight (9, 9) instead of (4, 3, 3, 3)" in message
    assert same(own(target), before)


def test_the_card_is_plain_json(tmp_path):
    write_weights(tmp_path / "net.safetensors", {"a": torch.zeros(1)}, {"licence": "für alle"})
    assert json.loads((tmp_path / "net.json").read_text(encoding="utf-8")) == {"licence": "für alle"}
