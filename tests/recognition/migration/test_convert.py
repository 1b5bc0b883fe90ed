"""recognition/migration: what settings become, loaded as recipes."""

from __future__ import annotations

import ast
import random

import pytest

from recognition import config as settings
from recognition.migration import arcface_torch
from recognition.migration.convert import convert
from recognition.migration.sources import PROGRAMS, find
from recognition.registry import registry_of
from tests.recognition.migration.sources import ARCFACE, FACEMOE, LORA, petalface, write


def converted(tmp_path, text, *overrides, name="theirs.py", processes=8, **choices):
    """(the loaded recipe, the conversion)"""
    source = write(tmp_path / "configs" / name, text)
    done = convert(find(str(source), processes=processes), tmp_path / "mine.py", overrides, **choices)
    return settings.load(write(tmp_path / "mine.py", done.text)), done


def rows(done):
    return {row.setting: row for row in done.rows}


def test_arcface_torch_setting_by_setting(tmp_path):
    config, done = converted(tmp_path, ARCFACE)
    assert config.backbone == {"name": "mbf", "weights": ""} and config.adapter.name == "full"
    assert config.margin == {"name": "cosface", "margin": 0.4, "scale": 64.0}
    assert (config.classifier.sample_rate, config.classifier.filter_threshold) == (0.2, 0.4)
    assert config.classifier.filter_mode == "zero"
    assert (config.train.precision, config.train.log_every) == ("fp16", 20)
    assert (config.data.records, config.data.batch_size, config.data.workers) == (["/data/faces"], 64, 4)
    assert (config.data.loader, config.data.augment, config.run.seed) == ("dali", ["arcface_torch"], 7)
    assert (config.optim.name, config.optim.lr, config.optim.momentum) == ("sgd", 0.1, 0.9)
    assert (config.optim.weight_decay, config.optim.clip, config.optim.accumulate) == (1e-4, 5.0, 1)
    assert config.schedule.name == "polynomial" and config.schedule.power == 1.0
    assert (config.schedule.epochs, config.schedule.warmup_epochs) == (10.0, 2.0)
    assert [one["path"] for one in config.evaluation.sets] == ["/data/faces/lfw.bin", "/data/faces/agedb_30.bin"]
    assert {one["kind"] for one in config.evaluation.sets} == {"bin"} and config.evaluation.flip
    assert config.evaluation.every == pytest.approx(500 * 64 * 8 / 50_000, rel=1e-2)
    assert [need.path for need in config.needs] == ["/data/faces", "/data/faces/lfw.bin", "/data/faces/agedb_30.bin"]
    assert set(ARCFACE.split()) & {"config.num_classes"} and not rows(done)["num_classes"].becomes
    assert "0123456789" not in str(done.rows) + done.text
    for part in (
        "Needs   /data/faces (50,000 faces of 1,000 people",
        "Run     torchrun --nproc-per-node 8",
        "Expect  ",
    ):
        assert part in done.text
    # every setting that was written is told of
    written = {line.split()[0].removeprefix("config.") for line in ARCFACE.splitlines() if line.startswith("config.")}
    assert written <= {*rows(done)}


@pytest.mark.parametrize(
    ("margins", "wanted"),
    [
        ((1.0, 0.5, 0.0), {"name": "arcface", "margin": 0.5, "scale": 64.0}),
        ((1.0, 0.0, 0.35), {"name": "cosface", "margin": 0.35, "scale": 64.0}),
        (
            (1.0, 0.3, 0.2),
            {"name": "combined", "m1": 1.0, "m2": 0.3, "m3": 0.2, "scale": 64.0, "mode": "arcface_torch"},
        ),
        ((0.9, 0.4, 0.0), {"name": "combined", "m1": 0.9, "m2": 0.4, "m3": 0.0, "scale": 64.0, "mode": "exact"}),
    ],
)
def test_margin_lists(tmp_path, margins, wanted):
    config, _ = converted(tmp_path, ARCFACE.replace("(1.0, 0.0, 0.4)", str(margins)))
    assert config.margin == wanted
    registry_of("margin").create(wanted["name"], **settings.arguments(config.margin, "margin"))


