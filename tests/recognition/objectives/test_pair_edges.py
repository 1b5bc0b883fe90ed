"""Objectives on pairs: what they leave out, rows that are near or nothing, memory, arguments."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recognition.objectives import OBJECTIVES
from recognition.objectives._pairs import distances, unit
from tests.recognition.objectives.contexts import Network, bare, batch_of, make, present

LABEL = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 4])


def drawn(seed: int, rows: int = 9) -> Tensor:
    return 3 * torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "arguments", "labels"),
    [
        ("triplet", {}, ([5], [1, 1, 1], [0, 1, 2])),
        ("triplet", {"mining": "semi_hard"}, ([5], [1, 1, 1], [0, 1, 2])),
        ("octuplet", {}, ([5], [1, 1, 1], [0, 1, 2])),
        ("octuplet", {"legacy_anchors": True}, ([5], [1, 1, 1])),
        ("octuplet", {"quadrants": ["hr_hr"]}, ([5],)),
        ("supcon", {}, ([5], [0, 1, 2])),
        ("distill", {"cosine": 0.0, "relational": 1.0}, ([5],)),
        ("unpg", {}, ([5], [1, 1, 1])),
    ],
)
def test_where_nothing_is_to_be_compared_the_value_is_zero_and_depends_on_the_embeddings(name, arguments, labels):
    for label in labels:
        objective = make(name, **arguments)
        case = present(objective, batch_of(label), Network(seed=0))
        value = case.call(objective)
        value.backward()
        assert value == 0
        assert case.embedding.grad is not None and not case.embedding.grad.any()


def test_an_image_is_never_its_own_positive_across_resolutions():
    """Everybody alone: without the rule an anchor's twin would be its positive."""
    label = torch.tensor([0, 1, 2])
    low, high = drawn(0, 3), drawn(1, 3)
    for legacy, wanted in ((False, 0.0), (True, None)):
        objective = make("octuplet", margin=50.0, quadrants=["lr_hr", "hr_lr"], legacy_anchors=legacy)
        value = objective(low, label, bare(label, {"twin": high})).item()
        if wanted is None:  # positives at distance 0, so the margin less the nearest negative
            far = torch.cdist(low, high).fill_diagonal_(torch.inf)
            wanted = (100 - far.min(1).values - far.T.min(1).values).mean().item()
        assert value == pytest.approx(wanted)


def test_what_was_not_degraded_gives_exactly_nothing():
    z = drawn(0).float()
    for distance in ("cosine", "squared"):
        objective = make("cross_resolution_distance", distance=distance)
        assert objective(z, LABEL, bare(LABEL, {"twin": z.clone()})) == 0
    objective = OBJECTIVES.create("distill", cosine=1.0, relational=1.0)
    objective.bind(lambda image: z)
    assert objective(z, LABEL, bare(LABEL, twin=torch.zeros(9, 3, 2, 2))) == 0


@pytest.mark.parametrize("kind", ["euclidean", "squared", "cosine"])
def test_distances_of_near_and_equal_rows(kind):
    """At 1e-5 of the rows' norm the distance has three figures, where |a|^2 + |b|^2 - 2ab has none; equal rows: 0."""
    step = torch.randn(8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    a = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 10
    rows = torch.stack([a, a + 1e-4 * step, a, torch.zeros_like(a), torch.zeros_like(a)]).float().requires_grad_()
    found = distances(rows, rows, kind)
    found.sum().backward()
    assert found.isfinite().all() and rows.grad.isfinite().all()
    if kind != "cosine":
        assert found[0, 2] == 0 and found[3, 4] == 0
        exact = (rows[0].double() - rows[1].double()).norm() ** (2 if kind == "squared" else 1)
        assert found[0, 1].item() == pytest.approx(exact.item(), rel=1e-3)


def test_a_row_of_zeros_stays_so_and_gets_no_gradient():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    found = unit(rows)
    assert found.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]
    (found * torch.tensor([2.0, 1.0])).sum().backward()
    assert rows.grad[0].any() and not rows.grad[1].any()


def test_an_image_is_not_compared_with_itself_even_where_its_embedding_is_zero():
    """Its cosine with itself is 0 then, its teacher's 1."""
    objective = OBJECTIVES.create("distill", cosine=0.0, relational=1.0)
    objective.bind(lambda image: torch.eye(2))
    context = bare(torch.tensor([0, 1]), twin=torch.zeros(2, 3, 2, 2))
    assert objective(torch.zeros(2, 2), torch.tensor([0, 1]), context) == 0


