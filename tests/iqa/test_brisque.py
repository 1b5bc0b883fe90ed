"""BRISQUE's statistics against two published programs, and its machine against a plain re-derivation.

iqa_opencv.npz holds what OpenCV 4.11's QualityBRISQUE gave for the pictures of iqa_pyiqa.npz: `features`, and `score`
by its own live files, which are not kept here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from iqa import SCORERS
from iqa._scene_statistics import SceneStatistics
from iqa.brisque import grey_levels, scale
from tests.iqa.scorers import as_input, brisque_files, pictures, write_brisque

EXPONENTS = [18 * scale + i for scale in (0, 1) for i in (0, 2, 6, 10, 14)]
OTHERS = [i for i in range(36) if i not in EXPONENTS]


@pytest.fixture(scope="module")
def oracle(oracles: Path) -> dict[str, np.ndarray]:
    return {**np.load(oracles / "iqa_pyiqa.npz"), **np.load(oracles / "iqa_opencv.npz")}


@pytest.fixture(scope="module")
def images(oracle: dict[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(oracle["images_u8"]).float() / 255


def test_grey_levels(oracle: dict[str, np.ndarray], images: torch.Tensor) -> None:
    np.testing.assert_array_equal(grey_levels(images)[:, :, :4, :4].numpy(), oracle["luma"])


def test_statistics_equal_pyiqa(oracle: dict[str, np.ndarray], images: torch.Tensor) -> None:
    """Exponents come from a grid of 0.001, where float32 noise and grey levels halfway between two move a few steps."""
    got, wanted = SceneStatistics("pyiqa")(grey_levels(images)).numpy(), oracle["brisque_features"]
    np.testing.assert_allclose(got[:, EXPONENTS], wanted[:, EXPONENTS], atol=2.01e-3)
    np.testing.assert_allclose(got[:, OTHERS], wanted[:, OTHERS], atol=1e-4)
    ranges = torch.from_numpy(oracle["brisque_feature_ranges"].T.copy())
    scaled = scale(torch.from_numpy(wanted).double(), ranges).numpy()
    np.testing.assert_allclose(scaled, oracle["brisque_scaled_features"], atol=2.6e-4)


def test_statistics_equal_opencv(oracle: dict[str, np.ndarray], images: torch.Tensor) -> None:
    """OpenCV's walk over the same grid stops at the first rise of a float64 difference: up to 4 steps."""
    got, wanted = SceneStatistics("opencv")(grey_levels(images)).numpy(), oracle["features"]
    np.testing.assert_allclose(got[:, EXPONENTS], wanted[:, EXPONENTS], atol=4.01e-3)
    np.testing.assert_allclose(got[:, OTHERS], wanted[:, OTHERS], atol=1e-4)


def test_score_equals_opencv(oracle: dict[str, np.ndarray], images: torch.Tensor, real_data: Path) -> None:
    folder = real_data / "weights"
    weights, ranges = str(folder / "brisque_model_live.yml"), str(folder / "brisque_range_live.yml")
    scorer = SCORERS.create("brisque", weights=weights, ranges=ranges)
    np.testing.assert_allclose(-scorer(images).numpy(), oracle["score"], atol=0.1)


@pytest.mark.parametrize("form", ["opencv", "pyiqa"])
def test_odd_sizes_and_mirrored_pictures(form: str) -> None:
    statistics = SceneStatistics(form)
    grey = grey_levels(as_input(pictures(2)))
    assert torch.isfinite(statistics(grey[:, :, :77, :91])).all()
    turned = statistics(grey.flip(2).transpose(2, 3).flip(2).transpose(2, 3))  # upside down and mirrored
    torch.testing.assert_close(turned[:, OTHERS], statistics(grey)[:, OTHERS], rtol=0.02, atol=0.01)


def test_machine_is_a_sum_of_gaussians(tmp_path: Path) -> None:
    """clamp(sum_i c_i exp(-gamma |x - v_i|^2) - rho, 0, 100), with its sign turned, in float64."""
    rng = np.random.default_rng(0)
    vectors, coefficients = rng.normal(0, 0.5, (5, 36)), rng.normal(0, 30, 5)
    images = as_input(pictures(3))
    raw = SceneStatistics("opencv")(grey_levels(images))
    ranges = torch.stack((raw.amin(0) - 0.1, raw.amax(0) + 0.1))
    weights, bounds = write_brisque(tmp_path, vectors, coefficients, 0.07, -41.5, ranges.numpy())
    x = 2 * (raw - ranges[0]).double().numpy() / (ranges[1] - ranges[0]).double().numpy() - 1
    distance = ((x[:, None] - vectors[None]) ** 2).sum(2)
    wanted = -np.clip(np.exp(-0.07 * distance) @ coefficients + 41.5, 0, 100)
    score = SCORERS.create("brisque", weights=str(weights), ranges=str(bounds))(images)
    np.testing.assert_allclose(score.numpy(), wanted, rtol=1e-4)
    assert len(set(wanted)) == 3 and (wanted > -100).all() and (wanted < 0).all(), "the case must tell something"


def test_missing_files_say_where_they_come_from(tmp_path: Path) -> None:
    weights, ranges = (str(path) for path in brisque_files(tmp_path, "opencv"))
    with pytest.raises(ValueError, match=r"'weights', and none is named; opencv_contrib holds both"):
        SCORERS.create("brisque", ranges=ranges)
    with pytest.raises(ValueError, match=r"'ranges', and there is no file .*absent\.yml"):
        SCORERS.create("brisque", weights=weights, ranges=str(tmp_path / "absent.yml"))
    with pytest.raises(ValueError, match="holds no support vector regression"):
        SCORERS.create("brisque", weights=ranges, ranges=ranges)
    with pytest.raises(ValueError, match=r"holds no 'range' of \(2, 36\)"):
        SCORERS.create("brisque", weights=weights, ranges=weights)
    (tmp_path / "broken.yml").write_text("%YAML:1.0\n---\n: ][")
    with pytest.raises(ValueError, match=r"broken\.yml"):
        SCORERS.create("brisque", weights=str(tmp_path / "broken.yml"), ranges=ranges)


def test_small_pictures_are_refused(tmp_path: Path) -> None:
    weights, ranges = (str(path) for path in brisque_files(tmp_path, "opencv"))
    with pytest.raises(ValueError, match="16 pixels or more, got 12x40"):
        SCORERS.create("brisque", weights=weights, ranges=ranges)(torch.zeros(1, 3, 12, 40))
