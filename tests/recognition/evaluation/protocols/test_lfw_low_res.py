"""LFW at low resolutions in both forms: pixels, thresholds, files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from recognition.data.decode import decode
from recognition.data.pairs import PairSet, write_bin
from recognition.evaluation.embed import embed
from recognition.evaluation.protocol import ITEMS, Looked, Protocol
from recognition.evaluation.protocols.lfw_low_res import Reduced, lfw_low_res
from recognition.evaluation.runner import evaluate
from recognition.evaluation.sets import open_sets
from tests.recognition.evaluation.protocols.seeing import ASKED, see, write_lfw
from tests.recognition.evaluation.test_fold_rules import epfl
from tests.recognition.test_evaluation import ALONE, TinyModel, face


@pytest.fixture
def bin_file(tmp_path: Path) -> str:
    images = [face(person, shot) for person in range(10) for shot in range(2)]
    same = np.arange(20) % 2 == 0
    second = np.where(same, np.arange(20) + 1, (np.arange(20) + 3) % 20)
    write_bin(tmp_path / "lfw.bin", PairSet("lfw", images, np.arange(20), second, same))
    return str(tmp_path / "lfw.bin")


def test_images_are_reduced_bilinear_and_back(bin_file: str) -> None:
    encoded = face(3, 1)
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    wanted = cv2.resize(cv2.resize(picture, (14, 14)), (112, 112))[:, :, ::-1]
    reduced = Reduced([encoded], 14)
    assert np.array_equal(decode(reduced[0], 112, ""), wanted) and reduced[0:1] == [reduced[0]]
    assert Reduced([encoded], 112)[0] is encoded
    with pytest.raises(ValueError, match="image 0"):
        Reduced([b"no picture"], 7)[0]
    protocol = lfw_low_res(bin=bin_file, form="epfl", sides=(14, 112), counts="any")
    rows = np.arange(40)
    found = embed(TinyModel(), protocol.images, world=ALONE, rows=rows)
    by_hand = TinyModel().eval().embed(torch.from_numpy(wanted.copy())[None].permute(0, 3, 1, 2) / 127.5 - 1)[0]
    row = protocol.measure({"112": Looked(found)}, ASKED)["14"][ITEMS]["second"][6]  # of the genuine pair 6, 7
    assert protocol.images[int(row)] == Reduced([face(3, 1)], 14)[0]
    torch.testing.assert_close(found[row], by_hand.detach())
    assert protocol.views["112"].rows.tolist() == rows.tolist() and protocol.views["112"].side == 112


def test_epfl_s_figures(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    same = np.arange(200) % 20 < 10
    angles = np.clip(generator.normal(np.where(same, 55, 80), 15), 0, 180)
    write_lfw(tmp_path, angles, 10, 10)
    protocol = lfw_low_res(str(tmp_path), form="epfl", sides=[112], counts="any")
    assert isinstance(protocol, Protocol) and "1,000 thresholds" in protocol.rules.folds
    part = protocol.measure(see(protocol), ASKED)["112"]
    scores = part[ITEMS]["score"]
    per_fold, thresholds = epfl(scores, same, 10)
    assert part["threshold"] == pytest.approx(np.mean(thresholds))
    assert part["accuracy"]["value"] == pytest.approx(np.mean(per_fold))
    assert part["standard_error"] == pytest.approx(np.std(per_fold, ddof=1) / np.sqrt(10))
    assert part["accuracy"]["lo"] < np.mean(per_fold) < part["accuracy"]["hi"]
    assert part[ITEMS]["correct"].mean() == pytest.approx(np.mean(per_fold))
    ours = lfw_low_res(str(tmp_path), sides=[112], counts="any")
    exact = ours.measure(see(ours), ASKED)["112"]
    assert "standard_error" not in exact and exact["auc"] == part["auc"]


@pytest.mark.parametrize("form", ["ours", "epfl"])
def test_a_model_goes_through(bin_file: str, form: str) -> None:
    chosen = {"name": "low", "kind": "lfw_low_res", "bin": bin_file, "form": form, "counts": "any"}
    settings = {"sets": [chosen], "low_res": [56], "bootstrap": 20}
    sets = open_sets(settings)
    results = evaluate(TinyModel(), settings, ALONE, sets)["low"]
    assert list(results) == ["7", "14", "28", "56", "112"]  # whatever evaluation.low_res says
    assert results["112"]["pairs"] == 20 and results["112"]["accuracy"]["value"] > 0.8
    for part in results.values():
        assert part[ITEMS]["first"].max() < len(sets[0].protocol.images)


def test_what_cannot_be(bin_file: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="either bin"):
        lfw_low_res()
    with pytest.raises(ValueError, match="either bin"):
        lfw_low_res(str(tmp_path), bin_file)
    assert lfw_low_res(bin_file, counts="any").images == lfw_low_res(bin=bin_file, counts="any").images
    with pytest.raises(ValueError, match="form is 'theirs'"):
        lfw_low_res(bin=bin_file, form="theirs")
    with pytest.raises(ValueError, match="sides holds"):
        lfw_low_res(bin=bin_file, sides=[[112, 7]], counts="any")
    with pytest.raises(ValueError, match="low_res holds 113"):
        lfw_low_res(bin=bin_file, sides=[113], counts="any")
    with pytest.raises(ValueError, match=r"lfw.bin holds 10 genuine pairs where 3,000"):
        lfw_low_res(bin=bin_file)
    with pytest.raises(FileNotFoundError, match=r"pairs\.txt"):
        lfw_low_res(str(tmp_path))
