"""tools/convert_config.py: the table, the file, the exit codes; and a converted recipe trains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recognition import config as settings
from tests.recognition.migration.sources import ARCFACE, LORA, petalface, write
from tests.small import write_records
from tests.tiny import nameable
from tests.training import train
from tools.convert_config import main

ROOT = Path(__file__).resolve().parents[2]


def test_tells_of_every_setting_and_writes_the_recipe(tmp_path, capsys):
    source, out = write(tmp_path / "mine.py", ARCFACE), tmp_path / "recipes" / "out.py"
    assert main([str(source), str(out), "--processes", "2", "optim.lr=0.05"]) == 0
    told = capsys.readouterr().out
    for part in (
        "mine.py: arcface_torch, 2 processes by --processes",
        "network = 'mbf'                               -> backbone.name='mbf'",
        "num_classes = 1000                            -- counted from the records",
        "wandb_key = (hidden)",
        f"train:   torchrun --nproc-per-node 2 tools/train.py {out}",
        f"go on:   python tools/convert_checkpoint.py work_dirs/mine runs/out --recipe {out}",
    ):
        assert part in told
    config = settings.load(out)
    assert (config.run.name, config.optim.lr, config.optim.momentum) == ("out", 0.05, 0.9)
    assert max(map(len, out.read_text().splitlines())) <= 120


def test_looks_only_without_a_recipe_to_write(tmp_path, capsys):
    source = write(tmp_path / "mine.py", ARCFACE)
    assert main([str(source), "data.records=x"]) == 0
    assert "nothing is written" in capsys.readouterr().out and [*tmp_path.iterdir()] == [source]


def test_a_setting_with_a_path_is_no_recipe(tmp_path, capsys):
    source = write(tmp_path / "mine.py", ARCFACE)
    for value in ("data/mine", "/a/b.py"):
        assert main([str(source), f"data.records={value}"]) == 0
        told = capsys.readouterr().out
        assert f"overridden: data.records=['{value}']" in told and "nothing is written" in told


def test_the_source_and_its_base_are_never_replaced(tmp_path, capsys):
    source, base = write(tmp_path / "mine.py", ARCFACE), write(tmp_path / "base.py", ARCFACE)
    for out in (source, base):
        assert main([str(source), str(out), "--overwrite"]) == 2
        assert "is what is converted, or its base.py" in capsys.readouterr().err and out.read_text() == ARCFACE


def test_defaults_are_marked_and_paths_quoted(tmp_path, capsys):
    lines = "config.rec = '/d'\nconfig.num_epoch = 2\nconfig.output = None\n"
    source = write(tmp_path / "my config.py", "from easydict import EasyDict as edict\nconfig = edict()\n" + lines)
    out = tmp_path / "my recipe.py"
    assert main([str(source), str(out)]) == 0
    told = capsys.readouterr().out
    for part in (
        "network = 'r50' (default)",
        f"tools/train.py '{out}'",
        f"convert_checkpoint.py 'work_dirs/my config' 'runs/my recipe' --recipe '{out}'",
    ):
        assert part in told
    assert f"tools/train.py '{out}'" in " ".join(out.read_text().split("\n\n")[1].split())


def test_refuses_in_a_sentence(tmp_path, capsys):
    source, out = write(tmp_path / "mine.py", ARCFACE + "config.emma = 1\n"), write(tmp_path / "out.py", "mine")
    cases = [
        ([str(tmp_path / "absent.py"), str(out), "--overwrite"], "there is no file"),
        ([str(source), str(out)], "is there already"),
        ([str(source), str(out), "--overwrite"], "emma is not a setting"),
        (["nonsense", str(out), "--overwrite"], "name a Python config"),
        ([str(write(tmp_path / "a.sh", "echo 1\n")), str(out), "--overwrite"], "starts no training"),
        ([str(write(tmp_path / "b.sh", "run 'x\n")), str(out), "--overwrite"], "a quote is opened"),
        ([str(tmp_path), str(out), "--overwrite"], "name a Python config"),
        ([str(source), str(out), "--overwrite", "--allow-unknown", "nothing.at=1"], "unknown setting"),
    ]
    for words, said in cases:
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith("convert_config: ") and said in error
        assert out.read_text() == "mine"
    for words in ([str(source), "out.txt"], [str(source), str(out), "--processes", "0"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2
    assert main([str(source), str(out), "--overwrite", "--allow-unknown"]) == 0
    assert "unknown, left out: emma" in capsys.readouterr().out and "mbf" in out.read_text()


def test_a_script_by_the_command_and_no_torch(tmp_path):
    script = write(tmp_path / "run.sh", petalface(rest=f"{LORA} --iqa cnniqa --threshold 0.5"))
    code = (
        "import sys, tools.convert_config as tool\n"
        f"assert tool.main([{str(script)!r}, {str(tmp_path / 'out.py')!r}]) == 0\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "adapter.name='dual_lora'" in done.stdout


def test_a_converted_recipe_trains(tmp_path):
    """Settings that their machine had and this one has not are the only ones given anew."""
    records = write_records(tmp_path / "faces" / "train").parent
    text = ARCFACE.replace("/data/faces", str(records)).replace('["lfw", "agedb_30"]', "[]").replace("50 * 1000", "30")
    text = (
        text.replace("config.num_epoch = 10", "config.num_epoch = 1")
        .replace("= 64", "= 6")
        .replace("= True", "= False")
    )
    source, out = write(tmp_path / "mine.py", text), tmp_path / "out.py"
    here = ("backbone.name=tiny_of_tests", "train.device=cpu", "data.loader=torch", f"run.root={tmp_path / 'runs'}")
    with nameable():
        assert main([str(source), str(out), "--processes", "1", *here]) == 0
        config = settings.load(out)
        _, losses = train(out, "train.log_every=1", "data.workers=0")
    assert (config.classifier.sample_rate, config.classifier.filter_mode) == (0.2, "zero")
    assert len(losses) == 5 and all(0 < loss < 100 for loss in losses.values())  # 30 pictures, 6 at a time
    saved = json.loads((tmp_path / "runs" / "out" / "config.json").read_text())
    assert saved["margin"] == {"name": "cosface", "margin": 0.4, "scale": 64.0}
    assert saved["optim"]["lr"] == 0.1 and saved["run"]["seed"] == 7
