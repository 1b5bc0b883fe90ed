"""Batches of P identities with K images each."""

import signal

import numpy as np
import pytest
import torch

from recognition import config as settings
from recognition import distributed, doctor, plan
from recognition.data.balanced import BalancedOrder
from recognition.data.order import KEPT_EPOCHS
from recognition.data.records import Records
from recognition.trainer import Trainer
from tests.tiny import nameable
from tests.training import QUIET, run_trainer, tiny_recipe

SHAPES = [  # images of each class, K, P
    ([5] * 6, 2, 3),
    ([5] * 6, 2, 6),  # every class in every batch
    ([1, 2, 3, 9, 30], 2, 3),  # a class with more groups than an epoch has batches
    ([4, 4, 4, 4, 100, 0, 60], 4, 2),  # two such classes, and one without an image
    ([1] * 5, 4, 5),  # every class has fewer images than a group
    ([3, 0, 7, 2, 12, 1, 1, 5, 6, 4], 1, 8),  # each image alone
    ([17, 3, 8, 25, 11, 2, 9, 14, 6, 30, 1, 5], 3, 4),
    ([7], 3, 1),
]
LABELS = [3, 0, 1, 2, 0, 1, 3, 3, 2, 0, 1, 3, 3]
EPOCH_0 = [5, 10, 6, 0, 0, 7, 4, 9, 2, 5, 3, 8, 11, 12, 9, 1]


def labels_of(sizes, seed=0):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    np.random.default_rng(seed).shuffle(labels)
    return labels


def stream(labels, per_class, batch, world_size, steps, seed=3):
    """Record numbers of these steps in the order of positions, put together from all processes."""
    records = np.full(len(steps) * batch, -1)
    for rank in range(world_size):
        order = BalancedOrder(labels, per_class, seed, batch, rank, world_size)
        for step in steps:
            positions = order.positions(step)
            records[positions - steps.start * batch] = order.indices(positions)
    assert (records >= 0).all()
    return records


