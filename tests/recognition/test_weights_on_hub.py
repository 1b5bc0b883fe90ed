"""A run whose base lies on the hub: trained, continued, evaluated, merged and exported by the commit it began with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recognition import config as settings
from recognition import distributed
from recognition.answers.opening import open_engine
from recognition.distributed import World
from recognition.evaluation.scorers import plain_base
from recognition.runs import load_adapters, load_run
from recognition.weights import sha256, write_weights
from tests.hub import COMMIT, Hub, restart, used
from tests.training import QUIET, recipe_with_base, run_trainer
from tools import evaluate, export_onnx, merge_adapter

LATER = "3" * 40
NAME = "nets/base.safetensors"
ADDRESS = f"hf://owner/repo/{NAME}"
OURS = ("adapter.name=lora", "schedule.epochs=0.2", *QUIET)  # one update


@pytest.fixture
def recipe(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe over a base on the hub, whose file is gone from here."""
    used(hub, monkeypatch, tmp_path / "cache")
    path, base = recipe_with_base(tmp_path), tmp_path / "base.safetensors"
    told = {"backbone": "mobilefacenet_nano", "arguments": {"embedding_size": 32}, "licence": "of the hub"}
    base.with_suffix(".json").write_text(json.dumps(told))
    for ending in (".safetensors", ".json"):
        hub.put("owner/repo", f"nets/base{ending}", base.with_suffix(ending).read_bytes())
        base.with_suffix(ending).unlink()
    path.write_text(path.read_text() + f"config.backbone.weights = {ADDRESS!r}\n")
    return path


def move_on(hub: Hub, folder: Path) -> None:
    """main stands for other weights from now on, and this is another process."""
    hub.commits["main"] = LATER
    write_weights(folder / "other.safetensors", {"other": torch.ones(1)}, {})
    hub.put("owner/repo", NAME, (folder / "other.safetensors").read_bytes())
    restart()


def test_weights_are_evaluated_and_opened_where_they_lie(
    hub: Hub, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert open_engine(ADDRESS).size == 32 and open_engine(Path(ADDRESS)).size == 32
    out = recipe.parent / "figures"
    changes = ["--set", "bootstrap=0", "--set", "low_res=[112]"]
    assert evaluate.main([ADDRESS, "--config", str(recipe), "--output", str(out), *changes]) == 0
    assert (out / "weights" / "results.json").is_file()
    assert evaluate.main(["hf://owner/none/a.pt", "--config", str(recipe), "--output", str(out)]) == 2
    distributed.stop()  # which ends with the process otherwise
    assert "the hub has no repository owner/none" in capsys.readouterr().err


def test_a_need_that_is_replaced_is_none(tmp_path: Path) -> None:
    recipe = tmp_path / "needs.py"
    recipe.write_text(
        "from easydict import EasyDict as edict\nconfig = edict()\n"
        'config.backbone = edict(name="r18", weights="lost/base.pt")\n'
        'config.needs = [edict(path="lost/base.pt", help="a"), edict(path="lost/train.rec", help="b")]\n'
    )
    assert len(settings.missing_needs(settings.load(recipe))) == 2
    other = settings.load(recipe, [f"backbone.weights={ADDRESS}"])
    assert settings.missing_needs(other) == ["missing lost/train.rec: b"]
    other.needs.append({"path": ADDRESS, "help": "c"})
    assert len(settings.missing_needs(other)) == 1, "an address is looked for when it is fetched"


def test_a_run_keeps_the_base_it_began_with(hub: Hub, recipe: Path, world: World) -> None:
    run, pinned = recipe.parent / "runs" / "small", f"{ADDRESS}@{COMMIT}"
    run_trainer(recipe, *OURS, world=world)
    right = sha256(ADDRESS)
    card = json.loads((run / "model" / "adapter.json").read_text())
    assert (card["base_weights"], card["base_sha256"], card["licence"]) == (pinned, right, "of the hub")
    assert settings.from_json(run / "config.json").backbone.weights == pinned
    assert json.loads((run / "provenance.json").read_text())["base"]["sha256"] == right

    move_on(hub, recipe.parent)
    asked = len(hub.asked)
    run_trainer(recipe, *OURS, world=world)
    assert not run.with_name("small.1").exists(), "the same run goes on, which is complete"
    picture = torch.zeros(1, 3, 112, 112)
    model = load_run(run)
    wanted = model.embed(picture)
    assert open_engine(run).size == 32 and open_engine(run / "model", base=Path(pinned)).size == 32
    assert load_adapters({"own": run / "model"}, pinned)[0].backbone.embedding_size == 32
    assert plain_base(run).embedding_size == plain_base(pinned).embedding_size == 32
    assert merge_adapter.main([str(run), str(recipe.parent / "merged.safetensors")]) == 0
    assert merge_adapter.main([str(run / "model"), str(recipe.parent / "again.safetensors"), "--base", pinned]) == 0
    merged = open_engine(recipe.parent / "merged.safetensors").model.embed(picture)
    torch.testing.assert_close(merged, wanted)
    assert export_onnx.main([str(run)]) == 0
    assert len(hub.asked) == asked, "all of it by the commit, from the cache"
    with pytest.raises(ValueError, match="do not fit the network"):
        run_trainer(recipe, *OURS, "train.resume=never", world=world)  # what main is now