@pytest.mark.parametrize("name", ["triplet", "octuplet", "supcon", "cross_resolution_distance", "unpg"])
def test_autocast_changes_no_bit(name):
    low, high = drawn(0).float(), drawn(1).float()
    contexts = [bare(LABEL, {"twin": high}, log_total=low.logsumexp(1)) for _ in range(2)]
    plain = make(name)(low, LABEL, contexts[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(make(name)(low, LABEL, contexts[1]), plain)


class Largest(TorchDispatchMode):
    """The most numbers that any tensor had, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return out


@pytest.mark.parametrize(
    ("name", "arguments", "rows"),
    [
        ("triplet", {}, 1),
        ("triplet", {"mining": "semi_hard"}, 1),
        ("octuplet", {}, 1),
        ("octuplet", {"distance": "squared"}, 1),
        ("supcon", {"twins": True}, 2),
        ("distill", {"relational": 1.0}, 1),
        ("unpg", {}, 1),
    ],
)
def test_memory_is_that_of_pairs(name, arguments, rows):
    """rows: the N x N matrix has (rows * N)^2 numbers, and nothing has more."""
    n = 64
    low, high = (drawn(seed, n).float().requires_grad_() for seed in (0, 1))
    label, objective = torch.arange(n) // 4, OBJECTIVES.create(name, **arguments)
    if hasattr(objective, "bind"):
        objective.bind(lambda image: low.detach())
    context = bare(label, {"twin": high}, low.logsumexp(1), twin=torch.zeros(n, 3, 2, 2))
    with Largest() as largest:
        objective(low, label, context).backward()
    # masks compare keys, (N, N, 2)
    assert (rows * n) ** 2 <= largest.numbers <= (2 if name == "octuplet" else 1) * (rows * n) ** 2


def test_supcon_asks_for_twins_only_where_they_take_part():
    assert make("supcon").fields == () and make("supcon", twins=True).fields == ("twin",)
    assert make("supcon").views(batch_of([0, 1])) == {}


def test_distill_without_a_teacher_and_unpg_without_a_softmax_say_so():
    z = drawn(0).float()
    with pytest.raises(RuntimeError, match=r"objective 'distill' has no teacher: call bind\(base\)"):
        OBJECTIVES.create("distill")(z, LABEL, bare(LABEL))
    with pytest.raises(ValueError, match=r"objective 'unpg'.*there is none: config.classifier.weight is 0"):
        make("unpg")(z, LABEL, bare(LABEL))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("triplet", {"margin": 0.0}, "objective 'triplet': margin is 0.0; it must be a positive number"),
        ("triplet", {"margin": math.nan}, "margin is nan"),
        ("triplet", {"mining": "hard"}, "mining is 'hard'; it must be one of batch_hard, semi_hard"),
        ("triplet", {"distance": "cosine"}, "distance is 'cosine'; it must be one of squared, euclidean"),
        (
            "octuplet",
            {"distance": "l2"},
            "distance is 'l2'; it must be one of euclidean, squared, cosine",
        ),
        ("octuplet", {"quadrants": []}, r"quadrants is \[\]; it is a list of some of hr_hr, hr_lr"),
        ("octuplet", {"quadrants": "hr_hr"}, "quadrants is 'hr_hr'; it is a list"),
        ("octuplet", {"quadrants": ["hr_hr", "hr_hr"]}, "it is a list of some of"),
        ("octuplet", {"quadrants": ["lr"]}, "quadrants is 'lr'; it must be one of hr_hr"),
        ("supcon", {"temperature": -1.0}, "objective 'supcon': temperature is -1.0; it must be a positive number"),
        ("cross_resolution_distance", {"distance": "euclidean"}, "it must be one of cosine, squared"),
        ("distill", {"cosine": -1.0}, "cosine is -1.0; it must be 0 or a positive number"),
        ("distill", {"cosine": 0.0}, "cosine and relational are both 0"),
        ("distill", {"of": "hr"}, "of is 'hr'; it must be one of seen, twin, both"),
        ("unpg", {"scale": math.inf}, "scale is inf; it must be a positive number"),
        ("unpg", {"whisker": -0.1}, "whisker is -0.1; it must be 0 or a positive number"),
    ],
)
def test_wrong_arguments_are_named(name, arguments, words):
    with pytest.raises(ValueError, match=words):
        OBJECTIVES.create(name, **arguments)
