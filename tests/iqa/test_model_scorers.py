"""Scorers that look through the model: the view they share with it, and what must not change."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from easydict import EasyDict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import adapters
from adapters import ADAPTERS
from adapters.dual_lora import DualLoRA
from iqa import SCORERS, QualityGate
from iqa._model import view, write_fitted
from iqa.recognizability import centre_of
from recognition import config as settings
from recognition.data.decode import decode
from recognition.data.records import Records
from recognition.export import export_onnx
from recognition.gate import Gate
from recognition.hashes import hash_tensors
from recognition.model import FaceModel, assemble, build_backbone, count_parameters
from recognition.runs import load_adapters, load_run
from tests.iqa.scorers import FITTED, MODEL_SCORERS, as_input, bound, embedding, fitted_file, reduced, tiny_base
from tests.tiny import TinyViT, nameable
from tests.training import SHORT, tiny_recipe, train


def test_the_view_shares_every_tensor_and_no_module(base: nn.Module, image: Tensor) -> None:
    base.train()
    seen = view(base)
    assert base.training and not any(module.training for module in seen.modules())
    assert not {*base.modules()} & {*seen.modules()}
    pairs = [*zip(base.parameters(), seen.parameters(), strict=True), *zip(base.buffers(), seen.buffers(), strict=True)]
    assert all(own is theirs for own, theirs in pairs) and len(pairs) > 20
    base.double()  # a move: parameters change in place, together
    pairs = zip(base.parameters(), seen.double().parameters(), strict=True)
    assert all(own is theirs and own.dtype == torch.float64 for own, theirs in pairs)


@pytest.mark.parametrize("name", MODEL_SCORERS)
def test_scores_are_the_bases_whatever_the_adapter_learns(name: str, image: Tensor, tmp_path: Path) -> None:
    base = tiny_base()
    scorer = bound(name, base, tmp_path)
    before = scorer(image)
    model, plain = FaceModel(base, frozen_base=True), count_parameters(base)[0]
    adapters.attach(base, ADAPTERS.create("lora", rank=2, targets=["**"]), model.gate)
    model.scorer, trained = scorer, sum(p.numel() for p in base.parameters() if p.requires_grad)
    assert count_parameters(model) == (plain + trained, trained), "nothing is counted twice"
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.requires_grad:
                parameter += 1.0
    model.train()
    assert torch.equal(scorer(image), before)
    assert not scorer(image).requires_grad
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.5)
    assert torch.equal(scorer(image), before) and not torch.equal(twin.scorer(image), before)
    own, of_scorer = ({id(p) for p in part.parameters()} for part in (twin.backbone, twin.scorer))
    assert of_scorer <= own, "the copy's scorer looks through the copy"


@pytest.mark.parametrize("name", MODEL_SCORERS)
def test_an_unbound_scorer_says_so(name: str, image: Tensor, tmp_path: Path) -> None:
    options = {"weights": str(fitted_file(tmp_path, name, tiny_base()))} if name in FITTED else {}
    with pytest.raises(RuntimeError, match=rf"'{name}' looks .* call bind\(base\)"):
        SCORERS.create(name, **options)(image)


def test_a_base_that_cannot_be_read_is_refused_in_words(tmp_path: Path) -> None:
    class Bare(nn.Module):
        embedding_size, input_size = 12, 16

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 12, 16)

        def forward(self, image: Tensor) -> Tensor:
            return self.conv(image).flatten(1)

    with pytest.raises(ValueError, match=r"needs a transformer.* Bare has none; feature_norm"):
        bound("attn_fiqa", Bare())
    with pytest.raises(ValueError, match=r"ends in a Linear layer, and Bare has none; feature_norm"):
        bound("ser_fiq", Bare())
    with pytest.raises(ValueError, match=r"checkpoint_blocks .* Bare declares none; cr_fiqa"):
        bound("ex_fiqa", Bare(), tmp_path)
    adapted = tiny_base()
    adapters.attach(adapted, ADAPTERS.create("lora", rank=2), Gate())
    with pytest.raises(RuntimeError, match="before an adapter is attached"):
        bound("feature_norm", adapted)
    for options, words in (({"passes": 1}, "at least 2"), ({"dropout": 1.0}, r"in \[0, 1\)")):
        with pytest.raises(ValueError, match=words):
            SCORERS.create("ser_fiq", **options)
    with pytest.raises(ValueError, match="'equal' or 'depth'"):
        SCORERS.create("ex_fiqa", fusion="sum")


@pytest.mark.parametrize("name", FITTED)
def test_a_fitted_file_belongs_to_its_base(name: str, tmp_path: Path) -> None:
    base, other = tiny_base(), tiny_base()
    path = fitted_file(tmp_path, name, base)
    other.stem.weight[0, 0, 0, 0] += 1e-3
    with pytest.raises(ValueError, match=rf"{hash_tensors(base.state_dict())}, and this one's is \w+; fit it"):
        SCORERS.create(name, weights=str(path)).bind(other)
    with pytest.raises(ValueError, match=r"embeddings of 12 numbers, and TinyViT gives 8"):
        wrong = TinyViT()
        wrong.embedding_size = 8
        SCORERS.create(name, weights=str(path)).bind(wrong)
    with pytest.raises(ValueError, match=r"none is named; fit one on the base: python tools/fit_scorer\.py"):
        SCORERS.create(name)
    save_file(load_file(path), path)  # without the metadata
    with pytest.raises(ValueError, match="does not tell which base"):
        SCORERS.create(name, weights=str(path)).bind(base)
    SCORERS.create(name, weights=str(path), any_base=True).bind(other)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"no sound \.safetensors file"):
        SCORERS.create(name, weights=str(path))
    theirs = "recognizability" if name != "recognizability" else "cr_fiqa"
    with pytest.raises(ValueError, match=f"was fitted for '{theirs}'|was fitted for 'cr_fiqa'"):
        SCORERS.create(name, weights=str(fitted_file(tmp_path, theirs, base)))


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A recipe of gated LoRA on the tiny backbone."""
    with nameable():
        path = tiny_recipe(tmp_path)
        path.write_text(path.read_text() + 'config.adapter = edict(name="dual_lora")\n')
        yield path


