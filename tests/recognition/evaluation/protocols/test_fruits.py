"""FRUITS: FNMR beside TAR, budgets of milliseconds, attributes of both pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.evaluation.protocol import ITEMS, Asked, Protocol
from recognition.evaluation.protocols.fruits import fruits
from recognition.evaluation.runner import evaluate
from recognition.evaluation.sets import open_sets
from tests.recognition.evaluation.protocols.seeing import see, write_folder
from tests.recognition.test_evaluation import ALONE, TinyModel, face

TAKEN = np.array([30.0] * 18 + [90.0, 600.0])  # ms


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """20 genuine pairs, of which the first five are 60 degrees apart; 20 impostor pairs, one of them 40 degrees."""
    angles = [60] * 5 + [20] * 15 + [40] + [80] * 19
    write_folder(tmp_path, {f"{n}/{k}.jpg": angles[n] * k for n in range(40) for k in range(2)})
    rows = ["path1,path2,same"] + [f"{n}/0.jpg,{n}/1.jpg,{int(n < 20)}" for n in range(40)]
    (tmp_path / "pairs.txt").write_text("\n".join(rows))
    table = ["path,gender,age"]
    for n in range(20):
        table += [f"{n}/0.jpg,{'f' if n < 8 else 'm'},", f"{n}/1.jpg,{'f' if n < 7 else 'm'},{'old' if n == 9 else ''}"]
    (tmp_path / "groups.csv").write_text("\n".join([*table, "elsewhere/1.jpg,f,"]))
    return tmp_path


def test_errors_budgets_and_attributes(data: Path) -> None:
    protocol = fruits(str(data), groups=str(data / "groups.csv"), detection_ms=15.5, timed=20)
    assert isinstance(protocol, Protocol) and protocol.views["112"].timed == 20
    assert "15.5 ms" in protocol.rules.tie and "detection_ms is 0" in fruits(str(data)).rules.tie
    part = protocol.measure(see(protocol, milliseconds=TAKEN), Asked(far=(0.05,), resamples=200))["112"]
    assert next(iter(part)) == "fnmr@1e-05"
    # at 1e-5 no impostor may pass, so that the one at 40 degrees sets the threshold: 60 degrees are refused, and at
    # FAR 0.05 it may pass, so that 80 degrees set it
    assert part["fnmr@1e-05"]["value"] == pytest.approx(0.25) and part["fnmr@1e-05"]["fmr"] == 0
    assert part["fnmr@0.05"]["value"] == 0 and part["fnmr@0.05"]["fmr"] == 0.05
    for far in ("1e-05", "0.05"):
        lo, hi = part[f"tar@{far}"]["hi"], part[f"tar@{far}"]["lo"]
        assert (part[f"fnmr@{far}"]["lo"], part[f"fnmr@{far}"]["hi"]) == pytest.approx((1 - lo, 1 - hi))
    women, men = part["fnmr@1e-05_gender=f"], part["fnmr@1e-05_gender=m"]
    assert women["value"] == pytest.approx(5 / 7) and women["pairs"] == 7  # the eighth pair's pictures disagree
    assert men["value"] == 0 and men["pairs"] == 12 and 0 < men["hi"] < 0.5
    assert not any(key.endswith("=old") for key in part)  # one picture of no pair's two
    median, high = 45.5, np.quantile(TAKEN, 0.95) + 15.5
    assert part["latency_median"]["value"] == median and part["latency_95"]["value"] == pytest.approx(high)
    assert part["latency_95"]["unit"] == "ms" and part["latency_95"]["lo"] <= high <= part["latency_95"]["hi"]
    within = {key: part[key] for key in part if key.startswith("within_")}
    wanted = {f"within_{b}": int(median <= b) for b in (100, 500, 1000)}
    assert within == wanted | {f"within_{b}_95": int(high <= b) for b in (100, 500, 1000)}
    assert within["within_100"] == 1 and within["within_100_95"] == 0 and part["timed"] == 20
    assert np.bincount(part[ITEMS]["fold"]).tolist() == [4] * 10


def test_a_model_is_timed(tmp_path: Path) -> None:
    lines = []
    for person in range(10):
        for shot in range(2):
            (tmp_path / f"{person}_{shot}.png").write_bytes(face(person, shot))
        lines += [f"{person}_0.png {person}_1.png 1", f"{person}_0.png {(person + 3) % 10}_1.png 0"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    settings = {"sets": [{"name": "f", "kind": "fruits", "data": str(tmp_path), "timed": 3}], "bootstrap": 20}
    part = evaluate(TinyModel(), settings, ALONE, open_sets(settings))["f"]["112"]
    assert part["timed"] == 3 and part["latency_median"]["value"] > 0 and part["within_1000"] in (0, 1)


def test_what_cannot_be(data: Path) -> None:
    for arguments in ({"detection_ms": -1.0}, {"detection_ms": float("nan")}, {"timed": 0}):
        with pytest.raises(ValueError, match="detection_ms is"):
            fruits(str(data), **arguments)
    with pytest.raises(FileNotFoundError, match=r"no table of groups"):
        fruits(str(data), groups=str(data / "nowhere.csv"))
    for text, message in [
        ("gender\nf\n", "must have the column path"),
        ("path,gender\n0/0.jpg,f,more\n", "line 2"),
        ("path,gender\n0/0.jpg,a/b\n", "line 2"),
        ("path,gender\nelsewhere.jpg,f\n", "names no picture"),
    ]:
        (data / "wrong.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            fruits(str(data), groups=str(data / "wrong.csv"))
    protocol = fruits(str(data))
    with pytest.raises(ValueError, match="were not timed"):
        protocol.measure(see(protocol), Asked(resamples=0))
