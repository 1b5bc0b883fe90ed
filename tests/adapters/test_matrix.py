"""Every adapter on every kind of backbone: each pair does all that a run needs, or says why not, and what to take.

docs/plugins/adapters.md shows the same matrix for the backbones in full size.
"""

from __future__ import annotations

import copy
import gc
import re
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime
import pytest
import torch
import torch._inductor.config
from easydict import EasyDict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from adapters import ADAPTERS, attach, load, state
from recognition import checkpoint, distributed
from recognition.activation_checkpoint import checkpoint_blocks
from recognition.backbones import BACKBONES, _attention
from recognition.backbones.vit import VisionTransformer
from recognition.export import export_onnx
from recognition.gate import Gate
from recognition.margins import MARGINS
from recognition.model import FaceModel
from recognition.optim import build_optimizer
from recognition.partial_fc import PartialFC
from tests.adapters.narrow import EMBEDDING, NARROW, REFUSED, build
from tests.launch import run_processes

PAIRS = [(a, b) for a in ADAPTERS.names() for b in NARROW if (a, b) not in REFUSED]
BATCH = 4
SETTINGS = EasyDict(
    optim={"name": "adamw", "lr": 0.01, "weight_decay": 0.0, "betas": [0.9, 0.999]},
    classifier={"lr_scale": 1.0},
    schedule={"unfreeze": [], "epochs": 1.0},
)
Parts = tuple[FaceModel, PartialFC, Optimizer]


@pytest.fixture(scope="module", autouse=True)
def _alone() -> Iterator[None]:
    distributed.start("cpu")
    yield
    distributed.stop()


def parts(adapter: str, backbone: str) -> Parts:
    made = ADAPTERS.create(adapter)
    model = build(made, backbone)
    classifier = PartialFC(EMBEDDING, 5, MARGINS.create("cosface", scale=8.0))
    return model, classifier, build_optimizer(SETTINGS, model, classifier, made)


def draw(model: nn.Module, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    """Images of the network's size, and scores whose gates differ."""
    size = model.backbone.input_size
    image = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(2))
    return image, torch.linspace(0.7, 2.3, batch)


def loss_of(model: nn.Module, image: Tensor, score: Tensor, needs_gate: bool) -> Tensor:
    embedding, auxiliary = model(image, score if needs_gate else None)
    return embedding.square().sum() + auxiliary


def train_step(model: FaceModel, classifier: PartialFC, optimizer: Optimizer) -> tuple[Tensor, Tensor]:
    """Loss and auxiliary loss of one update."""
    image, score = draw(model)
    embedding, auxiliary = model(image, score if model.needs_gate else None)
    loss = classifier(embedding, torch.arange(BATCH)) + auxiliary
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), auxiliary.detach()


def gradients(model: FaceModel, called: nn.Module | None = None) -> dict[str, Tensor]:
    """Of all trained parameters, in training mode; what is random draws the same in each call."""
    torch.manual_seed(3)
    loss = loss_of(model if called is None else called, *draw(model), model.needs_gate)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    """Equal to a share of the largest gradient of all: some are zero but for rounding."""
    assert found.keys() == wanted.keys()
    largest = max(tensor.abs().max().item() for tensor in wanted.values())
    for name, tensor in wanted.items():
        scale = max(tensor.abs().max().item(), 1e-3 * largest)
        torch.testing.assert_close(
            found[name], tensor, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


def embed(model: FaceModel) -> Tensor:
    image, score = draw(model)
    with torch.no_grad():
        return copy.deepcopy(model).eval().embed(image, score if model.needs_gate else None)


def check_training(model: FaceModel, classifier: PartialFC, optimizer: Optimizer, folder: Path) -> Path:
    """Two updates; a checkpoint of the first is left behind."""
    adapter = model.backbone._attached.adapter
    before = copy.deepcopy(model.backbone.state_dict())
    torch.manual_seed(4)
    loss, auxiliary = train_step(model, classifier, optimizer)
    assert torch.isfinite(loss) and bool(auxiliary != 0) == adapter.auxiliary_losses
    path = checkpoint.save(folder, 1, model, classifier, optimizer, {"update": 1})
    loss, _ = train_step(model, classifier, optimizer)
    assert torch.isfinite(loss)
    after, own = model.backbone.state_dict(), set(state(model.backbone))
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    trained = {name for name, p in model.backbone.named_parameters() if p.requires_grad}
    assert trained <= moved, "every trained parameter moves"
    assert {name for name in moved if not name.endswith("num_batches_tracked")} <= own, "what is not saved stands still"
    return path


def check_resume(resumed: Parts, undisturbed: Parts, path: Path) -> None:
    checkpoint.read(path, *resumed)
    train_step(*resumed)
    for one, other in zip(resumed[:2], undisturbed[:2], strict=True):
        for name, tensor in one.state_dict().items():
            assert name.endswith("num_batches_tracked") or torch.equal(tensor, other.state_dict()[name]), name
    kept = [[o.state[p] for group in o.param_groups for p in group["params"]] for *_, o in (resumed, undisturbed)]
    for one, other in zip(*kept, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("step", "exp_avg", "exp_avg_sq")), "AdamW's"


def check_file(model: FaceModel, fresh: FaceModel, file: Path) -> None:
    wanted = embed(model)
    assert not torch.equal(embed(fresh), wanted)
    save_file(state(model.backbone), file)
    load(fresh.backbone, load_file(file))
    assert torch.equal(embed(fresh), wanted)


def check_onnx(model: FaceModel, file: Path) -> None:
    model = copy.deepcopy(model).eval()
    checkpoint_blocks(model.backbone, model.gate, model.backbone.checkpoint_blocks)
    report = export_onnx(model, file)  # compares images of different sharpness, so of different gates
    assert report.difference < 3e-5
    run = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        coarse = torch.rand(batch, 3, 14 * batch, 14 * batch) * 2 - 1  # so that even the first image has another gate
        image = F.interpolate(coarse, size=(112, 112), mode="bilinear")
        with torch.no_grad():
            wanted = model.embed(image).numpy()
        found = run.run(None, {"input": image.numpy()})[0]
        assert np.abs(found - wanted).max() <= 3e-5 * np.abs(wanted).max()


def check_checkpointing(model: FaceModel) -> None:
    twin = copy.deepcopy(model)
    checkpoint_blocks(twin.backbone, twin.gate, twin.backbone.checkpoint_blocks)
    assert_same(gradients(twin), gradients(copy.deepcopy(model)))


def check_compile(model: FaceModel, backend: str) -> None:
    twin = copy.deepcopy(model)
    torch._dynamo.reset()
    gc.disable()  # a fifth of the time
    # the last norm keeps the embeddings' length, so the gradient of `full` is small, and other kernels round otherwise:
    # torch's attention in both (tests/recognition/test_attention.py holds our own backward against it)
    with mock.patch.object(_attention, "LONG", 0):
        try:
            found = gradients(twin, torch.compile(twin, backend=backend, fullgraph=True))
        finally:
            gc.enable()
        assert_same(found, gradients(copy.deepcopy(model)))


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "backbone"), PAIRS)
def test_a_pair_does_all_that_a_run_needs(adapter: str, backbone: str, tmp_path: Path) -> None:
    trained = parts(adapter, backbone)
    model = trained[0]
    path = check_training(*trained, tmp_path)
    check_resume(parts(adapter, backbone), trained, path)
    check_file(model, build(adapter, backbone), tmp_path / "adapter.safetensors")
    check_onnx(model, tmp_path / "model.onnx")
    check_checkpointing(model)
    if backbone != "mbf":  # the graph of mobilefacenet_y1 without a factor and a bias; compiling is most of the time
        check_compile(model, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ADAPTERS.names())