def assembled(recipe: Path, *overrides: str) -> FaceModel:
    return assemble(settings.load(recipe, overrides)).model


def plain_base(recipe: Path) -> nn.Module:
    config = settings.load(recipe)
    return build_backbone(config, config.backbone.weights).eval().requires_grad_(False)


def test_assembly_binds_the_scorer(tiny: Path, image: Tensor) -> None:
    plain, looking = (assembled(tiny, f"scorer.name={name}") for name in ("constant", "feature_norm"))
    with torch.no_grad():
        for parameter in looking.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    wanted = embedding(plain_base(tiny), (image + 1) / 2).norm(dim=1)
    torch.testing.assert_close(looking.train().score(image), wanted)
    assert count_parameters(looking) == count_parameters(plain)
    for model in (looking, looking.double()):  # after a move as well
        own = {p.data_ptr() for p in model.backbone.parameters()}
        assert {p.data_ptr() for p in model.scorer.parameters()} <= own and len(own) > 20


def test_assembly_draws_the_same_adapter_whatever_the_scorer(tiny: Path) -> None:
    states = [adapters.state(assembled(tiny, f"scorer.name={name}").backbone) for name in ("constant", "ser_fiq")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_base_that_moves_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DualLoRA, "freezes_base", False)
    with pytest.raises(ValueError, match=r"adapter 'dual_lora' trains, so its scores would drift; take a scorer"):
        assembled(tiny, "scorer.name=feature_norm")
    monkeypatch.undo()
    attach = DualLoRA.attach

    def training_a_norm(self: DualLoRA, backbone: nn.Module, gate: Gate) -> object:
        backbone.norm.weight.requires_grad_(True)
        return attach(self, backbone, gate)

    monkeypatch.setattr(DualLoRA, "attach", training_a_norm)
    with pytest.raises(ValueError, match="trains weights of the base itself"):
        assembled(tiny, "scorer.name=feature_norm")
    assembled(tiny, "scorer.name=sharpness")


