"""Midpoint and slope from scores whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from iqa._calibration import RULES, fit, histogram, otsu


def heaps(low: float, high: float, spread: float, counts: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two Gaussian heaps, mixed, and which of them are of the low one."""
    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.normal(low, spread, counts[0]), rng.normal(high, spread, counts[1])])
    mixed = rng.permutation(len(scores))
    return scores[mixed], mixed < counts[0]


@pytest.mark.parametrize("rule", ["roles", "otsu"])
@pytest.mark.parametrize(("low", "high", "counts"), [(0.33, 0.66, (4000, 4000)), (-80.0, -20.0, (6000, 1500))])
def test_two_heaps_are_found_whatever_their_sizes(rule: str, low: float, high: float, counts: tuple[int, int]) -> None:
    scores, poor = heaps(low, high, (high - low) / 12, counts)
    found = fit(scores, rule, poor if rule == "roles" else None)
    width = high - low
    assert found.midpoint == pytest.approx((low + high) / 2, abs=0.01 * width)
    assert found.slope() == pytest.approx(1 / width, rel=0.01) and found.images == len(scores)
    assert found.slope(0.25) == pytest.approx(4 / width, rel=0.01), "a sigmoid rises as fast at the midpoint"
    assert found.slope(1.0, takes_slope=False) == 1


def test_roles_are_the_medians_whatever_lies_beyond() -> None:
    found = fit(np.array([1.0, 2.0, 900.0, 5.0, 6.0, -900.0]), "roles", np.array([1, 1, 1, 0, 0, 0], bool))
    assert (found.low, found.high, found.midpoint, found.slope()) == (2.0, 5.0, 3.5, 0.333333)


def test_quantiles_leave_a_tenth_at_each_end() -> None:
    scores = np.random.default_rng(0).normal(2.0, 0.5, 50_000)
    found = fit(scores, "quantiles")
    assert found.midpoint == pytest.approx(2.0, abs=0.01)
    assert found.slope() == pytest.approx(1 / (2 * 1.28155 * 0.5), rel=0.01)
    gates = np.clip(0.5 + found.slope() * (scores - found.midpoint), 0, 1)
    assert (gates == 0).mean() == pytest.approx(0.1, abs=0.001) and (gates == 1).mean() == pytest.approx(0.1, abs=0.001)


def test_otsu_is_the_best_of_all_cuts() -> None:
    scores = np.random.default_rng(1).gamma(2.0, 1.0, 60).round(1)  # with equal ones
    ordered = np.sort(scores)
    cuts = [i for i in range(1, 60) if ordered[i - 1] < ordered[i]]
    between = [i * (60 - i) * (ordered[i:].mean() - ordered[:i].mean()) ** 2 for i in cuts]
    best = cuts[int(np.argmax(between))]
    assert otsu(scores) == pytest.approx((ordered[:best].mean(), ordered[best:].mean()))


@pytest.mark.parametrize(
    ("scores", "rule", "poor", "words"),
    [
        ([1.0, 2.0], "median", None, "config.gate.fit is 'median'; it must be one of roles, otsu, quantiles"),
        ([1.0, 2.0], "roles", [0, 0], "0 of these 2 are degraded; set degradation.share between 0 and 1"),
        ([1.0, 2.0], "roles", [1, 1], "2 of these 2 are degraded"),
        ([1.0, 2.0], "roles", [0, 1], "good images is 1 and of the poor ones 2: this scorer does not tell them apart"),
        ([3.0, 3.0, 3.0], "otsu", None, "all 3 images have the score 3, so no gate can tell them apart"),
        ([3.0] * 50 + [4.0], "quantiles", None, "finds 3 as low and 3 as high score of 51 images"),
        ([1.0, np.nan], "otsu", None, r"got \(2,\), 1 of them not finite"),
        ([], "otsu", None, r"got \(0,\)"),
        ([[1.0, 2.0]], "otsu", None, r"got \(1, 2\)"),
    ],
)
def test_what_cannot_be_fitted_is_told(scores: list, rule: str, poor: list | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fit(np.array(scores), rule, None if poor is None else np.array(poor, bool))


def test_the_tool_offers_every_rule() -> None:
    from tools.calibrate_gate import RULES as offered

    assert tuple(RULES) == offered


def test_a_histogram_counts_every_value_once() -> None:
    lines = histogram({"degraded": np.array([0.0, 0.1, 0.1]), "as stored": np.array([1.0])}, 4)
    assert lines[0].split() == ["degraded", "(3)", "as", "stored", "(1)"]
    assert lines[1].split()[-1] == "3" and lines[-1].split()[-1] == "1"
    assert len(lines) == 5 and lines[2].split() == ["0.25", "0.5"]
