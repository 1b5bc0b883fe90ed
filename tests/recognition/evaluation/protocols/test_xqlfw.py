"""XQLFW: the exact and the official accuracy, its folder, and its counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.evaluation.intervals import interval_of_share
from recognition.evaluation.protocol import ITEMS, Protocol
from recognition.evaluation.protocols.xqlfw import xqlfw
from tests.recognition.evaluation.protocols.seeing import ASKED, see, write_lfw


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten folds of 2 + 2 pairs. Two degrees of either kind lie closer than one step of the official thresholds."""
    angles = [20, 60.01, 60.05, 90] * 9 + [20, 60.03, 60.05, 30]
    write_lfw(tmp_path / "xqlfw_aligned_112", angles, 10, 2, ".png")
    (tmp_path / "xqlfw_aligned_112/pairs.txt").rename(tmp_path / "xqlfw_pairs.txt")
    return tmp_path


def test_both_accuracies(data: Path) -> None:
    protocol = xqlfw(str(data), counts="any")
    assert isinstance(protocol, Protocol) and "1.999" in protocol.rules.folds
    part = protocol.measure(see(protocol), ASKED)["112"]
    items = part[ITEMS]
    # exact: the last fold is judged by cos 60.01, the others by cos 60.03
    wrong = np.flatnonzero(~items["correct"])
    assert wrong.tolist() == [37, 39] and part["accuracy"]["value"] == pytest.approx(1 - 2 / 40)
    # official: 60.01 to 60.05 degrees lie between the steps 0.500 and 0.501, so that one pair of each fold is wrong at
    # any step, and the first one that passes 20 degrees is taken
    step = np.arange(0, 2, 0.001)
    first = step[step > 1 - np.cos(np.deg2rad(20))][0]
    accepted = 1 - items["score"] < first
    assert np.array_equal(items["correct_official"], accepted == items["same"])
    assert part["accuracy_official"]["value"] == pytest.approx(1 - 10 / 40)
    assert part["accuracy_official"]["lo"] < 0.75 < part["accuracy_official"]["hi"]
    assert protocol.images.folder.name == "xqlfw_aligned_112"


def test_an_official_accuracy_of_1_has_an_interval(tmp_path: Path) -> None:
    write_lfw(tmp_path, [20, 20, 80, 80] * 10, 10, 2)
    (tmp_path / "pairs.txt").rename(tmp_path / "xqlfw_pairs.txt")
    for unit, trials in (("pairs", 40), ("people", 60)):
        protocol = xqlfw(str(tmp_path), counts="any", resampled=unit)
        part = protocol.measure(see(protocol), ASKED)["112"]
        lo, hi = interval_of_share(trials, trials)
        for figure in ("accuracy", "accuracy_official"):
            assert part[figure] == {"value": 1, "lo": pytest.approx(lo), "hi": hi}


def test_counts_and_files(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"xqlfw_pairs.txt holds 20 genuine pairs where 3,000 are published"):
        xqlfw(str(data))
    with pytest.raises(FileNotFoundError, match=r"xqlfw_pairs\.txt"):
        xqlfw(str(data / "xqlfw_aligned_112"), counts="any")
    elsewhere = xqlfw(str(data), pictures=str(data / "xqlfw_aligned_112"), counts="any")
    assert len(elsewhere.images) == 80
    (data / "xqlfw_aligned_112/f0_g0/f0_g0_0001.png").unlink()
    missed = xqlfw(str(data), failures="miss", counts="any")
    part = missed.measure(see(missed), ASKED)["112"]
    assert part["failed"] == 1 and not part[ITEMS]["correct_official"][0]
