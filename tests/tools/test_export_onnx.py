"""The door to the export."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recognition import config as settings
from recognition import runs
from tests.recognition.test_export import gated
from tests.small import write_records
from tools import export_onnx as door

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder whose model is a small gated one."""
    folder = tmp_path / "trial"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(runs, "load_run", lambda path: gated())
    return folder


def test_writes_into_the_run_and_prints_cosine_and_difference(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert door.main([str(run)]) == 0
    said = capsys.readouterr().out
    assert (run / "onnx" / "trial.onnx").is_file() and (run / "onnx" / "manifest.json").is_file()
    assert "lowest cosine 1.0000000" in said and "at batches 1, 2, 7" in said and " s\n" in said
    assert door.main([str(run), "--two-inputs"]) == 0
    assert (run / "onnx" / "trial_two_inputs.onnx").is_file()


def test_a_file_of_ones_own_choice(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for option in ("--output", "--out"):
        out = tmp_path / option / "face.onnx"
        assert door.main([str(run), option, str(out), "--opset", "17"]) == 0 and out.is_file()
    (tmp_path / "file").write_text("")
    assert door.main([str(run), "--output", str(tmp_path / "file" / "face.onnx")]) == 2
    assert "face.onnx cannot be written: Not a directory" in capsys.readouterr().err


def test_thresholds_of_a_run_and_a_checkpoint_go_along(run: Path) -> None:
    step = run / "checkpoints" / "step_000000003"
    step.mkdir(parents=True)
    assert door._thresholds(step) == {}
    for folder, when in ((run / "model", "after"), (step, "during")):
        folder.mkdir(exist_ok=True)
        card = {"thresholds": {"set": "a"}, "results": {"before": {"a": {}}, when: {"a": {"112": {}}}}}
        (folder / "adapter.json").write_text(json.dumps(card))
        told = door._thresholds(step if when == "during" else run)
        assert json.loads(told["thresholds"]) == {"set": "a"} and list(json.loads(told["results"])) == [when]
    (step / "adapter.json").write_text(json.dumps({"thresholds": {"set": "a"}, "results": {"before": {"a": {}}}}))
    assert door._thresholds(step) == {}


def test_a_checkpoints_name_is_in_the_file(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert door.main([str(run / "checkpoints" / "step_000000003")]) == 0
    assert (run / "onnx" / "trial_step_000000003.onnx").is_file()


def test_int8_tells_what_it_costs_on_the_users_pairs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (run / "config.json").write_text(json.dumps(settings.defaults()))
    (tmp_path / "faces").mkdir()
    faces = write_records(tmp_path / "faces" / "train", people=8)
    pairs = [(k, k + 8 * (k % 2 == 0) + (k % 2), int(k % 2 == 0), k % 4 // 2) for k in range(16)]
    table = "key_1,key_2,same,fold\n" + "".join(f"{a},{b},{same},{fold}\n" for a, b, same, fold in pairs)
    (tmp_path / "faces" / "pairs.csv").write_text(table)
    options = ["--precision", "int8", "--calibrate", str(faces), "--images", "16"]
    assert door.main([str(run), *options, "--pairs", str(faces)]) == 0
    said = capsys.readouterr().out
    assert (run / "onnx" / "int8" / "trial_int8.onnx").is_file()
    assert "16 faces to calibrate by, in turn at 112 px" in said and "int8 file minus torch" in said
    assert [f"{side} px  torch" in said for side in (112, 28, 14)] == [True] * 3
    assert door.main([str(run), *options[:-1], "999"]) == 2
    assert "holds 40; ask for as many at most" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "int8"], "--calibrate RECORDS"),
        (["--precision", "fp16", "--calibrate", "a.rec"], "fp16 needs no faces"),
        (["--two-inputs", "--pairs", "a.rec"], "leave out int8 and --pairs"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], words: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as left:
        door.parse(["runs/demo", *options])
    assert left.value.code == 2 and words in capsys.readouterr().err


def test_what_cannot_be_exported_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert door.main([str(tmp_path / "nowhere")]) == 2
    assert "is no run folder" in capsys.readouterr().err


def test_help_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from tools.export_onnx import parse; parse(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "--two-inputs" in done.stdout, done.stderr
