"""laplacian_margin: what it measures of the pictures, which ones, and what its docstring says of faces."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from recognition.data.decode import decode
from recognition.data.degrade import low_res
from recognition.data.records import Records
from recognition.margins import MARGINS
from recognition.margins.laplacian_margin import mean_laplacian
from recognition.types import Batch

FACES = 40


def network_range(grey: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(grey).permute(0, 3, 1, 2).float() / 127.5 - 1


def batch(**given: Tensor) -> Batch:
    image = torch.zeros(3, 3, 8, 8)
    return Batch(**{"image": image, "label": torch.zeros(3), "key": torch.zeros(3, 2), **given})


def test_it_is_opencv_s_laplacian_of_the_grey_levels():
    grey = np.random.default_rng(0).integers(0, 256, (4, 30, 30, 3), dtype=np.uint8)
    grey[1] = cv2.GaussianBlur(grey[1], (7, 7), 2)
    grey[2] = 200
    grey[3, :, :15] = 7  # an edge, and corners at the border
    wanted = [np.abs(cv2.Laplacian(one, cv2.CV_64F)).mean() for one in grey]
    found = mean_laplacian(network_range(grey))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)
    assert mean_laplacian(network_range(grey).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "field"),
    [({}, "image"), ({"legacy": True}, "twin"), ({"approach": "level"}, "level")],
)
def test_it_looks_at_the_field_that_it_declares(arguments, field):
    given = {
        "image": torch.rand(3, 3, 8, 8) * 2 - 1,
        "twin": torch.rand(3, 3, 8, 8) * 2 - 1,
        "level": torch.tensor([0.0, 0.5, 0.75]),
    }
    margin = MARGINS.create("laplacian_margin", **arguments)
    assert margin.fields == (() if field == "image" else (field,))
    found = margin.measure(batch(**given))
    torch.testing.assert_close(found, given[field] if field == "level" else mean_laplacian(given[field]))
    assert found.shape == (3,) and not found.requires_grad
    if field != "image":
        del given[field]
        with pytest.raises(RuntimeError, match=f"looks at the batch's {field}, which the loader did not fill"):
            margin.measure(batch(**given))


def test_the_docstring_s_figures_are_those_of_faces(real_data):
    """Medians by side, and margins: the bounds are reached near 28 and 20 px."""
    records = Records(real_data / "lfw" / "train.rec")
    grey = np.stack([decode(records.read(i), 112, str(i)) for i in range(0, len(records), len(records) // FACES)])
    text, median = MARGINS.get("laplacian_margin").__doc__, {}
    for side, stated in ((112, 8.0), (40, 4.0), (28, 2.9), (20, 2.0), (7, 1.0)):
        median[side] = mean_laplacian(network_range(low_res(torch.from_numpy(grey), side).numpy())).median().item()
        assert median[side] == pytest.approx(stated, rel=0.12) and f"{side} px {stated}" in text
    assert 1 / median[40] < 0.35 and 0.33 < 1 / median[28] < 0.37 and 0.46 < 1 / median[20] < 0.54
