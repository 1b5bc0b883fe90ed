"""Results on disk: what is written is what is read, by one schema; old files, small arrays, faults in words."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.data.pairs import PairSet, write_bin
from recognition.distributed import World
from recognition.evaluation import results as kept
from recognition.evaluation.gains import unlike_data
from recognition.evaluation.protocol import EvaluationSet, Rules, View
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
        {"name": "drawn", "kind": "drawn", "records": str(tmp_path / "people.rec"), "count": 12, "folds": 2},
    ]
    settings = {"sets": chosen, "bootstrap": 20, "ranks": [1], "far": [0.2], "flip": True}
    sets = open_sets(settings)
    found = evaluate(TinyModel(), settings, World(0, 0, 1, torch.device("cpu")), sets)
    save_results(tmp_path, found, about(sets, settings))
    written = json.loads((tmp_path / "results.json").read_text())
    assert faults(written, SCHEMA, SCHEMA) == []
    assert written["sets"]["who"]["protocol"] == "identification" and written["sets"]["who"]["rules"]["tie"]
    assert written["sets"]["who"]["settings"]["low_res"] == [[112, 14]]
    assert written["sets"]["who"]["rules"]["flip"] == "each picture and its mirror image: raw sum of both embeddings"
    table = written["sets"]["drawn"]["parts"]["112"]["thresholds"]
    assert "tar" in table["0.1"] and "reason" in table["1e-06"]
    for change in (
        lambda w: w.pop("format"),
        lambda w: w["sets"]["pairs"].pop("parts"),
        lambda w: w["sets"]["pairs"]["rules"].pop("tie"),
        lambda w: w["sets"]["pairs"]["parts"]["112"]["accuracy"].update(lo="low"),
        lambda w: w["sets"]["pairs"]["parts"]["112"]["roc"].update(far=[[1]]),
        lambda w: w["sets"]["pairs"]["parts"]["112"].update(pairs=[3]),
        lambda w: w["sets"]["drawn"]["parts"]["112"]["thresholds"]["0.1"].pop("threshold"),
        lambda w: w["sets"]["drawn"]["parts"]["112"].update(thresholds={"0.1": {"value": 0.5}}),
        lambda w: w["sets"]["drawn"]["images"].pop("count"),
        lambda w: w["sets"].update({"a/b": {"parts": {}}}),
        lambda w: w.update(more=1),
    ):
        wrong = copy.deepcopy(written)
        change(wrong)
        assert faults(wrong, SCHEMA, SCHEMA)


@dataclass
class Pictures:
    """A protocol as far as about() reads it."""

    images: Sequence[bytes]
    views: dict[str, View]
    rules: Rules


class Read(list):
    """Pictures that say which of them were read."""

    asked: list[int]

    def __getitem__(self, i: int) -> bytes:
        self.asked.append(i)
        return super().__getitem__(i)


class Cut(list):
    """Made of the pictures below it when asked for, in another way by each version of a library."""

    def __init__(self, images: Sequence[bytes], rows: np.ndarray) -> None:
        super().__init__(b"?" * len(rows))
        self.images, self.rows = images, rows


def told(images: Sequence[bytes], rows: list[int], settings: dict | None = None, flip: str = "") -> dict:
    views = {"112": View(np.array(rows[::2])), "14": View(np.array(rows[1::2] + rows[:1]), 14)}
    protocol = Pictures(images, views, Rules("none", flip=flip))
    return about([EvaluationSet("set", protocol, "bin", {"path": "a.bin"})], settings)["set"]


def test_pictures_are_told_by_a_fingerprint_of_some() -> None:
    images, rows = Read(b"%d" % n for n in range(1000)), list(range(3, 995, 2))
    images.asked = []
    first = told(images, rows)
    assert first["images"]["count"] == len(rows) == 496
    assert len(images.asked) == 64 and (images.asked[0], images.asked[-1]) == (3, 993) and set(images.asked) < set(rows)
    more = [b"%d" % n for n in range(1000)] + [b"another"]
    assert told(more, rows) == first and unlike_data(first, told(more, rows)) == ""
    assert unlike_data(first, told([b"x" + one for one in more], rows)).endswith("their fingerprints differ")
    assert unlike_data(first, told(more, rows[:-1])).endswith("496 against 495")
    assert told([b"ab", b"c"], [0, 1])["images"] != told([b"a", b"bc"], [0, 1])["images"]
    below = [b"%d" % n for n in range(2000)]
    assert told(Cut(below, np.arange(1000)), rows) == first


def test_mirrored_faces_are_told_by_the_protocol_or_the_settings() -> None:
    images, rows = [b"a", b"b"], [0, 1]
    for settings, wanted in ((None, ""), ({}, "none"), ({"flip": True}, kept.FLIPPED[1])):
        assert told(images, rows, settings)["rules"]["flip"] == wanted
    assert told(images, rows, {"flip": True}, "joined")["rules"]["flip"] == "joined"
