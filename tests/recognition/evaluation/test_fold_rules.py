"""The rules of XQLFW's and EPFL's own programs, against plain loops over their thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from recognition.evaluation.verification import curve, verify_scores

FOLDS = 5


def official(scores: np.ndarray, same: np.ndarray, folds: int = FOLDS) -> tuple[list[float], list[float]]:
    """XQLFW: cosine distance below a threshold of 0, 0.001, ... 1.999, the first with the most right pairs."""
    distance, accuracy, thresholds = 1 - scores, [], []
    for held in np.array_split(np.arange(len(scores)), folds):
        train = np.setdiff1d(np.arange(len(scores)), held)
        rights = []
        for step in np.arange(0, 2, 0.001):
            rights.append(np.mean((distance[train] < step) == same[train]))
        best = np.arange(0, 2, 0.001)[int(np.argmax(rights))]
        accuracy.append(np.mean((distance[held] < best) == same[held]))
        thresholds.append(1 - best)
    return accuracy, thresholds


def epfl(scores: np.ndarray, same: np.ndarray, folds: int = FOLDS) -> tuple[list[float], list[float]]:
    """EPFL: a score above the threshold, the first of 1,000 with the largest TPR - FPR."""
    accuracy, thresholds = [], []
    for held in np.array_split(np.arange(len(scores)), folds):
        train = np.setdiff1d(np.arange(len(scores)), held)
        low, high = scores[train].min(), scores[train].max()
        best, most = 0.0, -np.inf
        for k in range(1, 1001):
            threshold = low + (high - low) / 1000 * k
            passed = scores[train] > threshold
            gain = passed[same[train]].mean() - passed[~same[train]].mean()
            if gain > most + 1e-12:
                best, most = threshold, gain
        accuracy.append(np.mean((scores[held] > best) == same[held]))
        thresholds.append(best)
    return accuracy, thresholds


@pytest.mark.parametrize("rule", [official, epfl])
@pytest.mark.parametrize("genuine", [2, 4])
def test_against_plain_loops(rule, genuine: int) -> None:
    generator = np.random.default_rng(genuine)
    same = np.arange(200) % genuine == 0
    scores = np.clip(generator.normal(0.35 * same, 0.2), -1, 1)
    accuracy, thresholds = rule(scores, same)
    found = verify_scores(scores, same, FOLDS, rule="xqlfw" if rule is official else "epfl")
    np.testing.assert_allclose(found["accuracy_per_fold"], accuracy)
    np.testing.assert_allclose(found["threshold_per_fold"], thresholds, atol=1e-12)
    assert found["accuracy"] == pytest.approx(np.mean(accuracy))
    assert found["rule"] in ("xqlfw", "epfl") and "val" not in found
    assert found["accuracy_per_fold"].tolist() != verify_scores(scores, same, FOLDS)["accuracy_per_fold"].tolist()


def test_curve_is_what_needs_no_folds() -> None:
    same = np.arange(40) % 2 == 0
    scores = np.random.default_rng(0).normal(same)
    whole = verify_scores(scores, same, 4, far=(0.1,))
    for key, value in curve(scores, same, (0.1,)).items():
        np.testing.assert_equal(whole[key], value)
    with pytest.raises(ValueError, match="far=0"):
        curve(scores, same, (0,))
