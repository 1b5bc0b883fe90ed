"""Commands with one thing wrong: each is refused, though it is not run, or is run with other settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from recognition.config import ConfigError
from tests.documents.cases import not_run
from tests.documents.running import look_at_choices, plain, words_of
from tests.documents.unrun import LOOKS


@pytest.mark.parametrize(
    "text",
    (
        "python tools/demo.py --modell runs/mine --detektor det_10g",
        "python tools/demo.py --model runs/nobody",
        "python tools/benchmark.py scoring --thread-count 1",
        "python tools/describe_plugins.py --outt -",
        "docker build --tag lrface",
        "docker built --tagg lrface --build-arg LOCK=gpu .",
        "docker build --tag lrface --build-arg LOCK=cuda13 .",
        'docker run --rm --volume "$PWD:/work" lrface train demo --dry-runn',
        "docker run --rm nobody train demo",
        "make tset",
        "pip install -e",
        "pip instal -e .",
        "pip install --find-link wheels lrface",
        "pip install --no-index --find-links wheels lrfaze",
        "pip install 'lrface[demo]'",
        "pip install '.[dmeo]'",
        "pip install -r locks/runtme.txt",
        "pip install dist/lrface-9.9.9-py3-none-any.whl",
        "tensorboard --log-directory runs",
        "tensorboard --logdir runz",
    ),
)
def test_what_is_not_run_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    with pytest.raises(AssertionError):
        LOOKS[not_run(text).look](text, tmp_path)


@pytest.mark.parametrize(
    ("text", "fault"),
    (
        ("python tools/train.py configs/demo.py backbone.name=resnet9000", "resnet9000"),
        ("python tools/train.py configs/demo.py backbone.weights=no_such.safetensors", "no_such"),
        ("python tools/train.py configs/demo.py data.records=data/nothing", "data/nothing"),
        ("lrface train demo adapter.name=lorra", "lorra"),
        ("lrface train demo adapter.rnak=4", "rnak"),
        ("python tools/train.py configs/demo.py optim.learning=1", "optim.learning"),
        ("python tools/train.py configs/dmeo.py", "no recipe"),
        ("python tools/train.py theirs.py", "petal.safetensors"),
        ("python tools/benchmark.py step configs/lfw_lora.py --set backbone.weights=no_such", "no_such"),
        ("python tools/calibrate_gate.py configs/demo.py scorer.name=sharpnes", "sharpnes"),
        ("python tools/train.py configs/demo.py backbone.weights=weights/demo_base.safetensors", ""),
    ),
)
def test_choices_are_looked_at_before_they_are_made_small(
    text: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("theirs.py").write_text('from easydict import EasyDict\nparent = "demo.py"\nconfig = EasyDict()\n')
    with Path("theirs.py").open("a") as file:
        file.write('config.backbone = EasyDict(weights="petal.safetensors")\n')
    words = plain(words_of(text)[0])
    if not fault:
        return look_at_choices(words)
    with pytest.raises((ConfigError, AssertionError), match=fault):
        look_at_choices(words)
