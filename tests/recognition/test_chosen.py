"""Which images of a batch are degraded."""

import numpy as np
import pytest

from recognition.data.chosen import Choice
from recognition.data.degrade import Degradation
from recognition.data.order import SampleOrder


def degraded(choice, order, step, seed=0):
    return choice.rows(seed, order.positions(step))


def made(order, share, rule):
    return Choice(share, rule, order.global_batch, order.epoch_size)


@pytest.mark.parametrize(
    ("share", "batch", "wanted"), [(0.5, 16, 8), (0.5, 7, 4), (0.3, 10, 3), (1.0, 5, 5), (0, 5, 0)]
)
def test_half_batch_takes_an_exact_share_of_every_global_batch(share, batch, wanted):
    order = SampleOrder(37, 0, batch)
    choice = made(order, share, "half_batch")
    assert choice.rows_per_batch == wanted
    assert {int(degraded(choice, order, step).sum()) for step in range(50)} == {wanted}


@pytest.mark.parametrize("rule", ["independent", "half_batch", "legacy_epoch_head"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_rows_are_those_of_one_process(rule, world_size):
    orders = [SampleOrder(100, 0, 7, rank, world_size) for rank in range(world_size)]
    alone = SampleOrder(100, 0, 7)
    choice = made(alone, 1.0 if rule.startswith("legacy") else 0.5, rule)
    for step in (39, 0, 3, 4, 17):
        whole = degraded(choice, alone, step, 5)
        together = np.zeros(7, bool)
        for order in orders:
            together[order.positions(step) - step * 7] = degraded(choice, order, step, 5)
        np.testing.assert_array_equal(together, whole)
    every = choice.rows(5, np.arange(280)).reshape(40, 7)
    np.testing.assert_array_equal(every[39], degraded(choice, alone, 39, 5))
    scattered = np.random.default_rng(0).permutation(280)
    np.testing.assert_array_equal(choice.rows(5, scattered), every.ravel()[scattered])
    assert choice.rows(5, np.zeros(0, np.int64)).shape == (0,)


def test_half_batch_is_drawn_anew_for_each_step_and_seed():
    choice = Choice(0.5, "half_batch", 8, 80)
    rows = choice.rows(0, np.arange(80_000)).reshape(-1, 8)
    np.testing.assert_allclose(rows.mean(axis=0), 0.5, atol=0.02)  # no place is preferred
    joint = rows.T.astype(float) @ rows / len(rows)  # nor any pair: 4/8 x 3/7
    np.testing.assert_allclose(joint[~np.eye(8, dtype=bool)], 3 / 14, atol=0.02)
    assert len(np.unique(rows, axis=0)) == 70  # all choices of 4 out of 8
    assert (rows != choice.rows(1, np.arange(80_000)).reshape(-1, 8)).any(axis=1).mean() > 0.9


def test_independent_draws_are_those_of_earlier_runs():
    """As it was before there was a choice: a saved run goes on with it."""
    wanted = [0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 1, 0]
    assert Choice(0.5).rows(3, np.arange(12)).tolist() == wanted
    assert (Degradation(0.5).draw(3, np.arange(12)).side > 0).tolist() == wanted


def test_legacy_leaves_the_first_batches_of_an_epoch_by_their_number():
    """The published program: 494,414 images in batches of 16, of whose 30,901 batches 9 stay as stored."""
    order = SampleOrder(494_414, 0, 16)
    choice = made(order, 1.0, "legacy_epoch_head")
    rows = choice.rows(0, np.arange(31_000 * 16)).reshape(-1, 16)
    kept = np.flatnonzero(~rows.all(axis=1))
    assert not rows[kept].any() and kept.tolist() == [*range(9), *range(30_901, 30_910)]


@pytest.mark.parametrize(("images", "batch"), [(100, 7), (49, 7), (23, 5), (24, 1), (1000, 10)])
def test_legacy_counts_batches_from_the_epoch_in_which_they_begin(images, batch):
    choice = Choice(1.0, "legacy_epoch_head", batch, images)
    epoch, number = -1, 0
    for step in range(3 * images // batch):
        if step * batch // images > epoch:
            epoch, number = step * batch // images, 0
        wanted = number > batch // 2
        assert choice.rows(0, step * batch + np.arange(batch)).tolist() == [wanted] * batch
        number += 1


def test_the_degradation_takes_its_rows_from_the_choice():
    degradation = Degradation(0.5, (16, 16), choose="half_batch", global_batch=6, epoch_size=36)
    draw = degradation.draw(2, np.arange(60))
    np.testing.assert_array_equal(draw.side, np.where(Choice(0.5, "half_batch", 6, 36).rows(2, np.arange(60)), 16, 0))
    free = Degradation(1.0, (7, 56), blur=1.0).draw(2, np.arange(60))  # sides and blur do not depend on the choice
    held = Degradation(0.5, (7, 56), blur=1.0, choose="half_batch", global_batch=6, epoch_size=36).draw(
        2, np.arange(60)
    )
    rows = held.side > 0
    assert rows.sum() == 30
    np.testing.assert_array_equal(held.side[rows], free.side[rows])
    np.testing.assert_array_equal(held.sigma, np.where(rows, free.sigma, 0))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0.5, "half"), "choose='half' must be one of independent, half_batch, legacy_epoch_head"),
        ((0.5, "half_batch"), "needs the global_batch and epoch_size"),
        ((0.05, "half_batch", 6, 36), "share=0.05 of a global batch of 6 is not one image"),
        ((0.5, "legacy_epoch_head", 6, 360), "share=0.5 must be 1"),
        ((1.0, "legacy_epoch_head", 128, 4849), "first 65 batches .* an epoch has 37.88: nothing would be degraded"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        Choice(*arguments)
    share, *rest = arguments
    with pytest.raises(ValueError, match=words):
        Degradation(share, **dict(zip(("choose", "global_batch", "epoch_size"), rest, strict=False)))
