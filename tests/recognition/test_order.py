import numpy as np
import pytest

from recognition.data.order import KEPT_EPOCHS, SampleOrder

SHAPES = [(37, 16, 1), (37, 16, 3), (64, 16, 4), (5, 13, 2), (1, 3, 3), (100, 100, 7), (1000, 128, 8), (3, 50, 4)]
EPOCH_0 = [8, 0, 18, 5, 9, 3, 12, 16, 17, 13, 15, 11, 7, 1, 10, 14, 2, 4, 19, 6]
EPOCH_1 = [14, 2, 3, 0, 9, 8, 17, 12, 10, 16, 6, 15, 7, 1, 18, 19, 11, 5, 13, 4]


def stream(n: int, batch: int, world_size: int, steps: range, seed: int = 3) -> np.ndarray:
    """Record numbers of these steps in the order of positions, put together from all processes."""
    records = np.full(len(steps) * batch, -1)
    for rank in range(world_size):
        order = SampleOrder(n, seed, batch, rank, world_size)
        for step in steps:
            positions = order.positions(step)
            places = positions - steps.start * batch
            assert (records[places] == -1).all(), "a position belongs to two processes"
            records[places] = order.indices(positions)
    assert (records >= 0).all(), "a position belongs to no process"
    return records


@pytest.mark.parametrize(("n", "batch", "world_size"), SHAPES)
def test_every_image_once_per_epoch(n, batch, world_size):
    steps = -(-3 * n // batch)
    records = stream(n, batch, world_size, range(steps))
    for epoch in range(3):
        assert sorted(records[epoch * n : (epoch + 1) * n]) == list(range(n))


@pytest.mark.parametrize(("n", "batch", "world_size"), SHAPES)
def test_stream_does_not_depend_on_processes(n, batch, world_size):
    steps = range(2, 2 + -(-2 * n // batch))
    np.testing.assert_array_equal(stream(n, batch, world_size, steps), stream(n, batch, 1, steps))


def test_goes_on_on_another_number_of_processes():
    whole = stream(37, 16, 1, range(9))
    parts = [stream(37, 16, 3, range(4)), stream(37, 16, 2, range(4, 6)), stream(37, 16, 5, range(6, 9))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(("n", "batch", "world_size"), SHAPES)
def test_counts_are_the_shares(n, batch, world_size):
    orders = [SampleOrder(n, 0, batch, rank, world_size) for rank in range(world_size)]
    counts = orders[0].counts()
    assert sum(counts) == batch and max(counts) - min(counts) <= 1
    for step in (0, 5):
        assert [len(order.positions(step)) for order in orders] == counts
    np.testing.assert_array_equal(orders[-1].positions(2)[:1], [2 * batch + world_size - 1])


def test_any_step_can_come_first():
    forward, backward = SampleOrder(37, 5, 16), SampleOrder(37, 5, 16)
    steps = [forward.indices(forward.positions(step)) for step in range(40)]
    for step in (39, 3, 4, 17, 0):
        np.testing.assert_array_equal(backward.indices(backward.positions(step)), steps[step])


def test_epochs_and_seeds_differ():
    first, second = (stream(100, 100, 1, range(step, step + 1)) for step in (0, 1))
    other = stream(100, 100, 1, range(1), seed=4)
    for one, two in ((first, second), (first, other), (second, other), (first, np.arange(100))):
        assert (one == two).mean() < 0.2


def test_permutation_is_the_one_of_earlier_runs():
    """A saved run goes on in the order it began with: numpy may change its streams, and this tells."""
    order = SampleOrder(20, 3, 20)
    assert order.indices(order.positions(0)).tolist() == EPOCH_0
    assert order.indices(order.positions(1)).tolist() == EPOCH_1


def test_shuffle_is_uniform():
    """Every image comes first equally often: chi-square of 5 classes, 99.99 % quantile at 4 degrees is 23.5."""
    first = [SampleOrder(5, seed, 5).indices(np.array([0]))[0] for seed in range(2000)]
    counts = np.bincount(first, minlength=5)
    assert ((counts - 400) ** 2 / 400).sum() < 23.5


def test_keeps_few_permutations():
    order = SampleOrder(10, 0, 7)
    for step in range(50):
        order.indices(order.positions(step))
        assert len(order._permutations) <= KEPT_EPOCHS
    assert all(kept.itemsize == 4 for kept in order._permutations.values())


def test_epochs_of_positions():
    order = SampleOrder(10, 0, 4)
    assert order.steps_per_epoch == 2.5
    assert [order.epoch_of(position) for position in (0, 9, 10, 19, 20)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 0, 4), "0 images"),
        ((10, -1, 4), "seed is -1"),
        ((10, 0, 3, 0, 4), "global batch of 3 leaves some of 4 processes"),
        ((10, 0, 8, 4, 4), "process 4 of 4"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        SampleOrder(*arguments)


def test_wrong_step():
    with pytest.raises(ValueError, match="step -1"):
        SampleOrder(10, 0, 4).positions(-1)
