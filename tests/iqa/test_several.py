"""Several scores of one image: alone, in a gate, and in a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from iqa import SCORERS, make_gate
from recognition import config as settings
from recognition.evaluation.report import score_figure
from recognition.export import export_onnx
from recognition.runs import load_run
from tests.iqa.scorers import as_input, pictures, tiny_base
from tests.tiny import nameable
from tests.training import tiny_recipe, train

OWN = ("adapter.name=dual_lora", "adapter.rank=2", "scorer.name=several", "gate.shape=learned")


def test_columns_are_the_scorers_own() -> None:
    images = as_input(pictures(4))
    several = SCORERS.create("several", scorers=["sharpness:variance", {"name": "sharpness", "log": False}])
    wanted = [SCORERS.create("sharpness", measure="variance"), SCORERS.create("sharpness", log=False)]
    assert torch.equal(several(images), torch.stack([one(images) for one in wanted], 1))
    assert (several.columns, several.needs, several.exportable) == (2, "image", True)


def test_those_of_the_model_are_bound() -> None:
    several = SCORERS.create("several", scorers=["feature_norm", "sharpness"])
    assert several.needs == "model"
    several.bind(tiny_base())
    alone = SCORERS.create("feature_norm")
    alone.bind(tiny_base())
    images = as_input(pictures(2))
    assert torch.equal(several(images)[:, 0], alone(images))


@pytest.mark.parametrize(
    ("scorers", "message"),
    [
        (["sharpness"], "two scorers or more"),
        ("sharpness", "two scorers or more"),
        (["sharpness", "oracle"], "'oracle' at something else"),
        (["sharpness", "several"], "in its own list"),
        (["sharpness", "sharpnes"], "did you mean 'sharpness'"),
    ],
)
def test_what_cannot_stand_side_by_side(scorers: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SCORERS.create("several", scorers=scorers)


def test_one_gate_of_several_scores() -> None:
    chosen = {"midpoint": 1.0, "slope": 0.5, "shape": "learned", "fit": "roles"}
    gate = make_gate(chosen, scores=3)
    assert gate.midpoint.tolist() == [1.0] * 3 and gate(torch.ones(2, 3)).tolist() == [0.5, 0.5]
    assert make_gate({**chosen, "midpoint": [1.0, 2.0, 3.0]}, scores=3).midpoint.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="midpoint holds 2 numbers for 3 scores"):
        make_gate({**chosen, "midpoint": [1.0, 2.0]}, scores=3)
    with pytest.raises(ValueError, match=r"midpoint is 1\.0 for 3 scores of different units: give a list of 3, or"):
        make_gate({**chosen, "fit": ""}, scores=3)
    with pytest.raises(ValueError, match=r"gate 'linear' takes one: set gate\.shape=learned"):
        make_gate({**chosen, "shape": "linear"}, scores=3)


def test_a_run_fits_learns_and_exports_them(tmp_path: Path) -> None:
    with nameable():
        own = (*OWN, "degradation.share=0.5", "gate.fit=roles", "schedule.epochs=1.0", "evaluation.bootstrap=0")
        train(tiny_recipe(tmp_path), *own, pictures=True)
        model, run = load_run(tmp_path / "runs" / "small"), tmp_path / "runs" / "small"
    fitted = settings.from_json(run / "config.json").gate
    assert len(fitted.midpoint) == len(fitted.slope) == 2 and model.quality_gate.midpoint.tolist() == pytest.approx(
        fitted.midpoint
    )
    assert model.quality_gate.form.shift.abs().min() > 0, "both were learned"
    assert export_onnx(model, tmp_path / "face.onnx").cosine > 0.9999


def test_lists_of_midpoints_are_settings(tmp_path: Path) -> None:
    with nameable():
        recipe = tiny_recipe(tmp_path)
        config = settings.load(recipe, [*OWN, "gate.midpoint=[1,2.5]", "gate.slope=[0.5,1]"])
        assert config.gate.midpoint == [1.0, 2.5]
        with pytest.raises(settings.ConfigError, match=r"config\.gate\.midpoint"):
            settings.load(recipe, ["gate.midpoint=[one,two]"])


def test_scores_of_several_are_drawn_each() -> None:
    gate = make_gate({"midpoint": [1.0, 1.0], "slope": [0.5, 0.5], "shape": "learned"}, scores=2)
    assert len(score_figure(torch.rand(20, 2), gate).axes) == 4
    assert len(score_figure(torch.rand(20)).axes) == 1
