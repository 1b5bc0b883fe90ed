"""Templates against the IJB scripts' figures and a plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.evaluation.templates import fuse, pool, score_pairs, tar_at_far


def test_ijb(oracles: Path) -> None:
    oracle = np.load(oracles / "ijb_templates.npz")
    image, mirrored = np.split(oracle["features"], 2, axis=1)
    vectors = fuse(image, mirrored, detector_score=oracle["detector_score"])
    ids, templates = pool(vectors, oracle["template_ids"], oracle["media_ids"])
    assert np.array_equal(ids, oracle["unique_templates"])
    np.testing.assert_allclose(templates, oracle["template_features"], atol=1e-4 * np.abs(templates).max())
    scores = score_pairs(templates, ids, oracle["pair_1"], oracle["pair_2"])
    np.testing.assert_allclose(scores, oracle["scores"], atol=1e-4)
    found = tar_at_far(scores, oracle["pair_label"], oracle["far_targets"])
    np.testing.assert_allclose([at["nearest"] for at in found.values()], oracle["tar"], atol=1e-12)
    for far, at in found.items():
        assert at["conservative_far"] <= far and at["conservative"] <= at["nearest"]
    assert found[1e-3]["nearest_far"] > 1e-3  # the scripts' rule may exceed its FAR


def test_pool_against_a_plain_loop() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(60, 5))
    templates, media = generator.integers(4, size=60) * 10, generator.integers(3, size=60)  # media shared by templates
    ids, pooled = pool(vectors, templates, media)
    for template, row in zip(ids, pooled, strict=True):
        total = np.zeros(5)
        for medium in set(media[templates == template]):
            total += vectors[(templates == template) & (media == medium)].mean(0)
        np.testing.assert_allclose(row, total / np.linalg.norm(total), atol=1e-12)


def test_fusion_options() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 3, 4))
    weight = np.array([0.5, 1, 2])
    np.testing.assert_array_equal(fuse(a, b), a + b)
    np.testing.assert_array_equal(fuse(a, b, flip="concat"), np.hstack([a, b]))
    np.testing.assert_array_equal(fuse(a, flip="none", detector_score=weight), a * weight[:, None])
    unit = fuse(a, b, keep_norm=False, detector_score=weight)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), weight)
    for arguments in [(a,), (a, b, "none")]:
        with pytest.raises(ValueError, match="mirrored"):
            fuse(arguments[0], *arguments[1:2], flip=arguments[2] if len(arguments) > 2 else "sum")
    with pytest.raises(ValueError, match="flip is 'mean'"):
        fuse(a, b, flip="mean")


def test_unusable_inputs_are_errors() -> None:
    vectors = np.array([[1.0, 0], [-1, 0], [0, 1]])
    with pytest.raises(ValueError, match="zero"):
        pool(vectors, [1, 1, 2], [1, 2, 1])  # two media that cancel
    with pytest.raises(ValueError, match="NaN"):
        pool(vectors * np.nan, [1, 1, 2], [1, 2, 1])
    with pytest.raises(ValueError, match="ids"):
        pool(vectors, [1, 2], [1, 2, 3])
    ids, templates = pool(vectors, [1, 3, 5], [1, 1, 1])
    for missing in (0, 4, 9):
        with pytest.raises(ValueError, match=f"without images, such as {missing}"):
            score_pairs(templates, ids, [1, missing], [3, 5])
    with pytest.raises(ValueError, match="both genuine and impostor"):
        tar_at_far([0.1, 0.2], [1, 1])
