"""DeriveNet's two terms against loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recognition.objectives import OBJECTIVES
from recognition.types import Batch, ObjectiveContext

WIDTH, SIDE = 4, 2
LABEL = [0, 1, 0, 2, 1, 0, 3]  # 2 and 3 stand alone


def batch_of(label: list[int]) -> Batch:
    n = len(label)
    image, twin = torch.rand(2, n, 3, 8, 8) * 2 - 1
    return Batch(image, torch.tensor(label), torch.zeros(n, 2, dtype=torch.int64), twin=twin)


def loss_of(objective, embedding: Tensor, batch: Batch) -> Tensor:
    context = ObjectiveContext(batch, lambda rows: rows, {}, None, None, torch.Generator())
    return objective(embedding, batch.label, context)


def value_and_gradient(objective, embedding: Tensor, batch: Batch) -> tuple[float, Tensor]:
    embedding = embedding.clone().requires_grad_()
    loss = loss_of(objective, embedding, batch)
    loss.backward()
    return loss.item(), embedding.grad


def made(**arguments):
    return OBJECTIVES.create("derivenet", **{"embedding_size": WIDTH, "side": SIDE, "hidden": (5,), **arguments})


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def direction(rows: list[list[float]]) -> list[float]:
    total = [sum(column) for column in zip(*rows, strict=True)]
    return [v / math.sqrt(dot(total, total)) for v in total]


def softmax_term(rows: list[list[float]], label: list[int], margin: float) -> tuple[float, list[list[float]]]:
    """Value, and gradient with class means that stand still."""
    mean = {y: direction([r for r, of in zip(rows, label, strict=True) if of == y]) for y in {*label}}
    losses, gradient = [], [[0.0] * WIDTH for _ in rows]
    counted = [i for i, y in enumerate(label) if label.count(y) > 1 and len(mean) > 1]
    for i in counted:
        centre = {y: mean[y] for y in mean}
        centre[label[i]] = direction([rows[j] for j in range(len(rows)) if label[j] == label[i] and j != i])
        logit = {
            y: dot(rows[i], centre[y]) + (margin * (1 - dot(mean[label[i]], mean[y])) if y != label[i] else 0.0)
            for y in mean
        }
        total = sum(math.exp(v) for v in logit.values())
        losses.append(-math.log(math.exp(logit[label[i]]) / total))
        for y in mean:
            share = math.exp(logit[y]) / total - (y == label[i])
            for k in range(WIDTH):
                gradient[i][k] += share * centre[y][k] / len(counted)
    return sum(losses) / len(counted) if counted else 0.0, gradient


@pytest.mark.parametrize("margin", [1.0, 0.0, 3.0])
@pytest.mark.parametrize("label", [LABEL, [4] * 7, [0, 1, 2, 3, 4, 5, 6], [1, 1, 1, 0, 0, 0, 0]])
def test_the_margin_softmax_equals_a_loop_over_classes(margin, label):
    embedding = torch.randn(7, WIDTH, dtype=torch.float64)
    loss, gradient = value_and_gradient(made(recent=0.0, margin=margin, softmax=0.5), embedding, batch_of(label))
    wanted = softmax_term(embedding.tolist(), label, margin)
    assert loss == pytest.approx(0.5 * wanted[0], rel=1e-9, abs=1e-12)
    torch.testing.assert_close(gradient, 0.5 * torch.tensor(wanted[1], dtype=torch.float64))


def test_a_farther_class_costs_more_and_class_means_may_carry_gradient():
    embedding, batch = torch.randn(7, WIDTH, dtype=torch.float64), batch_of(LABEL)
    assert loss_of(made(recent=0.0, margin=2.0), embedding, batch) > loss_of(made(recent=0.0), embedding, batch)
    free = made(recent=0.0, detach=False)
    (plain, fixed), (same, moving) = (value_and_gradient(o, embedding, batch) for o in (made(recent=0.0), free))
    assert plain == same and not torch.allclose(fixed, moving)
    assert torch.autograd.gradcheck(lambda rows: loss_of(free, rows, batch), embedding.requires_grad_())


@pytest.mark.parametrize("hidden", [(5,), (), (6, 3)])
def test_the_reconstruction_equals_a_loop_over_pictures(hidden):
    objective, batch = made(softmax=0.0, recent=0.01, hidden=hidden).double(), batch_of(LABEL)
    embedding = torch.randn(7, WIDTH, dtype=torch.float64)
    loss, gradient = value_and_gradient(objective, embedding, batch)
    state = {name: value.tolist() for name, value in objective.state_dict().items()}

    def value(rows: list[list[float]]) -> float:
        drawn = []
        for row in rows:
            for layer in range(len(hidden) + 1):
                row = [max(v, 0.0) for v in row] if layer else row
                weight, bias = state[f"decoder.{layer}.weight"], state[f"decoder.{layer}.bias"]
                row = [dot(w, row) + b for w, b in zip(weight, bias, strict=True)]
            drawn.append(row)
        total = 0.0
        for i, row in enumerate(drawn):
            twin = batch.twin[i].double()
            block = [twin[c, y : y + 4, x : x + 4].mean().item() for c in range(3) for y in (0, 4) for x in (0, 4)]
            own = [drawn[j] for j in range(len(rows)) if LABEL[j] == LABEL[i]]
            mean = [sum(column) / len(own) for column in zip(*own, strict=True)]
            total += sum((h - g) ** 2 for h, g in zip(block, row, strict=True))
            total += sum((g - m) ** 2 for g, m in zip(row, mean, strict=True))
        return 0.01 * total / len(rows)

    rows = embedding.tolist()
    assert loss == pytest.approx(value(rows), rel=1e-6)  # the twin is reduced in float32
    step = 1e-5
    for i, k in ((0, 0), (2, 3), (3, 1), (6, 2)):
        up, down = ([[*row] for row in rows] for _ in range(2))
        up[i][k] += step
        down[i][k] -= step
        assert gradient[i, k].item() == pytest.approx((value(up) - value(down)) / (2 * step), rel=1e-3, abs=1e-8)


def test_the_decoder_learns_to_draw_and_its_start_is_the_seeds():
    torch.manual_seed(3)
    objective, batch = made(softmax=0.0, recent=1.0), batch_of(LABEL)
    torch.manual_seed(3)
    again = made(softmax=0.0, recent=1.0)
    assert all(torch.equal(a, b) for a, b in zip(objective.parameters(), again.parameters(), strict=True))
    assert len([*objective.parameters()]) == 4 and objective.fields == ("twin",)
    embedding = 3 * torch.randn(7, WIDTH)
    losses = []
    for _ in range(60):
        loss = loss_of(objective, embedding, batch)
        gradients = torch.autograd.grad(loss, [*objective.parameters()])
        with torch.no_grad():
            for weight, gradient in zip(objective.parameters(), gradients, strict=True):
                weight -= 0.02 * gradient
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_without_reconstruction_there_is_no_decoder():
    objective, batch = made(recent=0.0), batch_of(LABEL)
    batch.twin = None
    assert objective.fields == () and not [*objective.parameters()]
    assert loss_of(objective, torch.randn(7, WIDTH), batch).isfinite()


def test_zeros_equal_rows_long_rows_and_a_batch_of_one_give_finite_gradients():
    some = (torch.zeros(7, WIDTH), torch.ones(7, WIDTH), 1e4 * torch.randn(7, WIDTH), torch.randn(1, WIDTH))
    for rows in some:
        for detach in (True, False):
            loss, gradient = value_and_gradient(made(detach=detach), rows, batch_of(LABEL[: len(rows)]))
            assert math.isfinite(loss) and gradient.isfinite().all()


def test_half_precision_around_it_changes_nothing():
    objective, batch = made(recent=1.0), batch_of(LABEL)
    embedding = torch.randn(7, WIDTH, requires_grad=True)
    plain = loss_of(objective, embedding, batch)
    with torch.autocast("cpu", torch.bfloat16):
        cast = loss_of(objective, embedding, batch)
    of_plain, of_cast = (torch.autograd.grad(loss, embedding)[0] for loss in (plain, cast))
    assert plain == cast and torch.equal(of_plain, of_cast)


def test_wrong_arguments_a_wrong_width_and_a_missing_twin_are_told():
    wrong = [{"softmax": -1.0}, {"recent": math.nan}, {"margin": -0.1}, {"side": 0}, {"side": 200}]
    for arguments in [*wrong, {"hidden": "512"}, {"hidden": 512}, {"embedding_size": 0}]:
        with pytest.raises(ValueError, match=f"objective 'derivenet': {next(iter(arguments))} is"):
            made(**arguments)
    with pytest.raises(ValueError, match="a width in hidden is 0"):
        made(hidden=(0,))
    with pytest.raises(ValueError, match="both 0"):
        made(softmax=0.0, recent=0.0)
    with pytest.raises(ValueError, match="embedding_size is 512, but this network's embeddings have 4 numbers"):
        value_and_gradient(OBJECTIVES.create("derivenet"), torch.randn(7, WIDTH), batch_of(LABEL))
    batch = batch_of(LABEL)
    batch.twin = None
    with pytest.raises(RuntimeError, match=r"looks at batch\.twin"):
        value_and_gradient(made(), torch.randn(7, WIDTH), batch)