@pytest.mark.parametrize("network", [*arcface_torch.NETWORKS])
def test_every_network_has_its_backbone(tmp_path, network):
    config, _ = converted(tmp_path, ARCFACE.replace('"mbf"', repr(network)).replace("= 512", "= 256"))
    assert config.backbone.name == network[: 5 if network.startswith("vit") else None]
    assert config.backbone.embedding_size == 256
    assert config.train.checkpoint_activations == network.startswith(("vit_b", "vit_l", "vit_h"))
    if network == "vit_b_dp005_mask_005":
        assert (config.backbone.drop_path, config.backbone.mask_ratio) == (0.05, 0.1)


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


def test_accumulated_batches(tmp_path):
    config, done = converted(tmp_path, ARCFACE + "config.gradient_acc = 4\n")
    assert config.optim.accumulate == 4 and config.train.log_every == 5
    assert "sums" in rows(done)["gradient_acc"].remark


def test_facemoe_in_three_stages(tmp_path):
    first, done = converted(tmp_path, FACEMOE.format(stage="fc", start="pre"), name="tiny_fc.py")
    assert done.found.program == "FaceMoE" and first.run.name == "tiny_fc"
    assert first.adapter == {
        **{"name": "moe", "weights": "checkpoints/facemoe_adapter", "experts": 4, "top_k": 1},
        **{"mixing": "logits", "z_loss": "code", "train": "none"},
    }
    assert first.backbone == {"name": "swin_120", "weights": "checkpoints/facemoe.safetensors"}
    assert (first.data.augment, first.optim.accumulate, first.classifier.init) == (["adaface"], 24, "random")
    assert first.train.precision == "fp32"
    second, _ = converted(tmp_path, FACEMOE.format(stage="full", start="tiny_fc"), name="tiny_full.py")
    assert second.adapter.train == "all"
    assert second.adapter.weights == second.classifier.init == f"runs/{first.run.name}"
    assert second.backbone == first.backbone
    whole, _ = converted(tmp_path, FACEMOE.format(stage="x", start="x"), name="wf4m.py")
    assert (whole.adapter.train, whole.adapter.auxiliary_weight, whole.backbone.weights) == ("all", 0.0, "")


def test_a_script_says_the_stage_and_the_processes(tmp_path):
    write(tmp_path / "configs" / "tiny.py", FACEMOE.format(stage="x", start="y"))
    line = "torchrun --nproc_per_node=4 {} configs/tiny\n"
    script = write(
        tmp_path / "train.sh",
        "# " + line.format("train.py") + line.format("train_fc.py") + line.format("train_full.py"),
    )
    with pytest.raises(ValueError, match="starts 2 trainings: choose one by --command N"):
        find(str(script))
    found = find(str(script), command=2)
    assert (found.program, found.script, found.processes) == ("FaceMoE", "train_full.py", 4)
    assert "adapter.train='all'" in str(rows(convert(found, tmp_path / "mine.py")))


def petal(tmp_path, text, *overrides):
    done = convert(find(str(write(tmp_path / "run.sh", text))), tmp_path / "mine.py", overrides)
    return settings.load(write(tmp_path / "mine.py", done.text)), done


def test_petalface_gated(tmp_path):
    config, done = petal(tmp_path, petalface(rest=f"{LORA} --iqa cnniqa --threshold 0.5"))
    assert config.backbone == {"name": "swin_120", "shift_mask": False, "weights": "/store/base/model.pt"}
    assert config.adapter == {
        **{"name": "dual_lora", "weights": "", "rank": 4, "scaling": 2.0, "dropout": 0.1, "dropout_at": "output"},
        **{"targets": ["**.attn.qkv"], "head": True},
    }
    assert config.scorer == {"name": "pyiqa", "metric": "cnniqa"}
    assert (config.gate.shape, config.gate.midpoint, config.gate.slope, config.gate.fit) == ("linear", 0.5, 1.0, "")
    assert (config.optim.name, config.optim.lr, config.optim.weight_decay) == ("adamw", 5e-4, 0.1)
    assert (config.schedule.power, config.schedule.epochs, config.schedule.warmup_epochs) == (1.0, 50.0, 2.0)
    assert (config.data.batch_size, config.run.seed, config.train.precision) == (8, 19, "fp32")
    assert done.found.processes == 2 and "Run     torchrun --nproc-per-node 2" in done.text
    assert not config.evaluation.sets  # its default names sets that it skips where they are missing


