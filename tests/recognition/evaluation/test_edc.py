"""Error-versus-discard curves against plain re-derivations: ties, random, perfect and reversed quality, intervals."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest

from recognition.evaluation.edc import discard, pair_quality


def pairs(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, same, and a quality that tells something of the genuine scores."""
    rng = np.random.default_rng(seed)
    same = np.arange(n) % 2 == 0
    true = rng.uniform(size=n)
    scores = np.where(same, 0.6 * true, 0.0) + rng.normal(0, 0.15, n)
    return scores, same, true + rng.normal(0, 0.3, n)


def naive(scores: np.ndarray, same: np.ndarray, quality: np.ndarray, far: float, discarded: int) -> float:
    """FNMR with so many genuine pairs gone, one by one; no ties."""
    impostors = sorted(scores[~same])[::-1]
    allowed = int(far * len(impostors))
    threshold = min([s for s in scores if sum(i >= s for i in impostors) <= allowed], default=np.inf)
    kept = sorted(zip(quality[same], scores[same], strict=True))[discarded:]
    return sum(score < threshold for _, score in kept) / len(kept)


@pytest.mark.parametrize("far", [0.1, 0.01, 0.001])
def test_the_curve_is_that_of_a_plain_count(far: float) -> None:
    scores, same, quality = pairs(80)
    found = discard(scores, same, {"q": quality}, far=far, most=0.3, resamples=0)
    assert len(found.share) == 13 and found.share[-1] == 0.3
    expected = [naive(scores, same, quality, far, gone) for gone in range(13)]
    np.testing.assert_allclose(found.curves["q"], expected, rtol=0, atol=1e-12)
    assert found.fnmr == pytest.approx(expected[0], abs=1e-15)
    area = sum((a + b) / 2 for a, b in pairwise(expected)) / 12
    assert found.pauc["q"] == pytest.approx(area, abs=1e-12)
    assert found.far <= far and found.measure("pauc", "q") == {"value": found.pauc["q"], "lo": None, "hi": None}


def test_a_perfect_quality_is_the_ideal_and_the_reverse_is_worse_than_none() -> None:
    scores, same, _ = pairs(2000)
    qualities = {"perfect": scores, "none": np.zeros(len(scores)), "reversed": -scores}
    found = discard(scores, same, qualities, far=0.01, most=0.3, resamples=20)
    np.testing.assert_allclose(found.curves["perfect"], found.ideal, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.curves["none"], found.fnmr, rtol=0, atol=1e-12)
    assert found.relative["perfect"] == pytest.approx(0, abs=1e-9)
    assert found.relative["none"] == pytest.approx(1, abs=1e-9)
    assert found.relative["reversed"] > 1.5
    assert np.abs(found.resampled["relative/perfect"]).max() < 1e-9  # in every resample


def test_a_random_quality_is_flat_on_average() -> None:
    scores, same, _ = pairs(2000)
    rng = np.random.default_rng(1)
    found = discard(scores, same, {str(i): rng.uniform(size=2000) for i in range(40)}, far=0.01, resamples=0)
    values = np.array([*found.relative.values()])
    assert abs(values.mean() - 1) < 3 * values.std() / 40**0.5 and values.std() < 0.2


def test_ties_are_the_expected_value_over_their_orders() -> None:
    scores = np.array([0.9, 0.1, 0.8, 0.2, 0.7, 0.0, 0.5])
    same = np.array([True] * 5 + [False] * 2)
    quality = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 9.0, 9.0])
    found = discard(scores, same, {"q": quality}, far=0.01, most=0.8, resamples=0)
    curves = []
    for first in permutations([0, 1, 2]):
        for second in permutations([3, 4]):
            wrong = (scores < 0.5 + 1e-9)[[*first, *second]]
            curves.append([wrong[gone:].mean() for gone in range(5)])
    np.testing.assert_allclose(found.curves["q"], np.mean(curves, 0), rtol=0, atol=1e-12)


