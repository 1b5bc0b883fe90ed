"""TPIR at FPIR against plain counting: thresholds, ties, the nearest rate, failures, resampling of people."""

from __future__ import annotations

import numpy as np
import pytest

from recognition.evaluation import intervals
from recognition.evaluation.identification import Search
from recognition.evaluation.listed import MISSED
from recognition.evaluation.openset import open_set, resample_tpir
from recognition.evaluation.protocol import Asked

PLAIN = Asked(resamples=0)


def mated(similarity: np.ndarray, position: np.ndarray) -> Search:
    return Search(np.zeros_like(position), similarity, position, similarity)


def drawn(seed: int, digits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Similarities of 60 mated probes, their positions, and similarities of 40 unmated ones, with ties."""
    rng = np.random.default_rng(seed)
    alike = rng.normal(0.4, 0.2, 60).round(digits).astype(np.float32)
    return alike, rng.integers(1, 30, 60), rng.normal(0.2, 0.2, 40).round(digits).astype(np.float32)


@pytest.mark.parametrize("digits", [1, 6])
@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_plain_counting(seed: int, digits: int) -> None:
    alike, position, strangers = drawn(seed, digits)
    fars = (0.001, 0.01, 0.06, 0.1, 0.3, 1.0)
    people = np.arange(60), np.arange(40)
    found = open_set(mated(alike, position), strangers, fars, (1, 20), PLAIN, people)
    thresholds = sorted({*alike[position <= 20].tolist(), *strangers.tolist(), 9.0})
    for f in fars:
        rates = [(np.mean(strangers >= t), t) for t in thresholds]
        least = min(t for rate, t in rates if rate <= f)
        gap = min(abs(rate - f) for rate, _ in rates)
        nearest = min(t for rate, t in rates if abs(abs(rate - f) - gap) < 1e-12)
        for rank in (1, 20):
            one = found[f"tpir{rank}@{f:g}"]
            assert one["value"] == pytest.approx(np.mean((alike >= least) & (position <= rank)))
            assert one["fpir"] == pytest.approx(np.mean(strangers >= least)) and one["fpir"] <= f
            assert one["nearest"] == pytest.approx(np.mean((alike >= nearest) & (position <= rank)))
            assert one["nearest_fpir"] == pytest.approx(np.mean(strangers >= nearest))
            hit = (alike >= one["threshold"]) & (position <= rank)
            assert hit.mean() == pytest.approx(one["value"]), "the threshold gives the value"
            assert np.mean(strangers >= one["threshold"]) == pytest.approx(one["fpir"])
            assert (one["lo"], one["hi"]) == (None, None)


def test_what_never_passes() -> None:
    alike, position = np.array([0.9, MISSED, 0.8], np.float32), np.array([1, 101, 30])
    strangers = np.array([0.1, MISSED], np.float32)
    found = open_set(mated(alike, position), strangers, (0.5, 1.0), (20,), PLAIN, (np.arange(3), np.arange(2)))
    assert found["tpir20@1"]["value"] == found["tpir20@0.5"]["value"] == pytest.approx(1 / 3)
    nobody = open_set(mated(alike, position + 20), strangers, (0.5,), (20,), PLAIN, (np.arange(3), np.arange(2)))
    assert nobody["tpir20@0.5"]["value"] == 0
    for f in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"fpir={f}: .*\(0, 1\]"):
            open_set(mated(alike, position), strangers, (f,), (20,), PLAIN, (np.arange(3), np.arange(2)))


def test_the_curve_rises_and_ends_at_all() -> None:
    alike, position, strangers = drawn(0, 6)
    curve = open_set(mated(alike, position), strangers, (0.1,), (1, 20), PLAIN, (np.arange(60), np.arange(40)))[
        "open_set"
    ]
    assert set(curve) == {"fpir", "tpir20"} and len(curve["fpir"]) == len(curve["tpir20"])
    assert (np.diff(curve["fpir"]) > 0).all() and (np.diff(curve["tpir20"]) >= 0).all()
    assert curve["fpir"][-1] == 1 and curve["tpir20"][-1] == pytest.approx(np.mean(position <= 20), abs=1e-6)


def plain(alike: np.ndarray, strangers: np.ndarray, f: float) -> float:
    """TPIR of repeated probes: -inf = no hit."""
    thresholds = sorted({*alike[np.isfinite(alike)], *strangers})
    passing = [t for t in thresholds if np.mean(strangers >= t) <= f + 1e-12]
    return float(np.mean(alike >= min(passing))) if passing else 0.0


@pytest.mark.parametrize("digits", [1, 6])
def test_resamples_draw_whole_people_and_a_threshold_of_their_own(digits: int) -> None:
    alike, position, strangers = drawn(4, digits)
    people = np.sqrt(np.arange(60)).astype(int) * 7, np.arange(40) // 3 - 4  # of unequal sizes
    scores = np.stack([np.where(position <= k, alike, -np.inf) for k in (5, 20)])
    found = resample_tpir(scores, strangers, (0.1, 0.3), people, resamples=25, seed=9)
    groups = [np.unique(ids, return_inverse=True)[1] for ids in people]
    draws = [
        np.concatenate(list(intervals.draw_counts(np.random.default_rng([9, kind]), g.max() + 1, 25)))
        for kind, g in enumerate(groups)
    ]
    for row, known, unknown in zip(found, *draws, strict=True):
        again = np.repeat(strangers, unknown[groups[1]])
        for i in (0, 1):
            values = [plain(np.repeat(scores[i], known[groups[0]]), again, f) for f in (0.1, 0.3)]
            assert row[i].tolist() == pytest.approx(values)


def test_resamples_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    alike, position, strangers = drawn(5, 6)
    scores, people = np.where(position <= 20, alike, -np.inf)[None], (np.arange(60) // 2, np.arange(40))
    whole = resample_tpir(scores, strangers, (0.1,), people, 20, 1)
    monkeypatch.setattr(intervals, "CHUNK", 4 * 60 * 3)
    np.testing.assert_array_equal(whole, resample_tpir(scores, strangers, (0.1,), people, 20, 1))


def test_intervals_hold_the_value_and_widen_with_people() -> None:
    rng = np.random.default_rng(0)
    person = np.arange(400) // 20
    alike = (rng.normal(0.4, 0.15, 20)[person] + rng.normal(0, 0.02, 400)).astype(np.float32)
    strangers, ones = rng.normal(0.2, 0.1, 300).astype(np.float32), np.ones(400, np.int64)
    asked = Asked(resamples=300)
    by_person, by_probe = (
        open_set(mated(alike, ones), strangers, (0.1,), (1,), asked, (ids, np.arange(300)))["tpir1@0.1"]
        for ids in (person, np.arange(400))
    )
    assert by_person["value"] == by_probe["value"]
    widths = [one["hi"] - one["lo"] for one in (by_person, by_probe)]
    assert by_person["lo"] < by_person["value"] < by_person["hi"] and widths[0] > 2 * widths[1]
