"""recognition/migration: which program a config is of, by its own settings, its base.py and the program above it."""

from __future__ import annotations

import pytest
import torch

from recognition import config as settings
from recognition.migration.sources import find
from tests.recognition.migration.converting import EMPTY, converted, rows
from tests.recognition.migration.sources import ARCFACE, write

OLD = """
from easydict import EasyDict as edict
config = edict()
config.loss = "cosface"
config.network = "r18"
config.batch_size = 128
config.lr = 0.1  # batch size is 512
config.rec = "/data/faces"
config.num_epoch = 30
config.warmup_epoch = -1
config.val_targets = []
"""


def test_the_schedule_is_that_of_the_program_above(tmp_path):
    for program, power in (("PolyScheduler", 2.0), ("PolynomialLRWarmup", 1.0)):
        write(tmp_path / "train_v2.py", f"scheduler = {program}(optimizer=opt)\n")
        assert converted(tmp_path, ARCFACE)[0].schedule.power == power


def test_the_base_beside_is_theirs(tmp_path):
    write(tmp_path / "configs" / "base.py", ARCFACE.replace("config.seed = 7", "config.seed = 3"))
    short = "from easydict import EasyDict as edict\nconfig = edict()\nconfig.lr = 0.05\n"
    config, done = converted(tmp_path, short)
    assert (config.optim.lr, config.run.seed, config.backbone.name) == (0.05, 3, "mbf")
    assert "the base.py beside it" in done.found.notes[0]
    write(tmp_path / "configs" / "base.py", settings.BASE.read_text())  # ours is none of theirs
    assert converted(tmp_path, short)[0].backbone.name == "r50"


def test_configs_of_2021_and_2022(tmp_path):
    config, _ = converted(tmp_path, OLD)
    assert (config.optim.lr, config.schedule.power, config.schedule.warmup_epochs) == (0.1, 2.0, 0.0)
    assert config.margin == {"name": "cosface", "margin": 0.4, "scale": 64.0}
    steps = OLD + "config.decay_epoch = [10, 16, 22]\n"
    config, done = converted(tmp_path, steps)
    assert (config.optim.lr, config.schedule.power) == (0.1 * 128 * 8 / 512, 2.0)
    assert "there are no steps here" in rows(done)["decay_epoch"].remark
    with pytest.raises(ValueError, match="how many --processes"):
        converted(tmp_path, steps, processes=None)
    function = OLD + "def step(epoch):\n    return 0.1 ** epoch\nconfig.lr_func = step\n"
    assert rows(converted(tmp_path, function)[1])["lr_func"].value.startswith("(known to step()")


def test_unknown_settings_of_a_base_say_where_they_stand(tmp_path):
    write(tmp_path / "configs" / "base.py", ARCFACE + "config.emma = 1\n")
    with pytest.raises(ValueError, match=r"base\.py line 33: emma is not a setting"):
        converted(tmp_path, "from easydict import EasyDict as edict\nconfig = edict()\n")
    with pytest.raises(ValueError, match="--command chooses among those of a launch script"):
        find(str(tmp_path / "configs" / "base.py"), command=1)


STEPS = OLD + "config.decay_epoch = [10, 16, 22]\n"
POLY = "def main(cfg):\n    s = PolyScheduler(optimizer=opt, base_lr=cfg.lr)\n    f = loss_of(cfg.{})\n"


@pytest.mark.parametrize(("program", "power"), [("PolynomialLRWarmup", 1.0), ("PolyScheduler", 2.0)])
def test_a_newer_program_above_settings_of_2021_neither_scales_nor_steps(tmp_path, program, power):
    write(tmp_path / "configs" / "base.py", EMPTY + "config.margin_list = (1.0, 0.5, 0.0)\nconfig.network = 'r50'\n")
    write(
        tmp_path / "train_v2.py",
        f"def main(cfg):\n    s = lr_scheduler.{program}(opt)\n    f(cfg.margin_list, cfg.lr)\n",
    )
    config, done = converted(tmp_path, STEPS)
    assert (config.optim.lr, config.schedule.power) == (0.1, power)
    assert rows(done)["decay_epoch"].becomes == () and f"{program} and ignores" in rows(done)["decay_epoch"].remark
    assert config.margin.name == "arcface" and "ignores this" in rows(done)["loss"].remark
    assert f"schedule: {program}, by train_v2.py above" in done.found.notes
    converted(tmp_path, STEPS, processes=None)  # nothing hangs on their number


