"""How a per-image value reaches layers deep inside, in each situation that is known to break it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recognition.gate import Gate, per_image
from tests.launch import run_processes
from tests.tiny import Scoped


class GatedLinear(nn.Module):
    """x (batch * k, ..., width) -> x + gate * (W x): the smallest layer that needs a gate."""

    def __init__(self, width: int, gate: Gate) -> None:
        super().__init__()
        self.linear, self.gate = nn.Linear(width, width), gate

    def forward(self, x: Tensor) -> Tensor:
        return x + per_image(self.linear(x).tanh(), self.gate.require().unsqueeze(1))


class Deep(nn.Module):
    """(B, 8, 6) tokens -> windows of 4 -> tokens -> (B, 6); gated layers meet both layouts."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.windows, self.tokens, self.last = GatedLinear(6, gate), GatedLinear(6, gate), GatedLinear(6, gate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.windows(x.unflatten(1, (2, 4)).flatten(0, 1)).unflatten(0, (-1, 2)).flatten(1, 2)
        return self.last(self.tokens(x).mean(1))


def build() -> Scoped:
    torch.manual_seed(1)
    gate = Gate()
    return Scoped(Deep(gate), gate)


def plain(model: Scoped, x: Tensor, value: Tensor) -> Tensor:
    """The same network with the value threaded through by hand, image by image."""
    deep = model.backbone

    def gated(layer: GatedLinear, z: Tensor, g: Tensor) -> Tensor:
        return z + g * layer.linear(z).tanh()

    rows = []
    for image, g in zip(x, value, strict=True):
        z = gated(deep.windows, image.unflatten(0, (2, 4)), g).flatten(0, 1)
        rows.append(gated(deep.last, gated(deep.tokens, z, g).mean(0), g))
    return torch.stack(rows)


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def assert_same(found: list[Tensor], wanted: list[Tensor], tolerance: float = 1e-6) -> None:
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w, rtol=tolerance, atol=tolerance)


def draw(batch: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 8, 6), torch.linspace(-0.5, 1.5, batch)


def test_a_layer_outside_a_scope_raises() -> None:
    model = build()
    with pytest.raises(RuntimeError, match="ran without a gate: call the FaceModel"):
        model.backbone(draw()[0])
    with model.gate.scope(None), pytest.raises(RuntimeError, match="ran without a gate"):
        model.backbone(draw()[0])


def test_scopes_nest_and_close_after_an_exception() -> None:
    gate, outer, inner = Gate(), torch.ones(1), torch.zeros(1)
    with gate.scope(outer):
        with pytest.raises(KeyError), gate.scope(inner):
            assert gate.require() is inner
            raise KeyError
        assert gate.require() is outer
    assert gate.value is None


def test_auxiliary_losses_belong_to_their_scope() -> None:
    gate, like = Gate(), torch.zeros(2)
    with pytest.raises(RuntimeError, match="outside a scope"):
        gate.add_auxiliary(torch.ones(()))
    with gate.scope(None):
        assert gate.auxiliary(like).shape == () and gate.auxiliary(like) == 0
        gate.add_auxiliary(torch.tensor(2.0, dtype=torch.bfloat16))
        with gate.scope(None):
            gate.add_auxiliary(torch.tensor(5.0))
            assert gate.auxiliary(like) == 5
        gate.add_auxiliary(torch.tensor(0.5))
        assert gate.auxiliary(like) == 2.5 and gate.auxiliary(like).dtype == torch.float32


@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 5, 4), -1), ((3 * 2, 5, 4), -1), ((3, 4), -1), ((3, 4, 5, 5), 1), ((3 * 2, 4, 5, 2), 1)]
)
@pytest.mark.parametrize("channels", [4, 1])
def test_per_image_equals_a_loop_over_images(shape: tuple[int, ...], axis: int, channels: int) -> None:
    z, weight = torch.randn(shape), torch.randn(3, channels)
    found = per_image(z, weight, axis)
    rows = shape[0] // 3
    for image in range(3):
        for row in range(image * rows, (image + 1) * rows):
            for c in range(4):
                channel = weight[image, c if channels == 4 else 0]
                last = axis if axis < 0 else axis - 1
                torch.testing.assert_close(found[row].select(last, c), z[row].select(last, c) * channel)


def test_per_image_keeps_the_dtype_and_refuses_rows_it_cannot_share() -> None:
    assert per_image(torch.ones(4, 2, dtype=torch.bfloat16), torch.ones(2, 1)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="cannot share 3 gates among 4 rows"):
        per_image(torch.ones(4, 2), torch.ones(3, 1))


def test_values_and_gradients_equal_the_threaded_value() -> None:
    model, (x, value) = build(), draw()
    torch.testing.assert_close(model(x, value), plain(model, x, value))
    assert_same(
        gradients(model, model(x, value).square().sum()), gradients(model, plain(model, x, value).square().sum())
    )


def test_a_gradient_reaches_the_gate() -> None:
    model, (x, value) = build(), draw()
    value.requires_grad_(True)
    (found,) = torch.autograd.grad(model(x, value).square().sum(), value)
    (wanted,) = torch.autograd.grad(plain(model, x, value).square().sum(), value)
    torch.testing.assert_close(found, wanted)


def test_two_forwards_then_one_backward() -> None:
    model, (x, value) = build(), draw()
    other = 1 - value
    found = model(x, value).square().sum() + 3 * model(x, other).square().sum()
    wanted = plain(model, x, value).square().sum() + 3 * plain(model, x, other).square().sum()
    assert_same(gradients(model, found), gradients(model, wanted))


def test_one_image_moves_its_own_row_only() -> None:
    model, (x, value) = build(), draw()
    moved = value.clone()
    moved[0] += 0.3
    changed = (model(x, moved) != model(x, value)).any(1)
    assert changed.tolist() == [True, False, False]


def test_a_copy_has_a_gate_of_its_own() -> None:
    model, (x, value) = build(), draw()
    twin = copy.deepcopy(model)
    assert twin.gate is not model.gate and twin.backbone.last.gate is twin.gate
    torch.testing.assert_close(twin(x, value), model(x, value), rtol=0, atol=0)
    assert list(model.state_dict()) == list(build().state_dict())


def test_compiles_as_one_graph_for_every_batch_size() -> None:
    model, graphs = build(), []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=count)
    for batch in (2, 3, 4, 5, 7, 9):
        x, value = draw(batch)
        torch.testing.assert_close(compiled(x, value), plain(model, x, value))
    assert len(graphs) <= 2, "the first batch size, then one graph for all others"
    x, value = draw()
    found = compiled(x, value).square().sum() + 3 * compiled(x, 1 - value).square().sum()
    wanted = plain(model, x, value).square().sum() + 3 * plain(model, x, 1 - value).square().sum()
    assert_same(gradients(model, found), gradients(model, wanted))


def ddp_gradients(rank: int, x: Tensor, value: Tensor) -> list[Tensor]:
    model = build()
    wrapped = DistributedDataParallel(model)
    mine = slice(2 * rank, 2 * rank + 2)
    loss = wrapped(x[mine], value[mine]).square().sum() + 3 * wrapped(x[mine], 1 - value[mine]).square().sum()
    loss.backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.slow
def test_each_process_keeps_its_own_values() -> None:
    model, (x, value) = build(), draw(4)
    wanted = plain(model, x, value).square().sum() + 3 * plain(model, x, 1 - value).square().sum()
    wanted = [gradient / 2 for gradient in gradients(model, wanted)]  # DDP averages
    for found in run_processes(2, ddp_gradients, x, value):
        assert_same(found, wanted, 1e-5)
