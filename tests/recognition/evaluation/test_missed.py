"""Pairs without a face: no threshold accepts them, by no rule, and they stay in every denominator."""

from __future__ import annotations

import numpy as np
import pytest

from recognition.evaluation import intervals, measures
from recognition.evaluation.identification import Search
from recognition.evaluation.listed import MISSED
from recognition.evaluation.openset import open_set
from recognition.evaluation.protocol import ITEMS, Asked
from recognition.evaluation.templates import Ranked
from recognition.evaluation.verification import RULES, verify_scores


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """200 pairs, 180 of them genuine, every tenth of them and 4 impostor pairs without a face: scores, same, fold.

    As 9 of 10 pairs are genuine, and nearly all impostors above many of them, all accepted would be best.
    """
    same = np.arange(200) % 10 != 9
    scores = np.where(same, 0.2, 0.3) + np.random.default_rng(0).normal(0, 0.1, 200)
    scores[np.flatnonzero(same)[::10]] = MISSED
    scores[np.flatnonzero(~same)[::5]] = MISSED
    return scores, same, np.arange(200) // 10 % 2


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_accepts_them(pairs, rule: str) -> None:
    scores, same, fold = pairs
    found = verify_scores(scores, same, fold, far=(0.5, 1.0), rule=rule)
    missed = scores == MISSED
    assert (found["correct"][missed] == ~same[missed]).all() and (found["threshold_per_fold"] > MISSED).all()
    assert found["tar"][1.0]["tar"] == found["tar"][1.0]["nearest"] == pytest.approx(0.9)
    assert found["tar"][1.0]["far"] == pytest.approx(0.8)
    assert found["roc"]["tar"].max() == pytest.approx(0.9)
    seen = ~missed
    without = verify_scores(scores[seen], same[seen], fold[seen], far=(0.5,), rule=rule)
    # the same thresholds, as a pair that none accepts chooses none (but for EPFL's, whose TAR - FAR has denominators)
    if rule != "epfl":
        assert found["threshold_per_fold"].tolist() == without["threshold_per_fold"].tolist()
    lowest = scores[seen].min()
    assert (found["threshold_per_fold"] >= lowest - 0.01).all(), "EPFL's grid begins at the lowest score of a face"


def test_curves_agree_with_plain_counting(pairs) -> None:
    scores, same, _ = pairs
    found, ranked = verify_scores(scores, same, 2, far=(0.1, 0.3, 1.0)), Ranked(scores, same)
    points = []
    for threshold in [*sorted(set(scores[scores > MISSED])), np.inf]:
        points.append(((scores[~same] >= threshold).mean(), (scores[same] >= threshold).mean()))
    for far, at in found["tar"].items():
        assert at["tar"] == pytest.approx(max(tar for false, tar in points if false <= far))
        gap = min(abs(false - far) for false, _ in points)
        assert at["nearest"] == pytest.approx(max(t for f, t in points if abs(f - far) <= gap + 1e-12))
        both = ranked.at(far)
        assert [both["nearest"], both["nearest_far"]] == [at["nearest"], at["nearest_far"]]
        assert [both["conservative"], both["conservative_far"]] == [at["tar"], at["far"]]
    false, tar = min(reversed(points), key=lambda point: abs(point[0] - (1 - point[1])))
    assert found["eer"] == pytest.approx((false + 1 - tar) / 2) == ranked.eer()
    couples = [(g > i) + 0.5 * (g == i) for g in scores[same] for i in scores[~same]]
    assert found["auc"] == pytest.approx(np.mean(couples)) == ranked.auc()


