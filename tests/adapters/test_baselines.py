"""Adapters that train parts of the base itself: what trains, what stands still, what a deliverable holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import adapters
from adapters import ADAPTERS, attach, load, merge, state
from recognition import config as settings
from recognition import delivery
from recognition.backbones import BACKBONES
from recognition.gate import Gate
from recognition.model import FaceModel, assemble
from recognition.runs import load_run
from recognition.weights import without_memory, write_weights
from tests.small import write_recipe
from tests.tiny import Tiny, TinyViT

BASELINES = ["head_only", "norms_only", "partial"]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


def adapted(name: str, backbone: nn.Module | None = None, **options) -> FaceModel:
    """A model in training mode, as the trainer makes it."""
    backbone = Tiny() if backbone is None else backbone
    gate = Gate()
    attach(backbone, ADAPTERS.create(name, **options), gate)
    return FaceModel(backbone, gate, frozen_base=True).train()


def trained(model: FaceModel) -> list[str]:
    return [key for key, parameter in model.backbone.named_parameters() if parameter.requires_grad]


def steps(model: FaceModel, number: int = 2) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(number):
        optimizer.zero_grad()
        model(torch.randn(6, 3, 16, 16))[0].square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("backbone", "name", "options", "wanted"),
    [  # counted by hand from the layers' sizes
        ("r18", "head_only", {}, 25088 * 512 + 512),
        ("mobilefacenet_y1", "head_only", {}, 512 * 128 + 128),
        ("vit_t", "head_only", {}, 144 * 256 * 256 + 256 * 512),
        ("swin_120", "head_only", {}, 1536 * 25 * 512 + 512),
        # channels of the norms of stem, four stages and neck, of the projection, and its bias
        ("r18", "norms_only", {}, 2 * (64 + 448 + 832 + 1664 + 3328 + 512 + 512) + 512),
        ("r18", "norms_only", {"biases": False}, 2 * (64 + 448 + 832 + 1664 + 3328 + 512 + 512)),
        # two norms, proj, fc1, fc2 of 12 blocks; the last norm; the patches' bias; two norms of the head
        ("vit_t", "norms_only", {}, 12 * (4 * 256 + 256 + 1024 + 256) + 2 * 256 + 256 + 2 * (256 + 512)),
        ("vit_t", "norms_only", {"biases": False}, 12 * 4 * 256 + 2 * 256 + 2 * (256 + 512)),
        ("vit_t", "partial", {"blocks": 2, "head": False}, 2 * (12 * 256 * 256 + 10 * 256)),
        ("vit_t", "partial", {"alive": True}, 12 * 256 * 256 + 10 * 256 + 144 * 256 * 256 + 256 * 512),
        ("r18", "partial", {"head": False}, 2 * 512 * 512 * 9 + 3 * 2 * 512 + 512),
    ],
)
def test_trainable_parameters(backbone: str, name: str, options: dict, wanted: int) -> None:
    with without_memory():
        model = BACKBONES.create(backbone)
        attach(model, ADAPTERS.create(name, **options), Gate())
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == wanted


def test_what_trains() -> None:
    assert trained(adapted("head_only")) == ["head.2.weight", "head.2.bias"]
    norms = trained(adapted("norms_only", biases=False))
    modules = [name for name, module in Tiny().named_modules() if isinstance(module, NORMS)]
    assert norms == [f"{name}.{side}" for name in modules for side in ("weight", "bias")]
    everything = trained(adapted("norms_only"))
    assert set(everything) - set(norms) == {
        key for key, _ in Tiny().named_parameters() if key.endswith(".bias") and key not in norms
    }
    inside = [key for key, _ in TinyViT().named_parameters() if key.startswith(("blocks.1.", "blocks.2."))]
    for alive in (False, True):
        assert trained(adapted("partial", TinyViT(), blocks=2, head=False, alive=alive)) == inside
        assert trained(adapted("partial", TinyViT(), blocks=2, alive=alive)) == [
            *inside,
            "head.0.weight",
            "head.0.bias",
        ]


@pytest.mark.parametrize(
    ("backbone", "wanted"),
    [
        ("r18", ["layer4.0", "layer4.1"]),
        ("mobilefacenet_y1", ["layers.7.layers.0", "layers.7.layers.1"]),
        ("vit_t", ["blocks.10", "blocks.11"]),
        ("swin_120", ["layers.2.blocks.0", "layers.2.blocks.1"]),
    ],
)
def test_the_last_blocks_are_those_that_run_last(backbone: str, wanted: list[str]) -> None:
    with without_memory():
        model = BACKBONES.create(backbone)
        report = attach(model, ADAPTERS.create("partial", blocks=2, head=False, alive=True), Gate())
    assert report.adapted == wanted


@pytest.mark.parametrize("name", BASELINES)
def test_by_default_training_sees_the_network_that_inference_sees(name: str) -> None:
    model = adapted(name)
    still = [module for module in model.backbone.modules() if type(module) not in (nn.Linear, nn.Conv2d, nn.LayerNorm)]
    assert model.training and not any(module.training for module in still)
    model.backbone.train()  # not even when told outright: what trains holds its own mode
    before = {key: value.clone() for key, value in model.backbone.named_buffers()}
    assert len(before) == 9, "three batch norms"
    model.train()
    steps(model)
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.named_buffers())


def test_living_norms_use_the_batch_and_move_their_statistics() -> None:
    model = adapted("norms_only", alive=True)
    for module in model.backbone.modules():
        wanted = isinstance(module, NORMS) or (type(module) in (nn.Linear, nn.Conv2d) and module.bias is not None)
        assert module.training == wanted, module
    before = {key: value.clone() for key, value in model.backbone.named_buffers()}
    image = torch.randn(6, 3, 16, 16)
    embedding = model(image)[0]
    torch.testing.assert_close(  # of the last norm, over the batch
        embedding.mean(0), model.backbone.head[3].bias, rtol=0, atol=1e-5
    )
    moved = [key for key, value in model.backbone.named_buffers() if not torch.equal(value, before[key])]
    assert moved == list(before)
    assert {key for key in moved if not key.endswith("num_batches_tracked")} <= state(model.backbone).keys()


def test_living_blocks_draw_and_the_rest_stands_still() -> None:
    model = adapted("partial", alive=True)
    for name, module in model.backbone.named_modules():
        assert module.training == (name.startswith("blocks.1") or name == "head.2"), name
    image = torch.randn(6, 3, 16, 16)
    assert not torch.equal(model(image)[0], model(image)[0]), "dropout and DropPath"
    quiet = model.eval()
    assert torch.equal(quiet(image)[0], quiet(image)[0])
    r18 = adapted("partial", BACKBONES.create("r18", embedding_size=8), head=False, alive=True)
    held = [key for key in state(r18.backbone) if "running" in key]
    assert held == [f"layer4.1.bn{i}.running_{what}" for i in (1, 2, 3) for what in ("mean", "var")]


@pytest.mark.parametrize("name", BASELINES)
def test_a_deliverable_holds_what_trained_and_no_more(name: str) -> None:
    model = adapted(name)
    assert list(state(model.backbone)) == trained(model)


@pytest.mark.parametrize("name", BASELINES)
def test_after_merging_the_layers_are_the_bases_own_and_hold_no_table_in_common(name: str) -> None:
    model = adapted(name)
    steps(model)
    norm, wanted = model.backbone.head[3], model.eval()(image := torch.randn(3, 3, 16, 16))[0]
    merge(model.backbone)
    assert torch.equal(model.backbone(image), wanted)
    assert all(type(a) is type(b) for a, b in zip(model.backbone.modules(), Tiny().modules(), strict=True))
    model.backbone.head[3].bias = nn.Parameter(torch.ones(12))
    if name == "norms_only":
        assert norm is not model.backbone.head[3] and not torch.equal(norm.bias, torch.ones(12))
    model.backbone.train()
    assert model.backbone.head[3].training, "follows train() again"


class Embedder(nn.Module):
    """A parameter of the network itself, a norm inside a module with a bias of its own, attention with dropout."""

    head_targets = ()

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias, self.table = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(3, 4))
            self.norm, self.drop = nn.BatchNorm1d(4, affine=False), nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.norm(x)) + self.bias + self.table.sum(0)

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.inner = nn.Parameter(torch.zeros(4)), self.Inner()
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x) + self.bias
        return y + self.attention(y, y, y)[0]


def test_modules_with_parameters_and_children_stand_still_whole() -> None:
    backbone = Embedder()
    report = attach(backbone, ADAPTERS.create("norms_only"), Gate())
    assert report.adapted == ["inner", "attention", "attention.out_proj"]
    assert report.skipped == ["bias"], "held by the backbone itself: said, not passed over"
    assert list(state(backbone)) == ["inner.bias", "attention.in_proj_bias", "attention.out_proj.bias"]
    backbone.eval()
    for _, layer in adapters.layers(backbone):
        layer.train()
    assert not any(m.training for m in backbone.modules() if not isinstance(m, nn.Linear))
    x = torch.randn(5, 4)
    assert torch.equal(backbone(x), backbone(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: attach(nn.Sequential(nn.Linear(2, 2)), ADAPTERS.create("head_only"), Gate()),
            "declares no head_targets",
        ),
        (lambda: attach(nn.Sequential(nn.ReLU()), ADAPTERS.create("norms_only"), Gate()), "would train nothing"),
        (lambda: attach(nn.Sequential(nn.ReLU()), ADAPTERS.create("partial"), Gate()), "declares no checkpoint_blocks"),
        (lambda: attach(Embedder(), ADAPTERS.create("partial", blocks=0), Gate()), "adapter.blocks is 0"),
        (lambda: adapted("partial", blocks=3), r"blocks is 3, but Tiny has 2 blocks \(blocks.0 to blocks.1\)"),
    ],
)
def test_what_cannot_be_is_refused_in_words(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_refusal_leaves_the_base_frozen_and_plain() -> None:
    backbone = Tiny()
    backbone.head_targets = ()
    with pytest.raises(ValueError, match=r"set adapter\.head=False"):
        attach(backbone, ADAPTERS.create("partial"), Gate())
    assert [type(m) for m in backbone.modules()] == [type(m) for m in Tiny().modules()]
    assert not any(p.requires_grad for p in backbone.parameters())


def test_a_state_of_other_options_is_refused() -> None:
    tensors = state(adapted("norms_only", alive=True).backbone)
    with pytest.raises(ValueError, match=r"'norm.running_mean' is not expected"):
        load(adapted("norms_only").backbone, tensors)


CASES = [
    ("head_only", []),
    ("norms_only", []),
    ("norms_only", ["adapter.alive=True"]),
    ("partial", ["adapter.blocks=2"]),
    ("partial", ["adapter.alive=True"]),
    ("bottleneck", []),
    ("bottleneck", ["adapter.place=blocks"]),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_runs_folder_gives_the_trained_model_back(name: str, options: list[str], tmp_path: Path) -> None:
    recipe, weights = write_recipe(tmp_path), tmp_path / "base.safetensors"
    images = torch.rand(4, 3, 112, 112) * 2 - 1
    plain = assemble(settings.load(recipe)).model.train().backbone
    with torch.no_grad():  # so that its batch statistics fit what it is shown, and embeddings are not all but zero
        for _ in range(20):
            plain(images)
    write_weights(weights, plain.state_dict(), {"backbone": "mobilefacenet_nano"})
    config = settings.load(recipe, [f"adapter.name={name}", f"backbone.weights={weights}", *options])
    model = assemble(config).model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):
        model(images)[0].sum().backward()
        optimizer.step()
    run = tmp_path / "runs" / "small"
    delivery.write_start(run, config, "")
    path = delivery.write_model(run, config, model, "")
    base = load_run(run, base=True)
    wanted = model.eval().embed(images)
    assert torch.equal(load_run(run).embed(images), wanted)
    assert (base.embed(images) - wanted).abs().max() > 1e-3
    assert path.stat().st_size < weights.stat().st_size / 2
    own = load_file(path)
    assert all(torch.equal(value, own[key]) for key, value in state(model.backbone).items())
