"""forgetting: its objective on 1 to 3 processes against one float64 softmax, and what it asks of its arguments."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recognition.margins import MARGINS, _wrapped
from recognition.partial_fc import PartialFC, draw_centres
from recognition.types import MarginContext
from tests.launch import run_groups
from tests.recognition.test_partial_fc import Binary

WORLDS = (2, 3)
D, CLASSES, BATCH, WEIGHT = 8, 11, 7, 0.3
LABEL = torch.tensor([4, 1, 0, 10, 4, 7, 1])
# forgotten classes and bound: both kinds, at rest beyond the bound, nobody of them in the batch, nobody else
CASES = {
    "both": ([1, 10, 5], 100.0),
    "at_rest": ([1, 10, 5], 0.5),
    "none_here": ([2, 5], 100.0),
    "only_these": ([0, 1, 4, 7, 10], 100.0),
    "nobody": ([], 100.0),
}
SHARES = (1.0, 0.3)  # of the classes that take part


def embeddings() -> Tensor:
    return torch.randn(BATCH, D, generator=torch.Generator().manual_seed(2))


def build(name: str, sample_rate: float = 1.0) -> PartialFC:
    forget, bound = CASES[name]
    margin = MARGINS.create("forgetting", forget=forget, arguments={"scale": 16.0}, weight=WEIGHT, bound=bound)
    return PartialFC(D, CLASSES, margin, sample_rate=sample_rate, seed=3)


def run(rank: int, size: int) -> dict:
    """Loss, and gradients of this process's embeddings and centres, of every case."""
    counts = [len(range(r, BATCH, size)) for r in range(size)]
    mine = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    found = {}
    for name in CASES:
        for rate in SHARES:
            classifier = build(name, rate)
            classifier.bind(torch.optim.SGD(classifier.parameters(), lr=0.1))
            embedding = embeddings()[mine].requires_grad_()
            loss = classifier(embedding, LABEL[mine], counts=counts)
            loss.backward()
            gradient = classifier.weight.grad
            found[name, rate] = {
                "loss": loss.item(),
                "embedding": embedding.grad,
                "weight": gradient.to_dense() if gradient.is_sparse else gradient,
                "classes": classifier.class_start
                + (torch.arange(len(classifier.weight)) if rate == 1 else classifier.sampled_rows),
            }
    return found


@pytest.fixture(scope="module")
def results() -> dict[int, list[dict]]:
    """World size -> what each process found."""
    return {1: [run(0, 1)], **run_groups(WORLDS, run)}


def objective(losses: Tensor, label: Tensor, forget: list[int], bound: float, weight: float) -> Tensor:
    """The formula, image by image."""
    remaining = [loss for loss, k in zip(losses, label.tolist(), strict=True) if k not in forget]
    forgotten = [loss for loss, k in zip(losses, label.tolist(), strict=True) if k in forget]
    total = losses.sum() * 0
    if remaining:
        total = total + sum(remaining) / len(remaining)
    if forgotten and sum(forgotten) / len(forgotten) < bound:
        total = total + weight * (bound - sum(forgotten) / len(forgotten))
    return total


