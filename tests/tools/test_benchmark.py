"""The benchmark's rows, its arithmetic, and what it leaves out."""

import importlib.util
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from recognition.bench import rows
from recognition.bench import scoring as scoring_bench
from recognition.data.recordio import Header, RecordWriter, pack
from tests.small import write_recipe
from tools import benchmark

ROOT = Path(__file__).parents[2]
HAS_DALI = importlib.util.find_spec("nvidia.dali") is not None
QUICK = ["--repeats", "1", "--seconds", "0.01", "--warm-up", "0", "--batch", "4", "--device", "cpu"]


def write(path: Path, with_header: bool) -> Path:
    with RecordWriter(path) as writer:
        if with_header:
            writer.write(0, pack(Header(flag=2, label=np.array([13.0, 13.0], np.float32), id=0, id2=0), b""))
        for key in range(1, 13):
            image = np.full((112, 112, 3), 20 * key, np.uint8)
            payload = cv2.imencode(".jpg", image)[1].tobytes()
            writer.write(key, pack(Header(flag=0, label=float(key % 3), id=key, id2=0), payload))
    return path


@pytest.mark.parametrize("with_header", [False, True])
def test_every_loader_has_a_row_beside_its_limit(tmp_path, capsys, with_header):
    path = write(tmp_path / "x", with_header)
    assert benchmark.main(["loader", "--records", str(path), "--workers", "0", "1", *QUICK]) == 0
    about, _, head, _, *rows = capsys.readouterr().out.splitlines()
    assert "12 images" in about and "of limit" in head
    names = ["OpenCV decode, 1 thread", "torch loader, 0 workers"]
    names += ["OpenCV decode, 1 process", "torch loader, 1 worker"]
    if HAS_DALI:
        names += ["DALI decode, 1 thread", "DALI loader, 1 thread"]
        names += [] if with_header else ["DALI's MXNet reader, 1 thread"]
        assert ("takes this file's header records for images" in about) == with_header
    else:
        assert "pip install -e '.[dali]'" in about
    assert [row.split("|")[1].strip() for row in rows] == names
    assert [row.split("|")[1].strip() for row in rows if row.endswith("| limit |")] == [
        n for n in names if "decode" in n
    ]


@pytest.mark.slow
def test_without_records_it_paints_faces(capsys):
    assert benchmark.main(["loader", "--workers", "1", "--degrade", *QUICK]) == 0
    assert "512 images" in capsys.readouterr().out


def test_saving_has_its_rows_and_leaves_nothing(tmp_path, capsys):
    quick = ["--repeats", "1", "--seconds", "0.01", "--warm-up", "0", "--mib", "1", "--folder", str(tmp_path)]
    assert benchmark.main(["checkpoint", *quick]) == 0
    about, _, _, _, *rows = capsys.readouterr().out.splitlines()
    assert about.startswith("1 MiB: 256 class centres") and len(rows) == 4
    assert "what training waits for" in rows[1] and "all of a save" in rows[3]
    assert not list(tmp_path.iterdir())


def test_table_compares_medians():
    rates = {"bare": [100.0, 400.0, 200.0], "loader": [50.0, 10.0, 60.0]}
    text = rows.table(rates, {"bare": "bare", "loader": "bare"}, "images")
    assert "| bare | 200 | 100 - 400 | limit |" in text
    assert "| loader | 50 | 10 - 60 | 25 % |" in text


