"""Recomputed blocks: the same gradients in each situation that is known to break them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from adapters import ADAPTERS, attach, layers
from recognition.activation_checkpoint import checkpoint_blocks
from recognition.gate import Gate
from tests.launch import run_processes
from tests.tiny import Scoped, Tiny


class Auxiliary(nn.Linear):
    """Hands out the mean square of its output as an auxiliary loss."""

    def __init__(self, width: int, gate: Gate) -> None:
        super().__init__(width, width)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        self.gate.add_auxiliary(y.square().mean())
        return y


class WithLoss(Scoped):
    """(image, value) -> embedding, auxiliary loss ()."""

    def forward(self, image: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        with self.gate.scope(value):
            embedding = self.backbone(image)
            return embedding, self.gate.auxiliary(embedding)


def build(checkpointed: bool, dropout: float = 0.0, kind: type[Scoped] = Scoped) -> Scoped:
    """A dual LoRA with weights that matter, its base frozen and in eval mode."""
    torch.manual_seed(3)
    gate, backbone = Gate(), Tiny()
    attach(backbone, ADAPTERS.create("dual_lora", rank=2, dropout=dropout, targets=["pointwise", "blocks.**"]), gate)
    backbone.eval()
    for _, layer in layers(backbone):
        layer.train()
        nn.init.normal_(layer.lora_b, std=0.3)
    if kind is WithLoss:
        for i in range(2):
            backbone.blocks[i].norm2 = nn.Sequential(backbone.blocks[i].norm2, Auxiliary(16, gate))
    if checkpointed:
        checkpoint_blocks(backbone, gate, backbone.checkpoint_blocks)
    return kind(backbone, gate)


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]))


def assert_same(found: list[Tensor], wanted: list[Tensor]) -> None:
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w, rtol=1e-5, atol=1e-6)


def draw(batch: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 3, 16, 16), torch.linspace(-0.2, 1.3, batch)


def one(model: nn.Module, x: Tensor, value: Tensor) -> Tensor:
    return model(x, value).square().sum()


def two(model: nn.Module, x: Tensor, value: Tensor) -> Tensor:
    return one(model, x, value) + 3 * one(model, x.flip(0), 1 - value)


def one_with_another_between(model: nn.Module, x: Tensor, value: Tensor) -> Tensor:
    loss = one(model, x, value)
    model(x.flip(0), 5 * value)
    with torch.no_grad():
        model(x[:1], value[:1])
    return loss


@pytest.mark.parametrize("loss", [one, two, one_with_another_between])
def test_gradients_equal_those_without(loss) -> None:
    x, value = draw()
    plain, recomputed = build(False), build(True)
    assert_same(gradients(recomputed, loss(recomputed, x, value)), gradients(plain, loss(plain, x, value)))


def test_it_recomputes_each_block_once_and_not_in_evaluation() -> None:
    model, (x, value), runs = build(True), draw(), []
    for block in model.backbone.blocks:
        block.norm1.register_forward_hook(lambda *_: runs.append(1))
    loss = one(model, x, value)
    assert len(runs) == 2
    loss.backward()
    assert len(runs) == 4
    with torch.no_grad():
        model(x, value)
    assert len(runs) == 6


def test_it_keeps_less_for_the_backward_pass() -> None:
    def kept(model: Scoped) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
            one(model, x, value)
        return sum(sizes)

    x, value = draw()
    assert kept(build(True)) < 0.5 * kept(build(False))


def test_dropout_inside_is_the_same_in_both_passes() -> None:
    x, value = draw()
    plain, recomputed = build(False, dropout=0.4), build(True, dropout=0.4)
    torch.manual_seed(5)
    wanted = gradients(plain, one(plain, x, value))
    torch.manual_seed(5)
    loss = one(recomputed, x, value)
    torch.rand(17)  # something else draws before the backward pass
    assert_same(gradients(recomputed, loss), wanted)


def test_auxiliary_losses_come_out_with_their_gradients() -> None:
    x, value = draw()
    found, wanted = [], []
    for checkpointed, result in ((True, found), (False, wanted)):
        model = build(checkpointed, kind=WithLoss)
        embedding, auxiliary = model(x, value)
        result += [auxiliary, *gradients(model, embedding.square().sum() + 7 * auxiliary)]
    assert wanted[0] > 0
    assert_same(found, wanted)


def test_a_backward_inside_another_scope_sees_the_forwards_value() -> None:
    x, value = draw()
    model, plain = build(True), build(False)
    loss = one(model, x, value)
    with model.gate.scope(-3 * value):
        found = gradients(model, loss)
        torch.testing.assert_close(model.gate.require(), -3 * value)
    assert_same(found, gradients(plain, one(plain, x, value)))


def test_keys_stay_and_copies_have_a_gate_of_their_own() -> None:
    x, value = draw()
    model, plain = build(True), build(False)
    assert list(model.state_dict()) == list(plain.state_dict())
    twin = copy.deepcopy(model)
    assert twin.backbone.blocks[0]._gate is twin.gate is not model.gate
    assert_same(gradients(twin, one(twin, x, value)), gradients(plain, one(plain, x, value)))


def test_a_layer_outside_a_scope_still_raises() -> None:
    with pytest.raises(RuntimeError, match="ran without a gate"):
        build(True).backbone(draw()[0])


def test_ungated_models_need_no_scope() -> None:
    backbone, gate = Tiny().eval(), Gate()
    checkpoint_blocks(backbone, gate, ["blocks.1"])
    backbone(draw()[0]).sum().backward()
    assert backbone.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_wrong_patterns_are_refused() -> None:
    backbone, gate = Tiny(), Gate()
    with pytest.raises(ValueError, match=r"'block\.\*' names no module of Tiny; its own blocks are 'blocks\.\*'"):
        checkpoint_blocks(backbone, gate, ["block.*"])
    with pytest.raises(ValueError, match=r"'blocks\.0\.attn' lies inside 'blocks\.0'"):
        checkpoint_blocks(backbone, gate, ["blocks.0.attn", "blocks.*"])
    assert checkpoint_blocks(backbone, gate, ["blocks.*"]) == ["blocks.0", "blocks.1"]
    with pytest.raises(ValueError, match="checkpointed already"):
        checkpoint_blocks(backbone, gate, ["blocks.0"])


def test_compiles_as_one_graph() -> None:
    x, value = draw()
    plain, model, graphs = build(False), build(True), []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=count)
    assert_same(gradients(model, two(compiled, x, value)), gradients(plain, two(plain, x, value)))
    assert len(graphs) == 1


@pytest.mark.slow
def test_compiles_with_the_ahead_of_time_partitioner() -> None:
    x, value = draw()
    plain, model = build(False), build(True)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same(gradients(model, two(compiled, x, value)), gradients(plain, two(plain, x, value)))


def ddp_gradients(rank: int, x: Tensor, value: Tensor, static_graph: bool) -> list[Tensor]:
    model = build(True)
    wrapped = DistributedDataParallel(model, static_graph=static_graph)
    mine = slice(2 * rank, 2 * rank + 2)
    two(wrapped, x[mine].clone(), value[mine]).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.requires_grad]


@pytest.mark.slow
@pytest.mark.parametrize("static_graph", [False, True])
def test_under_ddp_with_two_forwards(static_graph: bool) -> None:
    x, value = draw(4)
    plain = build(False)
    wanted = gradients(plain, (two(plain, x[:2], value[:2]) + two(plain, x[2:], value[2:])) / 2)
    for found in run_processes(2, ddp_gradients, x, value, static_graph):
        assert_same(found, wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_where_another_thread_recomputes() -> None:
    x, value = (tensor.cuda() for tensor in draw())
    plain, recomputed = build(False, dropout=0.4).cuda(), build(True, dropout=0.4).cuda()
    torch.manual_seed(5)
    wanted = gradients(plain, two(plain, x, value))
    torch.manual_seed(5)
    loss = two(recomputed, x, value)
    torch.rand(17, device="cuda")
    for found, want in zip(gradients(recomputed, loss), wanted, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-4)
