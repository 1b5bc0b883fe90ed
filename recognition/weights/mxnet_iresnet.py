"""InsightFace's MXNet ResNets of the kind LResNet50E-IR, by the names of recognition/backbones/iresnet.py.

What their symbol says, and the arrays do not (InsightFace's fresnet.py with version_input 1, version_output "E",
version_unit 3, no squeeze-and-excitation, PReLU): it normalises inside, (x - 127.5) * 0.0078125; every batch norm has
an eps of 2e-5; and that of the embedding has its scale fixed to 1, whatever number the file holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

IRESNET_MARK = "arg:stage1_unit1_conv1sc_weight"
IRESNET_CARD: dict[str, object] = {
    "licence": "non-commercial research only (InsightFace)",
    "colour_order": "RGB",
    "image_range": [-0.99609375, 0.99609375],  # what 0 and 255 become
}
UNITS = {(2, 2, 2, 2): "r18", (3, 4, 6, 3): "r34", (3, 4, 14, 3): "r50", (3, 13, 30, 3): "r100"}
SIZE = 512  # numbers of an embedding, where the card tells none
EPS_APART = 2e-5 - 1e-5  # theirs less ours
CENTRES = "fc7_weight"  # of the classes it was trained on

NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}
OUTSIDE = {"conv0": "conv1", "bn0": "bn1", "relu0": "prelu", "bn1": "bn2", "pre_fc1": "fc", "fc1": "features"}
INSIDE = {
    "bn1": "bn1",
    "conv1": "conv1",
    "bn2": "bn2",
    "relu1": "prelu",
    "conv2": "conv2",
    "bn3": "bn3",
    "conv1sc": "downsample.0",
    "sc": "downsample.1",
}
NAME = re.compile(
    r"(?:stage(?P<stage>[1-4])_unit(?P<unit>[1-9]\d{0,2})_)?(?P<layer>[a-z0-9]+|pre_fc1)_"
    r"(?P<value>weight|bias|gamma|beta|moving_mean|moving_var)"
)


def rename_iresnet(arrays: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Tensors of r18, r34, r50 or r100 for RGB in the card's image_range, and that card.

    arrays: by MXNet's names, such as "arg:conv0_weight". The eps of ours goes into the variances: exact but for
    rounding. ValueError for arrays of another network, such as one with squeeze-and-excitation or bottlenecks.
    """
    renamed: dict[str, Tensor] = {}
    units = [0, 0, 0, 0]
    card = dict(IRESNET_CARD)
    for full, array in arrays.items():
        name = full.split(":", 1)[-1]  # after arg: or aux:
        if name == CENTRES:
            card["left_out"] = f"{CENTRES}, the centres of the classes it was trained on"
            continue
        found = NAME.fullmatch(name)
        layer = None if found is None else (OUTSIDE if found["stage"] is None else INSIDE).get(found["layer"])
        if layer is None:
            kind = " (squeeze-and-excitation)" if "_se_" in name else ""
            raise ValueError(
                f"{path}: '{full[:100]}' is no array of InsightFace's LResNet-E-IR networks{kind}, though others are; "
                "of MXNet's ResNets those with output E, unit 3 and PReLU are read (LResNet34E-IR, 50, 100)"
            )
        if found["stage"] is not None:
            stage, unit = int(found["stage"]) - 1, int(found["unit"])
            units[stage] = max(units[stage], unit)
            layer = f"layer{stage + 1}.{unit - 1}.{layer}"
        value = "weight" if layer.endswith("prelu") else NORM.get(found["value"], found["value"])
        array = array.float()
        renamed[f"{layer}.{value}"] = array + EPS_APART if value == "running_var" else array
    if tuple(units) not in UNITS:
        known = ", ".join(f"{name} {list(one)}" for one, name in UNITS.items())
        raise ValueError(f"{path}: its stages have {units} units; known are {known}")
    if "features.weight" in renamed:
        renamed["features.weight"] = torch.ones_like(renamed["features.weight"])
    size = len(renamed.get("features.bias", range(SIZE)))
    return renamed, {"backbone": UNITS[tuple(units)], "arguments": {"embedding_size": size}, **card}
