"""Halves of frontal faces against loops over pixels and rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from recognition.data.landmarks import mirrored
from recognition.objectives import OBJECTIVES
from recognition.objectives.symmetry import frontality, halves
from recognition.types import Batch, ObjectiveContext

TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
N, WIDTH = 6, 4


def faces(n: int = N, turned: Sequence[int] = (1, 4), side: int = 8) -> Batch:
    """Faces; the nose of the turned ones stands 12 px aside, a third of the eyes' distance."""
    landmarks = torch.tensor(TEMPLATE).expand(n, 5, 2).clone() + 0.3 * torch.randn(n, 5, 2)
    landmarks[[*turned], 2, 0] += 12
    return Batch(
        torch.rand(n, 3, side, side) * 2 - 1,
        torch.zeros(n, dtype=torch.int64),
        torch.zeros(n, 2, dtype=torch.int64),
        landmarks=landmarks,
    )


def value_and_gradients(objective, rows: list[Tensor], batch: Batch) -> tuple[float, list[Tensor]]:
    """rows: embeddings of the pictures, of the left halves and of the right ones."""
    rows = [of.clone().requires_grad_() for of in rows]
    views = {"left_half": rows[1], "right_half": rows[2]}
    context = ObjectiveContext(batch, lambda of: of, views, None, None, torch.Generator())
    loss = objective(rows[0], batch.label, context)
    loss.backward()
    return loss.item(), [of.grad for of in rows]


