"""A folder of .bin files: each measured as it is alone, over one sequence of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.data.pairs import PairSet, write_bin
from recognition.evaluation.protocol import ITEMS, Protocol
from recognition.evaluation.protocols.bin import bin_file
from recognition.evaluation.protocols.insightface_bins import insightface_bins
from recognition.evaluation.runner import evaluate
from recognition.evaluation.sets import open_sets
from tests.recognition.evaluation.protocols.seeing import ASKED, see, write_angles
from tests.recognition.test_evaluation import ALONE, TinyModel, face


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_angles(tmp_path / "lfw.bin", [10, 80] * 6, [True, False] * 6)
    write_angles(tmp_path / "cplfw.bin", [10, 80, 85, 5] + [10, 80] * 4, [True, False] * 6)
    return tmp_path


def test_each_file_is_measured_as_it_is_alone(data: Path) -> None:
    low_res = [112, 14, [112, 14]]
    both = insightface_bins(str(data), low_res=low_res, counts="any", folds=3)
    assert isinstance(both, Protocol) and len(both.images) == 24 + 24
    assert both.views.keys() == {"112", "14"} and len(both.views["112"].rows) == 48
    quality = {"score": np.arange(48, dtype=np.float32), "gate": np.arange(48, dtype=np.float32) / 48}
    results = both.measure(see(both, **quality), ASKED)
    assert list(results) == ["lfw", "lfw_14", "lfw_112-14", "cplfw", "cplfw_14", "cplfw_112-14"]
    assert results["lfw"]["accuracy"]["value"] == 1
    assert results["cplfw"]["accuracy"]["value"] == pytest.approx(10 / 12)
    for name, offset in (("lfw", 0), ("cplfw", 24)):
        alone = bin_file(str(data / f"{name}.bin"), 3, low_res)
        shifted = {key: values[offset : offset + 24] for key, values in quality.items()}
        for side, part in alone.measure(see(alone, **shifted), ASKED).items():
            joined = results[name if side == "112" else f"{name}_{side}"]
            assert {k: v for k, v in joined.items() if k != ITEMS} == {k: v for k, v in part.items() if k != ITEMS}
            for key, values in part[ITEMS].items():
                moved = values + offset if key in ("first", "second") else values
                np.testing.assert_array_equal(joined[ITEMS][key], moved)
    row = int(results["cplfw"][ITEMS]["second"][2])
    assert both.images[row].startswith(b"85 ") and both.images.where(row) == "cplfw, image 5"
    assert both.images[22:26][2] == both.images[24] and both.images[-1] == both.images[47]
    with pytest.raises(IndexError):
        both.images[48]


def test_which_files(data: Path, tmp_path: Path) -> None:
    assert list(insightface_bins(str(data), names=["cplfw"], counts="any", folds=3).sets) == ["cplfw"]
    with pytest.raises(FileNotFoundError, match=r"holds no cfp_fp.bin, no calfw.bin"):
        insightface_bins(str(data), names=["lfw", "cfp_fp", "calfw"], counts="any")
    with pytest.raises(ValueError, match=r"'lwf'; did you mean 'lfw'"):
        insightface_bins(str(data), names=["lwf"], counts="any")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"none of lfw.bin, cfp_fp.bin, cfp_ff.bin, agedb_30.bin"):
        insightface_bins(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"lfw.bin holds 12 pairs of lfw where 6,000 are published") as error:
        insightface_bins(str(data))
    assert "cplfw.bin holds 6 genuine pairs of cplfw where 3,000" in str(error.value)
    (data / "calfw.bin").write_bytes(b"no pickle")
    with pytest.raises(ValueError, match=r"calfw.bin .* is truncated, damaged"):
        insightface_bins(str(data), counts="any")


def test_a_model_goes_through(tmp_path: Path) -> None:
    for name in ("lfw", "calfw"):
        images = [face(person, shot) for person in range(4) for shot in range(2)]
        same = np.arange(8) % 2 == 0
        second = np.where(same, np.arange(8) + 1, (np.arange(8) + 3) % 8)
        write_bin(tmp_path / f"{name}.bin", PairSet(name, images, np.arange(8), second, same))
    chosen = {"name": "bins", "kind": "insightface_bins", "data": str(tmp_path), "counts": "any", "folds": 2}
    settings = {"sets": [chosen], "low_res": [112, [112, 28]], "bootstrap": 50}
    results = evaluate(TinyModel(), settings, ALONE, open_sets(settings))["bins"]
    assert list(results) == ["lfw", "lfw_112-28", "calfw", "calfw_112-28"]
    assert results["lfw"]["tar@0.01"] == results["calfw"]["tar@0.01"]
