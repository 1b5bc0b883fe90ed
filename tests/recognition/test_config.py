import subprocess
import sys
from pathlib import Path

import pytest

from recognition.config import BASE, ConfigError, differences, from_json, load, to_json

ROOT = Path(__file__).resolve().parents[2]


def recipe(tmp_path, text, name="mine.py"):
    path = tmp_path / name
    path.write_text("from easydict import EasyDict as edict\nconfig = edict()\n" + text)
    return path


def test_recipe_lies_over_base_and_keeps_siblings(tmp_path):
    config = load(recipe(tmp_path, "config.optim = edict(lr=0.5)"))
    assert config.optim.lr == 0.5 and config.optim.momentum == 0.9 and config.run.name == "mine"


def test_another_plugin_name_drops_the_defaults_arguments(tmp_path):
    config = load(recipe(tmp_path, 'config.margin = edict(name="arcface")'))
    assert "margin" not in config.margin
    config = load(recipe(tmp_path, "config.margin = edict(margin=0.3)"))
    assert config.margin == {"name": "cosface", "margin": 0.3, "scale": 64.0}


def test_backbone_weights_survive_another_backbone(tmp_path):
    path = recipe(tmp_path, 'config.backbone = edict(weights="w.safetensors")')
    child = tmp_path / "child.py"
    child.write_text(
        'from easydict import EasyDict as edict\nparent = "mine.py"\nconfig = edict(backbone=edict(name="r18"))\n'
    )
    assert path.exists() and load(child).backbone == {"name": "r18", "weights": "w.safetensors"}


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("optim.lr=1e-4", "optim", "lr", 1e-4),
        ("optim.lr=1", "optim", "lr", 1),
        ("data.flip=false", "data", "flip", False),
        ("run.name=7", "run", "name", "7"),
        ("data.records=a.rec", "data", "records", ["a.rec"]),
        ("degradation.sides=[7,28]", "degradation", "sides", [7, 28]),
        ("margin.margin=0.2", "margin", "margin", 0.2),
    ],
)
def test_overrides_are_typed_against_the_default(tmp_path, override, section, key, value):
    assert load(recipe(tmp_path, ""), [override])[section][key] == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("config.optim = edict(wieght_decay=1.0)", "config.optim.weight_decay"),
        ('config.optim = edict(lr="fast")', "config.optim.lr is 'fast'; it takes a number"),
        ("config.data = edict(flip=1)", "true or false"),
        ("config.data = edict(batch_size=2.5)", "a whole number"),
        ('config.adapter = edict(name="lroa")', "did you mean"),
        (
            'config.adapter = edict(name="lora", rank="eight")',
            "config.adapter.rank is 'eight'; it takes a whole number",
        ),
        ('config.adapter = edict(name="lora", rank=8.5)', "it takes a whole number"),
        ('config.adapter = edict(name="lora", rnak=8)', "unexpected argument 'rnak'; it takes (rank"),
        ("config.optm = edict(lr=1.0)", "did you mean config.optim"),
    ],
)
def test_faults_name_the_neighbours(tmp_path, text, said):
    with pytest.raises(ConfigError) as error:
        load(recipe(tmp_path, text))
    assert said in str(error.value)


def test_all_faults_come_at_once(tmp_path):
    with pytest.raises(ConfigError) as error:
        load(recipe(tmp_path, "config.optim = edict(a=1, b=2)"), ["optim.c=3", "nonsense"])
    assert len(str(error.value).splitlines()) == 4


def test_a_setting_keeps_its_type_through_all_layers(tmp_path):
    path = recipe(tmp_path, 'config.data = edict(records="a.rec")\nconfig.optim = edict(lr=1)')
    config = load(path, ["data.records=['b.rec', 'c.rec']", "optim.lr=0.5"])
    assert config.data.records == ["b.rec", "c.rec"] and config.optim.lr == 0.5
    assert load(path, ["data.records=[]"]).data.records == []


def test_a_plugins_name_comes_before_its_arguments_in_any_order(tmp_path):
    path = recipe(tmp_path, "")
    for overrides in (["adapter.name=lora", "adapter.rank=4"], ["adapter.rank=4", "adapter.name=lora"]):
        assert load(path, overrides).adapter == {"name": "lora", "weights": "", "rank": 4}


def test_differences_name_what_changed_but_for_what_is_free(tmp_path):
    path = recipe(tmp_path, "")
    one, two = load(path, ["optim.lr=0.5", "train.keep=5", "margin.name=arcface"]), load(path)
    assert differences(one, two, ("train", "margin")) == ["optim.lr: 0.5, was 0.1"]
    assert differences(one, one) == []


