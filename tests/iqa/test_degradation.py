"""The scorer that tells how far a face is degraded: the file that ships, its figures, and refusals."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from iqa import SCORERS
from iqa.degradation import SHIPPED
from recognition.data.degrade import Degradation, Draw, apply
from recognition.data.records import Records
from recognition.data.synthetic import SyntheticFaces
from recognition.degradation_fit import effective_level, fit, held_out, make_worse, told
from tests.iqa.scorers import LADDER, as_input, reduced
from tests.small import write_records

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scorer() -> nn.Module:
    return SCORERS.create("degradation")


@pytest.fixture(scope="module")
def painted() -> np.ndarray:
    """24 people whom no record set of the demo holds."""
    faces = SyntheticFaces(24, 1, first_identity=900_000)
    return np.stack([image for image, _ in faces])


def drawn(n: int, side: int, sigma: float = 0, noise: float = 0, quality: int = 0) -> Draw:
    return Draw(
        np.full(n, side),
        np.full(n, float(sigma)),
        np.full(n, float(noise)),
        np.full(n, quality),
        np.arange(n, dtype=np.uint64),
    )


def score_of(scorer: nn.Module, faces: np.ndarray, **how: float) -> float:
    worse = apply(torch.from_numpy(faces), drawn(len(faces), **how))
    return float(scorer(as_input(worse.numpy())).median())


def test_the_file_that_ships_is_small_and_says_where_it_comes_from() -> None:
    assert SHIPPED.stat().st_size <= 100_000
    with safe_open(SHIPPED, framework="pt") as opened:
        notes = opened.metadata()
    assert notes["scorer"] == "degradation" and "lfw" in notes["records"] and notes["seed"] == "0"
    assert len(notes["fingerprints"].split()) == len(notes["records"].split()) == 3


def test_painted_faces_score_as_their_sides_are(scorer: nn.Module, painted: np.ndarray) -> None:
    rungs = [scorer(as_input(reduced(painted, side))) for side in LADDER]
    medians = [float(rung.median()) for rung in rungs]
    np.testing.assert_allclose(medians, [0, -1, -2, -3, -4], atol=0.45)
    falls = torch.stack([(a > b).float().mean() for a, b in itertools.pairwise(rungs)])
    assert (falls >= 0.95).all(), falls


def test_other_losses_of_detail_count(scorer: nn.Module, painted: np.ndarray) -> None:
    for side in (56, 28):
        clean = score_of(scorer, painted, side=side)
        for worse in ({"sigma": 1.0}, {"noise": 16}, {"quality": 30}):
            label = effective_level(drawn(1, side, **worse))[0] - np.log2(side / 112)
            lost = score_of(scorer, painted, side=side, **worse) - clean
            assert 1.7 * label < lost < 0.3 * label, (side, worse, lost, label)


def test_other_sizes_are_resized(scorer: nn.Module, painted: np.ndarray) -> None:
    image = as_input(painted[:6])
    larger = F.interpolate(image, size=(224, 224), mode="bicubic").clamp(0, 1)
    smaller = F.interpolate(image, size=(28, 28), mode="area")
    torch.testing.assert_close(scorer(larger).mean(), scorer(image).mean(), atol=0.4, rtol=0)
    assert scorer(smaller).median() < -1.5


def test_wrong_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "level.safetensors"
    for data in (SHIPPED.read_bytes()[:-100], b"no such file"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"is no sound \.safetensors file"):
            SCORERS.create("degradation", weights=str(path))
    good = load_file(SHIPPED)
    for wrong, words in (
        ({**good, "mix.bias": torch.zeros(3)}, r"mix.bias: wanted \(48,\), got \(3,\)"),
        ({**good, "mix.bias": torch.full((48,), float("nan"))}, "not finite"),
        ({"centre": torch.zeros(4)}, "centre: wanted none"),
    ):
        save_file(wrong, path)
        with pytest.raises(ValueError, match=words):
            SCORERS.create("degradation", weights=str(path))
    save_file(good, path, {"scorer": "cr_fiqa"})
    with pytest.raises(ValueError, match="was fitted for 'cr_fiqa'"):
        SCORERS.create("degradation", weights=str(path))
    with pytest.raises(ValueError, match="leave weights at None"):
        SCORERS.create("degradation", weights=str(tmp_path / "none.safetensors"))


def test_the_label_is_the_side_less_what_else_is_lost() -> None:
    def level(**how: float) -> float:
        return float(effective_level(drawn(1, **how))[0])

    assert level(side=0) == level(side=112) == 0 and level(side=28) == -2
    assert level(side=1) == -5, "no lower"
    assert level(side=56, sigma=0.5) == pytest.approx(-1 - 1 / 3)
    assert level(side=56, noise=12) == pytest.approx(-1.5)
    assert level(side=56, quality=80) == pytest.approx(-1.42)  # step 40
    assert level(side=56, quality=25) == pytest.approx(-1 - 0.42 * np.log2(6))  # step 200
    assert level(side=56, quality=100) == -1
    assert level(side=28, sigma=0.5, noise=12, quality=80) == pytest.approx(-2 - 1 / 3 - 0.5 - 0.42)
    draw = Degradation(1.0, (7, 112)).draw(3, np.arange(50))
    np.testing.assert_allclose(effective_level(draw), np.log2(1 - draw.level), atol=1e-6)


def test_a_fit_learns_levels_and_is_the_same_again(tmp_path: Path) -> None:
    records = Records(str(write_records(tmp_path / "train", people=16, images=4)))
    rows = np.arange(len(records))
    shown = make_worse([(records, rows)], 192, seed=1)
    assert shown.luma.shape == (192, 112, 112) and shown.level.max() == 0 and shown.level.min() < -3
    other = make_worse([(records, rows)], 144, seed=2)
    said = told(fit(shown, 6, 0, CPU), other, CPU)
    blind = np.abs(np.median(other.level) - other.level).mean()
    assert np.abs(said - other.level).mean() < 0.6 * blind
    few = [fit(make_worse([(records, rows)], 64, seed=1), 1, seed, CPU).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(few[0][key], few[1][key]) for key in few[0])
    assert not torch.equal(few[0]["mix.weight"], few[2]["mix.weight"])


def test_sets_give_as_many_and_people_are_held_out(tmp_path: Path) -> None:
    one, two = (Records(str(write_records(tmp_path / name, people=9, images=2))) for name in ("one", "two"))
    assert np.array_equal(np.flatnonzero(held_out(one)), [0, 8, 9, 17])
    shown = make_worse([(one, np.arange(4)), (two, np.arange(18))], 12, seed=0)
    assert len(shown.level) == 12
    with pytest.raises(ValueError, match="give one image at least of each"):
        make_worse([(one, np.arange(4)), (two, np.arange(0))], 12, seed=0)
