from pathlib import Path

import pytest

from recognition import config as settings
from tools import recipes as door

ROOT = Path(__file__).resolve().parents[2]


def test_every_recipe_is_listed_with_what_it_does(capsys):
    assert door.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == {path.stem for path in (ROOT / "configs").glob("*.py")}
    assert all(len(line.split()) > 4 for line in lines)


def test_copies_stand_on_the_shipped_ones_and_overwrite_nothing(tmp_path, capsys):
    assert door.main(["demo_lora", "lfw_lora", "--to", str(tmp_path / "mine")]) == 0
    copy = tmp_path / "mine" / "demo_lora.py"
    assert capsys.readouterr().out.splitlines()[0] == str(copy)
    assert copy.read_bytes() == (ROOT / "configs" / "demo_lora.py").read_bytes()
    assert settings.load(copy).adapter.name == "lora"

    copy.write_text("mine")
    assert door.main(["demo", "demo_lora", "--to", str(tmp_path / "mine")]) == 2
    assert "demo_lora.py exists" in capsys.readouterr().err
    assert copy.read_text() == "mine" and not (tmp_path / "mine" / "demo.py").exists()


def test_a_recipe_has_the_names_that_train_takes_and_is_copied_once(tmp_path, capsys):
    named = ["demo.py", "configs/demo.py", "demo", "demo", "configs/lfw_lora"]
    assert door.main([*named, "--to", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / name) for name in ("demo.py", "lfw_lora.py")]


def test_wrong_calls_are_sentences(tmp_path, capsys):
    assert door.main(["dmeo", "--to", str(tmp_path)]) == 2
    assert "no recipe 'dmeo' ships with LRFace; did you mean 'demo'" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert door.main(["demo", "--to", str(tmp_path / "file")]) == 2
    for wrong in (["demo"], ["--to", str(tmp_path)]):
        with pytest.raises(SystemExit, match="2"):
            door.main(wrong)
