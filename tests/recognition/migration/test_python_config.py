"""recognition/migration/python_config.py: configs are read, and nothing of them is run."""

from __future__ import annotations

import pytest

from recognition.migration.found import Setting, Unknown
from recognition.migration.python_config import read_config

HEAD = "from easydict import EasyDict as edict\nconfig = edict()\n"


def values(tmp_path, text, head=HEAD, base=None):
    path = tmp_path / "mine.py"
    path.write_text(head + text)
    found, notes = read_config(path, lambda name: base if name == "base" else None)
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
    assert read_config(path, lambda name: None)[0] == {"lr": Setting(0.1, "mine.py line 4")}


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
        ("config.lr = [1, 2]['a':]\n", "is not there"),
        ("sizes = [1, 2]\nconfig.lr = sizes.pop()\n", "line 4: `sizes.pop()` may change what it belongs to"),
        ("def set_all(lr):\n    config.lr = lr\nset_all(0.9)\n", "line 5: `set_all(0.9)` runs what names config"),
        ("def a():\n    config.lr = 1\ndef b():\n    a()\nf = b\nconfig.seed = f()\n", "runs what names config"),
        ("class C:\n    config.lr = 1\n", "C runs what names config"),
        ("def d(f):\n    config.lr = 1\n@d\ndef e(): pass\n", "e runs what names config"),
        ("x = [1]\ndef f():\n    x.append(2)\nf()\n", "runs what names x"),
        ("x = config.pop('lr')\n", "may change any setting"),
        ("exec('config.lr = 1')\n", "may change any setting"),
        ("x = 1\nconfig.seed = (x := 2)\n", "sets a name within an expression"),
        ("with change(config): pass\n", "may change any setting"),
        ("assert change(config)\n", "may change any setting"),
        ("config.__dict__.update(lr=1)\n", "reaches behind the settings"),
    ],
)
def test_what_cannot_be_read_says_where(tmp_path, text, said):
    with pytest.raises(ValueError) as error:
        values(tmp_path, text)
    assert said in str(error.value) and "mine.py" in str(error.value)


def test_deep_expressions_end_in_a_sentence_or_a_value(tmp_path):
    """Python's own parser says which: brackets are none of ours to count, signs are."""
    with pytest.raises(ValueError, match=r"mine\.py"):
        values(tmp_path, "config.lr = " + "(" * 250 + "1" + ")" * 250 + "\n")
    with pytest.raises(ValueError, match=r"mine\.py.*too deep"):
        values(tmp_path, "config.lr = " + "-" * 5000 + "1\n")


def test_lists_change_as_they_would(tmp_path):
    found, notes = values(
        tmp_path,
        """
sizes = [0.3, 0.1, 0.2]
sizes.reverse()
config.lr = sizes[0]
config.sizes = sizes
sizes.sort()
sizes.append(0.4)
sizes.insert(0, 0.0)
config.sorted = sizes
config.val_targets = ["lfw"]
config.val_targets.append("cfp_fp")
config.val_targets.extend(("agedb_30", "calfw"))
more = config.val_targets
more += ["cplfw"]
config.first = config.val_targets[:2] + config.val_targets[-1:]
""",
    )
    assert found == {
        "lr": 0.2,
        "sizes": [0.2, 0.1, 0.3],
        "sorted": [0.0, 0.1, 0.2, 0.3, 0.4],
        "val_targets": ["lfw", "cfp_fp", "agedb_30", "calfw", "cplfw"],
        "first": ["lfw", "cfp_fp", "cplfw"],
    }
    assert notes == []


@pytest.mark.parametrize(
    "change",
    ["sizes.remove(1)", "sizes.sort(key=f)", "shuffle(sizes)", "sizes.append(size_of())", "sizes += sizes_of()"],
)
def test_lists_that_may_have_changed_are_unknown(tmp_path, change):
    text = f"from random import shuffle\nsizes = [1, 2]\nboth = [sizes]\n{change}\nconfig.lr = sizes[0]\n"
    try:
        found, _ = values(tmp_path, text + "config.seed = both\n")
    except ValueError as error:
        assert "may change what it belongs to" in str(error) and "remove" in change
    else:
        assert isinstance(found["lr"], Unknown) and isinstance(found["seed"], Unknown) and "remove" not in change


def test_what_holds_itself_or_doubles_ends(tmp_path):
    with pytest.raises(ValueError, match=r"mine\.py.*too deep"):
        values(tmp_path, "config.v = config\n")
    found, _ = values(tmp_path, "a = [1]\nb = [a]\na.extend(b)\nconfig.a = a\n")
    assert isinstance(found["a"], Unknown)
    found, _ = values(tmp_path, "a = [1, 2]\n" + "a = [a, a]\n" * 40 + "config.a = a\n")
    assert isinstance(found["a"], Unknown)


def test_functions_that_are_not_called_change_nothing(tmp_path):
    text = "config.warmup_epoch = 2\ndef step(epoch):\n    return epoch / config.warmup_epoch\nconfig.lr_func = step\n"
    found, notes = values(tmp_path, text + "config.lr = 0.1\nprint(config.lr, [1])\n")
    assert isinstance(found["lr_func"], Unknown) and found["lr"] == 0.1 and len(notes) == 2


def test_what_is_no_config(tmp_path):
    for text, said in (
        ("x = 1\n", "makes no `config"),
        ("config = {'lr': 1}\n", "makes no `config"),
        ("\0", "mine.py"),
    ):
        with pytest.raises(ValueError, match=said):
            values(tmp_path, text, head="")
    with pytest.raises(ValueError, match="there is no file"):
        read_config(tmp_path / "absent.py", dict.get)
    (tmp_path / "large.py").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ValueError, match="that is no config"):
        read_config(tmp_path / "large.py", dict.get)


def test_a_config_that_imports_its_base(tmp_path):
    base = {"lr": Setting(0.1, "base.py line 3"), "seed": Setting(1, "base.py line 4")}
    found, _ = values(tmp_path, "config.lr = config.lr * 2\n", "from configs.base import config\n", base)
    assert found == {"lr": 0.2, "seed": 1}