def test_loss_and_margin_list_go_by_what_the_program_reads(tmp_path):
    base = write(tmp_path / "configs" / "base.py", EMPTY + "config.margin_list = (1.0, 0.3, 0.0)\nconfig.lr = 0.2\n")
    with pytest.raises(ValueError, match=r"loss and margin_list are both set.*give margin\.name"):
        converted(tmp_path, OLD)
    assert converted(tmp_path, OLD, "margin.name=cosface")[0].margin.name == "cosface"
    write(tmp_path / "train.py", POLY.format("loss"))
    config, done = converted(tmp_path, OLD)
    assert (config.margin.name, rows(done)["margin_list"].becomes) == ("cosface", ())
    with pytest.raises(ValueError, match=r"reads loss, which no file here sets: give margin\.name"):
        converted(tmp_path, OLD.replace("config.loss", "config.dataset"))
    write(tmp_path / "train.py", POLY.format("margin_list"))
    assert converted(tmp_path, OLD)[0].margin == {"name": "arcface", "margin": 0.3, "scale": 64.0}
    base.unlink()
    with pytest.raises(ValueError, match=r"no file here sets margin_list: give margin\.name"):
        converted(tmp_path, OLD)


def test_the_program_that_was_started_counts(tmp_path):
    write(tmp_path / "configs" / "a.py", ARCFACE)
    write(tmp_path / "train.py", "s = PolyScheduler(opt)\n")
    write(tmp_path / "train_v2.py", "s = PolynomialLRWarmup(opt)\n")
    for program, power in (("train.py", 2.0), ("train_v2.py", 1.0)):
        script = write(tmp_path / "run.sh", f"torchrun --nproc_per_node=8 {program} configs/a\n")
        assert find(str(script)).above.power == power
    assert "train.py beside that has PolyScheduler" in find(str(tmp_path / "configs" / "a.py")).notes[1]


def test_a_base_of_2021_is_seen_as_one(tmp_path):
    base = write(tmp_path / "configs" / "base.py", STEPS)
    short = EMPTY + "config.rec = '/data/other'\n"
    config, done = converted(tmp_path, short)
    alone = converted(tmp_path, STEPS, name="base.py")[0]
    assert (config.optim.lr, config.schedule.power) == (alone.optim.lr, alone.schedule.power) == (0.2, 2.0)
    assert config.margin == alone.margin and "margin_list" not in rows(done)
    assert [rows(done)[name].origin for name in ("decay_epoch", "rec", "seed")] == ["base.py", "", "default"]
    write(base, EMPTY + "config.dataset = 'x'\ndef f(e):\n    return 1\nconfig.lr_func = f\nconfig.batch_size = 64\n")
    with pytest.raises(ValueError, match=r"give it, backbone\.name=NAME") as error:
        converted(tmp_path, short)
    assert "give it, margin.name=arcface" in str(error.value)
    config, done = converted(tmp_path, short, "backbone.name=r18", "margin.name=cosface", "schedule.epochs=3")
    assert (config.backbone.name, config.margin.name, config.data.batch_size) == ("r18", "cosface", 64)
    assert config.optim.lr == 0.1 * 64 * 8 / 512


def test_a_base_that_is_none_of_theirs_is_told_of(tmp_path):
    write(tmp_path / "configs" / "base.py", EMPTY + "config.emma = 1\nconfig.otto = 2\n")
    _, done = converted(tmp_path, EMPTY + "config.rec = '/d'\nconfig.num_epoch = 2\n")
    assert any("base.py beside it is not used: it sets emma, otto" in note for note in done.found.notes)
    assert rows(done)["network"].origin == "default"


