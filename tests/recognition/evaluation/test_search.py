"""The search behind identification: blocks, several mates, average precision, rows; unit vectors; .mat files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from recognition.evaluation import identification, unit
from recognition.evaluation.identification import DISTRACTOR, identify, search
from recognition.evaluation.listed import MISSED
from recognition.evaluation.matlab import named_ids, names_of, number_of, read_mat
from recognition.evaluation.unit import unit_float32
from recognition.evaluation.verification import unit_rows
from tests.recognition.evaluation.protocols.retrieving import average_precision, cells, ranked


def case(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels, stored = rng.integers(9, size=40), np.append(rng.integers(8, size=70), np.full(30, DISTRACTOR))
    return rng.normal(size=(40, 5)), labels, rng.normal(size=(100, 5)), rng.permutation(stored)


@pytest.mark.parametrize("block", [None, 1, 100 * 7])
def test_what_is_found_is_what_sorting_finds(monkeypatch: pytest.MonkeyPatch, block: int | None) -> None:
    if block:
        monkeypatch.setattr(identification, "BLOCK", block)
    probe, labels, gallery, stored = case()
    found = identify(probe, labels, gallery, stored, ranks=(1, 100), unmated="miss", precision=True)
    unit_probe, unit_gallery = unit_rows(probe), unit_rows(gallery)
    assert 8 in labels and (labels != 8).any()  # 8 has no mate
    for i, label in enumerate(labels):
        order, mates = ranked(probe[i], gallery), set(np.flatnonzero(stored == label).tolist())
        cosine = unit_gallery @ unit_probe[i]
        assert found["best"][i] == order[0] and found["similarity"][i] == pytest.approx(cosine.max(), abs=1e-6)
        if not mates:
            assert (found["position"][i], found["mate_similarity"][i], found["precision"][i]) == (101, MISSED, 0)
            continue
        assert found["position"][i] == 1 + min(order.index(m) for m in mates)
        assert found["mate_similarity"][i] == pytest.approx(max(cosine[m] for m in mates), abs=1e-6)
        assert found["precision"][i] == pytest.approx(average_precision(order, mates), abs=1e-12)
    assert "precision" not in identify(probe, labels, gallery, stored, ranks=(1,), unmated="miss")


def test_precision_of_known_positions() -> None:
    angle = np.deg2rad([10.0, 20, 30, 40, 50])
    gallery = np.stack([np.cos(angle), np.sin(angle)], 1)
    mates = np.array([1, 0, 1, 1, 0])  # positions 1, 3 and 4 of the probe at 0 degrees
    found = identify([[1.0, 0.0]], [1], gallery, mates, ranks=(1,), precision=True)
    assert found["precision"][0] == pytest.approx(np.mean([(1 + 1) / 2, (1 / 2 + 2 / 3) / 2, (2 / 3 + 3 / 4) / 2]))
    constant = identify([[1.0, 0.0]], [1], np.ones((5, 2)), mates, ranks=(1,), precision=True)
    # three mates behind two strangers: positions 3, 4, 5
    assert constant["precision"][0] == pytest.approx(
        np.mean([(0 + 1 / 3) / 2, (1 / 3 + 2 / 4) / 2, (2 / 4 + 3 / 5) / 2])
    )


def test_distractors_are_nobody_s_mates() -> None:
    found = identify(np.eye(3)[:2], [DISTRACTOR, 1], np.eye(3), [DISTRACTOR, 1, 2], ranks=(1,), unmated="miss")
    assert found["position"].tolist() == [4, 1] and found["mate_similarity"].tolist() == [MISSED, 1]


def test_probes_by_row_and_without_labels() -> None:
    probe, labels, gallery, stored = case(1)
    rows = np.array([7, 3, 3, 30])
    whole = search(probe, labels, unit_float32(gallery), stored)
    some = search(torch.from_numpy(probe), labels[rows], unit_float32(gallery), stored, rows=rows)
    for name in ("best", "similarity", "position", "mate_similarity"):
        np.testing.assert_allclose(getattr(some, name), getattr(whole, name)[rows], atol=1e-6)
    strangers = search(probe, None, unit_float32(gallery), stored)
    np.testing.assert_array_equal(strangers.best, whole.best)
    assert (strangers.position == 101).all() and (strangers.mate_similarity == MISSED).all()


@pytest.mark.gpu
def test_a_gpu_finds_the_same() -> None:
    probe, labels, gallery, stored = case(2)
    here = identify(probe, labels, gallery, stored, ranks=(1,), unmated="miss", precision=True)
    moved = (torch.from_numpy(a).cuda() for a in (probe, gallery))
    there = identify(next(moved), labels, next(moved), stored, ranks=(1,), unmated="miss", precision=True)
    for name in ("best", "position", "precision"):
        np.testing.assert_allclose(there[name], here[name], atol=1e-12)


def test_unit_rows_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 7)).astype(np.float32)
    monkeypatch.setattr(unit, "CPU_CHUNK", 21)
    rows = np.array([19, 0, 0, 5])
    for given in (vectors, torch.from_numpy(vectors), vectors.tolist()):
        np.testing.assert_array_equal(unit_float32(given), unit_rows(vectors).astype(np.float32))
    np.testing.assert_array_equal(unit_float32(vectors, rows), unit_rows(vectors[rows]).astype(np.float32))
    for bad in (np.nan, np.inf, 0):
        broken = vectors.copy()
        broken[13] = bad
        with pytest.raises(ValueError, match="1 of 20 embeddings are NaN, infinite or zero, the first in row 13"):
            unit_float32(broken)
    with pytest.raises(ValueError, match=r"must be \(N, D\), got \(7,\)"):
        unit_float32(vectors[0])


def test_lists_of_matlab(tmp_path: Path) -> None:
    path = tmp_path / "list.mat"
    names = ["1_a.jpg", "22_b.jpg"]
    savemat(path, {"gallery_set": cells(names), "gallery_ids": np.array([[1], [22]], np.uint16)})
    found, ids = named_ids(path, "gallery_set", "gallery_ids")
    assert found == names and ids.tolist() == [1, 22] and ids.dtype == np.int64
    savemat(path, {"gallery_set": np.array(names), "gallery_ids": np.array([1.0, 22.0])})  # rows of letters, padded
    assert named_ids(path, "gallery_set", "gallery_ids")[0] == names
    savemat(path, {"pairs": cells([("a.jpg", "b.jpg"), ("c.jpg", "d.jpg")])})
    (pairs,) = read_mat(path, ["pairs"])
    assert pairs.shape == (2, 2) and names_of(pairs, path) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    with pytest.raises(ValueError, match=r"list.mat is not as it is published: it holds no 'names', but pairs"):
        read_mat(path, ["pairs", "names"])
    savemat(path, {"pairs": np.array([[1, 2]])})
    with pytest.raises(ValueError, match=r"list.mat: entry 1 is .*1.*; a file name is wanted"):
        names_of(read_mat(path, ["pairs"])[0], path)
    path.write_bytes(b"no mat file" * 100)
    with pytest.raises(ValueError, match=r"list.mat is not as it is published"):
        read_mat(path, ["pairs"])
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_mat(tmp_path / "other.mat", ["pairs"])


def test_numbers_of_people() -> None:
    names = ("Probe/12_a.jpg", "7_cam1_2.jpg", "x_1.jpg", "12.jpg", "²_1.jpg", "a_b/12.jpg")
    assert [number_of(name) for name in names] == [12, 7, None, None, None, None]
