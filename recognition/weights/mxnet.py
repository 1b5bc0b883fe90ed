"""MXNet's parameter files without mxnet, and InsightFace's names in them."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recognition.weights.mxnet_iresnet import IRESNET_MARK, rename_iresnet

MXNET_LIST = 0x112
MXNET_DENSE = 0xF993FAC9
MXNET_OLDER = 0xF993FAC8  # as MXNET_DENSE, without a storage type
LARGEST = 2**48  # numbers of an array, its empty axes counted as one
MXNET_TYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")

Y1_MARK = "arg:dconv_23_conv_sep_conv2d_weight"
Y1_CARD: dict[str, object] = {"backbone": "mobilefacenet_y1", "licence": "non-commercial research only (InsightFace)"}
Y1_UNITS = {
    "conv_1": "layers.0",
    "conv_2_dw": "layers.1",
    "dconv_23": "layers.2",
    "res_3": "layers.3",
    "dconv_34": "layers.4",
    "res_4": "layers.5",
    "dconv_45": "layers.6",
    "res_5": "layers.7",
    "conv_6sep": "conv_sep",
    "conv_6dw7_7": "features.layers.0",
}
Y1_VALUES = {
    "conv2d_weight": "0.weight",
    "batchnorm_gamma": "1.weight",
    "batchnorm_beta": "1.bias",
    "batchnorm_moving_mean": "1.running_mean",
    "batchnorm_moving_var": "1.running_var",
    "relu_gamma": "2.weight",
}
Y1_HEAD = {
    "fc1_weight": "features.layers.2.weight",
    "pre_fc1_bias": "features.layers.2.bias",
    "fc1_gamma": "features.layers.3.weight",
    "fc1_beta": "features.layers.3.bias",
    "fc1_moving_mean": "features.layers.3.running_mean",
    "fc1_moving_var": "features.layers.3.running_var",
}
Y1_LAYER = re.compile(
    rf"(?P<unit>{'|'.join(Y1_UNITS)})(_block(?P<block>\d+))?(_conv_(?P<part>sep|dw|proj))?_(?P<value>{'|'.join(Y1_VALUES)})"
)


def read_mxnet(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays of an MXNet .params file by their names there, such as 'arg:fc1_weight' and 'aux:fc1_moving_var'.

    Dense arrays of MXNet 0.11 to 1.9. ValueError for another format or a file cut short.
    """
    data = _Bytes(path)
    magic, _, count = data.take("QQQ")
    if magic != MXNET_LIST:
        raise ValueError(f"{path}: not an MXNet parameter file: it begins with {magic:#x}, not {MXNET_LIST:#x}")
    arrays = [_mxnet_array(data, number) for number in range(count)]
    names = [data.text(*data.take("Q")) for _ in range(*data.take("Q"))]
    if len(names) != len(arrays):
        raise ValueError(f"{path}: {len(arrays)} arrays but {len(names)} names; only files with a name each are read")
    if len(set(names)) != len(names):
        raise ValueError(f"{path}: two of its arrays have one name; it is damaged")
    return dict(zip(names, arrays, strict=True))


class _Bytes:
    """A file's bytes, taken from front to back; ValueError where they end too early."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.data, self.at = path, Path(path).read_bytes(), 0

    def skip(self, length: int) -> int:
        begin, self.at = self.at, self.at + length
        if self.at > len(self.data):
            raise ValueError(
                f"{self.path}: the MXNet parameter file is cut short or damaged: byte {self.at} is wanted, "
                f"it has {len(self.data)}; fetch it again"
            )
        return begin

    def take(self, form: str) -> tuple[int, ...]:
        form = "<" + form
        return struct.unpack_from(form, self.data, self.skip(struct.calcsize(form)))

    def text(self, length: int) -> str:
        begin = self.skip(length)
        return self.data[begin : self.at].decode(errors="replace")

    def array(self, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        begin = self.skip(np.dtype(dtype).itemsize * math.prod(shape))
        if not math.prod(shape):
            return np.empty(shape, dtype)
        return np.frombuffer(self.data, dtype, math.prod(shape), begin).reshape(shape).copy()  # writable, on its own


def _mxnet_array(data: _Bytes, number: int) -> np.ndarray:
    where = f"{data.path}: array {number}"
    (version,) = data.take("I")
    if version not in (MXNET_DENSE, MXNET_OLDER):
        raise ValueError(f"{where} has the storage version {version:#x}, which is not read here")
    if version == MXNET_DENSE and data.take("i") != (0,):
        raise ValueError(f"{where} is sparse; only dense arrays are read")
    (axes,) = data.take("I")
    if not 1 <= axes <= 32:
        raise ValueError(f"{where} has {axes} axes: it is empty or damaged")
    shape = data.take(f"{axes}q")
    _device, _device_id, kind = data.take("iii")
    if not 0 <= kind < len(MXNET_TYPES) or min(shape) < 0 or math.prod(side or 1 for side in shape) > LARGEST:
        raise ValueError(f"{where} has type {kind} and shape {shape}: it is damaged")
    return data.array(MXNET_TYPES[kind], shape)


def by_our_names(arrays: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """MXNet's arrays as a backbone of ours has them, and what is known of it as a card.

    Arrays of no network known here keep their names, without "arg:" and "aux:", and get an empty card.
    ValueError where only some are of a known one, and where two names become one.
    """
    if Y1_MARK in arrays:
        return rename_y1(arrays, path), dict(Y1_CARD)
    if IRESNET_MARK in arrays:
        return rename_iresnet(arrays, path)
    plain = {name.split(":", 1)[-1]: array for name, array in arrays.items()}
    if len(plain) != len(arrays):
        raise ValueError(f"{path}: two of its arrays have one name, as argument and as auxiliary state; it is damaged")
    return plain, {}


def rename_y1(arrays: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """MXNet's names of InsightFace's MobileFaceNet "y1" to those of recognition/backbones/mobilefacenet.py."""
    renamed = {}
    for full, array in arrays.items():
        name = full.split(":", 1)[-1]  # after arg: or aux:
        if name in Y1_HEAD:
            renamed[Y1_HEAD[name]] = array
            continue
        found = Y1_LAYER.fullmatch(name)
        if found is None:
            raise ValueError(f"{path}: '{full}' is no array of InsightFace's MobileFaceNet y1, though others are")
        unit, part, value = found["unit"], found["part"], found["value"]
        layer = Y1_UNITS[unit] if found["block"] is None else f"{Y1_UNITS[unit]}.layers.{found['block']}"
        if part is not None:
            layer += f".layers.{('sep', 'dw', 'proj').index(part)}"
        renamed[f"{layer}.layers.{Y1_VALUES[value]}"] = array
    # The graph fixes this scale to 1, whatever number the file holds.
    scale = "features.layers.3.weight"
    if scale in renamed:
        renamed[scale] = torch.ones_like(renamed[scale])
    return renamed
