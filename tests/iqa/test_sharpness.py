"""Measures of sharpness against OpenCV's Laplacian and Sobel in float64."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from iqa import SCORERS
from tests.iqa.scorers import as_input, pictures


def _wanted(measure: str, grey: np.ndarray) -> float:
    laplacian = cv2.Laplacian(grey, cv2.CV_64F)
    if measure == "energy":
        return np.abs(laplacian).mean()
    if measure == "variance":
        return laplacian.var()
    across, down = (cv2.Sobel(grey, cv2.CV_64F, dx, 1 - dx) for dx in (1, 0))
    return (across**2 + down**2).mean()


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("measure", ["energy", "variance", "tenengrad"])
def test_formula(measure: str, log: bool) -> None:
    images = pictures(3)[:, :90]
    grey = images.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    figure = np.array([_wanted(measure, picture) for picture in grey])
    score = SCORERS.create("sharpness", measure=measure, log=log)(as_input(images))
    np.testing.assert_allclose(score.numpy(), np.log1p(figure) if log else figure, rtol=1e-5)


def test_the_energy_is_what_no_measure_means() -> None:
    images = as_input(pictures(2))
    assert torch.equal(SCORERS.create("sharpness")(images), SCORERS.create("sharpness", measure="energy")(images))
    with pytest.raises(ValueError, match="unknown measure 'entropy'; take one of energy, variance, tenengrad"):
        SCORERS.create("sharpness", measure="entropy")


def test_constant_says_its_value() -> None:
    assert torch.equal(SCORERS.create("constant", value=0.25)(torch.zeros(3, 3, 8, 8)), torch.full((3,), 0.25))
