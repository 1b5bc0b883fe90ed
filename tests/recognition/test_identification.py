"""Identification against the published program's figures and against sorting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.evaluation import identification
from recognition.evaluation.identification import DISTRACTOR, identify


def oracle_of(folder: Path) -> dict[str, np.ndarray]:
    return dict(np.load(folder / "identification_tinyface.npz"))


@pytest.mark.parametrize("block", [None, 620 * 7, 1])
def test_tinyface(oracles: Path, monkeypatch: pytest.MonkeyPatch, block: int | None) -> None:
    oracle = oracle_of(oracles)
    if block:
        monkeypatch.setattr(identification, "BLOCK", block)
    found = identify(
        torch.from_numpy(oracle["probe"]), oracle["probe_labels"], oracle["gallery"], oracle["gallery_labels"]
    )
    assert list(found["rates"]) == oracle["ranks"].tolist()
    counts = np.array(list(found["rates"].values())) * 180
    np.testing.assert_allclose(counts, np.round(oracle["rates"] * 180), atol=1e-9)
    assert (found["probes"], found["gallery"], found["people"]) == (180, 620, len(np.unique(oracle["probe_labels"])))


def test_positions_against_sorting() -> None:
    generator = np.random.default_rng(0)
    probe, gallery = generator.normal(size=(30, 5)), generator.normal(size=(80, 5))
    labels, stored = generator.integers(6, size=30), np.append(generator.integers(6, size=60), np.full(20, DISTRACTOR))
    found = identify(probe, labels, gallery, stored, ranks=(1, 80))
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (probe, gallery)]
    for row, label, position in zip(unit[0] @ unit[1].T, labels, found["position"], strict=True):
        strangers = np.flatnonzero(stored[np.argsort(-row)] == label)[0]
        assert position == 1 + strangers
    assert found["rates"][80] == 1


def test_ties_count_against_the_mate() -> None:
    same = np.ones((4, 3))
    found = identify(same[:1], [0], same, [0, 1, 2, 3], ranks=(1, 4))
    assert found["rates"] == {1: 0.0, 4: 1.0} and found["position"].tolist() == [4]
    # several mates do not stand in each other's way
    assert identify(same[:1], [0], same, [0, 0, 0, 1], ranks=(1,))["position"].tolist() == [2]


def test_probes_without_mate() -> None:
    vectors = np.eye(3)
    with pytest.raises(ValueError, match=r"1 of 2 probes have no mate.*probe 1, label 9"):
        identify(vectors[:2], [0, 9], vectors, [0, 1, DISTRACTOR], ranks=(1,))
    with pytest.raises(ValueError, match="no mate"):  # distractors are nobody's mates
        identify(vectors[:1], [DISTRACTOR], vectors, [0, 1, DISTRACTOR], ranks=(1,))
    found = identify(vectors[:2], [0, 9], vectors, [0, 1, DISTRACTOR], ranks=(1, 3), unmated="miss")
    assert found["rates"] == {1: 0.5, 3: 0.5} and found["position"].tolist() == [1, 4]


def test_unusable_inputs_are_errors() -> None:
    vectors = np.eye(3)
    with pytest.raises(ValueError, match=r"rank 4 .* 1 \.\. 3"):
        identify(vectors, [0, 1, 2], vectors, [0, 1, 2], ranks=(1, 4))
    with pytest.raises(ValueError, match="NaN, infinite or zero"):
        identify(vectors * np.nan, [0, 1, 2], vectors, [0, 1, 2], ranks=(1,))
    with pytest.raises(ValueError, match="one label per embedding"):
        identify(vectors, [0, 1], vectors, [0, 1, 2], ranks=(1,))
    with pytest.raises(ValueError, match="unmated is 'skip'"):
        identify(vectors, [0, 1, 2], vectors, [0, 1, 2], ranks=(1,), unmated="skip")
