"""Recipes, what they stand on and shipped weights, found wherever LRFace lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from recognition import config as settings
from recognition import recipes
from recognition.answers.opening import open_engine
from recognition.distributed import World
from recognition.runs import load_run
from recognition.weights import read_card, sha256, write_weights
from recognition.weights.hub import local_path
from tests.small import write_recipe
from tests.training import QUIET, run_trainer

ROOT = Path(__file__).resolve().parents[2]
MINE = 'from easydict import EasyDict as edict\n\nparent = "{}"\nconfig = edict(optim=edict(lr=0.125))\n'
BASE = "weights/demo_base.safetensors"


@pytest.fixture(autouse=True)
def said() -> None:
    recipes._say.cache_clear()


def test_a_shipped_recipe_is_found_by_name_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "demo.py", "configs/demo.py"):
        assert settings.load(name).run.name == "demo"
        assert settings.load(name, ["optim.lr=0.5"]).optim.lr == 0.5
        where = f"{name}: the recipe that ships with LRFace, {ROOT / 'configs' / 'demo.py'}\n"
        assert capsys.readouterr() == ("", where), "said once"
    monkeypatch.setenv("RANK", "1")
    recipes._say.cache_clear()
    settings.load("demo")
    assert capsys.readouterr().err == ""


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    Path("configs/demo.py").write_text(MINE.format("demo_lora.py"))
    assert settings.load("configs/demo.py").optim.lr == 0.125
    assert settings.load("demo").optim.lr != 0.125, "a bare name is a file of this folder, or a shipped one"
    with pytest.raises(settings.ConfigError, match=r"no recipe at other/demo\.py"):
        settings.load("other/demo.py")
    with pytest.raises(settings.ConfigError, match=r"no recipe at dmeo; did you mean 'demo\.py'"):
        settings.load("dmeo")


def test_a_parent_is_looked_for_beside_the_recipe_and_then_among_the_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, here = tmp_path / "recipes", tmp_path / "here"
    mine.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "demo_lora.py").write_text("raise SystemExit('not of the recipe folder')")
    (mine / "mine.py").write_text(MINE.format("demo_lora.py"))
    found = settings.load(mine / "mine.py")
    assert (found.adapter.name, found.optim.lr, found.data.batch_size) == ("lora", 0.125, 32)
    (mine / "demo_lora.py").write_text(MINE.format("base.py").replace("lr=0.125", "clip=2.0"))
    assert settings.load(mine / "mine.py").adapter.name == "full"
    (mine / "mine.py").write_text(MINE.format("demo_lroa.py"))
    with pytest.raises(settings.ConfigError, match=r"no recipe at .*demo_lroa\.py; did you mean 'demo_lora\.py'"):
        settings.load(mine / "mine.py")


def test_a_recipe_does_not_stand_on_itself_but_on_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.py").write_text(MINE.format("demo.py"))
    (tmp_path / "mine.py").write_text(MINE.format("demo.py").replace("lr=0.125", "clip=2.0"))
    found = settings.load("mine.py")
    assert (found.adapter.name, found.optim.lr, found.optim.clip) == ("dual_lora", 0.125, 2.0)
    assert [path for path, _ in recipes.with_parents(tmp_path / "mine.py")] == [
        ROOT / "configs" / "demo.py",
        tmp_path / "demo.py",
        tmp_path / "mine.py",
    ]


def test_parents_that_cannot_be_are_sentences(tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    folder.mkdir()
    for parent, words in (
        ("../configs/a.py", r"a\.py: its parents go round in a circle at .*configs/\.\./configs/a\.py"),
        ("b.py", "its parents go round in a circle"),
        (3, r"a\.py: its parent is 3; write the name of a recipe"),
    ):
        (folder / "a.py").write_text(f"parent = {parent!r}\nconfig = {{}}\n")
        (folder / "b.py").write_text('parent = "a.py"\nconfig = {}\n')
        with pytest.raises(settings.ConfigError, match=words):
            settings.load(folder / "a.py")


@pytest.mark.parametrize(
    ("text", "said", "cause"),
    [
        ("config = {}\nconfig = (\n", r"mine\.py, line 2: this is no Python: '\(' was never closed", SyntaxError),
        ("config = {}\n\n1 / 0\n", r"mine\.py, line 3: ZeroDivisionError: division by zero", ZeroDivisionError),
        ("import not_here_at_all\n", r"mine\.py, line 1: ModuleNotFoundError: No module named", ImportError),
        ("raise SystemExit('no')\n", r"mine\.py, line 1: SystemExit: no", SystemExit),
    ],
)
def test_a_recipe_that_cannot_be_run_is_named_with_its_line(
    tmp_path: Path, text: str, said: str, cause: type[BaseException]
) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(settings.ConfigError, match=said) as error:
        settings.load(tmp_path / "mine.py")
    assert isinstance(error.value.__cause__, cause)


def test_a_recipe_is_run_once(tmp_path: Path) -> None:
    count = f"with open({str(tmp_path / 'runs')!r}, 'a') as file:\n    file.write('.')\n"
    (tmp_path / "above.py").write_text(count + "config = {}\n")
    (tmp_path / "mine.py").write_text(count + 'parent = "above.py"\nconfig = {}\n')
    settings.load(tmp_path / "mine.py")
    assert (tmp_path / "runs").read_text() == ".."


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("demo.yaml", r"no recipe at demo\.yaml; a recipe is a Python file, \.py; did you mean 'demo\.py'"),
        ("here/mine", r"no recipe at here/mine: write here/mine\.py$"),
        ("here/demo", r"no recipe at here/demo; demo alone is the recipe that ships with LRFace.*mine\.py"),
        ("gone/mien.py", r"no recipe at gone/mien\.py; there is no folder gone$"),
        ("empty/mine.py", r"no recipe at empty/mine\.py$"),
    ],
)
def test_what_is_no_recipe_is_told_with_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("here/mine.py", "empty/notes.txt"):
        Path(path).parent.mkdir()
        Path(path).touch()
    with pytest.raises(settings.ConfigError, match=said) as error:
        settings.load(asked)
    assert "none" not in str(error.value)


def test_shipped_weights_are_found_from_any_folder_and_keep_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = settings.load("demo")
    assert config.backbone.weights == BASE and str(ROOT) not in settings.to_json(config)
    missing = settings.missing_needs(config)
    assert len(missing) == 2 and all("lrface make_synthetic data/demo" in sentence for sentence in missing)
    assert local_path(BASE) == local_path(Path(BASE)) == ROOT / BASE and sha256(BASE) == sha256(ROOT / BASE)
    assert read_card(BASE)["backbone"] == "mobilefacenet_nano"
    for name in ("weights/mine.safetensors", "weights/../configs/demo.py", "configs/demo.py", "weights", ""):
        assert local_path(name) == Path(name), "not shipped"
    Path("weights").mkdir()
    Path(BASE).touch()
    assert local_path(BASE) == Path(BASE), "a file here comes first"


def test_a_run_outlives_the_environment_that_trained_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    """Trained by one installed LRFace, continued and opened by another one, elsewhere; not on another base."""
    recipe = write_recipe(tmp_path)
    recipe.write_text(recipe.read_text() + f"config.backbone = edict(name='mobilefacenet_nano', weights={BASE!r})\n")
    ours = ("adapter.name=lora", "schedule.epochs=0.2", *QUIET)
    for name in ("first", "second"):
        shutil.copytree(ROOT / "weights", tmp_path / name / "weights", ignore=lambda *_: {"mine"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipes, "SHIPPED", tmp_path / "first")
    run_trainer(recipe, *ours, world=world)
    run = tmp_path / "runs" / "small"
    told = [json.loads((run / name).read_text()) for name in ("config.json", "provenance.json", "model/adapter.json")]
    assert [told[0]["backbone"]["weights"], told[1]["base"]["weights"], told[2]["base_weights"]] == [BASE] * 3

    (tmp_path / "first").rename(tmp_path / "removed")
    monkeypatch.setattr(recipes, "SHIPPED", tmp_path / "second")
    run_trainer(recipe, *ours, world=world)
    assert not run.with_name("small.1").exists(), "the same run goes on, which is complete"
    assert load_run(run).backbone.embedding_size == open_engine(run).size == 128
    write_weights(BASE, {"other": torch.ones(1)}, {})
    with pytest.raises(ValueError, match="trained on another base"):
        load_run(run)


def test_an_installed_lrface_spells_its_tools_as_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "make it: python tools/make_records.py A B; torchrun --nproc-per-node 2 tools/train.py configs/demo.py"
    assert recipes.spelled(text) == text
    monkeypatch.setattr(recipes, "IN_TREE", False)
    wanted = "make it: lrface make_records A B; torchrun --no-python --nproc-per-node 2 lrface train configs/demo.py"
    assert recipes.spelled(text) == wanted
    for path in (ROOT / "configs").glob("*.py"):
        for sentence in settings.missing_needs(settings.load(path)):
            assert "tools/" not in sentence and ("make demo" not in sentence or "lrface" in sentence), sentence


def test_the_demos_hints_are_what_make_does() -> None:
    made = (ROOT / "Makefile").read_text()
    for need in settings.load(ROOT / "configs" / "demo.py").needs[:2]:
        assert need["help"].split("lrface ")[1].replace("make_synthetic", "tools/make_synthetic.py") in made
