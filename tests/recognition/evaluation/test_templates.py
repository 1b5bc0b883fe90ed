"""Templates in blocks, and the curve read from ordered scores, against plain loops and verify_scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recognition.evaluation import templates
from recognition.evaluation.listed import MISSED
from recognition.evaluation.templates import Ranked, fuse, pool, rows_of, score_pairs, score_rows, tar_at_far
from recognition.evaluation.verification import verify_scores


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "ROWS", 7)
    monkeypatch.setattr(templates, "FIRSTS", 3)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("keep_norm", [True, False])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_pool_in_blocks(kind: str, keep_norm: bool) -> None:
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(40, 6)).astype(np.float32)
    rows = generator.integers(40, size=90)  # one picture may be of several templates
    template, media, score = generator.integers(5, size=90) * 3, generator.integers(4, size=90), generator.random(90)
    given = torch.from_numpy(vectors) if kind == "torch" else vectors
    ids, pooled = pool(given, template, media, rows=rows, keep_norm=keep_norm, detector_score=score)
    assert ids.tolist() == sorted(set(template.tolist()))
    for number, row in zip(ids, pooled, strict=True):
        total = np.zeros(6)
        for medium in set(media[template == number]):
            frames = []
            for i in np.flatnonzero((template == number) & (media == medium)):
                vector = vectors[rows[i]].astype(np.float64)
                frames.append(score[i] * (vector if keep_norm else vector / np.linalg.norm(vector)))
            total += np.mean(frames, 0)
        np.testing.assert_allclose(row, total / np.linalg.norm(total), atol=1e-12)


@pytest.mark.usefixtures("small_blocks")
def test_fusion_keeps_the_precision_it_is_given() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 20, 4)).astype(np.float32)
    for flip, wanted in (("sum", a + b), ("concat", np.hstack([a, b]))):
        fused = fuse(a, b, flip=flip)
        assert fused.dtype == np.float32
        np.testing.assert_array_equal(fused, wanted)
    assert fuse(a.astype(np.float64), b).dtype == np.float64
    unit = fuse(a, flip="none", keep_norm=False, detector_score=np.arange(20))
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), np.arange(20), rtol=1e-6)


@pytest.mark.usefixtures("small_blocks")
def test_both_ways_to_score_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(17, 5)).astype(np.float32)
    first, second = generator.integers(3, 17, size=(2, 60))
    wanted = [float(vectors[a].astype(np.float64) @ vectors[b]) for a, b in zip(first, second, strict=True)]
    for dense in (0.0, 1e9):  # by matrix product, and by gathering
        monkeypatch.setattr(templates, "DENSE", dense)
        scores = score_rows(vectors, first, second)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, wanted, atol=1e-5)
    ids = np.arange(17) * 2
    np.testing.assert_array_equal(score_pairs(vectors, ids, first * 2, second * 2), scores)


@pytest.mark.parametrize("table", [0, 100])
def test_rows_of_ids(monkeypatch: pytest.MonkeyPatch, table: int) -> None:
    monkeypatch.setattr(templates, "TABLE", table)
    found = rows_of(np.array([3, 5, 9]), np.array([3, 4, 9, 10, 2, -(10**9), 10**9, 5]))
    assert found.tolist() == [0, -1, 2, -1, -1, -1, -1, 1] and found.dtype == np.int32


def plain_curve(scores: np.ndarray, same: np.ndarray) -> list[tuple[float, float, float]]:
    """(FAR, TAR, threshold) at nothing and at every score that a pair can pass at."""
    points = [(0.0, 0.0, np.inf)]
    for threshold in sorted({s for s in scores.tolist() if s > MISSED}, reverse=True):
        passed = scores >= threshold
        points.append((float(passed[~same].mean()), float(passed[same].mean()), threshold))
    return points


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("missed", [0, 9])
def test_tar_at_far_against_every_threshold(seed: int, missed: int) -> None:
    generator = np.random.default_rng(seed)
    same = generator.random(90) < 0.3
    scores = np.round(generator.normal(0.3 * same, 0.2), 1 if seed % 2 else 3).clip(-1, 1)  # one digit: many ties
    scores[generator.integers(90, size=missed)] = MISSED
    points = plain_curve(scores, same)
    impostors = (~same).sum()
    for far, at in tar_at_far(scores, same, (0.001, 0.01, 0.05, 3 / impostors, 0.1, 0.3, 0.99, 1.0)).items():
        strict = max((p for p in points if p[0] <= far + 1e-12), key=lambda p: p[:2])
        assert (at["conservative_far"], at["conservative"]) == pytest.approx(strict[:2])
        assert at["threshold"] == strict[2] or strict[2] == np.inf
        gap = min(abs(p[0] - far) for p in points)
        nearest = max((p for p in points if abs(p[0] - far) <= gap), key=lambda p: p[1])
        assert (at["nearest_far"], at["nearest"]) == pytest.approx(nearest[:2])


@pytest.mark.parametrize("digits", [1, 6])
def test_the_curve_is_that_of_verification(digits: int) -> None:
    generator = np.random.default_rng(3)
    for _ in range(20):
        same = generator.permutation(np.arange(200) < generator.integers(20, 180))
        scores = np.round(generator.normal(0.3 * same, 0.2), digits)
        wanted = verify_scores(scores, same, np.arange(200) % 2, far=(0.01, 0.1))
        ranked = Ranked(scores, same)
        assert ranked.auc() == pytest.approx(wanted["auc"])
        assert ranked.eer() == pytest.approx(wanted["eer"])
        for far, at in wanted["tar"].items():
            found = ranked.at(far)
            assert [found[k] for k in ("conservative", "conservative_far", "threshold")] == [
                at[k] for k in ("tar", "far", "threshold")
            ]
            assert [found[k] for k in ("nearest", "nearest_far")] == [at[k] for k in ("nearest", "nearest_far")]
        roc = ranked.roc()
        np.testing.assert_allclose(roc["tar"], wanted["roc"]["tar"], atol=1e-6)
        np.testing.assert_allclose(roc["far"], wanted["roc"]["far"], rtol=1e-5)


def test_wrong_rates_and_scores() -> None:
    with pytest.raises(ValueError, match="lies in"):
        tar_at_far([0.1, 0.2], [True, False], [0.0])
    with pytest.raises(ValueError, match="finite"):
        Ranked([0.1, np.nan], [True, False])
    with pytest.raises(ValueError, match="picture at least"):
        pool(np.empty((0, 4)), [], [])
