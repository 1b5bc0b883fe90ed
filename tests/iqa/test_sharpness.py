"""Laplacian energy against OpenCV's Laplacian in float64."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from iqa import SCORERS
from tests.iqa.scorers import as_input, pictures


@pytest.mark.parametrize("log", [True, False])
def test_formula(log: bool) -> None:
    images = pictures(3)
    grey = images.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    energy = np.array([np.abs(cv2.Laplacian(picture, cv2.CV_64F)).mean() for picture in grey])
    score = SCORERS.create("sharpness", log=log)(as_input(images))
    np.testing.assert_allclose(score.numpy(), np.log1p(energy) if log else energy, rtol=1e-5)


def test_constant_says_its_value() -> None:
    assert torch.equal(SCORERS.create("constant", value=0.25)(torch.zeros(3, 3, 8, 8)), torch.full((3,), 0.25))