def test_rate_counts_after_the_warm_up_and_closes(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(rows.time, "perf_counter", lambda: float(next(clock)))
    closed = []

    def work():
        try:
            yield from itertools.repeat(1000, 4)
            yield from itertools.repeat(3)
        finally:
            closed.append(True)

    assert rows.rate(work, seconds=5, warm_up=0, warm_up_pieces=4) == 3  # a clock that ticks once per piece
    assert closed == [True]


def test_errors_are_one_line(tmp_path, capsys):
    assert benchmark.main(["loader", "--records", str(tmp_path / "none.rec"), *QUICK]) == 1
    assert "there is no record file" in capsys.readouterr().err
    assert benchmark.main(["loader", "--workers", "-1", *QUICK]) == 1
    assert "workers are 0 or more" in capsys.readouterr().err


def test_help_comes_without_torch():
    code = "import sys; from tools import benchmark\ntry: benchmark.main(['loader', '--help'])\n"
    code += "except SystemExit: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--workers" in done.stdout, done.stderr


def test_training_steps_are_compared_with_the_first_recipe(tmp_path, capsys):
    first = write_recipe(tmp_path)
    second = tmp_path / "frozen.py"
    second.write_text(
        "from easydict import EasyDict as edict\n"
        'parent = "small.py"\nconfig = edict(adapter=edict(name="norms_only"))\n'
        f'config.backbone = edict(weights="{ROOT / "weights" / "demo_base.safetensors"}", embedding_size=128)\n'
    )
    quick = ["--repeats", "1", "--seconds", "0.01", "--warm-up", "0", "--batch", "2", "--device", "cpu"]
    assert benchmark.main(["step", str(first), str(second), *quick]) == 0
    about, _, _, _, *rows = capsys.readouterr().out.splitlines()
    kept = dict(re.findall(r"(small|frozen) ([\d.]+)", about))
    assert 0 < float(kept["frozen"]) < float(kept["small"])
    assert [row.split("|")[1].strip() for row in rows] == ["small", "frozen"] and rows[0].endswith("| limit |")
    assert benchmark.main(["step", str(first), *quick, "--set", "adapter.name=nothing"]) == 1
    assert "unknown adapter 'nothing'" in capsys.readouterr().err


def test_what_scores_cost_stands_beside_a_step_that_is_given_them(tmp_path, capsys):
    own = "config.adapter = edict(name='dual_lora', rank=2)\nconfig.degradation = edict(share=0.6)\n"
    base = str(ROOT / "weights" / "demo_base.safetensors")
    own += f"config.backbone = edict(name='mobilefacenet_nano', weights={base!r})\n"
    recipe = str(write_recipe(tmp_path, own))
    assert benchmark.main(["iqa", recipe, *QUICK, "--batch", "2", "--scorers", "constant value=1"]) == 0
    out = capsys.readouterr().out
    steps = ["scores given", "sidecar", "sidecar, 1 of 2 images degraded: sharpness", "constant online"]
    alone = [f"{name}, scoring alone" for name in ("sidecar", "constant")]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in out.splitlines() if re.match(r"\| [a-z]", line)]
    assert rows == [*steps, *alone, "fastest measurement", *steps]
    assert re.search(r"\| constant online \| [\d.]+ \| [+-][\d.]+ % \| [\d.]+ \| [\d.]+ % \|", out)
    assert benchmark.main(["iqa", recipe, *QUICK, "--set", "adapter.name=lora"]) == 1
    assert "adapter 'lora' has no gate" in capsys.readouterr().err
    assert benchmark.main(["iqa", recipe, *QUICK, "--scorers", "feature_norm"]) == 1
    assert "it looks at the model; wanted scorers of the image" in capsys.readouterr().err


def test_a_recipe_without_its_files_is_no_row(tmp_path, capsys):
    recipe = tmp_path / "lacking.py"
    recipe.write_text(
        'from easydict import EasyDict as edict\nconfig = edict(needs=[edict(path="nowhere.rec", help="make it")])\n'
    )
    assert benchmark.main(["step", str(recipe)]) == 1
    assert "missing nowhere.rec: make it" in capsys.readouterr().err


def test_scoring_is_measured_in_processes_of_its_own(capsys):
    quick = ["--scale", "1000", "--resamples", "20", "--threads", "1"]
    assert benchmark.main(["scoring", "--cases", "tinyface", *quick]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("| tinyface,")}
    assert list(rows) == ["tinyface, the protocol", "tinyface, with intervals", "tinyface, bare products"]
    assert "limit" in rows["tinyface, bare products"] and all(line.endswith("| yes |") for line in rows.values())


@pytest.mark.parametrize("way", ["score", "bare"])
@pytest.mark.parametrize("case", ["tinyface", "survface", "ijbc"])
def test_every_case_of_scoring_runs(case, way, capsys):
    assert scoring_bench.main([case, way, "400", "10", str(torch.get_num_threads())]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seconds"] > 0 and found["peak"] >= found["before"] > 0


def test_a_case_of_scoring_that_fails_says_why(monkeypatch, capsys):
    failed = subprocess.CompletedProcess([], 1, "", "ValueError: too few")
    monkeypatch.setattr(scoring_bench.subprocess, "run", lambda *_, **__: failed)
    assert benchmark.main(["scoring", "--cases", "tinyface"]) == 1
    assert "benchmark scoring: tinyface, the protocol ended with 1: ValueError: too few" in capsys.readouterr().err
