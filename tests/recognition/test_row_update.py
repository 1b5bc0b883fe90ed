"""Sampled steps in one process: what is drawn, what the optimizer moves, what is saved."""

from __future__ import annotations

import copy

import pytest
import torch

from recognition.margins import MARGINS
from recognition.partial_fc import PartialFC
from tests.recognition.test_partial_fc import OPTIMIZERS, D, batch_of


def sampled_classifier(classes: int = 1000, rate: float = 0.1, **arguments) -> tuple[PartialFC, torch.optim.Optimizer]:
    classifier = PartialFC(D, classes, MARGINS.create("cosface"), sample_rate=rate, **arguments)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    classifier.bind(optimizer)
    return classifier, optimizer


def test_a_draw_depends_on_seed_and_step_and_holds_every_positive():
    classifier, _ = sampled_classifier()
    label = torch.tensor([999, 0, 5, 5])
    rows = classifier.sample(label, step=3)
    assert len(rows) == 100 and {0, 5, 999} <= set(rows.tolist())
    assert torch.equal(rows, rows.unique())  # sorted, each once
    torch.manual_seed(99)
    assert torch.equal(rows, sampled_classifier()[0].sample(label, step=3))
    assert not torch.equal(rows, classifier.sample(label, step=4))
    assert not torch.equal(rows, sampled_classifier(seed=1)[0].sample(label, step=3))
    other = classifier.sample(torch.tensor([1]), step=3)  # another micro-step: almost the same fill
    assert len(set(rows.tolist()) & set(other.tolist())) >= 97
    assert torch.equal(classifier.sample(torch.arange(0, 1000, 2), 0), torch.arange(0, 1000, 2))  # above the budget
    times = sum(torch.bincount(classifier.sample(label, step), minlength=1000) for step in range(300))
    assert times.sum() == 30_000 and times[[0, 5, 999]].eq(300).all()
    fill = times[(times < 300)].double()
    assert 15 < fill.mean() * 1.0 < 45 and fill.min() > 5 and fill.max() < 70  # 29.2 +- 5.1


def test_a_scaler_changes_nothing_and_an_overflow_moves_nothing():
    batch = batch_of(1000, 7)
    plain, plain_optimizer = sampled_classifier()
    scaled, optimizer = sampled_classifier()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(2):
        plain(*batch[:2], step=step).backward()
        scaler.scale(scaled(*batch[:2], step=step)).backward()
        scaler.unscale_(optimizer)
        plain_optimizer.step(), scaler.step(optimizer), scaler.update()
        plain_optimizer.zero_grad(), optimizer.zero_grad()
    wanted, found = plain.tensors(plain_optimizer), scaled.tensors(optimizer)
    assert wanted.keys() == found.keys() == {"weight", "momentum_buffer"}
    for name in wanted:
        assert torch.equal(wanted[name], found[name])

    before = {name: value.clone() for name, value in found.items()}
    scaler.scale(scaled(*batch[:2], step=2) * torch.inf).backward()
    scaler.step(optimizer), scaler.update()
    assert all(torch.equal(value, before[name]) for name, value in scaled.tensors(optimizer).items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_dicts_hold_all_local_classes_and_continue_exactly(name):
    def build() -> tuple[PartialFC, torch.optim.Optimizer]:
        classifier = PartialFC(D, 40, MARGINS.create("cosface"), sample_rate=0.3)
        optimizer = OPTIMIZERS[name][0](classifier.parameters(), **OPTIMIZERS[name][1])
        classifier.bind(optimizer)
        return classifier, optimizer

    def advance(classifier: PartialFC, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            classifier(*batch_of(40, 7, step)[:2], step=step).backward()
            optimizer.step()
            optimizer.zero_grad()

    straight, other = build(), build()
    advance(*straight, range(3))
    other[0].load_state_dict(straight[0].state_dict())
    other[1].load_state_dict(copy.deepcopy(straight[1].state_dict()))  # torch would share the tensors
    assert straight[1].param_groups[0]["params"] == [straight[0].weight] and len(straight[1].state) == 1
    for value in straight[0].tensors(straight[1]).values():
        assert value.shape == (40, D)
    advance(*straight, range(3, 6)), advance(*other, range(3, 6))
    for wanted, found in zip(*(c.tensors(o).values() for c, o in (straight, other)), strict=True):
        assert torch.equal(wanted, found)


def test_in_eval_mode_all_classes_take_part():
    sampled, _ = sampled_classifier()
    whole = PartialFC(D, 1000, MARGINS.create("cosface"))
    batch = batch_of(1000, 7)[:2]
    assert torch.equal(sampled.eval()(*batch), whole(*batch)) and sampled.sampled_rows is None
    assert not torch.equal(sampled.train()(*batch), whole(*batch))


def test_binding_another_optimizer_lets_go_of_the_first():
    classifier, first = sampled_classifier()
    second = torch.optim.SGD(classifier.parameters(), lr=0.1)
    classifier.bind(second)
    assert not first._optimizer_step_pre_hooks and not first._optimizer_step_post_hooks
    classifier(*batch_of(1000, 7)[:2]).backward()
    second.step()
    whole = PartialFC(D, 1000, MARGINS.create("cosface"))
    whole.bind(second)  # at sample_rate 1 there is nothing to bind
    assert len(second._optimizer_step_pre_hooks) == 1
