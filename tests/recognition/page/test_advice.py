"""What the page says of what is not there, and what it says to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from recognition.evaluation.results import load_results, save_results
from recognition.page.curves import curves
from recognition.page.numbers import points
from recognition.page.runs import Shown, parts_of, read_run, read_runs, shown
from recognition.page.scores import scores
from recognition.page.summary import forgetting, gains_of, head, in_short
from recognition.page.thresholds import thresholds
from tests.pages import make_run
from tests.recognition.page.test_page import Seen

GATED = 'config.adapter = edict(name="dual_lora")\nconfig.scorer = edict(name="sharpness")\n'
LORA = 'config.adapter = edict(name="lora")\nconfig.scorer = edict(name="sharpness")\n'
KEPT = ("score", "same", "fold", "correct", "position", "person")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("advice"))


def words_of(section: str) -> str:
    return Seen(section).words


def without_quality(folder: Path, name: str, extra: str, *, older: bool) -> Path:
    """A run whose results hold no gate; older: from before results told their rules."""
    run = make_run(folder, name, extra=extra)
    for when in ("before", "after"):
        results = load_results(run / "report" / when)
        for part in (part for parts in results.values() for part in parts.values()):
            part["items"] = {key: part["items"][key] for key in KEPT if key in part["items"]}
        told = {} if older else {name: {"rules": {"flip": "none"}} for name in results}
        save_results(run / "report" / when, results, told)
    return run


def test_evaluating_again_is_advised_where_it_helps(tmp_path: Path) -> None:
    lora = without_quality(tmp_path, "lora", LORA, older=True)
    gated = without_quality(tmp_path, "gated", GATED, older=True)
    alone = words_of(scores(shown(read_runs([lora]))))
    assert "adapted has neither a gate nor a quality scorer" in alone and "evaluates again" not in alone
    both = words_of(scores(shown(read_runs([lora, gated]))))
    assert f"python tools/evaluate.py {gated} evaluates again" in both and "By resolution instead" in both
    assert str(lora) not in both and "--base" not in both
    new = without_quality(tmp_path, "new", GATED, older=False)
    told = words_of(scores(shown(read_runs([new]))))
    assert "The protocols of pairs, people keep no gate" in told and "evaluates again" not in told


def test_a_run_that_has_not_ended_is_told_what_can_be_done(tmp_path: Path) -> None:
    young = make_run(tmp_path, "young", whens=(), extra=GATED)
    shutil.rmtree(young / "model")
    (young / "provenance.json").unlink()
    one = read_run(young)
    assert "there is no checkpoint yet" in one.notes[-1]
    checkpoint = young / "checkpoints" / "step_000000004"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    one = read_run(young)
    seen = words_of(head([one]))
    assert f"python tools/evaluate.py {checkpoint} evaluates its newest checkpoint" in seen
    assert "`" not in seen and "UTC. ." not in seen and "No versions are told." in seen
    told = words_of(scores([]))
    assert "neither a gate" not in told and told.count("There are no results") == 2
    assert "nothing to compare" in words_of(forgetting([], [], []))
    assert "Once training has come to an end, python tools/evaluate.py" in words_of(curves([], [one]))


def test_a_base_that_was_not_evaluated_is_a_command(tmp_path: Path) -> None:
    run = make_run(tmp_path, whens=("after",))
    series = shown(read_runs([run]))
    text = forgetting(series, *gains_of(series))
    assert f"<code>python tools/evaluate.py {run} --base</code>" in text and "`" not in text


def test_where_no_commit_is_known_the_reason_stands_alone(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "provenance.json").write_text('{"lrface": "0.1.0", "commit": "not in a git checkout"}')
    assert "LRFace 0.1.0, not in a git checkout." in words_of(head([read_run(copy)]))


def test_chance_is_told_beside_the_differences(run: Path) -> None:
    series = shown(read_runs([run]))
    text = forgetting(series, *gains_of(series))
    words = words_of(text)
    count = sum(words.count(word) for word in ("%better", "not told apart"))
    marked = text.count('class="verdict"')
    looked_at = marked + words.count("not told apart")
    assert count and looked_at > 5
    assert f"{looked_at} differences were looked at, and {marked} of them are marked" in words
    assert f"about {0.05 * looked_at:.1f} would be by chance" in words and "(Holm)" in words
    assert f"python tools/compare_runs.py {run}/report/before {run}/report/after" in words
    assert ">verdict</th>" in text and '<th scope="col"></th>' not in text


@pytest.mark.parametrize(
    "gain, text",
    [
        ((0.001, 0.0002, 0.002), "+0.10 [+0.02, +0.20]"),
        ((0.012, 0.004, 0.02), "+1.2 [+0.4, +2.0]"),
        ((-0.0001, -0.02, 0.01), "−0.01 [−2.00, +1.00]"),
        ((0.0, -0.001, 0.001), "0.0 [−0.1, +0.1]"),
        ((-1e-17, -0.001, 0.001), "0.0 [−0.1, +0.1]"),
    ],
)
def test_differences_show_why_they_are_told(gain: tuple, text: str) -> None:
    assert points(dict(zip(("value", "lo", "hi"), gain, strict=True))) == text


def test_parts_stand_where_they_belong(run: Path) -> None:
    one = read_run(run)
    results = [["112", "28", "112-14", "112-7", "gap"], ["112", "7", "112-28", "112-14", "112-10", "9", "28"]]
    series = [Shown(str(n), n, {"a": {key: {} for key in parts}}, one) for n, parts in enumerate(results)]
    assert parts_of(series, "a") == ["112", "28", "9", "7", "112-28", "112-14", "112-10", "112-7", "gap"]
    rising = [Shown("", 1, {"a": {key: {} for key in parts}}, one) for parts in (["7", "28"], ["14", "3", "112"])]
    assert parts_of(rising, "a") == ["3", "7", "14", "28", "112"]


def test_a_tile_leaves_no_run_out(run: Path) -> None:
    one = read_run(run)
    series = shown([one])
    series[1].results["pairs"]["112"].pop("accuracy")
    assert "adapted –" in words_of(in_short(series, []))


def row(value: float | None, impostors: int, **more: object) -> dict:
    return {"threshold": {"value": value, "lo": 0.1, "hi": 0.9}, "impostors": impostors, **more}


def test_thresholds_say_what_they_rest_on(run: Path) -> None:
    series = shown(read_runs([run]))
    tar = {"value": 0.5, "lo": 0.4, "hi": 0.6}
    series[-1].results["pairs"] = {
        "112": {"pairs": 9, "thresholds": {"0.1": row(0.25, 5000, tar=tar), "0.001": row(0.5, 5000, tar=tar)}},
        "112-14": {"pairs": 9, "thresholds": {"0.01": row(0.75, 10000)}},
    }
    words = words_of(thresholds(series))
    assert "strangers" in words and "112 px5,0000.250 [0.100, 0.900]TAR" in words
    assert "0.500 [0.100, 0.900] *TAR 50.0" in words and "* rests on fewer than 10" in words
    assert "112 against 14 px10,000–0.750 [0.100, 0.900]–" in words
    assert "stand on both sides" in words and "other image of its person: 112 against 14 px" in words


def test_curves_of_every_protocol_have_their_axes(run: Path) -> None:
    series = shown(read_runs([run]))
    search = {
        "gallery": 3,
        "tpir20@0.1": {"value": 0.5, "lo": 0.25, "hi": 0.75},
        "open_set": {"fpir": [0.0, 0.01, 0.1, 1.0], "tpir20": [0.0, 0.25, 0.5, 0.75]},
        "items": {"position": np.array([1, 2, 4]), "best": np.array([0, 1, -1]), "similarity": np.zeros(3)},
    }
    discard = {
        "edc@0.01": {"share": [0.0, 0.3], "fnmr": [0.2, 0.1]},
        "edc_ideal@0.01": {"share": [0.0, 0.3], "fnmr": [0.2, 0.0]},
    }
    for one in series:
        one.results.clear()
        one.results["new"] = {"search": search, "discard": discard, "curved": {"rise": {"a": [1, 2], "b": [3, 4]}}}
    text = curves(series, [series[-1].run])
    seen = Seen(text)
    labels = [svg["aria-label"] for svg in seen.of("svg") if "aria-label" in svg]
    assert labels == [
        "new, search. found over rank: base, adapted.",
        "new, search. true positive identification rate (rank 20) over false positive identification rate: "
        "base, adapted.",
        "new, discard, FAR 0.01. false reject rate over genuine pairs discarded: "
        "base, base, ideal, adapted, adapted, ideal.",
        "new, curved: rise. b over a: base, adapted.",
    ]
    assert "TPIR over FPIR" in seen.words and "adapted: 50.0 % [25.0 %, 75.0 %]" in text


def test_pairs_without_a_verdict_have_pictures(run: Path) -> None:
    from recognition.page.pictures import pictures

    series = shown(read_runs([run]))
    for part in series[-1].results["pairs"].values():
        part["items"].pop("correct")
    text = pictures(series[-1:], 1)
    assert "<img" in text and "judged" not in text
