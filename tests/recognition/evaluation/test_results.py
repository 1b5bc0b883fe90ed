"""Results on disk: what is written is what is read, by one schema; old files, small arrays, faults in words."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.data.pairs import PairSet, write_bin
from recognition.distributed import World
from recognition.evaluation import results as kept
from recognition.evaluation.results import about, load_about, load_measures, load_model, load_results, save_results
from recognition.evaluation.runner import evaluate
from recognition.evaluation.sets import open_sets
from tests.json_schema import faults
from tests.recognition.test_evaluation import TinyModel, face, write_records

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "results_schema.json").read_text())
ITEMS = {"correct": np.array([True, False]), "score": np.array([0.25, -1.0]), "first": np.array([0, 3])}
RESULTS = {
    "lfw": {
        "112": {"accuracy": {"value": 0.5, "lo": None, "hi": None}, "pairs": 2, "items": ITEMS},
        "112-14": {"accuracy": {"value": 1.0, "lo": 0.2, "hi": 1.0}, "roc": {"far": [0.1], "tar": [0.5]}, "pairs": 2},
    }
}
ABOUT = {"lfw": {"protocol": "bin", "rules": {"gallery": "the first"}, "settings": {"folds": 10}}}


def same(a: dict, b: dict) -> bool:
    return json.dumps(a, default=lambda array: array.tolist()) == json.dumps(b, default=lambda array: array.tolist())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    save_results(tmp_path, RESULTS, ABOUT, {"backbone": "r50"})
    assert same(load_results(tmp_path), RESULTS)
    assert load_about(tmp_path) == ABOUT and load_model(tmp_path) == {"backbone": "r50"}
    assert "items" not in load_measures(tmp_path)["lfw"]["112"]
    assert json.loads((tmp_path / "results.json").read_text())["format"] == "lrface.results/1"
    save_results(tmp_path, RESULTS)
    assert load_about(tmp_path) == {"lfw": {}} and load_model(tmp_path) == {}
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "items.npz"}


def test_files_from_before_the_format_load(tmp_path: Path) -> None:
    plain = {n: {p: {k: v for k, v in m.items() if k != "items"} for p, m in s.items()} for n, s in RESULTS.items()}
    (tmp_path / "results.json").write_text(json.dumps(plain))
    np.savez(tmp_path / "items.npz", **{f"lfw/112/{key}": array for key, array in ITEMS.items()})
    assert same(load_results(tmp_path), RESULTS) and load_about(tmp_path) == {"lfw": {}}


def test_huge_arrays_are_stored_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "HUGE", 2)
    monkeypatch.setattr(kept, "PACKED", 0)
    big = {"lfw": {"112": {"items": {**ITEMS, "far_off": np.array([0, 2**40])}}}}
    save_results(tmp_path, big)
    items = load_results(tmp_path)["lfw"]["112"]["items"]
    assert {key: array.dtype.name for key, array in items.items()} == {
        "correct": "bool", "score": "float32", "first": "int32", "far_off": "int64",
    }  # fmt: skip
    assert all((items[key] == big["lfw"]["112"]["items"][key]).all() for key in items)


def test_what_cannot_be_kept_leaves_the_old_files(tmp_path: Path) -> None:
    save_results(tmp_path, RESULTS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for key, value, said in (
        ("accuracy", {"value": float("nan")}, "lfw/112: accuracy value is not finite"),
        ("threshold", float("inf"), "lfw/112: threshold is not finite"),
        ("roc", {"far": [0.1, float("nan")]}, "lfw/112: roc far is not finite"),
    ):
        with pytest.raises(ValueError, match=said):
            save_results(tmp_path, {"lfw": {"112": {key: value}}})
    with pytest.raises(ValueError, match="no slash"):
        save_results(tmp_path, {"lfw": {"112/14": {}}})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "holds a list"),
        ('{"format": "lrface.results/9", "sets": {}}', "format 'lrface.results/9'"),
        ('{"format": "lrface.results/1"}', "holds no results"),
        ('{"format": "lrface.results/1", "sets": {"lfw": {}}}', "holds no results"),
        ('{"lfw": {"112": 3}}', "holds no results"),
        ('{"lfw": {"14": {}}}', "'lfw/112/correct'"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, text: str, said: str) -> None:
    save_results(tmp_path, RESULTS)
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        load_results(tmp_path)
    (tmp_path / "results.json").unlink()
    with pytest.raises(FileNotFoundError):
        load_results(tmp_path)


def test_real_results_fit_the_schema(tmp_path: Path) -> None:
    first, alike = np.arange(20), np.arange(20) % 2 == 0
    images = [face(i // 2, i) for i in range(20)]
    write_bin(
        tmp_path / "faces.bin", PairSet("faces", images, first, np.where(alike, first ^ 1, (first + 3) % 20), alike)
    )
    write_records(tmp_path / "people.rec", [person for person in range(6) for _ in range(3)])
    chosen = [
        {"name": "pairs", "kind": "bin", "path": str(tmp_path / "faces.bin"), "folds": 2},
        {"name": "who", "kind": "identification", "records": str(tmp_path / "people.rec"), "low_res": [[112, 14]]},
    ]
    settings = {"sets": chosen, "bootstrap": 20, "ranks": [1]}
    sets = open_sets(settings)
    found = evaluate(TinyModel(), settings, World(0, 0, 1, torch.device("cpu")), sets)
    save_results(tmp_path, found, about(sets))
    written = json.loads((tmp_path / "results.json").read_text())
    assert faults(written, SCHEMA, SCHEMA) == []
    assert written["sets"]["who"]["protocol"] == "identification" and written["sets"]["who"]["rules"]["tie"]
    assert written["sets"]["who"]["settings"]["low_res"] == [[112, 14]]
    for change in (
        lambda w: w.pop("format"),
        lambda w: w["sets"]["pairs"].pop("parts"),
        lambda w: w["sets"]["pairs"]["rules"].pop("tie"),
        lambda w: w["sets"]["pairs"]["parts"]["112"]["accuracy"].update(lo="low"),
        lambda w: w["sets"]["pairs"]["parts"]["112"]["roc"].update(far=[[1]]),
        lambda w: w["sets"]["pairs"]["parts"]["112"].update(pairs=[3]),
        lambda w: w["sets"].update({"a/b": {"parts": {}}}),
        lambda w: w.update(more=1),
    ):
        wrong = copy.deepcopy(written)
        change(wrong)
        assert faults(wrong, SCHEMA, SCHEMA)
