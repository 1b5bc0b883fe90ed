"""The spectral slope against numpy's FFT and polyfit in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iqa import SCORERS
from tests.iqa.scorers import as_input, pictures, reduced


def _wanted(grey: np.ndarray) -> float:
    count = min(grey.shape) // 2
    power = 0
    for lines in (grey, grey.T):
        size = lines.shape[1]
        window = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
        window /= np.sqrt((window**2).mean())
        lines = (lines - lines.mean(axis=1, keepdims=True)) * window
        power = power + (np.abs(np.fft.rfft(lines, axis=1)) ** 2).mean(axis=0)[1 : count + 1] / size / 2
    frequency = np.arange(1, count + 1)
    level = np.log(np.maximum(power - 0.25, 0) + 1e5 * frequency**-6.0)
    return np.polyfit(np.log(frequency), level, 1, w=frequency**-0.5)[0]  # polyfit squares its weights


@pytest.mark.parametrize(("height", "width", "side"), [(112, 112, 112), (112, 112, 14), (112, 91, 112), (64, 80, 28)])
def test_formula(height: int, width: int, side: int) -> None:
    images = reduced(pictures(3), side)[:, :height, :width]
    wanted = [_wanted(picture) for picture in images.astype(np.float64) @ np.array([0.299, 0.587, 0.114])]
    got = SCORERS.create("spectral_slope")(as_input(images))
    np.testing.assert_allclose(got.numpy(), wanted, rtol=2e-5)


def test_the_steeper_a_spectrum_is_made_the_lower_it_scores() -> None:
    """Noise of two-dimensional power f^-a."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(112), np.fft.fftfreq(112)))
    frequency[0, 0] = np.inf
    spectrum = np.fft.fft2(np.random.default_rng(0).normal(size=(112, 112)))
    made = [np.fft.ifft2(spectrum * frequency ** (-a / 2)).real for a in (0, 1, 2, 3, 4, 5)]
    images = np.stack([noise / np.abs(noise).max() * 0.5 + 0.5 for noise in made])
    slopes = SCORERS.create("spectral_slope")(torch.from_numpy(images).float()[:, None].expand(-1, 3, -1, -1))
    assert (slopes.diff() < -0.1).all(), slopes


def test_contrast_moves_it_little_and_a_flat_picture_lies_at_the_lower_end() -> None:
    images = as_input(pictures(4))
    scorer = SCORERS.create("spectral_slope")
    paler = scorer(0.5 + (images - 0.5) * 0.7)
    torch.testing.assert_close(paler, scorer(images), rtol=0, atol=0.3)
    assert scorer(torch.full((1, 3, 112, 112), 0.3)).item() == pytest.approx(-6.0, abs=1e-3)


def test_small_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="16 pixels or more, got 12x40"):
        SCORERS.create("spectral_slope")(torch.zeros(1, 3, 12, 40))
