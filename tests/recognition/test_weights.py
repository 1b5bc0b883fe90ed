"""Weights from and to files: cards, what is refused and with which words, strict loading."""

from __future__ import annotations

import json
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from torch import nn

from recognition.weights import build_strictly, load_strictly, read_weights, write_weights
from tests.weight_files import mxnet_file, network, own, same, saved


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
    (tmp_path / "net.json").write_text(json.dumps({"backbone": "r18", "arguments": {"e" * 5000: 1}}))
    with pytest.raises(ValueError, match="wanted names and plain values") as told:
        read_weights(path)
    assert len(str(told.value)) < 1000, "a name of any length would fill the screen"


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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b'{"backbone": "r18"}', "JSON"),
        (pickle.dumps([1, 2], protocol=4), "pickle"),
        (b"PK\x03\x04 and nothing else", "zip"),
        (b"", "the file is empty"),
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
