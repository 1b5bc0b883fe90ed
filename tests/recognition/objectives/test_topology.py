"""Topological alignment against trees found edge by edge in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recognition.objectives import OBJECTIVES
from recognition.objectives.topology import spanning_tree
from recognition.types import Batch, ObjectiveContext

N, WIDTH, SIDE = 9, 5, 12


def drawn(n: int = N, side: int = SIDE) -> tuple[Tensor, Batch]:
    embedding = torch.randn(n, WIDTH, dtype=torch.float64)
    image, twin = torch.rand(2, n, 3, side, side) * 2 - 1
    return embedding, Batch(image, torch.arange(n) % 3, torch.zeros(n, 2, dtype=torch.int64), twin=twin)


def value_and_gradient(objective, embedding: Tensor, batch: Batch) -> tuple[float, Tensor]:
    context = ObjectiveContext(batch, lambda rows: rows, {}, None, None, torch.Generator())
    embedding = embedding.clone().requires_grad_()
    loss = objective(embedding, batch.label[: len(embedding)], context)
    loss.backward()
    return loss.item(), embedding.grad


def between(rows: list[list[float]], a: int, b: int) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(rows[a], rows[b], strict=True)))


def kruskal(rows: list[list[float]]) -> list[tuple[int, int]]:
    """Edges of the tree in rising order: the shortest that join two parts, one after another."""
    pairs = [(a, b) for a in range(len(rows)) for b in range(a)]
    pairs.sort(key=lambda pair: between(rows, *pair))
    part, tree = [*range(len(rows))], []
    for a, b in pairs:
        if part[a] != part[b]:
            tree.append((a, b))
            part = [part[a] if p == part[b] else p for p in part]
    return tree


def pixels(image: Tensor, side: int) -> list[list[float]]:
    """Pictures as rows of numbers, reduced by means over squares, over the largest distance that there can be."""
    block = image.shape[2] // side if side else 1
    found = []
    for picture in image.double():
        row = [
            picture[c, y : y + block, x : x + block].mean().item()
            for c in range(3)
            for y in range(0, picture.shape[1], block)
            for x in range(0, picture.shape[2], block)
        ]
        found.append([v / math.sqrt(4 * len(row)) for v in row])
    return found


def expected(embedding: Tensor, image: Tensor, match: str, side: int, normalise: bool) -> tuple[float, list]:
    points, pictures = embedding.tolist(), pixels(image, side)
    if normalise:
        points = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in points]
    of_points, of_pictures = kruskal(points), kruskal(pictures)
    if match == "sorted":  # both are in rising order already
        terms = [(edge, between(pictures, *other)) for edge, other in zip(of_points, of_pictures, strict=True)]
    else:
        terms = [(edge, between(pictures, *edge)) for edge in [*of_pictures, *of_points]]
    loss, gradient = 0.0, [[0.0] * WIDTH for _ in points]
    for (a, b), wanted in terms:
        length = between(points, a, b)
        loss += (length - wanted) ** 2 / len(points)
        for k in range(WIDTH):
            step = 2 * (length - wanted) / len(points) * (points[a][k] - points[b][k]) / length
            gradient[a][k] += step
            gradient[b][k] -= step
    return loss, gradient


@pytest.mark.parametrize("match", ["sorted", "edges"])
@pytest.mark.parametrize(("of", "side"), [("image", 4), ("image", 0), ("image", 28), ("twin", 4)])
def test_value_and_gradient_equal_trees_found_edge_by_edge(match, of, side):
    embedding, batch = drawn()
    objective = OBJECTIVES.create("topology", match=match, of=of, side=side)
    assert objective.fields == (("twin",) if of == "twin" else ())
    loss, gradient = value_and_gradient(objective, embedding, batch)
    wanted = expected(embedding, getattr(batch, of), match, side if side < SIDE else 0, False)
    assert loss == pytest.approx(wanted[0], rel=1e-5)  # pictures are float32
    torch.testing.assert_close(gradient, torch.tensor(wanted[1], dtype=torch.float64), rtol=1e-4, atol=1e-6)


def test_normalised_embeddings_are_compared_on_the_sphere():
    embedding, batch = drawn()
    loss, gradient = value_and_gradient(OBJECTIVES.create("topology", normalise=True, side=0), embedding, batch)
    assert loss == pytest.approx(expected(embedding, batch.image, "sorted", 0, True)[0], rel=1e-5)
    assert (gradient * embedding).sum(1).abs().max() < 1e-9, "the length of an embedding has no effect"


def test_the_options_differ():
    embedding, batch = drawn()
    losses = {
        value_and_gradient(OBJECTIVES.create("topology", **arguments), embedding, batch)[0]
        for arguments in ({}, {"match": "edges"}, {"of": "twin"}, {"side": 4}, {"normalise": True})
    }
    assert len(losses) == 5


def test_the_tree_is_a_minimum_one_with_equal_rows_too():
    rows = torch.randn(40, 3, dtype=torch.float64)
    rows[7], rows[30:33] = rows[21], rows[2]
    tree = spanning_tree(rows)
    reached = {0}
    for a, b in tree.tolist():
        assert a in reached and b not in reached
        reached.add(b)
    points = rows.tolist()
    found = sorted(between(points, a, b) for a, b in tree.tolist())
    assert len(reached) == 40 and found[:4] == pytest.approx([0.0] * 4)
    assert found == pytest.approx([between(points, *edge) for edge in kruskal(points)])


@pytest.mark.parametrize("match", ["sorted", "edges"])
def test_equal_pictures_equal_embeddings_and_zeros_give_finite_gradients(match):
    objective = OBJECTIVES.create("topology", match=match)
    embedding, batch = drawn()
    batch.image[1], embedding[1], embedding[2] = batch.image[0], embedding[0], 0.0
    for rows in (embedding, torch.ones_like(embedding), torch.zeros_like(embedding)):
        loss, gradient = value_and_gradient(objective, rows.float(), batch)
        assert math.isfinite(loss) and gradient.isfinite().all()
    embedding, batch = drawn(1)
    loss, gradient = value_and_gradient(objective, embedding.float(), batch)
    assert loss == 0 and not gradient.any()


def test_embeddings_laid_out_as_their_pictures_cost_nothing():
    _, batch = drawn()
    embedding = batch.image.flatten(1) / math.sqrt(4 * 3 * SIDE * SIDE)
    for match in ("sorted", "edges"):
        loss, _ = value_and_gradient(OBJECTIVES.create("topology", match=match, side=0), embedding, batch)
        assert loss < 1e-12


def test_half_precision_around_it_changes_nothing():
    embedding, batch = drawn()
    plain = value_and_gradient(OBJECTIVES.create("topology"), embedding.float(), batch)
    with torch.autocast("cpu", torch.bfloat16):
        cast = value_and_gradient(OBJECTIVES.create("topology"), embedding.float(), batch)
    assert plain[0] == cast[0] and torch.equal(plain[1], cast[1])


def test_wrong_arguments_and_a_missing_twin_are_told():
    for arguments in ({"match": "both"}, {"of": "score"}, {"side": -1}, {"side": 2.5}):
        with pytest.raises(ValueError, match=f"objective 'topology': {next(iter(arguments))} is"):
            OBJECTIVES.create("topology", **arguments)
    embedding, batch = drawn()
    batch.twin = None
    with pytest.raises(RuntimeError, match=r"looks at batch\.twin"):
        value_and_gradient(OBJECTIVES.create("topology", of="twin"), embedding, batch)