def cosine(a: list[float], b: list[float]) -> float:
    def dot(x: list[float], y: list[float]) -> float:
        return sum(p * q for p, q in zip(x, y, strict=True))

    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def slope(a: list[float], b: list[float]) -> list[float]:
    """Of cos(a, b) by a."""
    length, other = math.sqrt(sum(v * v for v in a)), math.sqrt(sum(v * v for v in b))
    return [y / (length * other) - cosine(a, b) * x / length**2 for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("pull", [0.0, 0.7])
def test_value_and_gradient_equal_a_loop_over_frontal_faces(pull):
    batch = faces()
    rows = [torch.randn(N, WIDTH, dtype=torch.float64) for _ in range(3)]
    loss, (of_whole, of_left, of_right) = value_and_gradients(OBJECTIVES.create("symmetry", pull=pull), rows, batch)
    whole, left, right = (of.tolist() for of in rows)
    wanted, frontal = 0.0, [0, 2, 3, 5]
    of_each = {"left": torch.zeros(N, WIDTH, dtype=torch.float64), "right": torch.zeros(N, WIDTH, dtype=torch.float64)}
    for i in frontal:
        wanted += (1 - cosine(left[i], right[i])) / 4
        wanted += pull * ((1 - cosine(left[i], whole[i])) + (1 - cosine(right[i], whole[i]))) / 2 / 4
        for name, one, other in (("left", left[i], right[i]), ("right", right[i], left[i])):
            for k, (across, home) in enumerate(zip(slope(one, other), slope(one, whole[i]), strict=True)):
                of_each[name][i, k] = -(across + pull * home / 2) / 4
    assert loss == pytest.approx(wanted, rel=1e-12)
    torch.testing.assert_close(of_left, of_each["left"])
    torch.testing.assert_close(of_right, of_each["right"])
    assert not of_whole.any(), "halves come to the whole face, which stays"


def test_frontality_is_the_noses_place_in_eye_distances():
    batch = faces()
    for found, points in zip(frontality(batch.landmarks).tolist(), batch.landmarks.double().tolist(), strict=True):
        (x1, y1), (x2, y2), (nose, _) = points[:3]
        assert found == pytest.approx((nose - (x1 + x2) / 2) / math.hypot(x2 - x1, y2 - y1), abs=1e-6)
    assert frontality(torch.tensor(TEMPLATE)[None]).abs() < 0.01, "the template of alignment is frontal"
    torch.testing.assert_close(frontality(mirrored(batch.landmarks)), -frontality(batch.landmarks))
    together = batch.landmarks.clone()
    together[0, 1] = together[0, 0]
    assert not (frontality(together)[0].abs() <= 0.1)


def test_no_frontal_face_gives_0_that_depends_on_the_embeddings():
    batch = faces(turned=(0, 1, 2, 3, 4, 5))
    rows = [torch.randn(N, WIDTH) for _ in range(3)]
    loss, gradients = value_and_gradients(OBJECTIVES.create("symmetry", pull=1.0), rows, batch)
    assert loss == 0 and not any(gradient.any() for gradient in gradients)


def test_zeros_and_a_batch_of_one_give_finite_gradients():
    for n in (1, N):
        rows = [torch.randn(n, WIDTH), torch.zeros(n, WIDTH), torch.randn(n, WIDTH)]
        loss, gradients = value_and_gradients(OBJECTIVES.create("symmetry", pull=1.0), rows, faces(n, turned=()))
        assert loss == pytest.approx(2 - 0.5 * torch.cosine_similarity(rows[0], rows[2]).mean().item(), rel=1e-5)
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("side", [112, 16, 7])
def test_halves_are_the_mirrored_columns_of_the_picture(side):
    batch = faces(3, turned=(1,), side=side)
    batch.landmarks[1, :, 0] += 17  # a face beside the middle
    left, right = halves(batch.image, batch.landmarks)
    wanted_left, wanted_right = torch.empty_like(left), torch.empty_like(right)
    for i in range(3):
        middle = sum(batch.landmarks[i, k, 0].item() for k in (0, 1, 3, 4)) / 4
        line = (middle + 0.5) * side / 112 - 0.5
        for x in range(side):
            for wanted, place in ((wanted_left, min(x, 2 * line - x)), (wanted_right, max(x, 2 * line - x))):
                place = min(max(place, 0), side - 1)
                low = math.floor(place)
                before, after = batch.image[i, :, :, low], batch.image[i, :, :, min(low + 1, side - 1)]
                wanted[i, :, :, x] = before + (place - low) * (after - before)
        kept = math.floor(line) + 1
        assert torch.equal(left[i, :, :, :kept], batch.image[i, :, :, :kept]), "the own half stays as it is"
        assert torch.equal(right[i, :, :, kept:], batch.image[i, :, :, kept:])
    torch.testing.assert_close(left, wanted_left)
    torch.testing.assert_close(right, wanted_right)


def test_halves_of_the_mirrored_picture_are_the_mirrored_halves():
    batch = faces(side=112)
    left, right = halves(batch.image, batch.landmarks)
    of_mirrored = halves(batch.image.flip(3), mirrored(batch.landmarks))
    torch.testing.assert_close(of_mirrored[0], right.flip(3), rtol=0, atol=2e-5)
    torch.testing.assert_close(of_mirrored[1], left.flip(3), rtol=0, atol=2e-5)


def test_views_are_the_halves_and_landmarks_far_outside_do_no_harm():
    batch = faces()
    batch.landmarks[0] += 500
    batch.landmarks[1] -= 500
    objective = OBJECTIVES.create("symmetry")
    views = objective.views(batch)
    assert objective.fields == ("landmarks",) and {*views} == {"left_half", "right_half"}
    for name, made in zip(("left_half", "right_half"), halves(batch.image, batch.landmarks), strict=True):
        assert views[name].shape == batch.image.shape and torch.equal(views[name], made)
        assert views[name].abs().max() <= 1


def test_wrong_arguments_and_missing_landmarks_are_told():
    for arguments in ({"frontal": 0.0}, {"frontal": -0.1}, {"pull": -1.0}, {"pull": math.inf}):
        with pytest.raises(ValueError, match=f"objective 'symmetry': {next(iter(arguments))} is"):
            OBJECTIVES.create("symmetry", **arguments)
    batch = faces()
    batch.landmarks = None
    with pytest.raises(RuntimeError, match=r"looks at batch\.landmarks"):
        OBJECTIVES.create("symmetry").views(batch)
