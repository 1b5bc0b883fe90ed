"""MXNet's parameters: arrays of every type, damaged files, and the names of y1."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from recognition.weights import read_mxnet, read_weights
from tests.weight_files import mxnet_file


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
