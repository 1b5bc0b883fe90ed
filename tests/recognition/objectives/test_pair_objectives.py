"""Objectives on pairs against loops in float64, value and gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recognition.objectives import OBJECTIVES
from tests.recognition.objectives.contexts import bare, make

LABEL = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 4])
MIXED = LABEL.tolist()
Loop = Callable[[Tensor, Tensor], Tensor]


def drawn(seed: int, rows: int = len(MIXED)) -> Tensor:
    return 3 * torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(value: Tensor, *of: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(value, of, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(of, found, strict=True)]


def agree(objective: nn.Module, loop: Loop, *, key: Tensor | None = None, twin: Tensor | None = None) -> None:
    """Value and both gradients, in float64 exactly and in float32 as far as that goes."""
    for dtype, rtol, atol in ((torch.float64, 1e-9, 1e-11), (torch.float32, 1e-4, 2e-5)):
        low, high = (drawn(seed).to(dtype).requires_grad_() for seed in (0, 1))
        value = objective(low, LABEL, bare(LABEL, {"twin": high}, key=key, twin=twin))
        assert value.dtype == dtype
        exact_low, exact_high = (t.detach().double().requires_grad_() for t in (low, high))
        wanted = loop(exact_low, exact_high)
        assert wanted > 0
        torch.testing.assert_close(value.double(), wanted, rtol=rtol, atol=atol)
        for got, right in zip(gradients(value, low, high), gradients(wanted, exact_low, exact_high), strict=True):
            torch.testing.assert_close(got.double(), right, rtol=rtol, atol=atol)


def between(a: Tensor, b: Tensor, kind: str) -> Tensor:
    if kind == "cosine":
        return 1 - (a * b).sum() / (a.norm() * b.norm())
    squared = ((a - b) ** 2).sum()
    return squared if kind == "squared" else squared.sqrt()


def to_one(rows: Tensor) -> list[Tensor]:
    return [row / row.norm() for row in rows]


@pytest.mark.parametrize("distance", ["squared", "euclidean"])
def test_triplet_batch_hard(distance):
    def loop(low: Tensor, high: Tensor) -> Tensor:
        z, terms = to_one(low), []
        for a in range(len(z)):
            same = [between(z[a], z[p], distance) for p in range(len(z)) if p != a and MIXED[p] == MIXED[a]]
            other = [between(z[a], z[n], distance) for n in range(len(z)) if MIXED[n] != MIXED[a]]
            if same and other:
                terms.append((max(same) - min(other) + 0.3).clamp_min(0))
        assert len(terms) == 7
        return sum(terms) / len(terms)

    agree(make("triplet", margin=0.3, distance=distance), loop)


@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_triplet_semi_hard(margin):
    found = {"semi-hard": 0, "beyond the margin": 0, "none farther": 0}

    def loop(low: Tensor, high: Tensor) -> Tensor:
        z, terms = to_one(low), []
        for a in range(len(z)):
            other = [between(z[a], z[n], "squared") for n in range(len(z)) if MIXED[n] != MIXED[a]]
            for p in range(len(z)):
                if p == a or MIXED[p] != MIXED[a] or not other:
                    continue
                positive = between(z[a], z[p], "squared")
                farther = [n for n in other if n > positive]
                chosen = min(farther) if farther else max(other)
                kind = "none farther" if not farther else "semi-hard"
                found["beyond the margin" if chosen > positive + margin else kind] += 1
                terms.append((positive - chosen + margin).clamp_min(0))
        assert len(terms) == 10
        return sum(terms) / len(terms)

    agree(make("triplet", margin=margin, mining="semi_hard"), loop)
    assert found["semi-hard"] and found["none farther"] and (margin > 0.5 or found["beyond the margin"])


def test_a_negative_as_far_as_the_positive_is_not_farther():
    """Anchor at angle 0, positive at 0.5, negatives at 0.5 and 0.6: the triplet is with the last."""
    angle = torch.tensor([0.0, 0.5, 0.5, 0.6], dtype=torch.float64)
    z, label = torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([0, 0, 1, 2])
    half, tenth = 2 - 2 * math.cos(0.5), 2 - 2 * math.cos(0.1)
    of_anchor = half - (2 - 2 * math.cos(0.6)) + 0.2
    of_positive = half - tenth + 0.2  # no negative farther than the anchor: the farthest of 0 and 0.1
    value = make("triplet", mining="semi_hard")(z, label, bare(label))
    assert value.item() == pytest.approx((max(of_anchor, 0) + of_positive) / 2, abs=1e-12)


@pytest.mark.parametrize("distance", ["euclidean", "squared", "cosine"])
@pytest.mark.parametrize(
    ("quadrants", "normalise", "legacy", "again"),
    [
        (("hr_hr", "hr_lr", "lr_hr", "lr_lr"), False, False, False),
        (("hr_hr", "hr_lr", "lr_hr", "lr_lr"), True, True, True),
        (("hr_lr",), False, False, True),
        (("lr_lr", "lr_hr"), True, False, False),
    ],
)
def test_octuplet(distance, quadrants, normalise, legacy, again):
    """again: rows 0 and 1 are one image drawn twice, so that they are no positives of one another."""
    key = torch.stack([torch.zeros_like(LABEL), torch.arange(len(LABEL))], 1)
    if again:
        key[1] = key[0]
    margin = 2.0 if distance == "cosine" else 4.0

    def loop(low: Tensor, high: Tensor) -> Tensor:
        rows = {"hr": to_one(high) if normalise else [*high], "lr": to_one(low) if normalise else [*low]}
        sums, n = [], len(LABEL)
        for a in range(n):
            total, alone = 0.0, False
            for quadrant in quadrants:
                anchor, others = rows[quadrant[:2]][a], rows[quadrant[3:]]
                same = [p for p in range(n) if MIXED[p] == MIXED[a] and p != a and not (again and {a, p} == {0, 1})]
                alone = not same
                farthest = max([between(anchor, others[p], distance) for p in same], default=torch.zeros(()))
                nearest = min(between(anchor, others[m], distance) for m in range(n) if MIXED[m] != MIXED[a])
                total = total + (farthest - nearest + margin).clamp_min(0)
            if legacy or not alone:
                sums.append(total)
        assert len(sums) == (9 if legacy else 7)
        return sum(sums) / len(sums)

    arguments = {"quadrants": quadrants, "normalise": normalise, "legacy_anchors": legacy}
    agree(make("octuplet", margin=margin, distance=distance, **arguments), loop, key=key)


@pytest.mark.parametrize("twins", [False, True])
def test_supcon(twins):
    def loop(low: Tensor, high: Tensor) -> Tensor:
        z = to_one(low) + (to_one(high) if twins else [])
        label, terms = MIXED * (2 if twins else 1), []
        for i in range(len(z)):
            others = [a for a in range(len(z)) if a != i]
            total = sum((z[i] @ z[a] / 0.2).exp() for a in others).log()
            same = [p for p in others if label[p] == label[i]]
            if same:
                terms.append(sum(total - z[i] @ z[p] / 0.2 for p in same) / len(same))
        assert len(terms) == (18 if twins else 7)
        return sum(terms) / len(terms)

    agree(make("supcon", temperature=0.2, twins=twins), loop)


@pytest.mark.parametrize("distance", ["cosine", "squared"])
@pytest.mark.parametrize("stop", [False, True])
def test_cross_resolution_distance(distance, stop):
    def loop(low: Tensor, high: Tensor) -> Tensor:
        pairs = zip(to_one(low), to_one(high.detach() if stop else high), strict=True)
        return sum(between(a, b, distance) for a, b in pairs) / len(low)

    agree(make("cross_resolution_distance", distance=distance, stop_gradient=stop), loop)


@pytest.mark.parametrize("of", ["seen", "twin", "both"])
@pytest.mark.parametrize(("cosine", "relational"), [(1.0, 0.0), (0.0, 2.0), (0.7, 3.0)])
def test_distill(of, cosine, relational):
    teacher, n = drawn(2), len(LABEL)

    def loop(low: Tensor, high: Tensor) -> Tensor:
        t, terms = to_one(teacher), []
        for z in {"seen": [to_one(low)], "twin": [to_one(high)], "both": [to_one(low), to_one(high)]}[of]:
            term = cosine * sum(between(z[i], t[i], "cosine") for i in range(n)) / n
            unlike = [(z[i] @ z[j] - t[i] @ t[j]) ** 2 for i in range(n) for j in range(n) if i != j]
            terms.append(term + relational * sum(unlike) / len(unlike))
        return sum(terms) / len(terms)

    calls, twin = [], torch.rand(n, 3, 4, 4)

    def base(image: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        calls.append(image)
        return teacher

    objective = OBJECTIVES.create("distill", cosine=cosine, relational=relational, of=of)
    objective.bind(base)
    agree(objective, loop, twin=twin)
    assert len(calls) == 2 and calls[0] is twin, "the base looks once at a batch, at the clean images"


@pytest.mark.parametrize(("scale", "whisker"), [(8.0, 0.05), (64.0, 0.2), (64.0, 1.5)])
def test_cross_entropy_and_unpg_are_the_cross_entropy_with_further_columns(scale, whisker):
    """CosFace's logits, the filtered pairs appended to every row; by embeddings and centres."""
    for dtype, rtol in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        z, w = (drawn(seed, rows).to(dtype).requires_grad_() for seed, rows in ((0, 9), (3, 5)))

        def logits(z: Tensor, w: Tensor) -> Tensor:
            cosine = torch.stack([torch.stack([1 - between(a, c, "cosine") for c in w]) for a in z])
            target = torch.nn.functional.one_hot(LABEL, 5)
            return scale * (cosine - 0.4 * target)

        seen = logits(z, w)
        log_total = seen.logsumexp(1)
        entropy = (log_total - seen[torch.arange(9), LABEL]).mean()
        value = entropy + make("unpg", scale=scale, whisker=whisker)(z, LABEL, bare(LABEL, log_total=log_total))
        assert value.dtype == dtype

        exact_z, exact_w = z.detach().double().requires_grad_(), w.detach().double().requires_grad_()
        unit_rows = to_one(exact_z)
        pairs = [unit_rows[i] @ unit_rows[j] for i in range(9) for j in range(i + 1, 9) if MIXED[i] != MIXED[j]]
        ascending = sorted(pair.item() for pair in pairs)
        low, high = ascending[int(0.25 * len(pairs))], ascending[int(0.75 * len(pairs))]
        reach = whisker * (high - low)
        kept = [pair for pair in pairs if low - reach <= pair.item() <= high + reach]
        assert len(pairs) == 31 and (whisker > 1 or len(kept) < 31)
        wide = torch.cat([logits(exact_z, exact_w), scale * torch.stack(kept).expand(9, -1)], 1)
        wanted = torch.nn.functional.cross_entropy(wide, LABEL)
        torch.testing.assert_close(value.double(), wanted, rtol=rtol, atol=0)
        for got, right in zip(gradients(value, z, w), gradients(wanted, exact_z, exact_w), strict=True):
            torch.testing.assert_close(got.double(), right, rtol=rtol, atol=rtol * right.abs().max().item())
        assert not torch.isclose(value.double(), entropy.double(), rtol=1e-3), "the pairs have to be felt"
