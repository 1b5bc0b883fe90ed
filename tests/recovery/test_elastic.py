"""torchrun --nnodes=1:2: an agent dies with its process, the other goes on alone, the first comes back."""

from itertools import chain

import pytest

from tests.recovery.launch import (
    PACE,
    Training,
    assert_epochs_are_whole,
    images_of,
    losses,
    needs_proc,
    stored,
    until,
)

pytestmark = [pytest.mark.slow, needs_proc]
# torchrun 2.13 shares one store over all rounds by default; an agent that comes later never learns its address
VARIABLES = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", f"{PACE}_1": "1.5", f"{PACE}_2": "0.2"}

# of a tensor's largest value; mostly they differ by 1e-6, but where rounding crosses a kink of an activation it counts
TOLERANCE = {"classifier": 1e-5, "network": 2e-2, "optimizer": 5e-2}


def start(recipe, log):
    """One agent with one process. The rendezvous is a file, which outlives any agent."""
    times = "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=5,join_timeout=60"
    options = [
        "--nnodes=1:2",
        "--nproc-per-node=1",
        "--max-restarts=3",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={recipe.with_name('rendezvous')}",
        f"--rdzv-conf=store_type=file,{times}",
    ]
    return Training(recipe, "elastic", torchrun=options, log=log, variables=VARIABLES)


def test_an_agent_dies_the_other_goes_on_alone_and_the_first_comes_back(recipe, undisturbed):
    with start(recipe, "one") as one, start(recipe, "two") as two:
        run = one.run
        until(lambda: {3} <= {*losses(run)}, 60, "update 3", one, two)
        workers = [*one.workers(), *two.workers()]
        assert {worker.environment["WORLD_SIZE"] for worker in workers} == {"2"}
        first, other = (one, two) if one.workers()[0].rank == 0 else (two, one)
        first.kill_all()  # the agent first to die is the one with the process that writes logs

        reached = max(losses(run))
        until(lambda: world_of(other) == 1 and max(losses(run)) > reached, 60, "updates of one process", other)
        with start(recipe, "three") as three:
            until(lambda: world_of(other) == world_of(three) == 2, 60, "two processes", other, three)
            assert other.wait() == 0
            assert three.wait() == 0
            other.assert_gone()
            three.assert_gone()
    seen, whole = images_of(run), images_of(undisturbed)
    assert_epochs_are_whole(seen)
    assert {len(parts) for parts in seen.values()} == {1, 2}  # updates by one process and by two
    for update, parts in seen.items():
        assert sorted(chain(*parts)) == sorted(chain(*whole[update])), f"update {update}"
    expected = losses(undisturbed)
    assert losses(run) == {update: pytest.approx(loss, rel=1e-4) for update, loss in expected.items()}
    left = stored(run)
    compared = {name: value for name, value in stored(undisturbed).items() if name.partition(".")[0] in TOLERANCE}
    assert {name.partition(".")[0] for name in compared} == {*TOLERANCE}
    for name, value in compared.items():
        off = (left[name].float() - value.float()).abs().max() / value.abs().max().clamp_min(1e-12)
        assert off < TOLERANCE[name.partition(".")[0]], f"{name}: {off:.1e} of its largest value"


def world_of(training):
    """World size of an agent's process, 0 where it has none."""
    workers = training.workers()
    return int(workers[0].environment["WORLD_SIZE"]) if workers else 0
