"""Intervals by people, of differences, of huge sets and of shares at their end, against plain float64 loops."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from recognition.evaluation import intervals, weighted
from recognition.evaluation.verification import verify_scores


def drawn_pairs(counts: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How often each pair is there, by listing every drawn copy of every group."""
    copies = np.repeat(np.arange(len(counts)), counts)
    weight = np.zeros(len(first), int)
    for p, (a, b) in enumerate(zip(first, second, strict=True)):
        if a == b:
            weight[p] = (copies == a).sum()
        else:
            weight[p] = sum(1 for x, y in itertools.product(copies, copies) if x == a and y == b)
    return weight


def plain_tar(scores: np.ndarray, same: np.ndarray, weight: np.ndarray, far: float) -> float:
    """The TAR at the lowest threshold whose FAR is at most far, over pairs repeated as often as they weigh."""
    repeated, kind = np.repeat(scores, weight), np.repeat(same, weight)
    best = 0.0
    for threshold in {*scores, np.inf}:
        if (repeated[~kind] >= threshold).mean() <= far + 1e-12:
            best = max(best, (repeated[kind] >= threshold).mean())
    return best


def some_pairs(people: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, same, and the people on either side."""
    generator = np.random.default_rng(seed)
    first = generator.integers(people, size=150)
    second = np.where(generator.random(150) < 0.3, first, generator.integers(people, size=150))
    same = first == second
    scores = np.round(generator.normal(size=150) + 1.5 * same, 1)
    return scores, same, first, second


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("far", [0.3, 0.02, 1e-4])
def test_tar_by_person_is_that_of_the_pairs_listed_as_drawn(
    far: float, dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weighted, "DENSE", 4096 if dense else 0)
    monkeypatch.setattr(weighted, "BLOCK", 200)  # several blocks
    scores, same, first, second = some_pairs(12, 0)
    names = np.array([f"person {i:02}" for i in range(12)])
    found = intervals.resample_tar_by_group(scores, same, names[first], names[second], far, resamples=20, seed=3)
    counts = np.concatenate(list(intervals.draw_counts(np.random.default_rng(3), 12, 20)))
    wanted = [plain_tar(scores, same, drawn_pairs(row, first, second), far) for row in counts]
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    numbers = intervals.resample_tar_by_group(scores, same, first * 1000, second * 1000, far, resamples=20, seed=3)
    assert (numbers == found).all()


def test_groups_are_numbered_alike_whatever_the_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighted, "BLOCK", 1000)  # several blocks
    wide = np.random.default_rng(0).permutation(np.repeat(np.arange(-30_000, 30_001, 20, dtype=np.int16), 30))
    names = np.unique(wide)
    (found, other), count = weighted.group_positions(wide, wide[::-1])  # their range is more than an int16 holds
    assert count == len(names) and found.dtype == np.int32
    np.testing.assert_array_equal(found, np.searchsorted(names, wide))
    np.testing.assert_array_equal(other, found[::-1])
    numbered = found.astype(np.int16)
    assert weighted.group_positions(numbered, numbered)[0][0] is numbered  # 15.7 million are not copied
    huge = np.array([2**63 + 5, 2**63 + 2, 2**63 + 5], np.uint64)
    assert weighted.group_positions(huge)[0][0].tolist() == [1, 0, 1]


def test_millions_of_pairs_are_not_copied_in_double_precision() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(300, size=(2, 1_000_000), dtype=np.int16)
    first[:300], second[:300] = np.arange(300), np.arange(300)
    same, scores = first == second, generator.random(1_000_000, np.float32)
    kept = scores.copy()
    tracemalloc.start()
    found = intervals.resample_tar_by_group(scores, same, first, second, 0.01, resamples=20)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 28e6, f"{held / 1e6:.1f} bytes a pair"  # copies of scores and groups alone would take 32
    np.testing.assert_array_equal(scores, kept)
    double = intervals.resample_tar_by_group(scores.astype(np.float64), same, first, second, 0.01, resamples=20)
    np.testing.assert_array_equal(found, double)


def test_several_fars_at_once_and_more_impostors_than_were_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, same, first, second = some_pairs(40, 1)
    whole = intervals.resample_tar_by_group(scores, same, first, second, [0.5, 0.1], resamples=50)
    assert whole.shape == (2, 50) and (whole[0] >= whole[1]).all()
    one = intervals.resample_tar_by_group(scores, same, first, second, 0.1, resamples=50)
    assert (one == whole[1]).all()
    generator = np.random.default_rng(0)
    first, second = generator.integers(30, size=(2, 40_000))
    same = first == second
    scores = generator.normal(size=40_000) + same
    hard = (first < 2) | (second < 2)  # two people whom everybody looks like: a resample with neither needs others
    scores[hard & ~same] += 3
    wanted = intervals.resample_tar_by_group(scores, same, first, second, 0.1, resamples=30)
    monkeypatch.setattr(weighted, "KEPT", 0.0)
    assert (intervals.resample_tar_by_group(scores, same, first, second, 0.1, resamples=30) == wanted).all()


def test_people_count_rather_than_pairs() -> None:
    """Twenty copies of each pair tell no more than one, by person; by pair they seem to tell twenty times as much."""
    generator = np.random.default_rng(2)
    first, second = generator.integers(60, size=(2, 400))
    second[:120] = first[:120]
    same = first == second
    scores = generator.normal(size=400) + 1.5 * same
    copies = [np.tile(values, 20) for values in (scores, same, first, second)]
    once, often = (
        intervals.resample_tar_by_group(*arrays, 0.1, resamples=400)
        for arrays in ((scores, same, first, second), copies)
    )
    assert np.std(often) == pytest.approx(np.std(once), rel=0.1)
    assert np.std(intervals.resample_tar(copies[0], copies[1], 0.1, resamples=400)) < np.std(often) / 2


def test_resamples_without_a_kind_are_drawn_again() -> None:
    scores, same = np.array([0.9, 0.8, 0.1, 0.2]), np.array([True, True, False, False])
    first, second = np.array([0, 1, 0, 1]), np.array([0, 1, 1, 2])
    found = intervals.resample_tar_by_group(scores, same, first, second, 0.5, resamples=200)
    assert np.isfinite(found).all() and (found == 1).all()
    with pytest.raises(ValueError, match="genuine and impostor"):
        intervals.resample_tar_by_group(scores[:2], same[:2], first[:2], second[:2], 0.5)
    with pytest.raises(ValueError, match=r"all be \(P,\)"):
        intervals.resample_tar_by_group(scores, same, first[:2], second[:2], 0.5)
    with pytest.raises(ValueError, match="pair 1 is not finite"):
        intervals.resample_tar_by_group([0.9, np.nan], [True, False], [0, 0], [0, 1], 0.5)
    with pytest.raises(ValueError, match="false accept rate"):
        intervals.resample_tar_by_group(scores, same, first, second, 0.0)


def test_huge_sets_are_drawn_by_rank_with_the_same_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    same = np.arange(3000) % 10 == 0
    scores = np.round(generator.normal(size=3000) + 2 * same, 2)  # ties
    for far in (0.5, 0.01, 1e-5):
        plain = intervals.resample_tar(scores, same, far, resamples=4000, seed=1)
        monkeypatch.setattr(intervals, "LARGE", 0)
        huge = intervals.resample_tar(scores, same, far, resamples=4000, seed=2)
        monkeypatch.undo()
        assert stats.ks_2samp(plain, huge).pvalue > 1e-3
    monkeypatch.setattr(intervals, "LARGE", 0)
    assert (intervals.resample_tar(scores, same, 1.0, resamples=3) == 1).all()


def test_paired_resamples_are_of_the_same_pairs() -> None:
    """Two models with the same scores on other pairs: ranks drawn alike would say that they never differ."""
    generator = np.random.default_rng(0)
    same = np.arange(2000) % 2 == 0
    before, after = (generator.normal(size=2000) + 2 * same for _ in range(2))
    apart = intervals.difference_of_tar(before, after, same, 0.01, resamples=800)
    each = [
        intervals.resample_tar(scores, same, 0.01, resamples=800, seed=s) for s, scores in enumerate((before, after))
    ]
    assert apart.std() == pytest.approx(np.hypot(each[0].std(), each[1].std()), rel=0.1)
    order = generator.permutation(1000)
    shuffled = before.copy()
    shuffled[same], shuffled[~same] = before[same][order], before[~same][order]
    assert intervals.difference_of_tar(before, shuffled, same, 0.01, resamples=500).std() > 0.01
    assert (intervals.difference_of_tar(before, 2 * before, same, 0.01, resamples=50) == 0).all()
    # one resample, pair by pair
    counts = [next(intervals.draw_counts(np.random.default_rng([5, k]), 1000, 3, 2000)) for k in (0, 1)]
    found = intervals.resample_tar(after, same, 0.01, resamples=3, seed=5, paired=True)
    for tar, genuine, impostor in zip(found, *counts, strict=True):
        weight = np.empty(2000, int)
        weight[same], weight[~same] = genuine, impostor
        assert tar == pytest.approx(plain_tar(after, same, weight, 0.01))


def test_differences_on_huge_sets_draw_only_what_can_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    same = np.arange(6000) % 20 == 0
    shared = generator.normal(size=6000) + 2 * same
    before, after = (shared + generator.normal(0, 0.4, 6000) for _ in range(2))
    plain = intervals.difference_of_tar(before, after, same, 0.01, resamples=600, seed=1)
    monkeypatch.setattr(intervals, "LARGE", 0)
    huge = intervals.difference_of_tar(before, after, same, 0.01, resamples=600, seed=2)
    assert stats.ks_2samp(plain, huge).pvalue > 1e-3
    assert (intervals.difference_of_tar(before, before, same, 0.01, resamples=20) == 0).all()
    value = [verify_scores(scores, same, far=[0.01])["tar"][0.01]["tar"] for scores in (before, after)]
    assert huge.mean() == pytest.approx(value[1] - value[0], abs=0.02)


def test_resampled_eer_is_that_of_the_pairs_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    same = np.arange(4000) % 4 == 0
    scores = np.round(generator.normal(size=4000) + 2 * same, 2)
    found = intervals.resample_eer(scores, same, resamples=300)
    whole = verify_scores(scores, same)["eer"]
    plain = []
    for _ in range(300):
        rows = np.concatenate([generator.choice(np.flatnonzero(same == kind), (same == kind).sum()) for kind in (0, 1)])
        plain.append(verify_scores(scores[rows], same[rows], np.arange(4000) // 2 % 2)["eer"])
    assert found.mean() == pytest.approx(whole, abs=0.003) and stats.ks_2samp(found, plain).pvalue > 1e-3
    monkeypatch.setattr(intervals, "LARGE", 0)
    assert intervals.resample_eer(scores, same, resamples=300).std() == pytest.approx(found.std(), rel=0.15)
    monkeypatch.undo()
    assert stats.ks_2samp(found, intervals.resample_eer(scores, same, resamples=300, paired=True)).pvalue > 1e-3
    paired = [intervals.resample_eer(factor * scores, same, resamples=50, paired=True) for factor in (1, 2)]
    assert (paired[0] == paired[1]).all()
    lone = intervals.resample_eer([0.9, 0.1], [True, False], resamples=5)
    assert (lone == 0).all()


def test_the_exact_interval_of_a_share() -> None:
    assert intervals.interval_of_share(600, 600) == pytest.approx((0.025 ** (1 / 600), 1.0))
    assert intervals.interval_of_share(0, 20) == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))
    for successes, trials in ((3, 17), (599, 600)):
        exact = stats.binomtest(successes, trials).proportion_ci(method="exact")
        assert intervals.interval_of_share(successes, trials) == pytest.approx((exact.low, exact.high))
    with pytest.raises(ValueError, match="7 successes in 6"):
        intervals.interval_of_share(7, 6)
    resampled = intervals.resample_mean(np.ones(50), resamples=100)
    assert intervals.bounds(1.0, resampled, 50) == intervals.interval_of_share(50, 50)
    assert intervals.bounds(0.0, 0 * resampled, 50) == intervals.interval_of_share(0, 50)
    resampled = intervals.resample_mean(np.arange(50) < 30, resamples=100)
    assert intervals.bounds(0.6, resampled, 50) == intervals.interval(resampled)