def test_inductor(adapter: str) -> None:
    """On one block, without what no adapter looks at: each kernel that C++ has to compile takes about a second."""
    backbone = VisionTransformer(8, 1, 2, EMBEDDING, drop_path=0.0, mask_ratio=0.0)
    backbone.blocks[0].attn = nn.Sequential(OrderedDict(qkv=nn.Linear(8, 8)))
    backbone.blocks[0].norm1 = backbone.norm = backbone.feature[1] = backbone.feature[3] = nn.Identity()
    model = build(adapter, backbone)
    with torch.no_grad():
        for p in (p for p in model.parameters() if p.requires_grad):
            p += 0.1 * torch.randn(p.shape)
    with torch._inductor.config.patch(compile_threads=1):  # the processes that would help import torch first
        check_compile(model, "inductor")


@pytest.mark.parametrize(("adapter", "backbone"), REFUSED)
def test_a_pair_that_makes_no_sense_is_refused_in_words(adapter: str, backbone: str) -> None:
    network = NARROW[backbone]()
    with pytest.raises(ValueError, match=REFUSED[adapter, backbone]) as error:
        attach(network, ADAPTERS.create(adapter), Gate())
    said = str(error.value)
    assert type(network).__name__ in said, "which network"
    remedy = re.split(r"\b(?:take|choose) a", said)[-1]
    assert remedy != said and any(re.search(rf"\b{name}", remedy) for name in BACKBONES.names()), "another backbone"
    assert any(re.search(rf"\b{name}\b", remedy) for name in ADAPTERS.names()), "another adapter"
    attach(network, ADAPTERS.create("lora"), Gate())  # nothing was changed half-way


def shares(model: FaceModel) -> list[tuple[Tensor, Tensor]]:
    return list(zip(*(tensor.chunk(2) for tensor in draw(model)), strict=True))


def ddp_gradients(rank: int) -> dict[tuple[str, str], dict[str, Tensor]]:
    found = {}
    for pair in PAIRS:
        model = build(*pair)
        wrapped = DistributedDataParallel(model)
        torch.manual_seed(rank)
        loss_of(wrapped, *shares(model)[rank], model.needs_gate).backward()
        found[pair] = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return found


def gradients_alone(pair: tuple[str, str]) -> dict[str, Tensor]:
    """What two processes must find: half the whole batch's gradients, since DDP takes the mean of sums over images.

    Statistics of the batch and auxiliary losses are each process's own: there it is the mean of the two shares'.
    """
    model = build(*pair)
    adapter = model.backbone._attached.adapter
    if adapter.freezes_base and not adapter.auxiliary_losses:
        return {name: tensor / 2 for name, tensor in gradients(model).items()}
    both = []
    for rank, share in enumerate(shares(model)):
        torch.manual_seed(rank)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        loss = loss_of(model, *share, model.needs_gate)
        both.append(dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True)))
    return {name: (tensor + both[1][name]) / 2 for name, tensor in both[0].items()}


@pytest.mark.slow
def test_two_processes_equal_one() -> None:
    one, other = run_processes(2, ddp_gradients)
    for pair in PAIRS:
        assert_same(one[pair], gradients_alone(pair))
        assert_same(other[pair], one[pair], tolerance=0)
