"""The gate in training: fitted at the start, learned, resumed, delivered, exported; constant ones are told of."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import adapters
from adapters._layers import gated_layers
from iqa import SCORERS, GateRange, make_gate
from iqa.gates import GATES
from recognition import calibration, checkpoint, delivery
from recognition import config as settings
from recognition.data.augment import finish
from recognition.data.decode import decode
from recognition.data.order import SampleOrder
from recognition.distributed import World
from recognition.export import export_onnx
from recognition.gate import Gate
from recognition.inputs import build_degradation, open_records
from recognition.model import FaceModel, assemble
from recognition.runs import load_adapters, load_run
from recognition.trainer import Trainer
from recognition.weights import write_weights
from tests.launch import run_processes
from tests.small import write_recipe
from tests.tiny import Tiny, nameable
from tests.training import CPU, QUIET, Trained, run_trainer, tiny_recipe

DEFAULTS = {"levels": 4, "lr_scale": 1.0, "fit": "", "sample": 2000}  # of config.gate, the other settings

TINY = "tiny_of_tests"
GATED = ("adapter.name=dual_lora", "adapter.rank=2", "degradation.share=0.5", "degradation.sides=[7,14]")
SHORT = ("schedule.epochs=0.6", "train.save_every_updates=1", "train.keep=0", "train.async_save=False", *QUIET)
LEARNING = ("learned", "per_layer")


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    with nameable():
        torch.manual_seed(4)
        base = tmp_path / "base.safetensors"
        write_weights(base, Tiny().state_dict(), {})
        yield write_recipe(tmp_path, f"config.backbone = edict(name={TINY!r}, weights={str(base)!r})\n")


def scores_by_hand(config: settings.EasyDict, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the first images of training, one by one, and which of them are degraded."""
    records, scorer = open_records(config), SCORERS.create("sharpness")
    order = SampleOrder(records.num_images, config.run.seed, 1)
    scores, levels = [], []
    for position in range(count):
        (index,) = order.indices(np.array([position])).tolist()
        pixels = torch.from_numpy(decode(records.read(index), 112, "it"))[None]
        done = finish(
            pixels, [position], seed=config.run.seed, flip=True, degradation=build_degradation(config), device="cpu"
        )
        scores.append(scorer((done.image + 1) / 2).item())
        levels.append(done.level.item())
    return np.array(scores), np.array(levels) > 0


def medians(scores: np.ndarray, poor: np.ndarray) -> tuple[float, float]:
    low, high = np.median(scores[poor]), np.median(scores[~poor])
    return (low + high) / 2, 1 / (high - low)


