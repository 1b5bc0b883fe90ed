"""Sampled steps in one process: what is drawn, what the optimizer moves, what is saved."""

from __future__ import annotations

import copy

import pytest
import torch

from recognition.margins import MARGINS
from recognition.partial_fc import PartialFC, blocks
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
    whole.bind(second)  # which does not hold its weight, and at sample_rate 1 need not
    assert len(second._optimizer_step_pre_hooks) == 1


def forgetful(rate: float = 0.1, **arguments) -> tuple[PartialFC, torch.optim.Optimizer]:
    return sampled_classifier(rate=rate, state="sampled", **arguments)


def test_momentum_of_the_last_sample_only_equals_a_reference():
    """Float64, class by class: a class keeps its momentum while it is sampled, and begins anew when it comes back."""
    classifier, optimizer = forgetful(rate=0.6, classes=40)
    weight, momentum = classifier.weight.detach().double(), torch.zeros(40, D, dtype=torch.float64)
    came_back = 0
    for step in range(6):
        micro_steps = (0, 1) if step == 4 else (0,)
        held: set[int] = set()
        for draw in micro_steps:
            classifier(*batch_of(40, 7, step + 20 * draw)[:2], step=step).backward()
            held |= set(classifier.sampled_rows.tolist())
        gradient = classifier.weight.grad.to_dense().double()
        optimizer.step()
        optimizer.zero_grad()
        for row in range(40):
            if row in held:
                momentum[row] = 0.9 * momentum[row] + gradient[row] + 5e-4 * weight[row]
                weight[row] -= 0.1 * momentum[row]
            else:
                came_back += bool(momentum[row].any())
                momentum[row] = 0
        kept = optimizer.state[classifier.weight]["momentum_buffer"]
        assert kept.is_sparse and kept.shape == (40, D) and kept.coalesce().values().shape == (len(held), D)
        torch.testing.assert_close(classifier.weight.double(), weight, rtol=1e-5, atol=1e-7)
        found = classifier.tensors(optimizer)["momentum_buffer"].double()
        torch.testing.assert_close(found, momentum, rtol=1e-5, atol=1e-6)
    assert came_back > 20


def test_what_is_kept_is_as_large_as_the_sample():
    classifier, optimizer = forgetful()
    for step in range(3):
        classifier(*batch_of(1000, 7)[:2], step=step).backward()
        optimizer.step()
        optimizer.zero_grad()
    kept = optimizer.state[classifier.weight]["momentum_buffer"]
    assert kept._values().untyped_storage().nbytes() == 4 * 100 * D and len(optimizer.state) == 1


@pytest.mark.parametrize("dense", [False, True])
def test_it_continues_exactly_from_what_was_saved(dense):
    """From the optimizer's own state, or from that of all classes with zeros, as a checkpoint holds it."""
    straight = forgetful(classes=40, rate=0.5)
    other = forgetful(classes=40, rate=0.5, seed=0)

    def advance(classifier: PartialFC, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            classifier(*batch_of(40, 7, step)[:2], step=step).backward()
            optimizer.step()
            optimizer.zero_grad()

    advance(*straight, range(3))
    other[0].load_state_dict(straight[0].state_dict())
    if dense:
        held = straight[0].tensors(straight[1])["momentum_buffer"].clone()
        other[1].state[other[0].weight]["momentum_buffer"] = held
    else:
        other[1].load_state_dict(copy.deepcopy(straight[1].state_dict()))
    advance(*straight, range(3, 6)), advance(*other, range(3, 6))
    for wanted, found in zip(*(c.tensors(o).values() for c, o in (straight, other)), strict=True):
        assert torch.equal(wanted, found)
    assert other[1].state[other[0].weight]["momentum_buffer"].is_sparse


def test_moments_with_a_step_count_of_the_run_are_not_forgotten():
    classifier = PartialFC(D, 40, MARGINS.create("cosface"), sample_rate=0.5, state="sampled")
    with pytest.raises(
        ValueError, match=r"classifier.state is 'sampled' and the optimizer AdamW; wanted optim.name=sgd"
    ):
        classifier.bind(torch.optim.AdamW(classifier.parameters()))


def test_the_gradient_of_one_backward_need_not_be_sorted_again():
    classifier, _ = sampled_classifier()
    total = torch.zeros(1000, D)
    for draw in (0, 1):
        classifier(*batch_of(1000, 7, draw)[:2]).backward()
        if draw == 0:
            assert classifier.weight.grad.is_coalesced()
            total += classifier.weight.grad.to_dense()
    other, _ = sampled_classifier()
    other(*batch_of(1000, 7, 1)[:2]).backward()
    assert torch.equal(classifier.weight.grad.to_dense(), total + other.weight.grad.to_dense())
    rows = classifier.weight.grad.coalesce().indices()[0]
    assert torch.equal(rows, rows.unique())


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_sgd_by_blocks_is_sgd(rate, monkeypatch):
    """Beside torch's own on the rows that have a gradient, with blocks that do not divide them, in float64."""
    monkeypatch.setattr(blocks, "BLOCK", 7 * 8 * D)
    classifier, optimizer = sampled_classifier(classes=101, rate=rate)
    classifier.double()
    weight, momentum = classifier.weight.detach().clone(), torch.zeros(101, D, dtype=torch.float64)
    for step in range(3):
        classifier(*batch_of(101, 7, step)[:2], step=step).backward()
        gradient, rows = classifier.weight.grad, classifier.sampled_rows
        assert gradient.is_sparse == (rate < 1)
        gradient = gradient.to_dense() if rate < 1 else gradient.clone()
        optimizer.step()
        assert classifier.weight.grad is not None, "the step gives the gradient back"
        optimizer.zero_grad()
        rows = slice(None) if rows is None else rows
        momentum[rows] = 0.9 * momentum[rows] + gradient[rows] + 5e-4 * weight[rows]
        weight[rows] -= 0.1 * momentum[rows]
        torch.testing.assert_close(classifier.weight.detach(), weight, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(classifier.tensors(optimizer)["momentum_buffer"], momentum, rtol=1e-12, atol=1e-14)


def test_nesterov_is_left_to_torch():
    classifier, _ = sampled_classifier(classes=40)
    other = PartialFC(D, 40, MARGINS.create("cosface"))
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": True}
    optimizers = [torch.optim.SGD(one.parameters(), **settings) for one in (classifier, other)]
    classifier.sample = lambda *_: torch.arange(40)
    classifier.bind(optimizers[0]), other.bind(optimizers[1])
    for step in range(2):
        for one, optimizer in zip((classifier, other), optimizers, strict=True):
            one(*batch_of(40, 7, step)[:2], step=step).backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(classifier.weight, other.weight)
    assert classifier._update.touched == 0
