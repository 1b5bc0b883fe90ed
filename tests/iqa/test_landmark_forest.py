"""Quality from landmarks: the forest against scikit-learn's and a plain walk, the features against plain geometry."""

from __future__ import annotations

import math
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from iqa import SCORERS
from iqa.landmark_forest import FEATURES, TEMPLATE, fit, landmark_features
from tests.iqa.scorers import forest_file, modules


def _faces(n: int, spread: float = 4.0) -> np.ndarray:
    return np.array(TEMPLATE) + np.random.default_rng(0).normal(0, spread, (n, 5, 2))


def _plain(points: np.ndarray) -> dict[str, float]:
    """The features of one face with complex numbers, in float64."""
    left, right, nose, mouth_left, mouth_right = (complex(*point) for point in points)
    turned = (right - left) / abs(right - left)

    def seen(vector: complex) -> complex:
        return vector / turned / abs(right - left)  # the eyes lie along the real axis, one apart; down is positive

    eyes, lips = (left + right) / 2, (mouth_left + mouth_right) / 2
    template = np.array([complex(*point) for point in TEMPLATE])
    got = points[:, 0] + 1j * points[:, 1]
    design = np.stack((got, np.ones(5)), axis=1)
    rest = design @ np.linalg.lstsq(design, template, rcond=None)[0] - template
    near = [abs(nose - point) for point in (left, right, mouth_left, mouth_right)]
    smile = mouth_right - mouth_left
    return {
        "eye_distance": abs(right - left) / 112,
        "roll": math.sin(math.atan2(turned.imag, turned.real)),
        "nose_across": seen(nose - eyes).real,
        "nose_down": seen(nose - eyes).imag,
        "face_length": seen(lips - eyes).imag,
        "mouth_width": abs(seen(smile)),
        "mouth_roll": (smile / abs(smile) / turned).imag,
        "mouth_across": seen(lips - eyes).real,
        "eye_asymmetry": (near[0] - near[1]) / (near[0] + near[1]),
        "mouth_asymmetry": (near[2] - near[3]) / (near[2] + near[3]),
        "off_template": math.sqrt((np.abs(rest) ** 2).mean()) / 112,
        "margin": min(points.min(), 112 - points.max()) / 112,
    }


def test_features_are_plain_geometry() -> None:
    faces = _faces(20, 15.0)
    assert tuple(_plain(faces[0])) == FEATURES
    wanted = np.array([list(_plain(face).values()) for face in faces])
    np.testing.assert_allclose(landmark_features(torch.from_numpy(faces)).numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_features_but_place_and_size_do_not_change_with_a_similarity() -> None:
    faces = torch.from_numpy(_faces(5))
    turn = 0.8 * torch.tensor([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]], dtype=torch.float64)
    moved = landmark_features(faces @ turn.T + torch.tensor([3.0, -9.0]))
    same = [FEATURES.index(name) for name in FEATURES if name not in ("eye_distance", "roll", "margin")]
    torch.testing.assert_close(moved[:, same], landmark_features(faces)[:, same], rtol=1e-4, atol=1e-5)


def test_points_on_one_spot_have_finite_features() -> None:
    assert torch.isfinite(landmark_features(torch.full((2, 5, 2), 56.0))).all()


def test_walk_through_the_trees(tmp_path: Path) -> None:
    """Tree 0: eyes nearer than 0.25 sides: 0.2; else a mouth up to 0.8 eye distances: 0.6, a wider: 1. Tree 1: 0.5."""
    scorer = SCORERS.create("landmark_forest", file=str(forest_file(tmp_path)))
    faces = _faces(200, 6.0)
    wanted = []
    for face in faces:
        of = _plain(face)
        first = 0.2 if of["eye_distance"] <= 0.25 else 0.6 if of["mouth_width"] <= 0.8 else 1.0
        wanted.append((first + 0.5) / 2)
    score = scorer(torch.from_numpy(faces).float())
    assert score.shape == (200,) and score.dtype == torch.float32 and len(set(wanted)) == 3
    np.testing.assert_allclose(score.numpy(), wanted, rtol=1e-6)
    assert torch.equal(torch.cat([scorer(torch.from_numpy(face).float()[None]) for face in faces[:5]]), score[:5])
    assert (scorer.needs, scorer.range, scorer.exportable) == ("landmarks", (0.0, 1.0), False)


class _Tree:
    """One fitted tree as scikit-learn holds it: children -1 and feature -2 at leaves, values (nodes, 1, 1)."""

    def __init__(
        self, left: list[int], right: list[int], feature: list[int], threshold: list[float], value: list[float]
    ):
        self.children_left, self.children_right = np.array(left), np.array(right)
        self.feature, self.threshold = np.array(feature), np.array(threshold)
        self.value, self.node_count = np.array(value).reshape(-1, 1, 1), len(left)
        self.tree_ = self


