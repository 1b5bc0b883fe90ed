"""Gradients on 3 processes: uneven and empty class ranges, a batch whose classes one process holds, sampled or not.

And, on 1 to 3, those of a loss that is made of the log of the softmax's total.
"""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recognition import distributed
from recognition.margins import MARGINS
from recognition.partial_fc import PartialFC, draw_centres
from recognition.types import MarginContext
from tests.launch import run_groups
from tests.recognition.test_partial_fc import Binary, D, batch_of, close, counts_of, reference, share

SIZE, BATCH, SCALE = 3, 7, 8.0
LABELS = {  # classes: of which those on one process, the first, the last or neither
    "uneven": (25, [0, 3, 24, 9, 17, 17, 12]),  # 9, 9 and 7 classes
    "empty": (2, [1, 0, 0, 1, 1, 1, 0]),  # the last process holds none
    "first": (25, [0, 8, 3, 3, 1, 0, 5]),
    "last": (25, [18, 24, 24, 20, 19, 18, 21]),
    "four": (4, [3, 2, 0, 0, 1, 3, 2]),  # 2, 2 and none
}
RATES = (1.0, 0.4)


class Own(nn.Module):
    """Its own reduction: each image against each class, all pairs of equal weight; and a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(0.5))

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        return SCALE * cosine + self.bias

    def reduce(self, logits: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        rows = (label >= 0).nonzero().squeeze(1)
        sign = torch.ones_like(logits).index_put((rows, label[rows]), torch.tensor(-1.0))
        return distributed.all_reduce_sum(nn.functional.softplus(sign * logits).sum(1)).sqrt()


class Softmax(nn.Module):
    """No margin, but a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(0.5))

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        return SCALE * self.bias.exp() * cosine


KINDS = {"own": Own, "softmax": Softmax}
CASES = [*itertools.product(LABELS, KINDS, RATES)]
TOTALS = [(25, 7), (2, 7), (5, 3)]  # classes, images; of the latter a process without any
USES = {"both": (1.0, 1.0), "total": (0.0, 1.0), "losses": (1.0, 0.0)}  # weights of the two losses


def embeddings() -> Tensor:
    return torch.randn(BATCH, D, generator=torch.Generator().manual_seed(5))


@functools.cache
def results() -> dict[int, list[dict]]:
    """World size -> what each process found."""
    return {1: [everything(0, 1)], **run_groups([2, SIZE], everything)}


def everything(rank: int, size: int) -> dict:
    found = {(case, use): run_beside(rank, size, *case, USES[use]) for case, use in itertools.product(TOTALS, USES)}
    return found | {case: run(rank, size, *case) for case in CASES if size == SIZE}


def run(rank: int, size: int, name: str, kind: str, rate: float) -> dict:
    classes, label = LABELS[name]
    classifier = PartialFC(D, classes, KINDS[kind](), rate, seed=2)
    classifier.bind(torch.optim.SGD(classifier.parameters(), lr=0.1))
    counts = counts_of(BATCH, size)
    embedding = share(embeddings(), counts, rank).clone().requires_grad_()
    loss = classifier(embedding, share(torch.tensor(label), counts, rank), counts=counts)
    loss.backward()
    gradient, rows = classifier.weight.grad, classifier.sampled_rows
    rows = torch.arange(len(classifier.weight)) if rows is None else rows
    return {
        "loss": loss.detach(),
        "embedding": embedding.grad,
        "weight": gradient.to_dense(),
        "classes": rows + classifier.class_start,
        "bias": classifier.margin.bias.grad,
    }


def beside(embedding: Tensor, log_total: Tensor) -> Tensor:
    """What an objective might compute: the embeddings reach it directly too."""
    return torch.log1p(torch.exp(embedding.square().sum(1) - log_total)).mean()