def test_a_run_fits_its_gate_once_writes_it_down_and_goes_on_with_it_exactly(
    recipe: Path, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Learned from a fitted start: three updates are one saved and two more; nothing is scored a second time."""
    common = (*SHORT, *GATED, "gate.shape=learned", "gate.fit=roles", "gate.lr_scale=20.0", "gate.sample=20")
    groups: list[dict] = []

    def look(trainer: Trainer) -> None:
        gate = [*trainer.learner.model.quality_gate.parameters()]
        groups[:] = [g for g in trainer.learner.optimizer.param_groups if g["params"][0] is gate[0]]
        assert len(groups) == 1 and len(groups[0]["params"]) == len(gate) == 2

    straight = run_trainer(recipe, *common, "run.name=straight", world=world, at=look)
    run = recipe.parent / "runs" / "straight"
    config = settings.load(recipe, common)
    midpoint, slope = medians(*scores_by_hand(config, 20))
    saved, told = (json.loads((run / name).read_text()) for name in ("config.json", "provenance.json"))
    assert saved["gate"]["midpoint"] == pytest.approx(midpoint, rel=1e-5)
    assert saved["gate"]["slope"] == pytest.approx(4 * slope, rel=1e-5), "of a sigmoid"
    assert told["gate"]["rule"] == "roles" and told["gate"]["images"] == 20 and told["gate"]["records"]
    assert f"midpoint {saved['gate']['midpoint']:g}, slope" in capsys.readouterr().out
    assert groups[0]["peak_lr"] == 20 * config.optim.lr and groups[0]["weight_decay"] == 0

    learned = {key: t for key, t in straight.tensors.items() if key.startswith("quality_gate.form.")}
    assert len(learned) == 2 and all(t.abs().max() > 1e-4 for t in learned.values()), "the optimizer reaches it"
    found = adapters.read_folder(run)
    card = found.card["gate"]
    assert card["fitted"] == told["gate"] and card["midpoint"] == pytest.approx(midpoint, rel=1e-5)
    now = card["midpoint"] + learned["quality_gate.form.shift"].item() / card["slope"]
    assert card["learned"]["midpoint"] == [pytest.approx(now, rel=1e-5)] and card["shape"] == "learned"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["quality/midpoint"] == pytest.approx(now, rel=1e-5)

    monkeypatch.setattr(calibration, "of_training", None)
    half = f"train.resume={checkpoint.path_of(run / 'checkpoints', 1)}"
    resumed = run_trainer(recipe, *common, half, "run.name=resumed", world=world)
    assert sorted(resumed.keys) == [2, 3]
    for one, two in ((straight.tensors, resumed.tensors), (straight.optimizer, resumed.optimizer)):
        differ = [name for name in one if not torch.equal(one[name], two[name]) and "num_batches" not in name]
        assert one.keys() == two.keys() and not differ, differ
    assert any("quality_gate.form.shift" in name for name in straight.optimizer)
    again = json.loads((recipe.parent / "runs" / "resumed" / "provenance.json").read_text())
    assert again["gate"] == told["gate"]
    with pytest.raises(ValueError, match=r"gate\.fit: 'otsu', was 'roles'"):
        run_trainer(recipe, *common, half, "gate.fit=otsu", "run.name=third", world=world)

    image = torch.rand(3, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        model = load_run(run)
        assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in learned.items())
        bank_model, bank = load_adapters({"it": run}, config.backbone.weights)
        bank.activate("it")
        assert torch.equal(bank_model.embed(image), model.embed(image))


def test_the_gate_of_an_adapter_started_from_is_not_fitted_anew(recipe: Path, world: World) -> None:
    run_trainer(recipe, *SHORT, *GATED, "gate.midpoint=0.9", "run.name=first", world=world)
    start = f"adapter.weights={recipe.parent / 'runs' / 'first'}"
    second = run_trainer(recipe, *SHORT, *GATED, start, "gate.fit=otsu", "run.name=second", world=world)
    assert second.tensors["quality_gate.midpoint"].item() == pytest.approx(0.9)
    saved = json.loads((recipe.parent / "runs" / "second" / "config.json").read_text())["gate"]
    assert (saved["midpoint"], saved["slope"], saved["fit"]) == (0.9, 0.7, "otsu")


def of_one_process(rank: int, recipe: Path, overrides: tuple[str, ...]) -> Trained:
    """For run_processes."""
    return run_trainer(recipe, *overrides, world=World(rank, rank, dist.get_world_size(), CPU))


def test_two_processes_fit_and_learn_one_gate(recipe: Path) -> None:
    common = ("schedule.epochs=1.2", *QUIET, *GATED, "gate.shape=per_layer", "gate.fit=quantiles", "optim.lr=0.02")
    common = (*common, "train.save_every=0.0", "gate.sample=17")
    two = run_processes(2, of_one_process, recipe, (*common, "run.name=two"))
    gates = [{key: t for key, t in one.tensors.items() if key.startswith("quality_gate.")} for one in two]
    assert len(gates[0]) == 4 and all(torch.equal(t, gates[1][key]) for key, t in gates[0].items())
    shift = gates[0]["quality_gate.form.shift"]
    assert shift.numel() > 1 and shift.unique().numel() > 1, "each layer has learned its own"
    scores, _ = scores_by_hand(settings.load(recipe, common), 17)
    low, high = np.quantile(scores, [0.1, 0.9])
    assert gates[0]["quality_gate.midpoint"].item() == pytest.approx((low + high) / 2, rel=1e-5)
    assert gates[0]["quality_gate.slope"].item() == pytest.approx(4 / (high - low), rel=1e-5)


def test_a_run_from_before_there_were_these_settings_goes_on(recipe: Path, world: World) -> None:
    straight = run_trainer(recipe, *SHORT, *GATED, "run.name=straight", world=world)
    path = recipe.parent / "runs" / "straight" / "config.json"
    config = json.loads(path.read_text())
    config["gate"] = {key: config["gate"][key] for key in ("midpoint", "slope", "shape")}
    path.write_text(json.dumps(config))
    half = f"train.resume={checkpoint.path_of(path.parent / 'checkpoints', 1)}"
    resumed = run_trainer(recipe, *SHORT, *GATED, half, "run.name=resumed", world=world)
    assert torch.equal(resumed.tensors["quality_gate.midpoint"], straight.tensors["quality_gate.midpoint"])
    assert load_run(path.parent).quality_gate.shape == "linear"
    with pytest.raises(ValueError, match=r"gate\.levels: 3, was 4"):
        run_trainer(recipe, *SHORT, *GATED, half, "gate.levels=3", "run.name=third", world=world)


def test_a_constant_gate_is_told_of_in_training_and_evaluation(
    recipe: Path, world: World, capsys: pytest.CaptureFixture
) -> None:
    once = ("schedule.epochs=0.6", "evaluation.low_res=[112]", "evaluation.at_start=False", "evaluation.bootstrap=0")
    with pytest.warns(UserWarning, match="gate is 0 for all .* images seen, all scores being far below") as found:
        run_trainer(recipe, *once, *GATED, "gate.midpoint=50.0", "run.name=constant", world=world)
    assert len([one for one in found if "quality gate" in str(one.message)]) == 1
    out = capsys.readouterr().out
    assert out.count("WARNING: the quality gate is 0 for all 12 images seen") == 1, "once, from eight images on"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_trainer(recipe, *once, *GATED, "evaluation.low_res=[112,14]", "run.name=other", world=world)
    assert "quality gate is" not in capsys.readouterr().out


class Pair(nn.Module):
    """Two Linear layers on four colours of the picture: the smallest backbone that gated layers fit."""

    input_size, embedding_size = 16, 8
    adapter_targets, head_targets, checkpoint_blocks = ("*",), (), ()

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 8)

    def forward(self, image: Tensor) -> Tensor:
        colours = image.unflatten(2, (2, 8)).unflatten(4, (2, 8)).mean((3, 5)).flatten(1)
        return self.second(self.first(colours).tanh())


def gated(shape: str, midpoint: float = 1.4) -> FaceModel:
    """Two gated layers, away from their start; what the gate learns as well."""
    torch.manual_seed(0)
    backbone, handle = Pair(), Gate()
    adapters.attach(backbone, adapters.ADAPTERS.create("dual_lora", rank=2), handle)
    settings_of_gate = {"shape": shape, "midpoint": midpoint, "slope": 1.0, **DEFAULTS}
    quality_gate = make_gate(settings_of_gate, len(gated_layers(backbone)))
    model = FaceModel(backbone, handle, quality_gate, SCORERS.create("sharpness"), frozen_base=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b") or "form." in name:
                parameter.normal_(0, 0.5)
    return model.eval()


@pytest.mark.parametrize("shape", LEARNING)
def test_a_learned_gate_is_in_the_exported_graph(shape: str, tmp_path: Path) -> None:
    model = gated(shape)
    report = export_onnx(model, tmp_path / "face.onnx")
    assert report.cosine > 0.99999 and report.difference < 1e-4
    image = torch.rand(4, 3, 112, 112) * 2 - 1
    score = model.score(image)
    with torch.no_grad():
        seen = model.embed(image, score)
        model.quality_gate.form.shift.zero_(), model.quality_gate.form.growth.zero_()
        assert (model.embed(image, score) - seen).abs().max() > 1e-2 * seen.abs().max(), "it matters"


def test_export_tells_of_a_constant_gate(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"gate is 1 for all 10 images seen.*painted faces of 112 to 7 px"):
        export_onnx(gated("linear", -20.0), tmp_path / "face.onnx")


def test_each_layer_reads_its_own_column_and_the_whole_compiles() -> None:
    model = gated("per_layer")
    names, image, score = gated_layers(model.backbone), torch.rand(5, 3, 16, 16) * 2 - 1, torch.randn(5) + 1.4
    assert model.quality_gate(score).shape == (5, 2) and names == ["first", "second"]
    layers = [model.backbone.get_submodule(name) for name in names]
    value = torch.rand(5)
    with torch.no_grad():
        gate = model.quality_gate(score)
        for column, layer in enumerate(layers):
            assert torch.equal(layer._mix(gate), layer._mix(gate[:, column]))
        with model.gate.scope(value):
            alike = model.backbone(image)
        with model.gate.scope(value.unsqueeze(1).expand(5, 2)):
            assert torch.equal(model.backbone(image), alike), "one gate for all layers is two that are equal"
    with (
        model.gate.scope(torch.rand(5, 3)),
        pytest.raises(ValueError, match=r"each of the 2 gated layers, \(batch, 2\)"),
    ):
        model.backbone(image)
    gradients = []
    for one in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        one(image, score)[0].square().sum().backward()
        gradients.append([p.grad.clone() for p in model.quality_gate.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)
    assert all((gradient != 0).all() for gradient in gradients[0]), "every layer's midpoint and slope are reached"


@pytest.mark.parametrize("shape", GATES.names())
def test_the_start_is_the_base_bit_for_bit_under_every_form(recipe: Path, shape: str) -> None:
    config = settings.load(recipe, [*GATED, f"gate.shape={shape}", *(["gate.slope=1.0"] if shape == "petal" else [])])
    image = torch.rand(3, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        plain = assemble(settings.load(recipe, ["adapter.name=full"])).model.eval().embed(image)
        assert torch.equal(assemble(config).model.eval().embed(image), plain)


def test_adapters_with_gates_of_other_sizes_are_not_put_together(recipe: Path) -> None:
    for name, targets in (("one", ["pointwise"]), ("two", ["pointwise", "blocks.0.attn.qkv"])):
        config = settings.load(recipe, [*GATED, "gate.shape=per_layer", f"adapter.targets={targets}"])
        run = recipe.parent / name
        delivery.write_start(run, config, "fingerprint")
        delivery.write_model(run, config, assemble(config).model, "fingerprint")
    with pytest.raises(ValueError, match=r"two.*form\.shift: \[2\], was \[1\]"):
        load_adapters({name: recipe.parent / name for name in ("one", "two")}, recipe.parent / "base.safetensors")


def test_two_record_sets_are_the_two_roles(recipe: Path, world: World) -> None:
    config = settings.load(recipe, GATED)
    records = open_records(config)
    sample = calibration.of_sets(assemble(config).model, records, records, world, 7)
    assert sample.names == ("probe", "gallery") and sample.poor.tolist() == [True] * 7 + [False] * 7
    assert np.array_equal(sample.scores[:7], sample.scores[7:]) and len(np.unique(sample.scores)) == 7
    assert set(sample.groups()) == {"probe", "gallery"}


def test_evaluation_leaves_embeddings_as_they_are_where_gates_are_looked_at(world: World) -> None:
    import cv2

    from recognition.evaluation.embed import embed
    from tests.iqa.scorers import pictures

    images = [cv2.imencode(".png", face)[1].tobytes() for face in pictures(9)]
    model, gates = gated("linear"), GateRange()
    assert torch.equal(embed(model, images, world=world, gates=gates), embed(model, images, world=world))
    assert gates.images == 9 and math.isfinite(gates._range.sum().item())


def test_pictures_that_an_augmentation_shrinks_are_poor(tmp_path, world):
    chosen = ["data.augment=[{'name': 'low_res', 'probability': 1.0}]", "adapter.name=dual_lora"]
    with nameable():
        config = settings.load(tiny_recipe(tmp_path), chosen)
        model = assemble(config).model.eval()
    records = open_records(config)
    order = SampleOrder(records.num_images, config.run.seed, 6)
    sample = calibration.of_training(config, model, records, order, world, 12)
    assert sample.poor.mean() > 0.8  # a side that is drawn may be the whole one
