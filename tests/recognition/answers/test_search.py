"""The most alike people against plain loops, and faiss against the exact search."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from recognition.answers import search
from recognition.answers.search import nearest


def unit(n: int, side: int = 32, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, side)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def by_loops(probe: np.ndarray, gallery: np.ndarray, person: np.ndarray, k: int, fuse: str) -> list[list[tuple]]:
    found = []
    for one in probe.astype(np.float64):
        people = []
        for name in range(person.max() + 1):
            rows = np.flatnonzero(person == name)
            cosines = gallery[rows].astype(np.float64) @ one
            if fuse == "mean":
                mean = gallery[rows].astype(np.float64).mean(0)
                people.append((-float(mean @ one / np.linalg.norm(mean)), name, -1))
            else:
                people.append((-cosines.max(), name, rows[cosines.argmax()]))
        found.append(sorted(people)[:k])
    return found


@pytest.mark.parametrize("fuse", ["max", "mean"])
@pytest.mark.parametrize("way", ["exact", "flat"])
def test_against_loops(fuse: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BLOCK", 200)  # several blocks, the last of them short
    gallery, probe = unit(60), unit(13, seed=1)
    person = np.random.default_rng(2).permutation(np.arange(60) % 17)
    found = nearest(probe, gallery, person, 4, fuse, way)
    for i, wanted in enumerate(by_loops(probe, gallery, person, 4, fuse)):
        assert found.person[i].tolist() == [name for _, name, _ in wanted]
        assert found.row[i].tolist() == [row for _, _, row in wanted]
        np.testing.assert_allclose(found.similarity[i], [-cosine for cosine, _, _ in wanted], atol=1e-6)


def test_flat_is_as_exact_and_a_graph_nearly(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, probe, person = unit(1000), unit(200, seed=1), np.arange(1000) // 4
    exact, flat, graph = (nearest(probe, gallery, person, 3, way=way) for way in ("exact", "flat", "hnsw"))
    np.testing.assert_array_equal(flat.person, exact.person)
    np.testing.assert_array_equal(flat.row, exact.row)
    np.testing.assert_allclose(flat.similarity, exact.similarity, atol=1e-6)
    assert (graph.person[:, 0] == exact.person[:, 0]).mean() > 0.95
    monkeypatch.setattr(search, "MANY", 999)
    monkeypatch.setattr(search, "_exact", None)
    np.testing.assert_array_equal(nearest(probe, gallery, person, 3).person, exact.person)  # auto takes faiss


@pytest.mark.parametrize("way", ["exact", "flat"])
def test_one_person_with_very_many_faces_hides_nobody(way: str) -> None:
    near = unit(1) + 0.01 * unit(500, seed=3)
    gallery = np.concatenate([near / np.linalg.norm(near, axis=1, keepdims=True), unit(2, seed=4)])
    person = np.array([1] * 500 + [0, 2])
    assert nearest(unit(1), gallery, person, 5, way=way).person.shape == (1, 3)
    assert nearest(unit(1), gallery, person, 2, way=way).person[0, 0] == 1


def test_equals_come_in_the_order_of_names() -> None:
    gallery = np.repeat(np.eye(1, 32, dtype=np.float32), 6, axis=0)  # cosines without a rounding
    assert nearest(unit(1), gallery, np.array([5, 4, 3, 2, 1, 0]), 6).person.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_faults_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    one = unit(1), unit(2), np.arange(2)
    for options in ({"fuse": "sum"}, {"way": "annoy"}, {"k": 0}):
        with pytest.raises(ValueError, match=r"fuse is|k is 0"):
            nearest(*one, **options)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match=r"pip install faiss-cpu; .*--search exact"):
        nearest(*one, way="flat")
    assert nearest(unit(0), *one[1:]).person.shape == (0, 2), "no probe that could be read"
