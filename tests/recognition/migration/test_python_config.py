"""recognition/migration/python_config.py: configs are read, and nothing of them is run."""

from __future__ import annotations

import pytest

from recognition.migration.found import Setting, Unknown
from recognition.migration.python_config import read_config

HEAD = "from easydict import EasyDict as edict\nconfig = edict()\n"


def values(tmp_path, text, head=HEAD, base=None):
    path = tmp_path / "mine.py"
    path.write_text(head + text)
    found, notes = read_config(path, lambda: base or {})
    return {name: setting.value for name, setting in found.items()}, notes


def test_plain_values_arithmetic_and_texts(tmp_path):
    found, notes = values(
        tmp_path,
        """
import os, os.path as osp
from os.path import join
N: int = 8
config.margin_list = (1.0, 0.0, 0.4)
config.num_epoch = 20
config.warmup_epoch = config.num_epoch // 10
config.num_classes = 300 * 10000
config.lr = 0.1 * (128 * N) / 256
config.lr /= 2
config["seed"] = -1
config.rec = os.path.join("/data", "faces" + "_emore")
config.output = f"{osp.join('runs', 'x')}_{N:02d}_{config.lr:.2f}" if N > 1 and not False else None
config.names = [*()] if False else ["lfw", 'cfp_fp']
config.first = config.names[0]
config.kwargs = {"dropout": 0.0, "size": config.num_epoch}
config.kwargs.size += 1
config.other = edict(a=dict(b=1))
config.update(fp16=True, steps=max(1, min(3, len(config.names))))
a, (b, c) = 1, (2, 3)
config.sum = a + b + c
""",
    )
    assert found == {
        "margin_list": (1.0, 0.0, 0.4),
        "num_epoch": 20,
        "warmup_epoch": 2,
        "num_classes": 3_000_000,
        "lr": 0.2,
        "seed": -1,
        "rec": "/data/faces_emore",
        "output": "runs/x_08_0.20",
        "names": ["lfw", "cfp_fp"],
        "first": "lfw",
        "kwargs.dropout": 0.0,
        "kwargs.size": 21,
        "other.a.b": 1,
        "fp16": True,
        "steps": 2,
        "sum": 6,
    }
    assert notes == []


def test_places_are_lines(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(HEAD + "\nconfig.lr = 0.1\n")
    assert read_config(path, dict)[0] == {"lr": Setting(0.1, "mine.py line 4")}


def test_if_takes_the_branch_that_holds(tmp_path):
    text = 'config.dataset = "b"\nif config.dataset == "a":\n    config.rec = "A"\nelif config.dataset in ("b", "c"):\n'
    assert values(tmp_path, text + '    config.rec = "B"\n')[0]["rec"] == "B"


def test_nothing_is_run(tmp_path):
    flag = tmp_path / "ran"
    found, notes = values(
        tmp_path,
        f"""
import torch, subprocess
from somewhere import path_of
open({str(flag)!r}, "w")
print("hello")
config.amp = torch.bfloat16
config.rec = path_of("webface")
config.key = __import__("os").system("touch {flag}")
config.size = (10 ** 10) ** 10 ** 10
config.long = "a" * 10 ** 9
def lr_step(epoch):
    open({str(flag)!r}, "w")
config.lr_func = lr_step
with open({str(flag)!r}, "w") as file:
    config.wandb_key = file.read().strip()
class C:
    open({str(flag)!r}, "w")
assert open({str(flag)!r}, "w")
""",
    )
    assert not flag.exists()
    assert all(isinstance(value, Unknown) for value in found.values()) and len(found) == 7
    told = "\n".join(notes)
    for part in ("import torch", "import subprocess", "path_of", "print", "lr_step()", "`with open", "C()", "assert"):
        assert part in told
    assert "bfloat16" in found["amp"].why or "torch" in found["amp"].why


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("for i in range(3):\n    config.lr = i\n", "line 3: `for i in range(3):` (for)"),
        ("while True: pass\n", "(while)"),
        ("import os\nif os.environ['X']:\n    config.lr = 1\n", "line 4: `if os.environ['X']` depends on"),
        ("adapt(config)\n", "line 3: `adapt(config)` may change any setting"),
        ("config.pop('lr')\n", "may change any setting"),
        ("config.update(load())\n", "only running it would tell"),
        ("config.lr = 1 / 0\n", "line 3: `1 / 0`: division by zero"),
        ("config.lr = [1][2]\n", "is not there"),
        ("x = 3\nx.lr = 1\n", "line 4: `x.lr = ...`"),
        ("config.lr = = 1\n", "line 3: invalid syntax: this is no Python"),
        ("del config.lr\n", "(delete)"),
        ("config.lr = " + "(" * 150 + "1" + ")" * 150 + "\n", ""),
        ("config.lr = " + "-" * 5000 + "1\n", ""),
    ],
)
def test_what_cannot_be_read_says_where(tmp_path, text, said):
    try:
        values(tmp_path, text)
    except ValueError as error:
        assert said in str(error) and "mine.py" in str(error)
    else:
        assert not said


def test_what_is_no_config(tmp_path):
    for text, said in (
        ("x = 1\n", "makes no `config"),
        ("config = {'lr': 1}\n", "makes no `config"),
        ("\0", "mine.py"),
    ):
        with pytest.raises(ValueError, match=said):
            values(tmp_path, text, head="")
    with pytest.raises(ValueError, match="there is no file"):
        read_config(tmp_path / "absent.py", dict)
    (tmp_path / "large.py").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ValueError, match="that is no config"):
        read_config(tmp_path / "large.py", dict)


def test_a_config_that_imports_its_base(tmp_path):
    base = {"lr": Setting(0.1, "base.py line 3"), "seed": Setting(1, "base.py line 4")}
    found, _ = values(tmp_path, "config.lr = config.lr * 2\n", "from configs.base import config\n", base)
    assert found == {"lr": 0.2, "seed": 1}
