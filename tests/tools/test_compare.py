import numpy as np
import pytest

from recognition.evaluation import comparison
from tests.small import write_recipe
from tests.training import blank_pictures
from tools import compare, train


@pytest.fixture
def recipes(tmp_path):
    write_recipe(tmp_path)
    names = []
    for name, extra in (("one", ""), ("two", "config.optim = edict(lr=1e-3)\n")):
        path = tmp_path / f"{name}.py"
        head = 'from easydict import EasyDict as edict\nparent = "small.py"\nconfig = edict()\n'
        path.write_text(head + "config.schedule = edict(epochs=0.4)\nconfig.evaluation = edict(low_res=[14])\n" + extra)
        names.append(str(path))
    return names


@pytest.mark.slow
def test_a_table_of_recipes_settings_and_seeds_resumes_and_pairs(tmp_path, recipes, capsys):
    out = tmp_path / "out"
    call = [str(out), *recipes, "--seeds", "0", "1", "--setting", "plain", "--setting", "dim", "degradation.share=0.5"]
    call += ["--against", "one"]
    for job in compare.jobs_of(compare.parse(call))[:-2]:  # in this process: six times less to import
        with blank_pictures():
            assert train.main(job.command[2:]) == 0
    assert compare.main([*call, "--jobs", "2", "--threads", "1"]) == 0
    text = (out / "comparison.md").read_text()
    assert "mean" not in text, "one side alone has none"
    assert text.count("## ") == 2 and "| base |" in text and "| one | 2 |" in text and "| two | 2 |" in text
    assert "points over the base" in text and "small: accuracy, %" in text and "tar@0.01" in text
    assert "points over one" in text and "file, KiB" in text
    assert "8 runs, 6 of them done" in capsys.readouterr().out
    assert compare.main([*call, "--", "optim.lr=0.5"]) == 2
    assert "optim.lr: 0.5" in capsys.readouterr().err
    assert compare.main(call) == 0
    assert "8 runs, 8 of them done" in capsys.readouterr().out


def test_a_failing_run_is_shown_and_the_rest_goes_on(tmp_path, recipes, capsys):
    out = tmp_path / "out"
    assert compare.main([str(out), recipes[0], "--", "data.records=nowhere.rec"]) == 1
    assert "nowhere.rec" in capsys.readouterr().err


def test_the_yardstick_is_one_of_the_recipes(tmp_path, recipes, capsys):
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path / "out"), *recipes, "--against", "three"])
    assert "--against three is none of the recipes" in capsys.readouterr().err


def test_two_runs_of_one_name_are_refused(tmp_path, recipes, capsys):
    assert compare.main([str(tmp_path / "out"), *recipes, "--seeds", "1", "1"]) == 2
    assert "would share a folder: one-default-s1, two-default-s1" in capsys.readouterr().err


def test_recipes_of_different_models_are_refused(tmp_path, recipes, capsys):
    other = tmp_path / "other.py"
    other.write_text(
        'from easydict import EasyDict as edict\nparent = "small.py"\nconfig = edict(backbone=edict(name="r18"))\n'
    )
    assert compare.main([str(tmp_path / "out"), recipes[0], str(other)]) == 2
    assert "different models" in capsys.readouterr().err


def test_a_variant_is_a_recipe_with_overrides_of_its_own(tmp_path, recipes):
    call = [str(tmp_path / "out"), recipes[0], "--variant", "slow", recipes[0], "optim.lr=1e-5", "--", "optim.clip=1.0"]
    one, slow = compare.jobs_of(compare.parse(call))
    assert (one.run.name, slow.run.name) == ("one-default-s0", "slow-default-s0")
    assert one.overrides == ("optim.clip=1.0",) and slow.overrides == ("optim.lr=1e-5", "optim.clip=1.0")
    assert compare.parse([*call[:2], "--variant", "slow", recipes[0], "--against", "slow"]).against == "slow"


@pytest.mark.parametrize(
    ("call", "message"), [(["--variant", "alone"], "takes a name, a recipe"), ([], "nothing to compare")]
)
def test_what_cannot_be_compared(tmp_path, capsys, call, message):
    with pytest.raises(SystemExit):
        compare.parse([str(tmp_path), *call])
    assert message in capsys.readouterr().err


def test_the_mean_of_all_sides_is_paired_like_them():
    rng = np.random.default_rng(0)
    one = rng.random((3, 50))
    cells = [comparison.Cell(float(row.mean()), row, (float(row.mean()) - 0.1, float(row.mean()) + 0.1)) for row in one]
    mean = comparison._mean(cells)
    assert mean.value == pytest.approx(one.mean()) and len(mean.seeds) == 2
    np.testing.assert_allclose(mean.resampled, one.mean(0))