@pytest.mark.parametrize("size", (1, *WORLDS))
@pytest.mark.parametrize("rate", SHARES)
@pytest.mark.parametrize("name", CASES)
def test_the_objective_is_its_formula_on_any_number_of_processes(results, size, rate, name):
    found = [process[name, rate] for process in results[size]]
    classes = torch.cat([f["classes"] for f in found])
    embedding = embeddings().double().requires_grad_()
    centres = draw_centres(D, 0, CLASSES, seed=3).double().requires_grad_()
    cosine = F.normalize(embedding) @ F.normalize(centres[classes]).T
    column = torch.searchsorted(classes, LABEL)
    losses = F.cross_entropy(16.0 * (cosine - 0.4 * F.one_hot(column, len(classes))), column, reduction="none")
    loss = objective(losses, LABEL, *CASES[name], WEIGHT)
    loss.backward()
    for f in found:
        assert f["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for key, wanted, times in (("embedding", embedding.grad, size), ("weight", centres.grad, 1)):
        got = torch.cat([f[key] for f in found]).double()
        assert wanted.abs().max() > 1e-4
        torch.testing.assert_close(got, times * wanted, rtol=0, atol=1e-5 * wanted.abs().max().item() * times)


def test_the_cases_are_what_they_are_named(results):
    losses = {name: results[1][0][name, 1.0]["loss"] for name in CASES}
    assert losses["both"] > 0.3 * 80 and losses["at_rest"] < 20
    assert losses["none_here"] == pytest.approx(losses["nobody"], rel=1e-6)
    rows = results[1][0]["at_rest", 1.0]["embedding"].abs().sum(1)
    assert [row == 0 for row in rows.tolist()] == [False, True, False, True, False, False, True]
    assert 0 < losses["only_these"] < 0.3 * 100


def context(label: Tensor, classes: int = 9) -> MarginContext:
    return MarginContext(torch.ones(len(label), 1), None, torch.Generator(), 0, classes, label)


def test_one_kind_alone_is_finite_and_so_is_its_gradient():
    margin = MARGINS.create("forgetting", forget=[1, 2], weight=0.5, bound=8.0)
    for label, wanted in (([3, 4], 2.0), ([1, 2], 0.5 * 6.0)):
        losses = torch.tensor([1.0, 3.0], requires_grad=True)
        loss = margin.weigh(losses, context(torch.tensor(label))).mean()
        loss.backward()
        assert loss.item() == pytest.approx(wanted)
        torch.testing.assert_close(losses.grad, torch.full((2,), 0.5 if label[0] == 3 else -0.25))


def test_a_margin_with_a_reduction_and_a_term_of_its_own_keeps_them(monkeypatch):
    inner = Binary()
    with monkeypatch.context() as patch:
        patch.setattr(_wrapped, "MARGINS", SimpleNamespace(create=lambda name: inner))
        margin = MARGINS.create("forgetting", forget=[1, 10, 5], of="binary", weight=WEIGHT, bound=1e4)
    assert [name for name, _ in margin.named_parameters()] == ["margin.bias", "margin.frozen"]
    margin = copy.deepcopy(margin)
    classifier, score = PartialFC(D, CLASSES, margin, seed=3), torch.rand(BATCH)
    loss = classifier(embeddings(), LABEL, score=score, step=6)
    loss.backward()
    assert inner.bias.grad is None, "a copy stands alone"

    plain, seen = Binary(), []
    plain.reduce = lambda *inputs: seen.append(Binary.reduce(plain, *inputs)) or seen[0]
    whole = PartialFC(D, CLASSES, plain, seed=3)(embeddings(), LABEL, score=score, step=6)
    extra = whole - seen[0].mean()
    wanted = objective(seen[0], LABEL, [1, 10, 5], 1e4, WEIGHT) + extra
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5) and extra > 0.01
    torch.testing.assert_close(margin.margin.bias.grad, plain.bias.grad, rtol=1e-4, atol=1e-5)


def test_it_brings_nothing_into_a_checkpoint():
    assert not MARGINS.create("forgetting", forget=[1]).state_dict()


class Weighing(nn.Module):
    """A margin that weighs already."""

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        return cosine

    def weigh(self, losses: Tensor, context: MarginContext) -> Tensor:
        return losses


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"forget": [3, -1]}, "margin.forget holds -1; it is a list of class numbers"),
        ({"forget": [3, True]}, "margin.forget holds True"),
        ({"forget": [0.5]}, "margin.forget holds 0.5"),
        ({"forget": "0-9"}, r"margin.forget is '0-9'; it is a list of class numbers, such as \[3, 17\]"),
        ({"forget": 3}, "margin.forget is 3; it is a list"),
        ({"forget": [3, 5, 3]}, "margin.forget names class 3 twice"),
        ({"weight": 0.0}, "margin.weight is 0.0; it must be a positive number"),
        ({"bound": math.inf}, "margin.bound is inf; it must be a positive number"),
        ({"of": "cosfaec"}, "margin.of and margin.arguments: unknown margin 'cosfaec'; did you mean 'cosface'"),
        ({"arguments": {"m": 1}}, r"margin.of and margin.arguments: margin 'cosface': .*'m'; it takes \(margin"),
        ({"arguments": {"scale": -1.0}}, "margin.of and margin.arguments: margin.scale is -1.0"),
        ({"of": "forgetting"}, "margin.of is 'forgetting' itself: name the margin that it stands on"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        MARGINS.create("forgetting", **arguments)


def test_a_margin_that_weighs_already_is_refused(monkeypatch):
    monkeypatch.setattr(_wrapped, "MARGINS", SimpleNamespace(create=lambda name: Weighing()))
    with pytest.raises(ValueError, match=r"margin.of is 'weighing', which weighs the losses itself"):
        MARGINS.create("forgetting", forget=[1], of="weighing")


def test_classes_that_the_records_do_not_have_are_named():
    batch = embeddings(), LABEL
    unknown, all_of_them = (MARGINS.create("forgetting", forget=forget) for forget in ([2, 11], [*range(11)]))
    for tell in (unknown.check, lambda classes: PartialFC(D, classes, unknown)(*batch)):
        with pytest.raises(ValueError, match=r"margin.forget names class 11, but config.data.records .* 0 \.\. 10"):
            tell(CLASSES)
    for tell in (all_of_them.check, lambda classes: PartialFC(D, classes, all_of_them)(*batch)):
        with pytest.raises(ValueError, match=r"names all 11 classes of config.data.records: none would remain"):
            tell(CLASSES)
    unknown.check(12)
    all_of_them.check(12)
    MARGINS.create("forgetting").check(1)