def test_fit_writes_what_the_scorer_reads(tmp_path: Path) -> None:
    """A stand-in for scikit-learn's forest, whose threshold lies between two float32 values."""
    between = 0.3 + 1e-9
    trees = [
        _Tree([1, -1, -1], [2, -1, -1], [0, -2, -2], [between, -2, -2], [9.0, 0.25, 0.75]),
        _Tree([-1], [-1], [-2], [-2.0], [0.5]),
    ]
    ensemble = mock.MagicMock()
    ensemble.RandomForestRegressor.return_value.fit.return_value.estimators_ = trees
    faces, file = _faces(60, 8.0), tmp_path / "fitted.npz"
    with modules({"sklearn": mock.MagicMock(), "sklearn.ensemble": ensemble}):
        fit(faces, np.linspace(0, 1, 60), file, trees=7, depth=3, smallest_leaf=2, seed=5)
    named = ensemble.RandomForestRegressor.call_args
    assert named.args == (7,) and named.kwargs == {"max_depth": 3, "min_samples_leaf": 2, "random_state": 5}
    rows = landmark_features(torch.from_numpy(faces).float()).numpy()
    np.testing.assert_array_equal(ensemble.RandomForestRegressor.return_value.fit.call_args.args[0], rows)
    scorer = SCORERS.create("landmark_forest", file=str(file))
    wanted = (np.where(rows[:, 0].astype(np.float64) <= between, 0.25, 0.75) + 0.5) / 2
    np.testing.assert_allclose(scorer(torch.from_numpy(faces).float()).numpy(), wanted)
    stored = np.load(file)["threshold"][0, 0]
    assert float(stored) <= between < float(np.nextafter(stored, np.float32(1)))


def test_agrees_with_scikit_learn(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="an optional part: pip install -e '.[forest]'")
    from sklearn.ensemble import RandomForestRegressor

    faces = _faces(400, 6.0)
    quality = -np.abs(faces - np.array(TEMPLATE)).mean(axis=(1, 2))
    fit(faces, quality, tmp_path / "fitted.npz", trees=10, depth=6, seed=1)
    scorer = SCORERS.create("landmark_forest", file=str(tmp_path / "fitted.npz"))
    rows = landmark_features(torch.from_numpy(faces).float()).numpy()
    forest = RandomForestRegressor(10, max_depth=6, min_samples_leaf=5, random_state=1).fit(rows, quality)
    score = scorer(torch.from_numpy(faces).float()).numpy()
    np.testing.assert_allclose(score, forest.predict(rows), rtol=1e-5)
    assert np.corrcoef(score, quality)[0, 1] > 0.8


def test_without_scikit_learn_the_install_line(tmp_path: Path) -> None:
    with modules({"sklearn.ensemble": None}), pytest.raises(ImportError, match=r"\.\[forest\]"):
        fit(_faces(9), np.zeros(9), tmp_path / "fitted.npz")
    with pytest.raises(ValueError, match=r"one for each of the landmarks \(9, 5, 2\), got \(8,\)"):
        fit(_faces(9), np.zeros(8), tmp_path / "fitted.npz")


@pytest.mark.parametrize(
    ("landmarks", "said"),
    [
        (torch.zeros(3, 10), r"\(B, 5, 2\), floating, in pixels .*, got \(3, 10\) torch\.float32"),
        (torch.ones(3, 5, 2, dtype=torch.int64), r"got \(3, 5, 2\) torch\.int64"),
        (torch.full((1, 5, 2), math.nan), "NaN or infinity"),
        (
            torch.linspace(0.1, 0.95, 40).reshape(4, 5, 2),
            r"the largest coordinate is 0\.9.*multiply shares of it by 112",
        ),
    ],
)
def test_other_landmarks_are_refused(tmp_path: Path, landmarks: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SCORERS.create("landmark_forest", file=str(forest_file(tmp_path)))(landmarks)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"names": np.array(("age",))}, r"was fitted on \['age'\], this version takes \['eye_distance'"),
        ({"left": np.zeros((2, 5), np.int64)}, "trees of .* are broken"),  # a walk would never end
        ({"right": np.full((2, 5), 5)}, "trees of .* are broken"),
        ({"feature": np.full((2, 5), len(FEATURES))}, "trees of .* are broken"),
        ({"value": np.full((2, 5), math.nan)}, "trees of .* are broken"),
        ({"threshold": np.zeros((2, 4))}, "trees of .* are broken"),
        ({"feature": np.zeros((2, 5))}, "trees of .* are broken"),
        ({"value": np.full((2, 5), None)}, "holds no forest"),  # objects: a pickle
        ({"threshold": np.full((2, 5), "a")}, "trees of .* are broken"),
    ],
)
def test_broken_forests_are_refused(tmp_path: Path, changes: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SCORERS.create("landmark_forest", file=str(forest_file(tmp_path, **changes)))


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'file', and none is named; fit one .* iqa\.landmark_forest\.fit"):
        SCORERS.create("landmark_forest")
    whole = forest_file(tmp_path).read_bytes()
    for content in (b"", b"x", whole[:-40], b"\x80\x04N."):
        (tmp_path / "damaged.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged\.npz holds no forest"):
            SCORERS.create("landmark_forest", file=str(tmp_path / "damaged.npz"))
