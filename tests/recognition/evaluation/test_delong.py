"""DeLong's variance and test against loops over all pairs of a genuine and an impostor score."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recognition.evaluation import delong
from recognition.evaluation.verification import verify_scores


def plain(scores: list[np.ndarray], same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUCs (k,) and their covariance (k, k) by the definition: O(m n) comparisons."""
    placed = []
    for model in scores:
        kernel = np.zeros((int(same.sum()), int((~same).sum())))
        for i, x in enumerate(model[same]):
            for j, y in enumerate(model[~same]):
                kernel[i, j] = 1.0 if x > y else 0.5 if x == y else 0.0
        placed.append((kernel.mean(1), kernel.mean(0)))
    auc = np.array([rows.mean() for rows, _ in placed])
    covariance = np.zeros((len(auc), len(auc)))
    for a, (rows_a, columns_a) in enumerate(placed):
        for b, (rows_b, columns_b) in enumerate(placed):
            m, n = len(rows_a), len(columns_a)
            of_rows = ((rows_a - auc[a]) * (rows_b - auc[b])).sum() / (m - 1) / m
            covariance[a, b] = of_rows + ((columns_a - auc[a]) * (columns_b - auc[b])).sum() / (n - 1) / n
    return auc, covariance


@pytest.fixture
def models() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    same = np.arange(150) % 3 == 0
    shared = generator.normal(size=150) + 1.5 * same
    return np.round(shared, 1), np.round(shared + generator.normal(0, 0.5, 150), 1), same  # ties


def test_the_auc_and_its_variance(models: tuple[np.ndarray, ...]) -> None:
    before, _, same = models
    value, covariance = plain([before], same)
    found = delong.auc(before, same)
    assert found["value"] == pytest.approx(value[0]) and value[0] == pytest.approx(verify_scores(before, same)["auc"])
    odds = [math.log(found[key] / (1 - found[key])) for key in ("lo", "value", "hi")]
    spread = 1.959964 * math.sqrt(covariance[0, 0]) / (value[0] * (1 - value[0]))
    assert odds[2] - odds[1] == pytest.approx(spread, rel=1e-6) and odds[1] - odds[0] == pytest.approx(spread, rel=1e-6)


def test_the_difference_of_two_models(models: tuple[np.ndarray, ...]) -> None:
    before, after, same = models
    value, covariance = plain([before, after], same)
    spread = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    found = delong.difference(before, after, same)
    assert found["value"] == pytest.approx(value[1] - value[0])
    assert found["hi"] - found["value"] == pytest.approx(1.959964 * spread, rel=1e-6)
    assert found["value"] - found["lo"] == pytest.approx(1.959964 * spread, rel=1e-6)
    assert found["p"] == pytest.approx(math.erfc(abs(value[1] - value[0]) / spread / math.sqrt(2)))
    assert (found["p"] < 0.05) == (found["lo"] > 0 or found["hi"] < 0)
    other = delong.difference(after, before, same)
    assert other["p"] == pytest.approx(found["p"]) and other["lo"] == pytest.approx(-found["hi"])


def test_the_interval_covers() -> None:
    """Scores of unit variance, two apart: AUC = Phi(sqrt 2) = 0.9214."""
    generator, inside, wrongly = np.random.default_rng(0), 0, 0
    same = np.arange(120) % 2 == 0
    for _ in range(400):
        scores = generator.normal(size=(2, 120)) + 2 * same
        found = delong.auc(scores[0], same)
        inside += found["lo"] <= 0.92135 <= found["hi"]
        wrongly += delong.difference(*scores, same)["p"] < 0.05
    assert 0.91 <= inside / 400 <= 0.98 and 0.02 <= wrongly / 400 <= 0.085


def test_where_there_is_no_variance(models: tuple[np.ndarray, ...]) -> None:
    before, _, same = models
    assert delong.auc(same + 0.0, same) == {"value": 1.0, "lo": None, "hi": None}
    assert delong.auc([0.2, 0.5, 0.1], [True, False, False])["lo"] is None  # one genuine pair
    assert delong.difference(before, before, same) == {"value": 0.0, "lo": 0.0, "hi": 0.0, "p": 1.0}
    assert delong.difference(same + 0.0, -1.0 * same, same) == {"value": -1.0, "lo": None, "hi": None, "p": None}
    with pytest.raises(ValueError, match="genuine and impostor"):
        delong.auc([1.0, 2.0], [True, True])
    with pytest.raises(ValueError, match="same items"):
        delong.difference(before, before[1:], same)
    with pytest.raises(ValueError, match="finite"):
        delong.auc([1.0, np.nan], [True, False])
