"""tools/evaluate.py: runs and weights, own settings and changed ones, faults in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition import config as settings
from recognition import distributed
from recognition.backbones import BACKBONES
from recognition.data.pairs import PairSet, write_bin
from recognition.weights import read_weights, write_weights
from tools import evaluate

RECIPE = """
from easydict import EasyDict as edict
config = edict()
config.backbone = edict(name="mobilefacenet_y1", weights="{weights}")
config.evaluation = edict(
    sets=[dict(name="faces", kind="bin", path="{faces}", folds=2)], low_res=[28], far=[0.5], bootstrap=20
)
"""


@pytest.fixture(autouse=True)
def _no_group_stays() -> Iterator[None]:
    yield
    distributed.stop()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe over random weights and a .bin of eight pairs of noise."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (8, 112, 112, 3), np.uint8)
    images = [cv2.imencode(".jpg", image)[1].tobytes() for image in noise]
    first, same = np.arange(8), np.arange(8) % 2 == 0
    write_bin(tmp_path / "faces.bin", PairSet("faces", images, first, np.where(same, first, (first + 1) % 8), same))
    weights = tmp_path / "base.safetensors"
    write_weights(weights, BACKBONES.create("mobilefacenet_y1").state_dict(), {"backbone": "mobilefacenet_y1"})
    (tmp_path / "recipe.py").write_text(RECIPE.format(weights=weights, faces=tmp_path / "faces.bin"))
    return tmp_path / "recipe.py"


@pytest.fixture
def run(recipe: Path, tmp_path: Path) -> Path:
    """A finished run of full fine-tuning."""
    folder = tmp_path / "run"
    tensors = BACKBONES.create("mobilefacenet_y1").state_dict()
    write_weights(folder / "model" / "adapter.safetensors", tensors, {"adapter": {"name": "full"}})
    (folder / "config.json").write_text(settings.to_json(settings.load(recipe)))
    return folder


def test_a_run_and_its_base(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert evaluate.main([str(run), "--base"]) == 0
    printed = capsys.readouterr().out
    assert "| before |" in printed and "| after |" in printed and "Difference from before" in printed
    assert {path.name for path in (run / "report").iterdir()} == {"before", "after", "report.md", "roc.png"}
    assert evaluate.main([str(run)]) == 0  # what training or --base left stands beside it
    assert "| before |" in capsys.readouterr().out
    card = json.loads((run / "model" / "adapter.json").read_text())  # and tells what was found anew
    assert card["results"]["after"]["faces"]["28"]["accuracy"]["value"] >= 0


def test_changed_settings_leave_the_run_s_report_alone(run: Path) -> None:
    assert evaluate.main([str(run), "--set", "low_res=[[112,14]]", "--set", "flip=True"]) == 0
    results = json.loads((run / "evaluation" / "after" / "results.json").read_text())
    assert list(results["sets"]["faces"]["parts"]) == ["112-14"] and not (run / "report").exists()


def test_one_protocol_in_place_of_the_sets(run: Path, tmp_path: Path) -> None:
    named = ["--protocol", "bin", "--data", str(tmp_path / "faces.bin"), "--argument", "folds=4"]
    assert evaluate.main([str(run), *named, "--set", "low_res=[112,28]"]) == 0
    results = json.loads((run / "evaluation" / "bin" / "after" / "results.json").read_text())["sets"]["bin"]
    assert list(results["parts"]) == ["112", "28"] and results["protocol"] == "bin"
    assert results["settings"]["folds"] == 4 and "threshold" in results["rules"]["folds"]
    weights = tmp_path / "same.safetensors"  # whose card names the backbone, so that no recipe is needed
    tensors = read_weights(run / "model" / "adapter.safetensors").tensors
    write_weights(weights, tensors, {"backbone": "mobilefacenet_y1"})
    asked = [word for setting in ("low_res=[112,28]", "far=[0.5]", "bootstrap=20") for word in ("--set", setting)]
    assert evaluate.main([str(weights), *named, *asked, "--output", str(tmp_path / "of_weights")]) == 0
    found = json.loads((tmp_path / "of_weights" / "weights" / "results.json").read_text())["sets"]["bin"]["parts"]
    assert found == results["parts"]


def test_weights(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights = str(tmp_path / "base.safetensors")
    assert (
        evaluate.main([weights, "--config", str(recipe), "--output", str(tmp_path / "out"), "evaluation.far=[1]"]) == 0
    )
    assert "| tar@1 % | 28 |" in capsys.readouterr().out
    assert (tmp_path / "out" / "weights" / "items.npz").is_file()


def test_scorers_on_the_errors_of_a_run_and_of_weights(
    run: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recognition.evaluation.scorers.REPEATS", 1)
    monkeypatch.setattr("recognition.evaluation.scorers.TIMED", 2)
    saved = json.loads((run / "config.json").read_text())
    del saved["evaluation"]["edc"]  # a run from before there was such a section
    (run / "config.json").write_text(json.dumps(saved))
    options = ["--edc", "--scorer", "oracle", "--scorer", "sharpness:variance log=False", "--scorer", "feature_norm"]
    assert evaluate.main([str(run), *options, "--scorer", "brisque", "--set", "edc.ladder=1"]) == 0
    printed = capsys.readouterr().out
    assert "| sharpness variance log=False |" in printed and "- `brisque`: scorer 'brisque' needs a file" in printed
    assert {path.name for path in (run / "edc").iterdir()} == {"edc.json", "edc.md", "edc.png", "edc_items.npz"}
    weights, out = str(tmp_path / "base.safetensors"), str(tmp_path / "out")
    changes = ["evaluation.edc.scorers=['oracle']", "evaluation.edc.ladder=0"]
    assert evaluate.main([weights, "--edc", "--config", str(recipe), "--output", out, *changes]) == 0
    assert "| random |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (
            ["{run}", "--set", "low_ress=[7]"],
            "did you mean config.evaluation.low_res",
        ),
        (["{run}", "--set", "flip"], "write KEY=VALUE"),
        (["{run}", "--set", "far=high"], "holds 'high'; it is a list of numbers"),
        (["{run}", "--set", "sets=[]"], "evaluation.sets is empty"),
        (["{run}", "--protocol", "tinyfce", "--data", "x"], "unknown protocol 'tinyfce'; did you mean 'tinyface'"),
        (["{run}", "--protocol", "bin"], "missing a required argument: 'path'"),
        (["{run}", "--protocol", "bin", "--argument", "fold=3"], "unexpected argument 'fold'; it takes (path"),
        (["{run}", "--protocol", "bin", "--data", "absent.bin"], "there is no file absent.bin"),
        (["{run}", "--protocol", "drawn", "--data", "x", "--argument", "count=abc"], "count is 'abc'; it is a whole"),
        (["{run}", "--set", "far=[0]"], "evaluation.far holds 0; it is a list of numbers above 0"),
        (["{run}", "--set", "ranks=[0]"], "evaluation.ranks holds 0"),
        (["{run}", "--set", "bootstrap=-5"], "evaluation.bootstrap is -5"),
        (["{run}/model"], "holds no config.json"),
        (["{run}", "--edc", "--set", "sets=[]"], "evaluation.sets is empty"),
        (["{run}", "--edc", "--set", "edc.most=1.0"], "largest share discarded"),
        (["{run}", "--edc", "--scorer", "sharpnes"], "did you mean 'sharpness'"),
    ],
)
def test_faults_are_said_in_a_sentence(
    run: Path, capsys: pytest.CaptureFixture, arguments: list[str], complaint: str
) -> None:
    assert evaluate.main([a.format(run=run) for a in arguments]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["absent.safetensors"], "settings of a --config"),
        (["absent.safetensors", "--config", "x.py"], "name an --output"),
        (["absent.safetensors", "--config", "x.py", "--output", "o", "--base"], "leave --base out"),
        (["absent", "--protocol", "bin", "--data", "x.bin", "--output", "o"], "there is no absent"),
        ([".", "--data", "x.bin"], "go with --protocol NAME"),
        ([".", "evaluation.far=[1]"], "--set KEY=VALUE"),
        ([".", "--scorer", "sharpness"], "--scorer goes with --edc"),
        ([".", "--edc", "--base"], "--base does not"),
    ],
)
def test_what_does_not_go_together(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        evaluate.parse(arguments)
    assert complaint in capsys.readouterr().err