def test_petalface_brisque_is_turned_and_its_threshold_was_never_told(tmp_path):
    config, done = petal(tmp_path, petalface(rest=f"{LORA} --iqa brisque --threshold 40"))
    assert config.gate.midpoint == -40.0 and "sign is turned" in rows(done)["iqa"].remark
    config, done = petal(tmp_path, petalface(rest=f"{LORA} --iqa brisque --threshold <threshold>"))
    assert config.gate.fit == "quantiles" and "none was published" in rows(done)["threshold"].remark


def test_petalface_without_a_gate(tmp_path):
    config, done = petal(tmp_path, petalface("train.py"))
    assert config.adapter.name == "lora" and config.adapter.targets == ["**.attn.qkv"]
    assert "head_rank" not in config.adapter and "fails" in rows(done)["use_lora"].remark
    config, _ = petal(tmp_path, petalface("train.py", "r50"))
    assert config.adapter.name == "lora" and "targets" not in config.adapter and config.train.precision == "fp16"
    config, done = petal(tmp_path, petalface("train.py", "swin_256new", "--load_pretrained /store/base"))
    assert config.adapter.name == "full" and config.backbone.weights == ""
    assert "trains from scratch" in rows(done)["load_pretrained"].remark


def test_petalface_command_line_options(tmp_path):
    line = "python train.py --network=vit_b --rec /data/x --dali False --fp16 --lora_rank 8 --val_targets lfw,calfw"
    found = find(line)
    assert (found.program, found.processes, found.source) == ("PETALface", 1, "a command line")
    assert "takes any text for True" in found.notes[0]
    done = convert(found, tmp_path / "mine.py")
    config = settings.load(write(tmp_path / "mine.py", done.text))
    assert (config.backbone.name, config.data.loader, config.train.checkpoint_activations) == ("vit_b", "auto", True)
    assert [one["path"] for one in config.evaluation.sets] == ["/data/x/lfw.bin", "/data/x/calfw.bin"]
    assert "Run     python tools/train.py" in done.text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("python train.py --network swin --rec x", "there is no such network here"),
        ("python train.py --network r50 --rec x --loraa 3", "loraa is not a setting that is known of PETALface"),
        ("python train.py --network r50 --rec x --lr $LR", r"(known to \$LR only)"),
        ("python train.py --network r50 --rec x --lr fast", "lr = 'fast': it takes a number"),
        ("python train.py --network r50 --rec x --lr", "--lr has no value"),
        ("python train.py --network r50 rec", "'rec' stands where an option was expected"),
        ("python train.py --epochs 3", "neither a config nor --network"),
        ("python train_v2.py configs/absent", "trains with configs/absent.py, which is not here"),
        ("python train_v2.py $CONFIG", "the config's name depends on"),
        ("python train_iqa.py --network r50 --rec x --use_lora --load_pretrained y", "does not start without --iqa"),
        ("python train.py --network r50 --rec x --head mlp", "there is no such head here"),
    ],
)
def test_command_lines_that_cannot_be(tmp_path, line, said):
    with pytest.raises(ValueError, match=said):
        convert(find(line), tmp_path / "mine.py")


def test_unknown_settings_are_errors_all_at_once_or_are_left_out_by_name(tmp_path):
    text = ARCFACE + "config.network = 'effnet'\nconfig.emma = 3\nconfig.num_epochs = 4\n"
    with pytest.raises(ValueError, match="no such network") as error:
        converted(tmp_path, text)
    told = str(error.value)
    assert "theirs.py line 34: emma is not a setting" in told and "did you mean 'num_epoch'" in told
    config, done = converted(tmp_path, text, "backbone.name=r18", allow_unknown=True)
    assert done.unknown == ["emma", "num_epochs"] and config.backbone.name == "r18"
    assert "given on this command line" in rows(done)["network"].remark


