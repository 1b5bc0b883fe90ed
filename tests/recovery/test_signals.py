"""SIGTERM and Ctrl-C: the first stops in order, a second one at once; the same command continues the same run."""

import os
import re
import signal
import time

import pytest

from recognition import checkpoint
from tests.recovery.launch import PACE, Training, assert_same_run, images_of, kill, losses, needs_proc, until

pytestmark = [pytest.mark.slow, needs_proc]
TWO = ["--standalone", "--nproc-per-node=2"]
APART = 1.5  # seconds between two signals that are meant as two
EVALUATED = (
    "evaluation.sets=[{'name': 'small', 'kind': 'drawn', 'records': 'RECORDS', 'count': 20, 'folds': 2}]",
    "evaluation.at_start=False",
    "evaluation.every=0.4",
    f"evaluation.low_res={[*range(10, 110)]}",  # takes a while
)


def stopped_at(training, name):
    """The update of the sentence with which a run stops, checked against its newest checkpoint."""
    found = re.findall(rf"stopped by {name} at update (\d+); the same command continues", training.output)
    assert len(found) == 1, training.output
    newest = checkpoint.newest(training.run / "checkpoints")
    checkpoint.check(newest)
    assert checkpoint.step_of(newest) == int(found[0]) == max(losses(training.run))
    return int(found[0])


def two(recipe, part, restarts=2):
    """A stretch of the one run of two processes."""
    options = [*TWO, f"--max-restarts={restarts}"]
    return Training(recipe, "stopped", torchrun=options, log=f"stopped_{part}", variables={f"{PACE}_2": "0.2"})


def test_every_way_to_stop_and_to_continue(recipe, undisturbed):
    with two(recipe, "a") as training:
        training.wait_for_update(3)
        kill(training.worker(1), signal.SIGTERM)  # to one process: both stop, and torchrun does not start them again
        assert training.wait() == 0, training.output
        training.assert_gone()
        reached = stopped_at(training, "SIGTERM")
        assert 3 <= reached <= 6

    with two(recipe, "b") as training:
        training.wait_for_update(reached + 2)
        training.signal(signal.SIGINT)  # to torchrun, which passes it on to both
        assert training.wait() == 1, training.output
        training.assert_gone()
        assert stopped_at(training, "SIGINT") >= reached + 2

    with two(recipe, "c", restarts=0) as training:
        reached = max(losses(training.run)) + 2
        training.wait_for_update(reached)
        first, second = training.workers()
        kill(second, signal.SIGSTOP)  # so the first one waits in a collective, for ever
        time.sleep(0.5)
        before = checkpoint.complete(training.run / "checkpoints")
        kill(first, signal.SIGTERM)
        until(lambda: "SIGTERM: stopping" in training.output, 10, "the first signal is noticed", training)
        assert first.pid in [worker.pid for worker in training.workers()]
        time.sleep(APART)
        kill(first, signal.SIGINT)
        until(lambda: first.pid not in [process.pid for process in training.processes()], 5, "its end", training)
        kill(second, signal.SIGCONT)
        assert training.wait() == 1
        training.assert_gone()
    assert re.search(rf"exitcode: {128 + signal.SIGINT}\b", training.output), training.output
    assert checkpoint.complete(training.run / "checkpoints") == before
    checkpoint.check(before[-1])

    with two(recipe, "d") as training:
        assert training.wait() == 0, training.output
        training.assert_gone()
    assert assert_same_run(undisturbed, training.run) > 100_000
    assert images_of(training.run) == images_of(undisturbed)


def test_ctrl_c_without_torchrun_reaches_the_loader_s_processes_too(recipe):
    with Training(recipe, "alone", "data.workers=2", variables={f"{PACE}_1": "0.2"}) as training:
        training.wait_for_update(2)
        assert len(training.processes()) == 3
        os.killpg(training.pid, signal.SIGINT)  # as a terminal does
        assert training.wait() == 128 + signal.SIGINT, training.output
        training.assert_gone()
        assert 2 <= stopped_at(training, "SIGINT") <= 5
        assert "Traceback" not in training.output


def test_a_scheduler_that_signals_every_process_of_the_job(recipe):
    with Training(recipe, "job", "data.workers=1", torchrun=TWO, variables={f"{PACE}_2": "0.2"}) as training:
        training.wait_for_update(2)
        living = training.processes()
        assert len(living) == 5  # torchrun, two that train, two that decode
        for process in living:  # and torchrun passes its own on, so that who trains gets two
            kill(process, signal.SIGTERM)
        assert training.wait() == 1, training.output
        training.assert_gone()
        assert 2 <= stopped_at(training, "SIGTERM") <= 5


def test_a_second_signal_during_an_evaluation_leaves_the_checkpoint_before_it(recipe):
    settings = [text.replace("RECORDS", str(recipe.parent / "train.rec")) for text in EVALUATED]
    with Training(recipe, "evaluated", *settings) as training:
        training.wait_for_update(4)  # evaluated and saved after every fourth of 3 images
        until(lambda: checkpoint.newest(training.run / "checkpoints"), 10, "a checkpoint", training)
        training.signal(signal.SIGTERM)
        time.sleep(APART)
        assert training.running  # inside the evaluation
        training.signal(signal.SIGTERM)
        assert training.wait(5) == 128 + signal.SIGTERM, training.output
        training.assert_gone()
    newest = checkpoint.newest(training.run / "checkpoints")
    checkpoint.check(newest)
    assert checkpoint.step_of(newest) == max(losses(training.run)) == 4
    assert not (training.run / "report" / "during").exists()