def test_configs_that_import_one_another(tmp_path):
    write(tmp_path / "configs" / "first.py", ARCFACE)
    for head in ("from configs.first import config\n", "from .first import *\n"):
        config, done = converted(tmp_path, head + "config.lr = 0.3\nconfig.val_targets.append('cfp_fp')\n")
        assert (config.optim.lr, config.backbone.name) == (0.3, "mbf") and len(config.evaluation.sets) == 3
        assert {path.name for path in done.found.files} == {"theirs.py", "first.py"}
        with pytest.raises(ValueError, match=r"the import configs\.absent\.config only.*have the file beside it"):
            converted(tmp_path, "from configs.absent import config\nconfig.lr = 0.3\n")
    write(tmp_path / "configs" / "first.py", "from configs.theirs import config\n")
    with pytest.raises(ValueError, match="imports it in turn"):
        converted(tmp_path, "from configs.first import config\n")
    write(tmp_path / "configs" / "base.py", ARCFACE)
    _, done = converted(tmp_path, "from configs.base import config\nconfig.lr = 0.3\n")
    assert [rows(done)[name].origin for name in ("lr", "network", "dali")] == ["", "base.py", "base.py"]


def test_the_batch_s_own_centres_are_a_share(tmp_path):
    text = ARCFACE.replace("sample_rate = 0.2", "sample_rate = 0").replace(
        "num_classes = 1000", "num_classes = 2059906"
    )
    text = text.replace("batch_size = 64", "batch_size = 512")
    assert converted(tmp_path, text, processes=32)[0].classifier.sample_rate == pytest.approx(0.008, rel=0.01)
    with pytest.raises(ValueError, match="how many --processes"):
        converted(tmp_path, text, processes=None)
    assert converted(tmp_path, text, "classifier.sample_rate=0.1", processes=None)[0].classifier.sample_rate == 0.1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sample_rate = 1.5", "from 0 to 1"),
        ("sample_rate = -0.1", "from 0 to 1"),
        ("interclass_filtering_threshold = 1.5", "below 1"),
        ("lr = 0", "above 0"),
        ("weight_decay = -1", "0 or more"),
        ("num_epoch = 0", "above 0"),
        ("num_workers = -1", "0 or more"),
        ("seed = -1", "0 or more"),
        ("gradient_acc = 0", "1 or more"),
    ],
)
def test_values_that_no_training_takes(tmp_path, line, said):
    with pytest.raises(ValueError, match=f"{line.partition(' ')[0]} = .*{said}"):
        converted(tmp_path, ARCFACE + f"config.{line}\n")


def descend(gradients, steps, *, name, lr, weight_decay, clip, summed, **momentum):
    """Weights after updates by micro-batches' gradients, summed as in arcface_torch or averaged as here."""
    weight = torch.nn.Parameter(torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64))
    make = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    optimizer = make([weight], lr=lr, weight_decay=weight_decay, **momentum, **({} if momentum else {"eps": 1e-30}))
    for start in range(0, len(gradients), steps):
        total = gradients[start : start + steps].sum(0)
        weight.grad = total if summed else total / steps
        torch.nn.utils.clip_grad_norm_([weight], clip)
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_accumulated_batches_make_the_same_updates(tmp_path, name):
    """Theirs: the sum, clipped at 5. Ours: the mean, with the recipe's settings. Every other update is clipped."""
    config, done = converted(tmp_path, ARCFACE + f"config.gradient_acc = 4\nconfig.optimizer = '{name}'\n")
    assert (config.optim.accumulate, config.train.log_every, config.optim.clip) == (4, 5, 1.25)
    assert ("lr and weight_decay" in rows(done)["gradient_acc"].remark) == (name == "sgd")
    size = torch.tensor([0.1] * 4 + [10.0] * 4).repeat(3)[:, None]
    gradients = torch.randn(24, 3, dtype=torch.float64) * size
    momentum = {"momentum": 0.9} if name == "sgd" else {}
    theirs = descend(gradients, 4, name=name, lr=0.1, weight_decay=1e-4, clip=5.0, summed=True, **momentum)
    optim = config.optim
    given = {"lr": optim.lr, "weight_decay": optim.weight_decay, "clip": optim.clip, **momentum}
    torch.testing.assert_close(descend(gradients, 4, name=name, summed=False, **given), theirs, rtol=1e-6, atol=0)
    untold = {**given, "lr": 0.1, "weight_decay": 1e-4, "clip": 5.0}
    assert (descend(gradients, 4, name=name, summed=False, **untold) - theirs).abs().max() > 1e-3
