"""tools/compare_runs.py: what stands in the table and in the JSON, filters, what cannot be paired, faults in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recognition.evaluation import measures
from recognition.evaluation.protocol import Asked
from recognition.evaluation.results import save_results
from tools import compare_runs

ABOUT = {"lfw": {"protocol": "bin", "rules": {"resampled": "pairs"}, "settings": {}}}


def result(gap: float, rows: int = 400) -> dict:
    """Pairs that a model with a larger gap tells apart better."""
    same = np.arange(rows) % 2 == 0
    scores = np.random.default_rng(0).normal(size=rows) + gap * same
    part = measures.verification(scores, same, Asked(far=(0.01,), resamples=50), 5)
    return {"112": {**part, "latency": {"value": 3.2, "lo": 3.0, "hi": 3.5, "unit": "ms", "better": "lower"}}}


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    for name, gap in (("weak", 1.0), ("strong", 3.0)):
        save_results(tmp_path / name / "report" / "after", {"lfw": result(gap)}, ABOUT)
    save_results(tmp_path / "other", {"lfw": result(1.0, rows=200), "xqlfw": result(1.0)})
    return [str(tmp_path / name) for name in ("weak", "strong", "other")]


def test_what_is_printed(runs: list[str], capsys: pytest.CaptureFixture) -> None:
    assert compare_runs.main([*runs, "--resamples", "200"]) == 0
    text = capsys.readouterr().out
    assert "## lfw, 112 (drawn: pairs)" in text and "| | weak | strong | strong - weak | p | p, Holm |" in text
    accuracy = next(line for line in text.splitlines() if line.startswith("| accuracy"))
    assert accuracy.split("|")[4].strip().startswith("+") and accuracy.split("|")[4].strip().endswith("*")
    assert "not paired: accuracy, tar@0.01, auc, eer, latency of other: 'same' differs: 400 items against 200" in text
    assert "not paired: latency of strong: no paired difference is known for this figure" in text
    assert "strong and weak on lfw: older results tell no fingerprint of the pictures" in text
    assert (
        "of strong: weak has no such part" in text and "| latency (lower is better) | 3.2 [3.0000, 3.5000] ms |" in text
    )
    assert "4 differences were looked at, 4 have an interval without zero" in text and "After Holm's" in text


def test_what_is_printed_as_json(runs: list[str], capsys: pytest.CaptureFixture) -> None:
    assert compare_runs.main([*runs[:2], "--json", "--measure", "auc", "--measure", "accuracy", "--set", "lfw"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["against"], found["looked_at"], found["adjustment"]) == ("weak", 2, "holm")
    rows = found["sets"]["lfw"]["112"]
    assert set(rows) == {"auc", "accuracy"} and found["about"]["lfw"]["protocol"] == "bin"
    gain = rows["auc"]["differences"]["strong"]
    assert gain["value"] == pytest.approx(
        rows["auc"]["values"]["strong"]["value"] - rows["auc"]["values"]["weak"]["value"]
    )
    assert gain["excludes_zero"] and gain["p"] < 1e-6 and gain["p_holm"] == pytest.approx(2 * gain["p"])
    assert rows["accuracy"]["differences"]["strong"]["p_holm"] >= rows["accuracy"]["differences"]["strong"]["p"]


def test_a_run_against_its_beginning(tmp_path: Path, runs: list[str], capsys: pytest.CaptureFixture) -> None:
    save_results(tmp_path / "strong" / "report" / "before", {"lfw": result(1.0)})
    report = tmp_path / "strong" / "report"
    assert compare_runs.main([str(report / "before"), str(report / "after"), "--measure", "auc"]) == 0
    assert "after - before" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="holds no results"):
        compare_runs.folder_of(runs[0], "before")
    assert compare_runs.folder_of(runs[1], "before") == report / "before"


def test_faults_are_sentences(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "results.json").write_text("{")
    for arguments, said in (
        ([runs[0], str(tmp_path / "none")], "holds no results.json"),
        ([*runs, "--set", "lwf"], "no run has a set 'lwf'"),
        ([*runs, "--measure", "tar@0.1"], "no run has a measure 'tar@0.1'"),
        ([runs[0], runs[0]], "named twice"),
        ([runs[0], str(tmp_path / "broken")], "not JSON"),
    ):
        assert compare_runs.main(arguments) == 2
        assert said in capsys.readouterr().err
    for arguments in ([runs[0]], [*runs, "--resamples", "0"]):
        with pytest.raises(SystemExit, match="2"):
            compare_runs.main(arguments)


def test_other_faces_are_not_paired(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name, path, hashed in (("a", "x/lfw.bin", "aa"), ("b", "y/lfw.bin", "aa"), ("c", "agedb.bin", "cc")):
        told = {"protocol": "bin", "settings": {"path": path}, "images": {"count": 800, "sha256": hashed}}
        save_results(tmp_path / name, {"lfw": result(1.0)}, {"lfw": told})
    assert compare_runs.main([*(str(tmp_path / name) for name in "abc"), "--resamples", "20"]) == 0
    text = capsys.readouterr().out
    assert "not paired: accuracy, tar@0.01, auc, eer, latency of c: the set's path is 'lfw.bin' against 'agedb" in text
    assert "4 differences were looked at" in text and "no fingerprint" not in text


def test_every_figure_that_is_not_paired_is_listed_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("a", "b"):
        bare = {"tpir1@0.01": {"value": 0.5}, "rank-1": {"value": 0.75}, "probes": 5}
        part = result(1.0)["112"] | {"gap": {"value": 0.1}, "fnmr@0.01_OLD": {"value": 0.2}}
        part["items"] |= {f"person_{side}": np.arange(400) // 4 for side in (1, 2)}
        save_results(tmp_path / name, {"ijbc": {"verification": part, "identification_1": bare}})
    assert compare_runs.main([str(tmp_path / "a"), str(tmp_path / "b"), "--resamples", "20"]) == 0
    text = capsys.readouterr().out
    assert "not paired: auc, eer of b: its pairs share people or templates" in text
    assert "not paired: latency, gap, fnmr@0.01_OLD of b: no paired difference is known for this figure" in text
    assert "not paired: tpir1@0.01, rank-1 of b: neither was kept with items" in text