def test_ours_stands_in_for_what_cannot_be_converted(tmp_path):
    text = ARCFACE.replace('"/data/faces"', "root()").replace('["lfw", "agedb_30"]', "[]")
    with pytest.raises(ValueError, match=r"rec = \(known to `root\(\)` only\)"):
        converted(tmp_path, text)
    config, _ = converted(tmp_path, text, "data.records=/data/x", "schedule.power=2", 'adapter={"name": "full"}')
    assert config.data.records == ["/data/x"] and config.schedule.power == 2.0 and config.data.batch_size == 64
    with pytest.raises(ValueError, match="made-up pictures"):
        converted(tmp_path, ARCFACE.replace("/data/faces", "synthetic"))
    with pytest.raises(ValueError, match=r"unknown setting config\.optim\.rate"):
        converted(tmp_path, ARCFACE, "optim.rate=3")


def test_what_comes_from_outside_stays_a_literal(tmp_path):
    flag = tmp_path / "ran"
    evil = f'x"""\nopen({str(flag)!r}, "w")\n"""\\'
    text = ARCFACE.replace('"/data/faces"', repr(evil)).replace('"lfw"', repr(evil + "'"))
    config, done = converted(tmp_path, text, name='a"""b.py')
    assert config.data.records == [evil] and config.evaluation.sets[0]["name"] == evil + "'" and not flag.exists()
    kinds = {type(node) for node in ast.parse(done.text).body}
    assert kinds == {ast.Expr, ast.ImportFrom, ast.Assign}


def test_what_its_name_says_of_the_processes(tmp_path):
    for name, processes in (("r50_16gpus.py", 16), ("x_8gpu_vit_b.py", 8), ("r50_onegpu.py", 1), ("r50.py", None)):
        assert find(str(write(tmp_path / name, ARCFACE))).processes == processes
    done = convert(find(str(tmp_path / "r50_16gpus.py")), tmp_path / "mine.py")
    assert "torchrun --nnodes 2 --nproc-per-node 8" in done.text


@pytest.mark.parametrize("name", [*PROGRAMS])
def test_tables_name_settings_that_are(name):
    program, known = PROGRAMS[name], settings.defaults()
    assert not {*program.rules} & {*program.dropped}
    assert {*program.defaults} <= {*program.rules, *program.dropped}
    for rule in program.rules.values():
        for cover in rule.covers:
            assert cover.partition(".")[0] in known


def test_unknown_settings_of_a_base_say_where_they_stand(tmp_path):
    write(tmp_path / "configs" / "base.py", ARCFACE + "config.emma = 1\n")
    with pytest.raises(ValueError, match=r"base\.py line 33: emma is not a setting"):
        converted(tmp_path, "from easydict import EasyDict as edict\nconfig = edict()\n")
    with pytest.raises(ValueError, match="--command chooses among those of a launch script"):
        find(str(tmp_path / "configs" / "base.py"), command=1)


@pytest.mark.parametrize("kind", ["config", "script"])
def test_broken_sources_end_in_a_sentence(tmp_path, kind):
    """Bytes changed, cut and doubled: a recipe, or a ValueError; never anything else."""
    whole = (ARCFACE if kind == "config" else petalface(rest=f"{LORA} --iqa cnniqa")).encode()
    draw = random.Random(0)
    path = tmp_path / ("mine.py" if kind == "config" else "mine.sh")
    recipes = 0
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(broken))
            change = draw.choice(
                (b"", b"(", b"'", b"\\", b"$", b"\n", b"\0", b"-", b"9" * 30, b"\xff", b"[", b"=", b"`")
            )
            broken[at : at + draw.randint(0, 3)] = change
        path.write_bytes(broken)
        try:
            convert(find(str(path)), tmp_path / "out.py")
            recipes += 1
        except ValueError as error:
            assert str(error)
    assert 0 < recipes < 60
