import os
import subprocess
import sys
from pathlib import Path

import pytest

from recognition.data.recordio import RecordReader
from tests.small import write_recipe

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments, launcher=(sys.executable,), cwd=ROOT):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([*launcher, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")


@pytest.mark.parametrize("name", ["petal_tinyface", "lora_tinyface", "full_tinyface", "petal_briar", "wf4m_r50"])
def test_a_recipe_without_its_files_says_what_is_missing_and_where_to_get_it(name, tmp_path):
    done = call(str(ROOT / "tools" / "train.py"), str(ROOT / "configs" / f"{name}.py"), cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for word in ("missing data/", "tools/make_records.py FOLDER", "make demo"):
        assert word in done.stderr


@pytest.mark.slow
def test_torchrun_speaks_with_one_voice():
    done = call("tools/train.py", "configs/petal_tinyface.py", launcher=TORCHRUN)
    assert done.returncode == 1  # torchrun's own code for any failure
    assert done.stderr.count("missing data/tinyface/train.rec") == 1


def test_a_wrong_setting_and_a_wrong_file_are_one_sentence(tmp_path):
    recipe = str(write_recipe(tmp_path))
    done = call("tools/train.py", recipe, "optim.wieght_decay=1")
    assert done.returncode == 2 and "did you mean" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "train.rec").write_bytes((tmp_path / "train.rec").read_bytes()[:5000])
    done = call("tools/train.py", recipe)
    assert done.returncode == 2 and "train.rec" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_processes_under_torchrun_train_and_leave_a_run(tmp_path):
    recipe = str(write_recipe(tmp_path))
    small = ("data.batch_size=3", "schedule.epochs=0.4", "evaluation.low_res=[14]")
    done = call("tools/train.py", recipe, *small, launcher=TORCHRUN)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "small" / "model" / "adapter.safetensors").is_file()
    assert done.stdout.count("records   30 images") == 1
    dry = call("tools/train.py", recipe, "run.name=dry", "--dry-run", *small, launcher=TORCHRUN)
    assert dry.returncode == 0 and "nothing was written" in dry.stdout
    assert not (tmp_path / "runs" / "dry").exists()


@pytest.mark.slow
def test_a_bad_record_of_any_process_is_named(tmp_path):
    recipe = str(write_recipe(tmp_path))
    records = tmp_path / "train.rec"
    content = bytearray(records.read_bytes())
    with RecordReader(records) as reader:
        places = [content.find(reader.read(key)) for key in reader.keys[1::2]]
    for place in places:  # every second record: one of them lies in the second process's share
        content[place + 24 : place + 400] = bytes(376)
    records.write_bytes(content)
    done = call("tools/train.py", recipe, "data.batch_size=3", launcher=TORCHRUN)
    assert done.returncode == 1 and "key" in done.stderr and "train.rec" in done.stderr
