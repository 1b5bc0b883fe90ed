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
from tests.recognition.migration.converting import converted, rows
from tests.recognition.migration.sources import ARCFACE, LORA, petalface


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
    assert (rows(done)["num_classes"].becomes, rows(done)["num_classes"].remark) == ((), "counted from the records")
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


@pytest.mark.parametrize("name", [*PROGRAMS])
def test_tables_name_settings_that_are(name):
    program, known = PROGRAMS[name], settings.defaults()
    assert not {*program.rules} & {*program.dropped}
    assert {*program.defaults} <= {*program.rules, *program.dropped}
    for rule in program.rules.values():
        for cover in rule.covers:
            section, _, start = cover.partition(".")
            names = {*known[section]}
            if section in settings.PLUGINS:
                registry = registry_of(settings.PLUGINS[section])
                names |= {argument for plugin in registry.names() for argument in registry.defaults(plugin)}
            assert any(name.startswith(start) for name in names), cover


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
