"""Thresholds at false accept rates over all pairs, and their intervals by person, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recognition.evaluation import thresholds as module
from recognition.evaluation.intervals import bounds, draw_counts, interval
from recognition.evaluation.thresholds import thresholds


def some_faces(images: int, people: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    person = np.arange(images) % people
    centre = generator.normal(size=(people, 8))
    return (centre[person] + generator.normal(size=(images, 8))).astype(np.float32), person


def plain_pairs(rows: np.ndarray, person: np.ndarray, others: np.ndarray | None, other_people: np.ndarray | None):
    """(similarity, person, other person) of every pair, one by one."""
    unit = rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True)
    if others is None:
        index = [(i, j) for i in range(len(rows)) for j in range(i + 1, len(rows))]
        return [(float(unit[i] @ unit[j]), person[i], person[j]) for i, j in index]
    second = others.astype(np.float64) / np.linalg.norm(others, axis=1, keepdims=True)
    index = [(i, j) for i in range(len(rows)) for j in range(len(others))]
    return [(float(unit[i] @ second[j]), person[i], other_people[j]) for i, j in index]


def plain_threshold(pairs: list, far: float, counts: np.ndarray) -> tuple[float, float]:
    """The lowest impostor score whose weighted FAR is at most far, and the weighted TAR at it."""
    strangers = [(s, counts[a] * counts[b]) for s, a, b in pairs if a != b]
    mates = [(s, counts[a]) for s, a, b in pairs if a == b]
    total = sum(w for _, w in strangers)
    fits = [t for t, _ in strangers if sum(w for s, w in strangers if s >= t) <= far * total + 1e-9]
    least = min(fits) if fits else max(s for s, _ in strangers) + 1e-7
    return least, sum(w for s, w in mates if s >= least) / sum(w for _, w in mates)


@pytest.mark.parametrize("crossed", [False, True])
def test_thresholds_are_those_of_all_pairs(crossed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 100)  # several blocks
    rows, person = some_faces(24, 8)
    gallery, stored = some_faces(16, 10, seed=1) if crossed else (None, None)
    more = {"gallery": torch.from_numpy(gallery), "gallery_person": stored + 3} if crossed else {}
    found = thresholds(rows, person, (0.2, 0.02, 1e-3), resamples=25, seed=4, **more)
    pairs = plain_pairs(rows, person, gallery, None if stored is None else stored + 3)
    people = 13 if crossed else 8
    ones = np.ones(people, int)
    assert found["impostors"] == sum(a != b for _, a, b in pairs) and found["genuine"] == sum(
        a == b for _, a, b in pairs
    )
    assert found["people"] == people and found["images"] == 24 + 16 * crossed
    drawn = np.concatenate(list(draw_counts(np.random.default_rng(4), people, 25)))
    mated = [counts for counts in drawn if sum(counts[a] for _, a, b in pairs if a == b)]
    for far in (0.2, 0.02):
        one = found[f"threshold@{far:g}"]
        value, tar = plain_threshold(pairs, far, ones)
        assert one["value"] == pytest.approx(value, abs=1e-6) and one["tar"] == pytest.approx(tar)
        assert one["far"] == pytest.approx(np.mean([s >= value - 1e-7 for s, a, b in pairs if a != b]))
        resampled = np.array([plain_threshold(pairs, far, counts) for counts in mated])
        assert (one["lo"], one["hi"]) == pytest.approx(interval(resampled[:, 0]), abs=1e-6)
        mates = len({a for _, a, b in pairs if a == b})
        assert (one["tar_lo"], one["tar_hi"]) == pytest.approx(bounds(tar, resampled[:, 1], mates))
    nothing = found["threshold@0.001"]
    assert nothing["value"] is None and nothing["reason"].startswith(
        "needs at least 1,000 impostor pairs, and there are"
    )


def test_only_the_highest_are_kept_and_more_where_a_resample_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, person = some_faces(400, 100)
    far = (0.1, 1e-3)
    wanted = thresholds(rows, person, far, resamples=20)
    similarity = rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True)
    strangers = np.sort((similarity @ similarity.T)[np.triu(person[:, None] != person)])[::-1]
    for f in far:
        assert wanted[f"threshold@{f:g}"]["value"] == pytest.approx(strangers[int(f * len(strangers)) - 1], abs=1e-6)
    monkeypatch.setattr(module, "BLOCK", 400 * 7)
    assert thresholds(rows, person, far, resamples=20) == wanted
    monkeypatch.setattr(module, "SPARE", 0.03)
    assert thresholds(rows, person, far, resamples=20) == wanted


def test_few_people_are_resampled_from_all_pairs_that_a_resample_may_need() -> None:
    rows, person = some_faces(400, 4)
    found = thresholds(rows, person, (0.1,), resamples=200, seed=2)["threshold@0.1"]
    unit = rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True)
    first, second = np.triu_indices(len(rows), 1)
    first, second = (side[person[first] != person[second]] for side in (first, second))
    score = (unit[first] * unit[second]).sum(1)
    order = np.argsort(-score)
    score, people = score[order], (person[first[order]], person[second[order]])
    lowest = []
    for counts in np.concatenate(list(draw_counts(np.random.default_rng(2), 4, 200))):
        weight = counts[people[0]] * counts[people[1]]
        if weight.any():
            passing = np.cumsum(weight) <= 0.1 * weight.sum() + 1e-9
            lowest.append(score[np.flatnonzero(passing)[-1]])
    assert (found["lo"], found["hi"]) == pytest.approx(interval(np.array(lowest)), abs=1e-6)


def test_a_share_of_the_pairs_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, person = some_faces(600, 150)
    exact = thresholds(rows, person, (0.2, 0.1, 1e-3), resamples=60)
    monkeypatch.setattr(module, "LIMIT", 8000)
    for block in (1 << 24, 600 * 50):
        monkeypatch.setattr(module, "BLOCK", block)
        found = thresholds(rows, person, (0.2, 0.1, 1e-3), resamples=60)
        assert found["threshold@0.001"] == exact["threshold@0.001"]  # few enough for all to be looked at
        for key in ("threshold@0.2", "threshold@0.1"):
            assert found[key]["value"] != exact[key]["value"]
            assert found[key]["value"] == pytest.approx(exact[key]["value"], abs=0.01)
            width = [one[key]["hi"] - one[key]["lo"] for one in (found, exact)]
            assert 0.8 * width[1] < width[0] < 2.2 * width[1]  # 8,000 pairs are few: they add their own noise


def test_equal_similarities_pass_together() -> None:
    rows = np.repeat(np.eye(4), 2, 0)
    rows[3] = rows[5] = rows[7] = rows[0]  # three strangers who look like person 0
    found = thresholds(rows, np.arange(8) // 2, (0.5, 0.1), resamples=0)
    # similarity 1: pairs of images 0, 1, 3, 5, 7 but (0, 1): 9 of 24 impostors; all others 0
    assert (found["threshold@0.5"]["value"], found["threshold@0.5"]["far"]) == (1.0, 9 / 24)
    assert found["threshold@0.1"]["value"] > 1 and found["threshold@0.1"]["far"] == found["threshold@0.1"]["tar"] == 0
    assert found["threshold@0.5"]["lo"] is None and found["threshold@0.5"]["tar_lo"] is None


def test_without_genuine_pairs_and_with_wrong_arguments() -> None:
    rows, _ = some_faces(20, 20)
    found = thresholds(rows, np.arange(20), (0.1,), resamples=20)
    assert found["threshold@0.1"]["tar"] is None and found["threshold@0.1"]["lo"] is not None and not found["genuine"]
    with pytest.raises(ValueError, match="no pair of strangers"):
        thresholds(rows, np.zeros(20), (0.1,))
    with pytest.raises(ValueError, match="one person per embedding"):
        thresholds(rows, np.arange(19))
    with pytest.raises(ValueError, match="comes with its people"):
        thresholds(rows, np.arange(20), gallery=rows)
    with pytest.raises(ValueError, match="false accept rate"):
        thresholds(rows, np.arange(20), (0.0,))
    with pytest.raises(ValueError, match="zero"):
        thresholds(0 * rows, np.arange(20))