def test_resamples_do_not_accept_them_either(pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, same, _ = pairs
    person = np.arange(200)
    by_people = intervals.resample_tar_by_group(scores, same, person, person + 200, 1.0, resamples=50)
    for drawn in (intervals.resample_tar(scores, same, 1.0, resamples=50), by_people):
        assert 0.8 < drawn.mean() < 0.95 and drawn.max() < 1 and len(set(drawn)) > 5
    exact = intervals.resample_eer(scores, same, resamples=400)
    paired = intervals.resample_eer(scores, same, resamples=400, paired=True)
    assert exact.mean() == pytest.approx(paired.mean(), abs=0.02)
    assert paired.mean() == pytest.approx(verify_scores(scores, same, 2)["eer"], abs=0.03)
    assert (intervals.difference_of_tar(scores, scores, same, 1.0, resamples=20) == 0).all()
    monkeypatch.setattr(intervals, "LARGE", 10)
    large = intervals.resample_tar(scores, same, 1.0, resamples=400)
    assert large.mean() == pytest.approx(0.9, abs=0.01) and large.std() == pytest.approx(0.3 / 180**0.5, rel=0.15)
    assert intervals.resample_eer(scores, same, resamples=400).mean() == pytest.approx(exact.mean(), abs=0.02)


def test_a_set_of_missed_pairs_only_scores_nothing() -> None:
    same = np.arange(8) % 2 == 0
    found = verify_scores(np.full(8, MISSED), same, 2, far=(1.0,))
    assert found["accuracy"] == 0.5 and found["tar"][1.0]["tar"] == 0 and found["auc"] == 0.5
    assert verify_scores(np.full(8, MISSED), same, 2, rule="epfl")["accuracy"] == 0.5


def test_strangers_without_a_face_raise_no_alarm() -> None:
    mated = Search(
        *[np.zeros(4, np.int64)] * 2, position=np.array([1, 1, 1, 9]), mate_similarity=np.array([0.9, 0.5, 0.1, MISSED])
    )
    strangers = np.array([0.7, 0.3, MISSED, MISSED])
    people = (np.arange(4), np.arange(4))
    found = open_set(mated, strangers, (1.0,), (1,), Asked(resamples=0), people)["tpir1@1"]
    assert (found["value"], found["fpir"], found["nearest"], found["nearest_fpir"]) == (0.75, 0.5, 0.75, 0.5)


def test_every_verification_tells_the_nearest_rate() -> None:
    same = np.arange(40) % 2 == 0
    scores = np.where(same, 0.5, 0.0) + np.arange(40) / 100
    part = measures.verification(scores, same, Asked(far=(0.12,), resamples=20), 2)
    at = part["tar@0.12"]  # 2 or 3 of 20 impostors: 0.1 is nearest, and below
    assert at["nearest_far"] == at["far"] == pytest.approx(0.1) and at["nearest"] == at["value"]
    at = measures.verification(scores, same, Asked(far=(0.13,), resamples=20), 2)["tar@0.13"]
    assert at["nearest_far"] == pytest.approx(0.15) and at["far"] == pytest.approx(0.1)


def test_shares_of_0_and_1_have_intervals_of_a_width() -> None:
    same = np.arange(40) % 2 == 0
    part = measures.verification(np.where(same, 0.9, 0.1), same, Asked(far=(0.1,), resamples=50), 2)
    assert part["eer"]["value"] == 0 and (part["eer"]["lo"], part["eer"]["hi"]) == intervals.interval_of_share(0, 20)
    assert part["accuracy"]["lo"] == intervals.interval_of_share(40, 40)[0]


def test_pairs_by_people() -> None:
    """12 people with 10 genuine pairs each, half of the people hard to know: wider than if pairs were drawn."""
    generator = np.random.default_rng(1)
    first, second = np.repeat(np.arange(12), 10), generator.integers(0, 11, 120)
    second += second >= first
    first, second = np.tile(first, 2), np.append(first, second)
    same = np.arange(240) < 120
    scores = np.where(same, 0.6 - 0.6 * (first % 2), 0.0) + generator.normal(0, 0.05, 240)
    folds = np.where(same, np.cumsum(same), np.cumsum(~same)) % 2
    people = (first + 7, second + 7)
    asked = Asked(far=(0.1, 0.01), resamples=300)
    plain = measures.verification(scores, same, asked, folds, people=people)
    drawn = measures.verification(scores, same, asked, folds, people=people, resampled="people")
    assert (plain["resampled"], drawn["resampled"]) == ("pairs", "people")
    for part in (plain, drawn):
        np.testing.assert_array_equal(part[ITEMS]["person_1"], people[0])
        np.testing.assert_array_equal(part[ITEMS]["person_2"], people[1])
    for key in ("accuracy", "tar@0.1"):
        widths = [part[key]["hi"] - part[key]["lo"] for part in (plain, drawn)]
        assert plain[key]["value"] == drawn[key]["value"] and widths[1] != widths[0]
        assert drawn[key]["lo"] <= drawn[key]["value"] <= drawn[key]["hi"]
    assert widths[1] > 1.2 * widths[0]
    wanted = intervals.resample_tar_by_group(scores, same, *people, (0.1, 0.01), resamples=300)[1]
    assert (drawn["tar@0.01"]["lo"], drawn["tar@0.01"]["hi"]) == intervals.interval(wanted)
    assert drawn["auc"].keys() == {"value"} and "lo" not in drawn["eer"] and plain["eer"]["lo"] is not None
    assert "resampled" not in measures.verification(scores, same, asked, folds)


def test_weighted_means_by_people_are_plain_ones() -> None:
    generator = np.random.default_rng(2)
    first, second = generator.integers(0, 6, (2, 50))
    values, weights = generator.random(50), generator.random(50)
    found = intervals.resample_mean_by_group(values, first, second, weights=weights, resamples=40, seed=3)
    (counts,) = intervals.draw_counts(np.random.default_rng(3), 6, 40)
    for drawn, c in zip(found, counts, strict=True):
        w = [weights[p] * (c[a] if a == b else c[a] * c[b]) for p, (a, b) in enumerate(zip(first, second, strict=True))]
        assert drawn == pytest.approx(np.dot(w, values) / np.sum(w))
    with pytest.raises(ValueError, match="values must be finite"):
        intervals.resample_mean_by_group([np.nan], [0], [1])
