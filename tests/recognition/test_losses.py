"""Classifier and objectives together: views of one forward pass, twins, gates and measures, objectives alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recognition import config as settings
from recognition import distributed
from recognition.loss_parts import own_quality
from recognition.losses import OF_CLASSIFIER
from recognition.margins import MARGINS
from recognition.objectives import OBJECTIVES
from recognition.registry import Found
from recognition.trainer import Trainer
from recognition.types import Batch, MarginContext, ObjectiveContext
from tests.launch import run_processes
from tests.tiny import nameable
from tests.training import QUIET, in_a_process, relative, tiny_recipe, train

DEGRADED = "degradation.share=0.5"
ONE_EPOCH = ("schedule.epochs=1.0", DEGRADED, *QUIET)


class Everything(nn.Module):
    """Uses all that an objective may have, and checks it."""

    fields = ("twin", "level")

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(12, 3)
        self.register_buffer("mean", torch.zeros(12))
        self.seen = 0
        self.base = []  # no part of the state

    def bind(self, base) -> None:
        self.base.append(base)

    def views(self, batch: Batch) -> dict[str, Tensor]:
        return {"twin": batch.twin, "mirror": batch.image.flip(3)}

    def forward(self, embedding: Tensor, label: Tensor, context: ObjectiveContext) -> Tensor:
        rows = context.gather(context.batch.image)
        assert len(rows) == len(embedding) == len(label) == 6
        assert {*context.views} == {"twin", "mirror"} and all(v.shape == (6, 12) for v in context.views.values())
        assert context.log_total.shape == (6,) and context.log_total.requires_grad
        clean = context.gather(context.batch.level) == 0
        torch.testing.assert_close(embedding[clean], context.views["twin"][clean])
        with torch.no_grad():
            known = context.gather(self.base[0](context.batch.twin))
            self.mean.lerp_(embedding.mean(0), 0.1)
        self.seen += 1
        apart = 1 - F.cosine_similarity(context.views["twin"], known)
        return self.map(embedding).pow(2).mean() + apart.mean() + context.views["mirror"].pow(2).mean()


class Looking(nn.Module):
    """A margin that looks at gates, or measures by itself."""

    fields = ("level",)

    def __init__(self, gated: bool = True) -> None:
        super().__init__()
        self.gated = gated
        if gated:
            self.needs_gate = True
        else:
            self.measure = lambda batch: batch.level

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        seen = context.gate if self.gated else context.measured
        assert seen.shape == (len(cosine),) and not seen.requires_grad
        assert seen.min() >= 0 and seen.max() <= 1 and (self.gated or seen.max() > 0)
        return 20 * cosine - 5 * seen[:, None]


@contextlib.contextmanager
def plugins() -> Iterator[None]:
    """The two above by name, in this process."""
    made = ((OBJECTIVES, "everything", Everything, {}), (MARGINS, "looking", Looking, {"gated": True}))
    for registry, name, kind, defaults in made:
        registry.register(name)(kind)
        registry._search()[name] = Found(name, __file__, "", parameters=tuple(defaults), defaults=defaults)
    try:
        yield
    finally:
        for registry, name, *_ in made:
            del registry._objects[name], registry._search()[name]


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    with plugins(), nameable():
        yield tiny_recipe(tmp_path)


def here(rank: int, recipe: Path, overrides: tuple[str, ...]) -> tuple:
    with plugins():
        return in_a_process(rank, recipe, overrides)


ALL_OF_IT = "objectives=[{'name': 'everything', 'weight': 0.5}]"
FROZEN = ("adapter.name=lora", "adapter.dropout=0.0")


def test_an_objective_has_views_statistics_weights_and_the_base(recipe):
    """On one and on two processes alike; what it holds is trained, saved and loaded again."""
    common = (*ONE_EPOCH, *FROZEN, ALL_OF_IT, "train.save_every=0.4", "train.keep=0")
    one, losses = train(recipe, "run.name=one", *common)
    (two, other), _ = run_processes(2, here, recipe, ("run.name=two", "data.batch_size=3", *common))
    assert losses == pytest.approx(other, rel=1e-4)
    theirs = [name for name in one if name.startswith("classifier.objectives.")]
    assert [*map(len, theirs)] and any(name.endswith("mean") for name in theirs)
    for name in one:
        if name != "classifier.weight":
            assert relative(two[name].float(), one[name].float()) < 1e-3, name
    again, _ = train(
        recipe, "run.name=again", f"train.resume={recipe.parent}/runs/one/checkpoints/step_000000002", *common
    )
    assert all(torch.equal(again[name], value) for name, value in one.items())
    fresh, _ = train(recipe, "run.name=fresh", "schedule.epochs=0.2", *FROZEN, ALL_OF_IT, DEGRADED, *QUIET)
    assert not torch.equal(fresh["classifier.objectives.0.map.weight"], one["classifier.objectives.0.map.weight"])


def test_objectives_alone_leave_the_centres(recipe):
    objective = "objectives=[{'name': 'cross_resolution_distance'}]"
    found, losses = train(recipe, *ONE_EPOCH, objective, "classifier.weight=0", "optim.lr=0.01")
    start, _ = train(recipe, "run.name=start", "schedule.epochs=0.2", *QUIET, "optim.lr=0.0")
    assert torch.equal(found["classifier.weight"], start["classifier.weight"])
    assert not torch.equal(found["backbone.stem.weight"], start["backbone.stem.weight"])
    assert all(loss < 2.1 for loss in losses.values())  # a distance of unit vectors, without cross-entropy


def test_twins_are_classified_too(recipe):
    """Undegraded, a twin is the picture itself: its loss changes nothing; degraded, it does."""
    same = (*FROZEN, *QUIET, "schedule.epochs=1.0")
    plain, one = train(recipe, "run.name=plain", *same)
    doubled, two = train(recipe, "run.name=doubled", "classifier.twins=True", *same)
    assert one == pytest.approx(two, rel=1e-5)
    assert all(relative(doubled[name].float(), value.float()) < 1e-4 for name, value in plain.items())
    (_, three), _ = run_processes(
        2, here, recipe, ("run.name=three", "classifier.twins=True", "data.batch_size=3", DEGRADED, *same)
    )
    _, four = train(recipe, "run.name=four", "classifier.twins=True", DEGRADED, *same)
    assert three == pytest.approx(four, rel=1e-4) and three != pytest.approx(two, rel=1e-4)


@pytest.mark.parametrize("adapter", ["lora", "full", "dual_lora"])
@pytest.mark.parametrize("twins", [False, True])
def test_a_margin_reads_gates_whatever_the_adapter(recipe, adapter, twins):
    common = (f"adapter.name={adapter}", "schedule.epochs=0.4", DEGRADED, *QUIET, f"classifier.twins={twins}")
    found, _ = train(recipe, "margin.name=looking", "gate.fit=roles", *common)
    assert ("classifier.margin_gate.midpoint" in found) == (adapter != "dual_lora")
    assert (recipe.parent / "runs/small/report/scores.png").is_file()
    train(recipe, "run.name=measured", "margin.name=looking", "margin.gated=False", *common)


def test_what_cannot_be(recipe):
    def refused(words: str, *overrides: str) -> None:
        with pytest.raises(ValueError, match=words):
            train(recipe, *QUIET, *overrides)
        distributed.stop()

    refused("classifier.weight is 0; it must be positive, or 0 with config.objectives", "classifier.weight=0")
    refused("a gate that learns has no teacher", "margin.name=looking", "gate.shape=learned")
    refused("a random network teaches nothing", "backbone.weights=", ALL_OF_IT)


def test_a_scorer_of_the_model_has_a_base_of_its_own(recipe):
    config = settings.load(recipe, ["margin.name=looking", "scorer.name=feature_norm"])
    quality = own_quality(config)
    score = quality.score(torch.zeros(2, 3, 112, 112))
    assert score.shape == (2,) and not any(p.requires_grad for p in quality.parameters())


def test_every_setting_of_the_classifier_arrives(recipe):
    chosen = {"sample_rate": 0.5, "sampling": "hard_negatives", "hard_share": 0.25, "state": "sampled"}
    chosen |= {"precision": "bf16", "filter_threshold": 0.5, "filter_mode": "zero"}
    assert {*chosen} == {*OF_CLASSIFIER}
    config = settings.load(recipe, ["optim.name=sgd", *(f"classifier.{key}={value}" for key, value in chosen.items())])
    assert all(config.classifier[key] != settings.load(recipe).classifier[key] for key in chosen)
    trainer = Trainer(config, distributed.start("cpu"))
    classifier = trainer.learner.classifier
    assert {key: getattr(classifier, key) for key in chosen} == chosen
    del classifier
    trainer.close()
    distributed.stop()
    for wrong in ("sampling=hardest", "precision=fp8", "state=none", "filter_mode=drop", "hard_share=7"):
        with pytest.raises(ValueError, match=wrong.split("=")[0]):
            train(recipe, "run.name=wrong", f"classifier.{wrong}", *QUIET)
        distributed.stop()


def test_each_micro_step_draws_margins_of_its_own(recipe, monkeypatch):
    seen = []
    kind = MARGINS.get("elasticface")
    forward = kind.forward
    monkeypatch.setattr(
        kind,
        "forward",
        lambda self, c, label, ctx: seen.append(ctx.generator.initial_seed()) or forward(self, c, label, ctx),
    )
    train(recipe, "margin.name=elasticface", "optim.accumulate=2", "schedule.epochs=1.0", *QUIET)
    assert len(seen) >= 4 and len({*seen}) == len(seen)


def test_what_would_be_told_too_late_is_told_at_once(recipe):
    def refused(words: str, *overrides: str) -> None:
        with pytest.raises(ValueError, match=words):
            train(recipe, *QUIET, *overrides)
        assert not (recipe.parent / "runs").exists()
        distributed.stop()

    refused("set its embedding_size=12", "objectives=[{'name':'derivenet'}]")
    refused("weight of objective 'triplet' is -1", "objectives=[{'name':'triplet','weight':-1}]")
    refused("give both the same", "objectives=[{'name':'unpg','scale':30.0}]")
    refused("takes a margin|there is none", "objectives=[{'name':'unpg'}]", "margin.name=sface")
    refused("names class 99", "margin.name=forgetting", "margin.forget=[99]")
    refused("takes one gate an image", "adapter.name=dual_lora", "gate.shape=per_layer", "margin.name=quality_margin")
    alone = ("objectives=[{'name':'triplet'}]", "classifier.weight=0")
    refused("classifies the clean pictures, but", *alone, "classifier.twins=True")
