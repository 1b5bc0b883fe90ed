"""Thresholds out of cards: at a false accept rate, where they come from, and what is told where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recognition.answers.thresholds import Thresholds, of_card, of_metadata, read_thresholds
from recognition.evaluation.results import save_results
from tests.answering import RESULTS

OWN = {
    "set": "faces",
    "part": "112-14",
    "at": {
        "0.01": {"threshold": {"value": 0.3, "lo": 0.28, "hi": 0.32}, "far": 0.01, "impostors": 3000, "reason": ""},
        "1e-05": {"threshold": {"value": None, "lo": None, "hi": None}, "far": None, "impostors": 3000,
                  "reason": "3000 impostors cannot tell it"},
    },
}  # fmt: skip


def test_the_cards_own_come_first() -> None:
    found = of_card({"thresholds": OWN, "results": {"after": RESULTS}}, "card")
    chosen = found.choose(0.01)
    assert (chosen.threshold, chosen.lo, chosen.hi, chosen.impostors) == (0.3, 0.28, 0.32, 3000)
    assert chosen.operating == "faces/112-14" and "among 3,000 pairs of strangers" in chosen.note
    assert found.choose(0.001, "faces/112").threshold == 0.5
    with pytest.raises(ValueError, match=r"at FAR 1e-05 for faces/112-14: 3000 impostors cannot tell it"):
        found.choose(1e-5)


def test_results_are_taken_where_there_is_nothing_else() -> None:
    found = of_card({"results": {"after": RESULTS, "before": {}}}, "card")
    assert list(found.at) == ["faces/28", "faces/112"]
    chosen = found.choose()
    assert (chosen.operating, chosen.threshold, chosen.impostors) == ("faces/112", 0.5, 600), "faces as they are"
    assert "no stranger passed" in chosen.note and "the FAR is below 0.005" in chosen.note
    assert found.choose(1e-2).note.endswith("among 600 pairs of strangers")
    assert found.choose(operating="faces/28").threshold == 0.75 and found.choose(operating="faces").threshold == 0.75
    assert found.choose(0.0009999999999999999).threshold == 0.5, "the same number"


def test_a_threshold_measured_with_another_flip_says_so() -> None:
    own = {**OWN, "when": "after", "flip": "none"}
    found = of_card({"thresholds": own, "results": {"after": RESULTS}}, "card")
    assert found.choose(0.01).flip == "none" and "flip" not in found.choose(0.01).note
    assert "measured with flip none, and this is flip sum" in found.choose(0.01, flip="sum").note
    assert "measured with flip none" in found.choose(0.001, "faces/112", flip="sum").note, "of the same evaluation"
    doubled = of_card({"thresholds": {**own, "flip": "sum"}}, "card")
    assert "measured with flip sum, and this is flip none" in doubled.choose(0.01).note
    assert "flip" not in doubled.choose(0.01, flip="sum").note
    old = of_card({"thresholds": OWN}, "card")
    assert "it is not told with which flip" in old.choose(0.01, flip="sum").note and "flip" not in old.choose(0.01).note
    assert "flip" not in found.choose(threshold=0.5, flip="sum").note


@pytest.mark.parametrize(
    ("words", "flip"),
    [
        ("none", "none"),
        ("no mirror images [F0]", "none"),
        ("each picture and its mirror image: raw sum of both embeddings", "sum"),
        ("each picture and its mirror image, their raw embeddings added [F2]", "sum"),
        ("each picture and its mirror image, their embeddings one behind the other [F1]", "concat"),
        ("", ""),
    ],
)
def test_the_rules_of_results_tell_the_flip(words: str, flip: str) -> None:
    sets = {"faces": {"rules": {"flip": words}, "parts": {"112": RESULTS["faces"]["112"]}}}
    assert of_card({"format": "lrface.results/1", "sets": sets}, "results.json").choose().flip == flip


def test_reduced_faces_that_nobody_asked_for_are_told() -> None:
    small, whole = {"28": RESULTS["faces"]["28"]}, {"112": RESULTS["faces"]["112"]}
    found = of_card({"results": {"after": {"lfw78": small}}}, "card")
    assert "that is of faces of 28 px" in found.choose().note and "none of faces of 112 px" in found.choose().note
    assert "of 28 px" not in found.choose(operating="lfw78").note, "it was asked for"
    assert of_card({"results": {"after": {"lfw78": small, "lfw": whole}}}, "card").choose().operating == "lfw/112"
    own = of_card({"thresholds": OWN, "results": {"after": RESULTS}}, "card").choose(0.01)
    assert own.operating == "faces/112-14" and "take --operating faces/112" in own.note
    assert "px" not in of_card({"results": {"after": {"ijb": {"verification": whole["112"]}}}}, "card").choose().note


def test_a_checkpoints_card_tells_results_on_the_way_and_never_the_bases(tmp_path: Path) -> None:
    during = of_card({"results": {"before": {"x": RESULTS["faces"]}, "during": RESULTS}}, "card")
    assert list(during.at) == ["faces/28", "faces/112"]
    assert during.choose().note.startswith("measured during training on faces/112 among")
    for own in (OWN, {**OWN, "when": "before"}):
        assert of_card({"thresholds": own, "results": {"before": RESULTS}}, "card").at == {}
    best, step = tmp_path / "checkpoints" / "best", tmp_path / "checkpoints" / "step_000000002"
    step.mkdir(parents=True)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="has no best checkpoint"):
        read_thresholds(best)
    (step / "adapter.json").write_text(json.dumps({"results": {"during": RESULTS}}))
    (step.parent / "best.json").write_text('{"evaluated": 2, "step": 2, "value": 0.5, "figure": "x"}')
    assert read_thresholds(best).choose().threshold == read_thresholds(step).choose().threshold == 0.5
    assert read_thresholds(best).source == str(step / "adapter.json")


def test_results_of_an_evaluation(tmp_path: Path) -> None:
    none = {
        "value": None,
        "lo": None,
        "hi": None,
        "unit": "cosine",
        "reason": "needs at least 1,000,000 impostor pairs",
    }
    measures = {
        "threshold@0.001": {"value": 0.4, "lo": 0.35, "hi": 0.45, "unit": "cosine", "far": 0.001, "tar": 0.9},
        "tar@0.001": {"value": 0.9, "lo": None, "hi": None, "far": 0.001, "threshold": 0.4},
        "tar@0.01": {"value": 0.9, "lo": None, "hi": None, "far": 0.01, "threshold": 0.2},
        "threshold@1e-06": none,
        "impostors": 44850,
    }
    save_results(tmp_path, {"faces": {"112": measures}}, {"faces": {"protocol": "bin"}})
    found = read_thresholds(tmp_path / "results.json")
    chosen = found.choose()
    assert (chosen.threshold, chosen.lo, chosen.hi, chosen.impostors) == (0.4, 0.35, 0.45, 44850)
    assert found.choose(0.01).threshold == 0.2
    with pytest.raises(ValueError, match=r"at FAR 1e-06 for faces/112: needs at least 1,000,000 impostor pairs\."):
        found.choose(1e-6)


def test_listed_pairs_do_not_answer_where_all_pairs_of_strangers_are_too_few() -> None:
    none = {"threshold": {"value": None, "lo": None, "hi": None}, "reason": "needs at least 100,000 impostor pairs"}
    measures = {
        "tar@1e-05": {"value": 0.9, "lo": None, "hi": None, "far": 0.0, "threshold": 0.486},  # of 300 pairs
        "thresholds": {"1e-05": {**none, "impostors": 28200, "genuine": 500}},
        "pairs": 600,
        "genuine": 300,
    }
    found = of_card({"results": {"after": {"faces": {"112": measures}}}}, "card")
    with pytest.raises(ValueError, match=r"at FAR 1e-05 for faces/112: needs at least 100,000 impostor pairs\."):
        found.choose(1e-5)


def test_what_is_not_there_is_told() -> None:
    found = of_card({"results": {"after": RESULTS}}, "runs/demo/model/adapter.json")
    with pytest.raises(
        ValueError, match=r"at FAR 0\.0001 for faces/112, but at 0\.01, 0\.001\. Measure it with python"
    ):
        found.choose(1e-4)
    with pytest.raises(ValueError, match="no thresholds for 'ijbc', but for faces/28, faces/112"):
        found.choose(operating="ijbc")
    for far in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="a false accept rate lies"):
            found.choose(far)
    with pytest.raises(ValueError, match="it is a cosine"):
        found.choose(threshold=40.0)
    assert found.choose(1e-9, threshold=0.4).threshold == 0.4, "nothing is looked up"
    none = of_card({"backbone": "tiny"}, "card.json").choose()
    assert none.threshold is None and "card.json holds no thresholds" in none.note and "--threshold" in none.note
    assert Thresholds("nothing").choose().threshold is None


@pytest.mark.parametrize(
    "card",
    [
        {"thresholds": []} | {"thresholds": {"set": "faces"}},
        {"thresholds": {"set": "a", "part": "b", "at": {"often": {"threshold": {"value": 0.1}}}}},
        {"thresholds": {"set": "a", "part": "b", "at": {"0.1": {"threshold": {"value": float("inf")}}}}},
        {"thresholds": {"set": "a", "part": "b", "at": {"0.1": 0.5}}},
        {"thresholds": "0.3"},
        {"results": {"after": {"faces": {"112": {"tar@0.1": {"threshold": "high"}}}}}},
        {"results": {"after": {"faces": [1]}}},
    ],
)
def test_another_form_is_a_sentence(card: dict) -> None:
    with pytest.raises(ValueError, match=r"^x\.json: its thresholds are of another form"):
        of_card(card, "x.json")


def test_files_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(RESULTS))
    assert read_thresholds(path).choose().threshold == read_thresholds(tmp_path).choose().threshold == 0.5
    assert of_metadata({"thresholds": json.dumps(OWN), "scorer": "none"}, "face.onnx").choose(0.01).threshold == 0.3
    assert of_metadata({"scorer": "none"}, "face.onnx").at == {}
    with pytest.raises(ValueError, match="no JSON"):
        of_metadata({"thresholds": "{"}, "face.onnx")
    path.write_text("{}")
    with pytest.raises(ValueError, match="neither as 'thresholds' nor in results"):
        read_thresholds(path)
    with pytest.raises(FileNotFoundError, match="there is no card"):
        read_thresholds(tmp_path / "gone.json")
