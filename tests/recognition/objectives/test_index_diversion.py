"""Index diversion against a loop over rows in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recognition.objectives import OBJECTIVES
from recognition.types import Batch, ObjectiveContext

WIDTH = 4
LABEL = [0, 1, 0, 2, 1, 0, 3]
SIDES = [112, 8, 14, 7, 112, 9, 8]
WORST = (1, 3, 6)  # of at most 8 px


def batch_of(sides: list[int], label: list[int]) -> Batch:
    level = torch.tensor([1 - side / 112 for side in sides])
    keys = torch.zeros(len(sides), 2, dtype=torch.int64)
    return Batch(torch.zeros(len(sides), 3, 2, 2), torch.tensor(label), keys, level=level)


def value_and_gradient(objective, embedding: Tensor, batch: Batch) -> tuple[float, Tensor]:
    context = ObjectiveContext(batch, lambda rows: rows, {}, None, None, torch.Generator())
    embedding = embedding.clone().requires_grad_()
    loss = objective(embedding, batch.label, context)
    loss.backward()
    return loss.item(), embedding.grad


def made(**arguments):
    return OBJECTIVES.create("index_diversion", embedding_size=WIDTH, **arguments)


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def scaled(a: list[float]) -> list[float]:
    return [x / math.sqrt(dot(a, a)) for x in a]


def total(rows: list[list[float]]) -> list[float]:
    return [sum(column) for column in zip(*rows, strict=True)]


def expected(embedding: Tensor, label: list[int], centre: list[float], beta: float, reach: float) -> tuple[float, list]:
    rows, centre = [scaled(row) for row in embedding.tolist()], scaled(centre)
    loss, gradient = 0.0, []
    for i, row in enumerate(rows):
        distance, share = 1 - dot(row, centre), 1.0
        own = [rows[j] for j in range(len(rows)) if label[j] == label[i] and j != i]
        others = [rows[j] for j in range(len(rows)) if label[j] != label[i]]
        if own and others:
            positive, negative = 1 - dot(row, scaled(total(own))), 1 - max(dot(row, other) for other in others)
            share = negative / (negative + positive)
        weight = (1 - min(max(distance * share, 0.0), 1.0)) / len(rows)
        missing = max(0.0, reach - distance)
        loss += weight * (missing**2 / (2 * beta) if missing < beta else missing - beta / 2)
        by_distance = -weight * min(missing / beta, 1.0)
        length = math.sqrt(dot(embedding[i].tolist(), embedding[i].tolist()))
        gradient.append([-by_distance * (c - (1 - distance) * v) / length for c, v in zip(centre, row, strict=True)])
    return loss, gradient


@pytest.mark.parametrize("arguments", [{}, {"beta": 0.2, "reach": 1.6}, {"reach": 0.4}])
@pytest.mark.parametrize("label", [LABEL, [5] * 7, [0, 1, 2, 3, 4, 5, 6]])
def test_value_and_gradient_equal_a_loop_over_rows(arguments, label):
    embedding = torch.randn(7, WIDTH, dtype=torch.float64)
    objective = made(**arguments).double()
    loss, gradient = value_and_gradient(objective, embedding, batch_of(SIDES, label))
    rows = embedding.tolist()
    centre = [v / 3 for v in total([scaled(rows[i]) for i in WORST])]
    torch.testing.assert_close(objective.centre, torch.tensor(centre, dtype=torch.float64))
    wanted = expected(embedding, label, centre, arguments.get("beta", 0.75), arguments.get("reach", 1.0))
    assert wanted[0] > 0 and loss == pytest.approx(wanted[0], rel=1e-9)
    torch.testing.assert_close(gradient, torch.tensor(wanted[1], dtype=torch.float64))


def test_the_centre_is_a_running_mean_in_training_only():
    objective, wanted = made(momentum=0.75).double(), None
    for step in range(3):
        embedding = torch.randn(7, WIDTH, dtype=torch.float64)
        value_and_gradient(objective, embedding, batch_of(SIDES, LABEL))
        mean = [v / 3 for v in total([scaled(embedding[i].tolist()) for i in WORST])]
        wanted = mean if step == 0 else [0.75 * old + 0.25 * new for old, new in zip(wanted, mean, strict=True)]
        torch.testing.assert_close(objective.centre, torch.tensor(wanted, dtype=torch.float64))
    stands = objective.centre.clone()
    for training, sides in ((True, [112] * 7), (False, SIDES)):  # nothing to move it, and not allowed to
        objective.train(training)
        loss, _ = value_and_gradient(objective, embedding, batch_of(sides, LABEL))
        assert torch.equal(objective.centre, stands)
        assert loss == pytest.approx(expected(embedding, LABEL, wanted, 0.75, 1.0)[0])
    again = made()
    again.load_state_dict(objective.float().state_dict())
    assert torch.equal(again.centre, objective.centre) and again.centre.any()


def test_a_step_leads_away_from_the_centre():
    embedding = torch.randn(7, WIDTH) + 2
    objective, batch = made(), batch_of(SIDES, LABEL)
    before, gradient = value_and_gradient(objective, embedding, batch)
    after, _ = value_and_gradient(objective.eval(), embedding - gradient, batch)
    assert 0 < after < before


def test_without_unrecognisable_faces_it_gives_0_that_depends_on_the_embeddings():
    loss, gradient = value_and_gradient(made(reach=2.0), torch.randn(7, WIDTH), batch_of([112] * 7, LABEL))
    assert loss == 0 and not gradient.any()


def test_zeros_equal_rows_and_a_batch_of_one_give_finite_gradients():
    for rows in (torch.zeros(7, WIDTH), torch.ones(7, WIDTH), torch.randn(1, WIDTH), torch.zeros(1, WIDTH)):
        objective, batch = made(), batch_of([7] * len(rows), LABEL[: len(rows)])
        loss, gradient = value_and_gradient(objective, rows, batch)
        assert math.isfinite(loss) and gradient.isfinite().all() and objective.centre.isfinite().all()
        assert objective.centre.any() == rows.any()
    objective, rows = made(), torch.randn(2, WIDTH)
    rows[0] = 0
    value_and_gradient(objective, rows, batch_of([7, 7], [0, 1]))
    assert objective.centre.norm().item() == pytest.approx(1.0), "an embedding of 0 tells nothing of the centre"


def test_half_precision_around_it_changes_nothing():
    embedding, batch = torch.randn(7, WIDTH), batch_of(SIDES, LABEL)
    plain = value_and_gradient(made(), embedding, batch)
    with torch.autocast("cpu", torch.bfloat16):
        cast = value_and_gradient(made(), embedding, batch)
    assert plain[0] == cast[0] and torch.equal(plain[1], cast[1])


def test_wrong_arguments_a_wrong_width_and_a_missing_level_are_told():
    wrong = ({"side": 0}, {"side": 113}, {"momentum": 1.5}, {"beta": 0.0}, {"reach": 0.0}, {"reach": 2.5})
    for arguments in wrong:
        with pytest.raises(ValueError, match=f"objective 'index_diversion': {next(iter(arguments))} is"):
            made(**arguments)
    with pytest.raises(ValueError, match="embedding_size is 512, but this network's embeddings have 4 numbers"):
        value_and_gradient(OBJECTIVES.create("index_diversion"), torch.randn(7, WIDTH), batch_of(SIDES, LABEL))
    batch = batch_of(SIDES, LABEL)
    batch.level = None
    with pytest.raises(RuntimeError, match=r"looks at batch\.level"):
        value_and_gradient(made(), torch.randn(7, WIDTH), batch)