def test_a_missing_recipe_and_a_circle_of_parents_are_named(tmp_path):
    recipe(tmp_path, "", "demo.py")
    with pytest.raises(ConfigError, match=r"did you mean 'demo\.py'"):
        load(tmp_path / "demmo.py")
    circle = recipe(tmp_path, 'parent = "circle.py"', "circle.py")
    with pytest.raises(ConfigError, match="circle"):
        load(circle)


@pytest.mark.parametrize("flag", ["--help", "--list"])
def test_help_and_list_answer_without_torch(flag):
    code = (
        "import sys, runpy; sys.argv = ['tools/train.py', sys.argv[1]]\n"
        "try: runpy.run_path('tools/train.py', run_name='__main__')\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code, flag], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cosface" in done.stdout or "optim.lr" in done.stdout


@pytest.mark.parametrize(
    "path", sorted(p for p in (ROOT / "configs").glob("*.py") if p.name != "base.py"), ids=lambda p: p.stem
)
def test_every_shipped_recipe_resolves_and_says_needs_run_expect(path):
    load(path)
    head = path.read_text().split('"""')[1]
    assert all(word in head for word in ("Needs", "Run", "Expect")), f"{path.name} must say Needs, Run, Expect"


def test_a_scorers_short_name_is_saved_spelled_out(tmp_path):
    path = recipe(tmp_path, 'config.scorer = edict(name="onnx:net:1.onnx", size=112)')
    config = load(path)
    assert config.scorer == {"name": "onnx", "file": "net:1.onnx", "size": 112}
    (tmp_path / "config.json").write_text(to_json(config))
    assert from_json(tmp_path / "config.json").scorer == config.scorer
    assert load(path, ["scorer.name=pyiqa:musiq"]).scorer == {"name": "pyiqa", "metric": "musiq"}
    assert load(path, ["scorer.name=onnx:other.onnx"]).scorer == {"name": "onnx", "file": "other.onnx", "size": 112}
    assert load(path, ["scorer.name=constant:0.25"]).scorer == {"name": "constant", "value": 0.25}
    child = tmp_path / "child.py"
    child.write_text(
        'from easydict import EasyDict as edict\nparent = "mine.py"\nconfig = edict(scorer=edict(threads=1))\n'
    )
    assert load(child).scorer == {"name": "onnx", "file": "net:1.onnx", "size": 112, "threads": 1}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('name="pyiqua:musiq"', "config.scorer: unknown scorer 'pyiqua'; did you mean 'pyiqa'"),
        ('name="pyiqa:"', "config.scorer: scorer 'pyiqa:': write pyiqa:METRIC"),
        ('name="spectral_slope:2"', "config.scorer: scorer 'spectral_slope:2': it takes no arguments"),
        ('name="constant:high"', "config.scorer.value is 'high'; it takes a number"),
        (
            'name="onnx:a.onnx", file="b.onnx"',
            "config.scorer.name is 'onnx:a.onnx' and file is 'b.onnx': write the file once",
        ),
    ],
)
def test_faults_of_short_names(tmp_path, settings, said):
    with pytest.raises(ConfigError) as error:
        load(recipe(tmp_path, f"config.scorer = edict({settings})"))
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def test_other_plugins_have_no_short_names(tmp_path):
    with pytest.raises(ConfigError, match="unknown adapter 'lora:4'"):
        load(recipe(tmp_path, 'config.adapter = edict(name="lora:4")'))


def test_an_automatic_midpoint_or_slope_is_the_fit_by_roles(tmp_path):
    path = recipe(tmp_path, 'config.gate = edict(midpoint="auto")')
    assert load(path).gate.fit == "roles" and load(path).gate.midpoint == 1.4
    assert load(path, ["gate.fit=otsu", "gate.slope=auto"]).gate.fit == "otsu"


@pytest.mark.parametrize(("threshold", "mode"), [(0.0, "remove"), (0.4, "zero")])
def test_an_old_runs_settings_are_completed_and_mean_what_they_meant(tmp_path, threshold, mode):
    config = load(BASE, [f"classifier.filter_threshold={threshold}"])
    old = load(BASE, [f"classifier.filter_threshold={threshold}"])
    del old.classifier["filter_mode"], old.classifier["weight"], old.data["augment"], old.optim["average"]
    path = tmp_path / "config.json"
    path.write_text(to_json(old))
    found = from_json(path)
    assert found.classifier.filter_mode == mode and found.classifier.weight == 1.0
    assert found.data.augment == [] and found.optim.average == 0.0
    assert found.margin == config.margin  # arguments of plugins are not ours to add
    assert len(differences(config, found, ())) == bool(threshold)  # an unfiltered run goes on by the same command