def test_the_order_in_the_file_does_not_matter() -> None:
    scores, same, quality = pairs(600)
    coarse = np.round(quality)
    mixed = np.random.default_rng(5).permutation(600)
    one = discard(scores, same, {"q": coarse}, far=0.01, resamples=0)
    by_score = np.argsort(scores)  # the order that would gain most
    for order in (mixed, by_score):
        other = discard(scores[order], same[order], {"q": coarse[order]}, far=0.01, resamples=0)
        np.testing.assert_allclose(other.curves["q"], one.curves["q"], rtol=0, atol=1e-12)


def test_resamples_are_drawn_pairs_with_a_threshold_of_their_own() -> None:
    scores, same, quality = pairs(120)
    found = discard(scores, same, {"q": np.round(4 * quality)}, far=0.05, most=0.3, resamples=7, seed=3)
    generators = [np.random.default_rng([3, kind]) for kind in (0, 1)]
    drawn = [g.integers(60, size=(7, 60)) for g in generators]
    impostors = np.flatnonzero(~same)
    rows = np.flatnonzero(same), impostors[np.argsort(-scores[impostors])]  # the best first
    for r in range(7):
        chosen = np.concatenate([rows[kind][drawn[kind][r]] for kind in (0, 1)])
        again = discard(scores[chosen], same[chosen], {"q": np.round(4 * quality[chosen])}, far=0.05, resamples=0)
        assert found.resampled["fnmr"][r] == pytest.approx(again.fnmr, abs=1e-12)
        assert found.resampled["pauc/q"][r] == pytest.approx(again.pauc["q"], abs=1e-12)
        assert found.resampled["relative/q"][r] == pytest.approx(again.relative["q"], abs=1e-9)


def test_differences_are_paired() -> None:
    scores, same, quality = pairs(800)
    rng = np.random.default_rng(2)
    close = quality + rng.normal(0, 0.01, 800)
    found = discard(scores, same, {"one": quality, "close": close, "two": rng.uniform(size=800)}, far=0.01)
    worse = found.difference("two", "one")
    assert worse["value"] == found.pauc["two"] - found.pauc["one"] and worse["lo"] > 0
    near, alone = found.difference("close", "one"), found.measure("pauc", "one")
    assert near["lo"] <= near["value"] <= near["hi"]
    assert near["hi"] - near["lo"] < 0.3 * (alone["hi"] - alone["lo"])


def test_a_matcher_without_errors_has_no_relative_area() -> None:
    same = np.arange(20) < 10
    found = discard(np.where(same, 1.0, 0.0), same, {"q": np.arange(20.0)}, far=0.1, resamples=5)
    assert found.fnmr == 0 and found.pauc["q"] == 0
    assert found.measure("relative", "q") == {"value": None, "lo": None, "hi": None}
    assert found.measure("pauc", "q") == {"value": 0.0, "lo": 0.0, "hi": 0.0}


def test_a_pair_is_as_good_as_its_worse_image() -> None:
    np.testing.assert_array_equal(pair_quality([1.0, 5.0], np.float32([2.0, 3.0])), [1.0, 3.0])
    with pytest.raises(ValueError, match="pair 1 is not finite"):
        pair_quality([1.0, np.nan], [2.0, 3.0])


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"quality": {"q": np.zeros(3)}}, r"must be \(P,\)"),
        ({"quality": {"q": np.array([0.0, np.inf, 0.0, 0.0])}}, "q of pair 1"),
        ({"scores": np.array([0.0, 0.0, np.nan, 0.0])}, "similarity of pair 2"),
        ({"same": np.ones(4, bool)}, "pairs of one kind"),
        ({"far": 0.0}, "false accept rate"),
        ({"most": 1.0}, "largest share discarded"),
    ],
)
def test_faults_are_said(change: dict, complaint: str) -> None:
    given = {"scores": np.arange(4.0), "same": np.arange(4) < 2, "quality": {"q": np.zeros(4)}, "far": 0.1}
    with pytest.raises(ValueError, match=complaint):
        discard(**{**given, **change})
