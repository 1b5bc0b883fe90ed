"""Error-versus-discard of a model's own quality: scores that know the errors, that know nothing, and norms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.evaluation.edc import discard
from recognition.evaluation.protocol import ITEMS, Asked, Protocol
from recognition.evaluation.protocols.edc import edc
from recognition.evaluation.results import save_results
from recognition.evaluation.runner import evaluate
from recognition.evaluation.sets import open_sets
from tests.recognition.evaluation.protocols.seeing import see, write_angles
from tests.recognition.test_evaluation import ALONE, TinyModel, write_records

ASKED = Asked(far=(0.1,), resamples=100)
WRONG = (0, 20)  # of 40 pairs, of which every second one is genuine


@pytest.fixture
def file(tmp_path: Path) -> str:
    angles = np.array([20.0, 80.0] * 20)
    angles[list(WRONG)] = 85
    write_angles(tmp_path / "faces.bin", angles, [True, False] * 20)
    return str(tmp_path / "faces.bin")


def test_a_score_that_knows_the_errors(file: str, tmp_path: Path) -> None:
    protocol = edc(file)
    assert isinstance(protocol, Protocol)
    rows = protocol.views["112"].rows
    errors = {int(protocol.pairs.probe[p]) for p in WRONG}
    quality = np.array([0.1 if int(row) in errors else 1.0 for row in rows], np.float32)
    part = protocol.measure(see(protocol, score=quality), ASKED)["112"]
    wrong = len(errors) / 20
    assert part["quality"] == "the model's score"
    assert part["fnmr@0.1"]["value"] == pytest.approx(wrong) and part["fnmr@0.1"]["far"] <= 0.1
    assert part["relative_pauc@0.1"]["value"] == pytest.approx(0, abs=1e-9)
    assert part["edc@0.1"] == part["edc_ideal@0.1"] and part["edc@0.1"]["share"][-1] == pytest.approx(0.3)
    assert part["edc@0.1"]["fnmr"][0] == pytest.approx(wrong) and part["edc@0.1"]["fnmr"][-1] == 0
    assert part[ITEMS]["quality_2"][0] == pytest.approx(0.1) and part[ITEMS]["quality_1"][1] == 1
    assert part["pauc@0.1"]["better"] == "lower" and part["relative_pauc@0.1"]["unit"] == "ratio"
    save_results(tmp_path / "kept", {"edc": {"112": part}})  # nothing in it that JSON has not


def test_no_error_has_an_interval(tmp_path: Path) -> None:
    write_angles(tmp_path / "easy.bin", [20.0, 80.0] * 20, [True, False] * 20)
    protocol = edc(str(tmp_path / "easy.bin"))
    fnmr = protocol.measure(see(protocol), ASKED)["112"]["fnmr@0.1"]
    assert (fnmr["value"], fnmr["lo"]) == (0, 0) and fnmr["hi"] == pytest.approx(1 - 0.025 ** (1 / 20))


def test_a_score_that_knows_nothing_and_the_norm(file: str) -> None:
    protocol = edc(file, low_res=[112, [112, 14]])
    rows = protocol.views["112"].rows
    flat = protocol.measure(see(protocol, score=np.ones(len(rows), np.float32)), ASKED)
    assert flat.keys() == {"112", "112-14"}
    assert flat["112"]["relative_pauc@0.1"]["value"] == pytest.approx(1)
    worst = int(protocol.pairs.probe[0])
    by_norm = protocol.measure(see(protocol, length=lambda i: 0.5 if i == worst else 2.0), ASKED)["112"]
    assert by_norm["quality"] == "the embedding's norm"
    assert by_norm[ITEMS]["quality_2"][0] == pytest.approx(0.5) and by_norm[ITEMS]["quality_1"][0] == pytest.approx(2)
    assert by_norm["pauc@0.1"]["value"] < flat["112"]["pauc@0.1"]["value"]
    items = by_norm[ITEMS]
    quality = np.minimum(items["quality_1"], items["quality_2"])
    plain = discard(items["score"], items["same"], {"own": quality}, far=0.1, resamples=0)
    assert by_norm["pauc@0.1"]["value"] == pytest.approx(plain.pauc["own"])


def test_several_scores_and_no_errors(file: str, tmp_path: Path) -> None:
    protocol = edc(file)
    several = np.random.default_rng(0).random((len(protocol.views["112"].rows), 2)).astype(np.float32)
    part = protocol.measure(see(protocol, score=several), ASKED)["112"]
    assert {"pauc@0.1_1", "pauc@0.1_2", "edc@0.1_2", "edc_ideal@0.1"} <= part.keys() and "pauc@0.1" not in part
    assert "quality_1" not in part[ITEMS]
    write_angles(tmp_path / "easy.bin", [20.0, 80.0] * 20, [True, False] * 20)
    easy = edc(str(tmp_path / "easy.bin"), most=0.5)
    part = easy.measure(see(easy), Asked(far=(0.1,), resamples=0))["112"]
    assert part["pauc@0.1"] == {"value": 0.0, "lo": None, "hi": None, "better": "lower"}
    assert "relative_pauc@0.1" not in part and part["edc@0.1"]["share"][-1] == 0.5


def test_records_and_what_cannot_be(file: str, tmp_path: Path) -> None:
    write_records(tmp_path / "test.rec", [n // 2 for n in range(16)])
    rows = ["key_1,key_2,same,fold"]
    rows += [f"{2 * n},{2 * n + 1},1,{n % 2}\n{2 * n},{(2 * n + 3) % 16},0,{n % 2}" for n in range(8)]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    chosen = {"records": str(tmp_path / "test.rec"), "pairs": str(tmp_path / "pairs.csv")}
    settings = {"sets": [{"name": "own", "kind": "edc", **chosen}], "bootstrap": 20, "far": [0.2]}
    part = evaluate(TinyModel(), settings, ALONE, open_sets(settings))["own"]["112"]
    assert part["pairs"] == 16 and part["quality"] == "the embedding's norm" and "edc@0.2" in part
    for wrong in ({}, {"bin": file, **chosen}, {"records": chosen["records"]}, {"bin": file, "pairs": "p.csv"}):
        with pytest.raises(ValueError, match="give either bin"):
            edc(**wrong)
    with pytest.raises(ValueError, match="most is 1"):
        edc(file, most=1)
    with pytest.raises(FileNotFoundError, match=r"nowhere.bin"):
        edc(str(tmp_path / "nowhere.bin"))