def test_a_run_with_a_fitted_scorer_trains_and_comes_back(tiny: Path, tmp_path: Path, image: Tensor) -> None:
    file = fitted_file(tmp_path, "recognizability", plain_base(tiny))
    runs = tmp_path / "runs"
    looking = ("scorer.name=recognizability", f"scorer.weights={file}", "gate.midpoint=0.9", "run.name=looking")
    _, losses = train(tiny, *SHORT, *looking)
    train(tiny, *SHORT, "scorer.name=sharpness", "run.name=plain")
    assert len(losses) == 2
    saved = [
        {path.name: path.stat().st_size for path in (runs / name).rglob("*.safetensors")}
        for name in ("looking", "plain")
    ]
    assert saved[0] == saved[1] and len(saved[0]) >= 2, "neither checkpoint nor model grows"
    model = load_run(runs / "looking")
    score, wanted = model.score(image), model.embed(image)
    recognizability = SCORERS.create("recognizability", weights=str(file))
    recognizability.bind(plain_base(tiny))
    torch.testing.assert_close(score, recognizability((image + 1) / 2))
    section = {"name": "recognizability", "weights": str(file)}
    several, bank = load_adapters({"low": runs / "looking"}, tmp_path / "base.safetensors", section)
    for _ in range(2):
        bank.activate("low")
        torch.testing.assert_close(several.score(image), score)
        torch.testing.assert_close(several.embed(image), wanted)
        bank.disable()
        torch.testing.assert_close(several.score(image), score)


@pytest.mark.filterwarnings("ignore")
def test_a_graph_with_the_scorer_inside_holds_the_base_once(tmp_path: Path) -> None:
    sizes = []
    for scorer in (SCORERS.create("constant"), SCORERS.create("attn_fiqa")):
        base, gate = tiny_base(), Gate()
        if scorer.needs == "model":
            scorer.bind(base)
        adapters.attach(base, ADAPTERS.create("dual_lora", targets=["blocks.*.mlp.0"]), gate)
        model = FaceModel(base, gate, QualityGate(0.3, 4.0), scorer, frozen_base=True).eval()
        report = export_onnx(model, tmp_path / type(scorer).__name__ / "face.onnx")
        sizes.append(sum(len(tensor.raw_data) for tensor in onnx.load(report.path).graph.initializer))
    assert sizes[1] < 1.2 * sizes[0], f"{sizes} bytes of weights"


def test_the_model_compiles_with_the_scorer_inside(image: Tensor) -> None:
    torch.compiler.reset()
    base, gate = tiny_base(), Gate()
    scorer = bound("ser_fiq", base, passes=5)
    adapters.attach(base, ADAPTERS.create("dual_lora"), gate)
    model = FaceModel(base, gate, QualityGate(0.5, 4.0), scorer, frozen_base=True).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(image)[0], model(image)[0])


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODEL_SCORERS)
def test_a_card_gives_the_same_scores_and_holds_the_base_once(name: str, image: Tensor, tmp_path: Path) -> None:
    base = tiny_base()
    model = FaceModel(base, quality_gate=QualityGate(), scorer=bound(name, base, tmp_path), frozen_base=True).eval()
    wanted = model.score(image)
    model.to("cuda")
    torch.testing.assert_close(model.score(image.cuda()).cpu(), wanted, rtol=1e-2, atol=1e-2)  # TF32
    own = {p.data_ptr() for p in model.backbone.parameters()}
    assert {p.data_ptr() for p in model.scorer.parameters()} <= own


@pytest.mark.slow
def test_real_faces_score_lower_the_fewer_pixels_they_have(real_data: Path, tmp_path: Path) -> None:
    """Mean scores of 24 faces by mobilefacenet_y1 fall from 28 pixels on; above, the base hardly sees a difference."""
    base = build_backbone(
        EasyDict(backbone=EasyDict(name="mobilefacenet_y1")), real_data / "weights" / "mobilefacenet_y1-0000.params"
    )
    base.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    records = Records(str(real_data / "lfw" / "train.rec"))
    images = [records.read(int(i)) for i in np.random.default_rng(0).permutation(len(records))[:48]]
    faces = np.stack([decode(image, 112, "a face") for image in images])
    with torch.no_grad():
        poor = base(as_input(reduced(faces[24:], 5)) * 2 - 1)
    centre = tmp_path / "centre.safetensors"
    write_fitted(centre, "recognizability", {"centre": centre_of(poor)}, base, {})
    rungs = [as_input(reduced(faces[:24], side)) for side in (112, 28, 14, 7)]
    for name, options in (("feature_norm", {}), ("ser_fiq", {}), ("recognizability", {"weights": str(centre)})):
        scorer = SCORERS.create(name, **options)
        scorer.bind(base)
        scores = [scorer(rung) for rung in rungs]
        means = [float(score.mean()) for score in scores]
        assert all(a > b for a, b in itertools.pairwise(means)), (name, means)
        assert (scores[1][:, None] > scores[2]).float().mean() > 0.9, "28 pixels and 14 are told apart"