def run_beside(rank: int, size: int, classes: int, batch: int, weights: tuple[float, float]) -> dict[str, Tensor]:
    classifier = PartialFC(D, classes, MARGINS.create("cosface", scale=16.0), seed=3)
    counts = counts_of(batch, size)
    embedding, label = (share(part, counts, rank) for part in batch_of(classes, batch)[:2])
    embedding = embedding.clone().requires_grad_()
    own = classifier(embedding, label, counts=counts)
    other = beside(distributed.gather(embedding, counts), classifier.log_total)
    loss = sum(weight * term for weight, term in zip(weights, (own, other), strict=True) if weight)
    loss.backward()
    found = {"loss": loss.detach(), "total": classifier.log_total.detach()}
    return found | {"embedding": embedding.grad, "weight": classifier.weight.grad}


def plain(centres: Tensor, embedding: Tensor, label: list[int], kind: str, bias: Tensor, classes: list[int]) -> Tensor:
    """The mean loss in float64, image by image and class by class."""
    total = torch.zeros((), dtype=torch.float64)
    for x, target in zip(embedding, label, strict=True):
        cosine = {c: (x @ centres[c]) / (x.norm() * centres[c].norm()) for c in classes}
        if kind == "softmax":
            exps = {c: (SCALE * bias.exp() * value).exp() for c, value in cosine.items()}
            total = total - (exps[target] / sum(exps.values())).log()
        else:
            pairs = [((-1 if c == target else 1) * (SCALE * value + bias)).exp() for c, value in cosine.items()]
            total = total + sum((1 + pair).log() for pair in pairs).sqrt()
    return total / len(label)


@pytest.mark.parametrize(("name", "kind", "rate"), CASES)
def test_shares_of_the_gradient_add_up_to_the_true_one(name, kind, rate):
    classes, label = LABELS[name]
    found = [one[name, kind, rate] for one in results()[SIZE]]
    compared = torch.cat([one["classes"] for one in found]).tolist()
    assert set(label) <= set(compared) and (rate < 1 or compared == [*range(classes)])
    assert rate == 1 or classes < 5 or len(compared) < classes
    held = [min(max(classes - rank * math.ceil(classes / SIZE), 0), math.ceil(classes / SIZE)) for rank in range(SIZE)]
    assert [len(one["weight"]) for one in found] == held
    embedding = embeddings().double().requires_grad_()
    centres = draw_centres(D, 0, classes, seed=2).double().requires_grad_()
    bias = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    loss = plain(centres, embedding, label, kind, bias, compared)
    loss.backward()
    for one in found:
        close(one["loss"], loss.detach())
        close(one["bias"], bias.grad)
    close(torch.cat([one["embedding"] for one in found]), SIZE * embedding.grad)
    close(torch.cat([one["weight"] for one in found]), centres.grad)


def test_both_losses_have_the_true_gradient():
    for case in TOTALS:
        for use, (of_own, of_other) in USES.items():
            embedding, label, _ = batch_of(*case)
            embedding = embedding.double().requires_grad_()
            centres = draw_centres(D, 0, case[0], seed=3).double().requires_grad_()
            cosine = F.normalize(embedding) @ F.normalize(centres).T
            total = (16 * (cosine - 0.4 * F.one_hot(label, case[0]))).exp().sum(1).log()
            loss = of_own * reference(centres, embedding, label, 16.0, 0.4).mean() + of_other * beside(embedding, total)
            loss.backward()
            for size, found in results().items():
                found = [one[case, use] for one in found]
                for one in found:
                    close(one["loss"], loss.detach())
                    close(one["total"], total.detach())
                close(torch.cat([one["embedding"] for one in found]), size * embedding.grad)
                close(torch.cat([one["weight"] for one in found]), centres.grad)


def test_a_margin_with_its_own_reduction_has_none_and_margins_are_given_gate_and_measured():
    given = []
    margin = Binary()
    margin.extra = lambda context: given.append(context) or context.norm.sum() * 0
    classifier = PartialFC(D, 9, margin)
    embedding, label, score = batch_of(9, 5)
    classifier.log_total = score
    gate, measured = torch.rand(5, requires_grad=True), torch.rand(5, 2)
    classifier(embedding, label, score=score, gate=gate, measured=measured)
    assert classifier.log_total is None
    assert torch.equal(given[0].gate, gate) and not given[0].gate.requires_grad
    assert torch.equal(given[0].measured, measured)
