"""Verification against the published program's figures and against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.evaluation import verification
from recognition.evaluation.verification import pair_scores, verify, verify_scores


@pytest.mark.parametrize("name", ["easy", "hard"])
def test_arcface_torch_s_rule(oracles: Path, name: str) -> None:
    oracle = np.load(oracles / f"verification_{name}.npz")
    found = verify(oracle["embeddings"], oracle["issame"], rule="arcface_torch")
    np.testing.assert_allclose(found["accuracy_per_fold"], oracle["accuracy_per_fold"], atol=1e-9)
    for ours, theirs in [
        ("accuracy", "accuracy"),
        ("accuracy_std", "accuracy_std"),
        ("val", "val_at_far_1e3"),
        ("val_std", "val_std"),
        ("val_far", "far"),
    ]:
        assert found[ours] == pytest.approx(float(oracle[theirs]), abs=1e-9), ours
    assert found["correct"].mean() == pytest.approx(found["accuracy"])


def test_exact_rule_is_near_the_grid_s(oracles: Path) -> None:
    oracle = np.load(oracles / "verification_hard.npz")
    found = verify(torch.from_numpy(oracle["embeddings"]), oracle["issame"])
    assert abs(found["accuracy"] - float(oracle["accuracy"])) < 0.01


def brute_accuracy(scores: np.ndarray, same: np.ndarray, fold: np.ndarray) -> list[float]:
    per_fold = []
    for f in np.unique(fold):
        best, best_right = np.inf, -1
        train = fold != f
        for threshold in [*sorted(set(scores[train])), np.inf]:  # the lowest first
            right = sum((s >= threshold) == y for s, y in zip(scores[train], same[train], strict=True))
            if right > best_right:
                best, best_right = threshold, right
        held = fold == f
        per_fold.append(np.mean([(s >= best) == y for s, y in zip(scores[held], same[held], strict=True)]))
    return per_fold


def brute_tar(scores: np.ndarray, same: np.ndarray, far: float) -> tuple[float, float]:
    best = (0.0, 0.0)
    for threshold in sorted(set(scores), reverse=True):
        accepted = scores >= threshold
        if accepted[~same].mean() <= far:
            best = (accepted[same].mean(), accepted[~same].mean())
    return best


@pytest.mark.parametrize("case", range(40))
def test_exact_rule_against_brute_force(case: int) -> None:
    generator = np.random.default_rng(case)
    pairs = int(generator.integers(16, 60))
    same = np.arange(pairs) % 2 == 0
    scores = generator.normal(size=pairs) + same
    if case % 2:
        scores = np.round(scores * 2) + 0.25  # many ties, and none at MISSED
    folds = 4 if case % 3 else generator.permutation(np.arange(pairs) // 2 % 3) * 5 + 7
    assert case % 3 or all(0 < same[folds == f].mean() < 1 for f in np.unique(folds)), (
        "both kinds of pairs in each fold"
    )
    fold = np.repeat(np.arange(4), [len(p) for p in np.array_split(same, 4)]) if case % 3 else folds
    found = verify_scores(scores, same, folds, far=[0.05, 0.2, 0.5, 1.0])
    np.testing.assert_allclose(found["accuracy_per_fold"], brute_accuracy(scores, same, fold), atol=1e-12)
    assert np.array_equal(found["fold"], fold)
    for far, at in found["tar"].items():
        assert (at["tar"], at["far"]) == pytest.approx(brute_tar(scores, same, far)) and at["far"] <= far
        assert (scores[same] >= at["threshold"]).mean() == pytest.approx(at["tar"])
    wins = [(g > i) + 0.5 * (g == i) for g in scores[same] for i in scores[~same]]
    assert found["auc"] == pytest.approx(np.mean(wins))


def test_far_is_never_exceeded() -> None:
    same = np.arange(1200) < 600
    scores = np.concatenate([np.linspace(0.5, 1.5, 600), np.linspace(0, 1, 600)])
    at = verify_scores(scores, same, np.arange(1200) % 2, far=[1e-3, 1e-2])["tar"]
    assert at[1e-3]["far"] == 0 and at[1e-3]["tar"] == (scores[same] > 1).mean()  # 600 impostors: none may pass
    assert at[1e-2]["far"] == 6 / 600
    # 3000 * 1e-3 is a little more than 3 in floating point, and 1000 * 0.003 a little less
    for impostors, far, wanted in [(3000, 1e-3, 3), (1000, 0.003, 3)]:
        same = np.arange(2 * impostors) % 2 == 0
        found = verify_scores(np.random.default_rng(0).normal(size=2 * impostors), same, 2, far=[far])
        assert found["tar"][far]["far"] == wanted / impostors


def test_eer_of_a_known_case() -> None:
    same = np.tile([True, False], 10)
    scores = np.where(same, 2.0, 0.0) + np.arange(20) / 100
    scores[[0, 2]], scores[[1, 3]] = -1, 5  # 2 of 10 genuine below, 2 of 10 impostors above all others
    found = verify_scores(scores, same, 2)
    assert found["eer"] == pytest.approx(0.2)
    assert found["roc"]["tar"][-1] == 1 and found["roc"]["far"][-1] == pytest.approx(1)
    assert np.all(np.diff(found["roc"]["tar"]) >= 0)


@pytest.mark.parametrize("rule", ["exact", "arcface_torch"])
def test_a_fold_of_one_class_is_an_error(rule: str) -> None:
    same = np.arange(1200) % 600 < 300  # blocks of 300 genuine, 300 impostors
    scores = np.where(same, 0.9, 0.1)
    with pytest.raises(ValueError, match="fold 0 holds genuine pairs only"):
        verify_scores(scores, same, 10, rule=rule)
    assert verify_scores(scores, same, np.arange(1200) // 600, rule=rule)["accuracy"] == 1
    with pytest.raises(ValueError, match="fold 7 holds impostor pairs only"):
        verify_scores(scores[:4], np.array([True, False, False, False]), [6, 6, 7, 7], rule=rule)


def test_pairs_are_scored_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (torch.randn(10, 4) for _ in range(2))
    whole = pair_scores(first, second)
    wanted = torch.nn.functional.cosine_similarity(first.double(), second.double())
    np.testing.assert_allclose(whole, wanted.numpy(), rtol=1e-12)
    monkeypatch.setattr(verification, "BLOCK", 3)
    assert np.array_equal(pair_scores(first, second), whole)
    with pytest.raises(ValueError, match="as many first embeddings"):
        pair_scores(first, second[:9])


def test_unusable_inputs_are_errors() -> None:
    good = np.random.default_rng(0).normal(size=(40, 8))
    same = np.arange(20) % 2 == 0
    assert 0 <= verify(good, same, 2)["accuracy"] <= 1
    for value in (np.nan, np.inf, 0):
        bad = good.copy()
        bad[5] = value
        with pytest.raises(ValueError, match="1 of 20 embeddings are NaN, infinite or zero, the first in row 2"):
            verify(bad, same, 2)
    with pytest.raises(ValueError, match="not finite"):
        verify_scores(np.full(20, np.nan), same, 2)
    with pytest.raises(ValueError, match="unknown rule"):
        verify(good, same, 2, rule="exakt")
    with pytest.raises(ValueError, match="one fold"):
        verify(good, same, np.zeros(20))
    with pytest.raises(ValueError, match="folds=1"):
        verify(good, same, 1)
    with pytest.raises(ValueError, match="2P"):
        verify(good[:39], same, 2)
    with pytest.raises(ValueError, match=r"\(P,\)"):
        verify(good, same[:-1], 2)
    with pytest.raises(ValueError, match="far=0"):
        verify(good, same, 2, far=[0])


def test_scores_ignore_length() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 6, 4))
    plain = [x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(pair_scores(3 * a, torch.from_numpy(b).to(torch.float64)), plain, atol=1e-14)
