"""Hard negatives: what is drawn, from what, and that training with them stays one softmax and one update."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recognition.margins import MARGINS
from recognition.partial_fc import PartialFC
from recognition.partial_fc.sampling import nearness
from tests.recognition.test_partial_fc import D, batch_of
from tests.recognition.test_row_update import sampled_classifier

WIDE = 64


def families(classes: int, size: int = 8) -> torch.Tensor:
    """Unit centres, `size` of each kind alike."""
    kind = F.normalize(torch.randn(classes // size, WIDE)).repeat_interleave(size, 0)
    return F.normalize(kind + 0.8 * F.normalize(torch.randn(classes, WIDE)))


def test_nearness_is_the_largest_cosine():
    embedding, weight = 3 * torch.randn(5, WIDE), 0.01 * torch.randn(70, WIDE)
    exact = (F.normalize(embedding.double()) @ F.normalize(weight.double()).T).amax(0)
    assert (nearness(embedding, weight) - exact).abs().max() < 3e-3  # rounded to bf16
    assert torch.equal(nearness(embedding, weight[:0]), torch.empty(0))


def test_hard_negatives_are_the_nearest_classes_where_a_random_draw_holds_some():
    centres, label = families(2000), torch.arange(0, 2000, 101)
    embedding = 5 * F.normalize(centres[label] + 0.7 * F.normalize(torch.randn(len(label), WIDE)))
    cosine = F.normalize(embedding) @ centres.T
    cosine[torch.arange(len(label)), label] = -1
    nearest = cosine.topk(3, 1).indices.unique()
    share = {}
    for sampling in ("uniform", "hard_negatives"):
        classifier = PartialFC(WIDE, 2000, MARGINS.create("cosface"), sample_rate=0.1, sampling=sampling)
        classifier.init_centres(centres)
        rows = classifier.sample(label, 3, embedding)
        assert len(rows) == 200 and torch.equal(rows, rows.unique()) and torch.isin(label, rows).all()
        share[sampling] = torch.isin(nearest, rows).double().mean().item()
    assert share["hard_negatives"] > 0.8 and share["uniform"] < 0.3


def test_a_share_of_the_fill_is_hard_and_the_rest_is_the_uniform_draw():
    embedding, label, _ = batch_of(1000, 7)
    plain = set(sampled_classifier()[0].sample(label, 3, embedding).tolist())
    drawn = {}
    for share in (0.0, 0.25, 1.0):
        classifier, _ = sampled_classifier(sampling="hard_negatives", hard_share=share)
        drawn[share] = classifier.sample(label, 3, embedding)
        assert len(drawn[share]) == 100
        assert torch.equal(drawn[share], classifier.sample(label, 3, embedding))
    assert set(drawn[0.0].tolist()) == plain
    near = nearness(embedding, classifier.weight)
    near[label] = -1
    fill = 100 - len(label.unique())
    for share, rows in drawn.items():
        wanted = near.topk(round(share * fill)).indices
        assert torch.isin(wanted, rows).all()
        assert len(set(rows.tolist()) - set(wanted.tolist()) - plain) == 0


def test_every_micro_step_has_its_own_hard_negatives_and_the_update_moves_them_all():
    classifier, optimizer = sampled_classifier(sampling="hard_negatives", hard_share=1.0)
    sampled, before = [], classifier.weight.detach().clone()
    for draw in (0, 1):
        classifier(*batch_of(1000, 7, draw)[:2], step=3).backward()
        sampled.append(set(classifier.sampled_rows.tolist()))
    optimizer.step()
    moved = (classifier.weight.detach() != before).any(1).nonzero().squeeze(1)
    assert sampled[0] != sampled[1] and set(moved.tolist()) == sampled[0] | sampled[1]


@pytest.mark.parametrize("sampling", ["uniform", "hard_negatives"])
def test_a_class_range_without_classes_draws_none(sampling):
    classifier, _ = sampled_classifier(sampling=sampling)
    classifier.weight = torch.nn.Parameter(torch.empty(0, D))
    assert classifier.sample(torch.tensor([3]), 0, torch.ones(1, D)).tolist() == []
