"""Where a run takes its scores from, what it scores itself, and how it goes on with them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from iqa import SCORERS
from recognition import config as settings
from recognition import distributed
from recognition.data.scores import ShardScores
from recognition.distributed import World
from recognition.scoring import source
from recognition.trainer import Trainer
from tests.tiny import nameable
from tests.training import SHORT, run_trainer, tiny_recipe

GATED = ("adapter.name=dual_lora", "adapter.rank=2", "degradation.share=0.5")


@pytest.mark.parametrize(
    ("overrides", "scorer", "wanted"),
    [
        ([], "sharpness", "sidecar"),
        (["degradation.share=0.5"], "sharpness", "online"),
        (["degradation.share=0.5", "schedule.epochs=4"], "sharpness", "sidecar"),
        (["schedule.epochs=1.9"], "sharpness", "online"),
        (["schedule.epochs=3", "data.augment=[{'name':'hsv','probability':0.5}]"], "sharpness", "online"),
        (["data.scores=online"], "sharpness", "online"),
        (["data.scores=sidecar", "schedule.epochs=0.1"], "sharpness", "sidecar"),
        ([], "constant", "online"),
        ([], "oracle", "online"),
        ([], None, ""),
    ],
)
def test_where_scores_come_from(tmp_path: Path, overrides: list[str], scorer: str | None, wanted: str) -> None:
    with nameable():
        config = settings.load(tiny_recipe(tmp_path), overrides)
    assert source(config, scorer and SCORERS.create(scorer))[0] == wanted


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with nameable():
        recipe = tiny_recipe(tmp_path)
        with pytest.raises(
            ValueError, match=r"data\.scores=sidecar, but scores of 'oracle' cannot be kept: it needs the level"
        ):
            source(settings.load(recipe, ["data.scores=sidecar", "scorer.name=oracle"]), SCORERS.create("oracle"))
        with pytest.raises(ValueError, match=r"data\.scores is 'disk'; it must be one of auto, sidecar, online"):
            source(settings.load(recipe, ["data.scores=disk"]), None)


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    with nameable():
        yield tiny_recipe(tmp_path)


@contextlib.contextmanager
def listening() -> Iterator[list[int]]:
    """Sizes of the batches that the scorer of a run is asked for, from its first update on."""
    sizes, kept = [], Trainer.train_update

    def update(self: Trainer, batches):
        with self.learner.model.scorer.register_forward_hook(lambda _, images, __: sizes.append(len(images[0]))):
            return kept(self, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_update", update)
        yield sizes


def test_training_scores_only_what_it_degrades(recipe: Path, world: World, capsys: pytest.CaptureFixture) -> None:
    own = (*GATED, "schedule.epochs=4", "data.batch_size=15", "evaluation.sets=[]", "data.flip=False")
    with listening() as asked:
        kept = run_trainer(recipe, *own, world=world)
    assert (
        "scores  sidecar, 30 computed in" in (out := capsys.readouterr().out) and "each picture is seen 2 times" in out
    )
    assert 40 <= sum(asked) <= 80, "about half of 120 images"
    with listening() as asked:
        online = run_trainer(recipe, *own, "run.name=other", "data.scores=online", world=world)
    assert sum(asked) == 120 and "scores  online: as config.data.scores says" in capsys.readouterr().out
    for update, loss in online.losses.items():
        assert abs(kept.losses[update] - loss) < 1e-4 * abs(loss), "the same scores but for their last bits"
    with listening() as asked:
        run_trainer(recipe, *own, "run.name=third", "degradation.share=0", world=world)
    assert asked == [] and "scores  sidecar, 30 from" in capsys.readouterr().out


def test_a_run_goes_on_with_the_scores_it_began_with(recipe: Path, world: World, capsys, monkeypatch) -> None:
    """Stopped after the third update, its sidecar lost: the whole is what an undisturbed run makes, bit for bit."""
    own = (*GATED, "schedule.epochs=4", "data.batch_size=15", "evaluation.sets=[]", "train.async_save=False")
    whole = run_trainer(recipe, *own, "run.name=whole", world=world)

    def stop(trainer: Trainer) -> None:
        if trainer.update == 3:
            trainer.signals.received = signal.SIGTERM

    run_trainer(recipe, *own, world=world, at=stop)
    for path in recipe.parent.glob("*.scores.*"):
        path.unlink()
    capsys.readouterr()
    rest = run_trainer(recipe, *own, world=world)
    assert "scores  sidecar, 30 computed" in (out := capsys.readouterr().out) and "as the run began" in out
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, rest.tensors[name]), name
    told = settings.json.loads((recipe.parent / "runs" / "small" / "provenance.json").read_text())["scores"]
    assert told["from"] == "sidecar"


def _unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: ShardScores) -> None:
        raise PermissionError(13, "Permission denied", str(self.path))

    monkeypatch.setattr(ShardScores, "check_writable", refuse)


def test_a_folder_that_takes_no_sidecar(recipe: Path, world: World, capsys, monkeypatch) -> None:
    _unwritable(monkeypatch)
    own = (*GATED[:2], *SHORT, "schedule.epochs=2")
    with pytest.raises(
        OSError, match=r"Permission denied.*train\.scores\.sharpness-.*data\.scores=online in a new run"
    ):
        run_trainer(recipe, *own, "data.scores=sidecar", world=world)

    def stop(trainer: Trainer) -> None:
        if trainer.update == 1 and trainer.stored is None:
            trainer.signals.received = signal.SIGTERM

    run_trainer(recipe, *own, "run.name=any", world=world, at=stop)
    assert "scores  online: the sidecar cannot be written: [Errno 13]" in capsys.readouterr().out
    monkeypatch.undo()
    run_trainer(recipe, *own, "run.name=any", world=world)
    assert "scores  online: as the run began" in capsys.readouterr().out
    assert not [*recipe.parent.glob("*.scores.*")]


def test_a_dry_run_says_what_a_run_would_do_and_writes_nothing(recipe: Path, world: World, capsys) -> None:
    before = sorted(recipe.parent.rglob("*"))
    trainer = Trainer(settings.load(recipe, [*GATED, "schedule.epochs=4", "gate.fit=roles"]), world)
    trainer.dry_run()
    out = capsys.readouterr().out
    assert (
        "scores    sidecar: each picture is seen 2 times as it is stored; a run scores the set first, since there"
        in out
    )
    assert "gate      fitted when a run begins, by rule 'roles' to 2000 images; here midpoint 1.4 and slope 0.7" in out
    assert sorted(recipe.parent.rglob("*")) == before
    trainer.close()


def test_without_a_gate_nothing_is_scored(recipe: Path, world: World, capsys) -> None:
    run_trainer(recipe, "adapter.name=lora", *SHORT, world=world)
    assert "scores  " not in capsys.readouterr().out and not [*recipe.parent.glob("*.scores.*")]
    assert distributed.world_size() == 1