@pytest.mark.parametrize(("sizes", "per_class", "classes"), SHAPES)
def test_every_batch_holds_p_identities_with_k_images(sizes, per_class, classes):
    labels = labels_of(sizes)
    order = BalancedOrder(labels, per_class, 3, classes * per_class)
    groups = -(-np.array(sizes) // per_class)
    batches = -(-groups.sum() // classes)
    assert (order.batches_per_epoch, order.epoch_size) == (batches, batches * classes * per_class)
    assert order.steps_per_epoch == batches
    used = np.zeros(len(labels), int)
    for epoch in range(4):
        chosen = order.indices(np.arange(epoch * order.epoch_size, (epoch + 1) * order.epoch_size))
        assert order.epoch_of(epoch * order.epoch_size) == order.epoch_of((epoch + 1) * order.epoch_size - 1) == epoch
        here = labels[chosen].reshape(batches, classes, per_class)
        assert (here == here[:, :, :1]).all(), "a group of several identities"
        pictures = chosen.reshape(batches, classes, per_class)
        once = np.bincount(chosen, minlength=len(labels))
        used += once
        for number, size in enumerate(sizes):
            places = here[:, :, 0] == number
            times = places.sum(axis=1)  # of the class in each batch
            assert times.max() - times.min() <= 1, "a class that is more than once in one batch and less in another"
            if groups[number] <= batches:
                assert times.max() <= 1
            for group in pictures[places]:
                assert len(set(group.tolist())) == min(size, per_class)
            if size:
                share = times.sum() * per_class / size  # uses of each image
                among = once[labels == number]
                assert among.min() == int(share) >= 1 and among.max() == -int(-share // 1)
                assert times.sum() >= groups[number]
        assert once.sum() == order.epoch_size
    assert order.often == (groups > batches).sum()


def test_images_and_identities_are_used_equally_often_over_time():
    sizes = [5, 6, 7, 3] * 3
    labels = labels_of(sizes)
    order, epochs = BalancedOrder(labels, 4, 0, 20), 400
    chosen = order.indices(np.arange(epochs * order.epoch_size)).reshape(epochs, -1)
    uses = np.stack([np.bincount(row, minlength=len(labels)) for row in chosen]).mean(axis=0)
    for number, size in enumerate(sizes):
        among = uses[labels == number]
        places = 4 * -(-size // 4)
        assert among.mean() >= places / size
        assert np.abs(among - among.mean()).max() < 4 * 0.5 / np.sqrt(epochs)  # a use more or less: deviation below 1/2
    extra = uses.sum() - sum(4 * -(-size // 4) for size in sizes)
    assert extra == pytest.approx(order.epoch_size - 84)
    together = np.zeros((12, 12))
    for batch in labels[chosen].reshape(-1, 5, 4)[:, :, 0]:
        together[np.ix_(batch, batch)] += 1
    large = np.flatnonzero(np.array(sizes) > 4)  # of two groups: any two of them meet equally often
    pairs = together[np.ix_(large, large)][np.triu_indices(len(large), 1)]
    assert pairs.min() > 0.8 * pairs.mean() and pairs.max() < 1.2 * pairs.mean()


@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize(("sizes", "per_class", "classes"), SHAPES[:4:3] + SHAPES[6:7])
def test_stream_does_not_depend_on_processes_and_any_step_comes_first(sizes, per_class, classes, world_size):
    labels, batch = labels_of(sizes), per_class * classes
    whole = stream(labels, per_class, batch, 1, range(40))
    np.testing.assert_array_equal(stream(labels, per_class, batch, world_size, range(40)), whole)
    order = BalancedOrder(labels, per_class, 3, batch)
    for step in (39, 3, 17, 0):
        np.testing.assert_array_equal(order.indices(order.positions(step)), whole[step * batch : (step + 1) * batch])
    parts = [stream(labels, per_class, batch, size, range(13, 20)) for size in (1, world_size)]
    np.testing.assert_array_equal(*parts)
    np.testing.assert_array_equal(parts[0], whole[13 * batch : 20 * batch])
    assert len(order._permutations) <= KEPT_EPOCHS and order.indices([0]).dtype == np.int64


def test_epochs_and_seeds_differ():
    labels = labels_of([4] * 50)
    first, second = (stream(labels, 4, 200, 1, range(step, step + 1)) for step in (0, 1))
    other = stream(labels, 4, 200, 1, range(1), seed=4)
    for one, two in ((first, second), (first, other), (second, other)):
        assert (one == two).mean() < 0.2


def test_order_is_the_one_of_earlier_runs():
    """A saved run goes on in the order it began with: numpy may change its streams, and this tells."""
    order = BalancedOrder(np.array(LABELS), 2, 3, 4)
    assert order.indices(np.arange(order.epoch_size)).tolist() == EPOCH_0


def test_many_images_are_drawn_without_a_loop_over_them():
    """A million images of 100,000 classes: an epoch's draw calls numpy some thousand times, for 128 rows."""
    labels = np.random.default_rng(0).integers(0, 100_000, 1_000_000)
    order = BalancedOrder(labels, 4, 0, 512)
    chosen = order.indices(np.arange(order.epoch_size))
    assert np.bincount(chosen, minlength=len(labels)).min() == 1
    here = labels[chosen].reshape(-1, 128, 4)
    assert (here == here[:, :, :1]).all()
    several = np.sort(here[:, :, 0], axis=1)
    assert (several[:, 1:] != several[:, :-1]).all()


@pytest.mark.parametrize(
    ("sizes", "per_class", "batch", "words"),
    [
        ([5] * 6, 4, 10, "data.per_class is 4, and a global batch has 10 images"),
        ([5] * 6, 0, 10, "data.per_class is 0"),
        ([5] * 6, 16, 8, "data.per_class is 16"),
        ([5] * 6 + [0] * 9, 2, 16, "balanced batches of 8 identities with 2 images each from 6 classes"),
        ([], 2, 16, "0 images"),
    ],
)
def test_wrong_arguments(sizes, per_class, batch, words):
    with pytest.raises(ValueError, match=words):
        BalancedOrder(labels_of(sizes), per_class, 0, batch)


@pytest.fixture
def recipe(tmp_path):
    with nameable():
        yield tiny_recipe(tmp_path)


SCHEMES = (
    "data.sampling=balanced", "data.per_class=2", "degradation.share=0.5", "degradation.choose=half_batch",
    "degradation.sides=[16,16]",
)  # fmt: skip


@pytest.fixture
def world():
    yield distributed.start("cpu")
    distributed.stop()


def test_a_run_goes_on_bit_for_bit_at_another_step(recipe, world):
    common = (*SCHEMES, "train.save_every=0.0", "train.log_every=1", "schedule.epochs=1.5", *QUIET)
    made, degraded = [], []

    def stop(trainer):
        if trainer.update == 4:
            trainer.signals.received = signal.SIGTERM

    def look(trainer):
        made.append((trainer.schedule.total, trainer.order.epoch_size))
        draw = trainer.loader.degradation.draw(0, trainer.order.positions(trainer.update))
        degraded.append((int((draw.side == 16).sum()), int((draw.side == 0).sum())))

    straight = run_trainer(recipe, *common, "run.name=straight", world=world, at=look)
    assert set(made) == {(9, 36)}  # 6 classes of 5 images: 18 groups of 2, 6 batches of 6
    assert degraded == [(3, 3)] * 9
    run_trainer(recipe, *common, "run.name=broken", world=world, at=stop)
    rest = run_trainer(recipe, *common, "run.name=broken", world=world)
    assert min(rest.keys) == 6 and max(rest.keys) == 9
    assert all(rest.keys[update] == straight.keys[update] for update in rest.keys)
    differ = [name for name, value in straight.tensors.items() if not torch.equal(value, rest.tensors[name])]
    assert not [name for name in differ if "num_batches" not in name]
    assert all(rest.losses[update] == straight.losses[update] for update in rest.keys)
    records = Records(recipe.parent / "train.rec")
    seen = np.concatenate([straight.keys[update] for update in range(1, 7)])
    assert {tuple(key) for key in seen.tolist()} == {(0, key) for key in range(30)}  # all of them in an epoch
    labels = records.labels[seen[:, 1]].reshape(6, 3, 2)
    assert (labels[:, :, 0] == labels[:, :, 1]).all()
    assert all(len(set(row.tolist())) == 3 for row in labels[:, :, 0])


def test_epochs_count_in_balanced_images(recipe, world):
    trainer = Trainer(settings.load(recipe, (*SCHEMES, "train.save_every=0.5", "train.keep=0", *QUIET)), world)
    lines = dict(line.split(maxsplit=1) for line in plan.describe(trainer))
    assert lines["batches"] == "3 identities with 2 images each, 6 of them an epoch, 36 images"
    assert lines["steps"].startswith("12 updates of 6 images")
    assert doctor.checkpoints_to_come(trainer) == 6  # four halves of epochs, and two more
    trainer.update = 3
    assert trainer.due(0.5)
    trainer.update = 5
    assert not trainer.due(1.0)
    trainer.close()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("data.sampling=balance",), "config.data.sampling is 'balance'; it must be shuffled or balanced"),
        (("data.sampling=balanced",), "data.per_class is 4, and a global batch has 6 images"),
        (("degradation.choose=half",), "choose='half' must be one of independent, half_batch, legacy_epoch_head"),
        (("degradation.choose=half_batch", "degradation.share=0.05"), "global batch of 6 is not one image"),
        (("degradation.choose=legacy_epoch_head", "degradation.share=0.5"), "share=0.5 must be 1"),
    ],
)
def test_wrong_settings(recipe, world, overrides, words):
    with pytest.raises(ValueError, match=words):
        Trainer(settings.load(recipe, (*overrides, *QUIET)), world)
