"""torchrun --max-restarts: processes killed at any moment, and still the weights of the undisturbed run."""

import random
import time

import pytest

from tests.recovery.launch import Training, assert_same_run, images_of, kill, needs_proc

pytestmark = [pytest.mark.slow, needs_proc]


def test_twice_killed_and_restarted_and_nothing_shows(recipe, undisturbed):
    chance = random.Random(1)
    options = ["--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    with Training(recipe, "killed", torchrun=options) as training:
        for first, rank in ((1, 1), (8, 0)):  # the second is the process that writes logs
            training.wait_for_update(chance.randint(first, first + 5))
            time.sleep(chance.uniform(0, 0.3))  # anywhere in an update or a save
            kill(training.worker(rank))
        assert training.wait() == 0, training.output
        training.assert_gone()
        assert training.output.count("records   ") == 3  # as many starts: each kill cost one restart
    assert assert_same_run(undisturbed, training.run) > 100_000
    assert images_of(training.run) == images_of(undisturbed)
