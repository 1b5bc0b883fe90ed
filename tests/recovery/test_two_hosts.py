"""Two hosts, here two network namespaces with a cable between them: the cable breaks and is mended."""

import contextlib
import os
import shutil
import subprocess
import uuid

import pytest

from tests.recovery.launch import PACE, Training, assert_same_run, images_of, losses, needs_proc, until

pytestmark = [pytest.mark.slow, needs_proc]
ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 29400  # of the rendezvous, inside a namespace of its own
CABLE = "cable"
# any host's agent that ends in failure is started again by the same command, as Slurm, Kubernetes or systemd do
SUPERVISOR = ["bash", "-c", 'for i in 1 2 3 4 5 6 7 8; do "$@" && exit 0; sleep 1; done; exit 1', "supervisor"]


def ip(*arguments):
    """Run iproute2; CalledProcessError where it refuses."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts():
    """Names of two network namespaces, joined by a cable."""
    if not shutil.which("ip"):
        pytest.skip("needs the command ip (iproute2)")
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces")
    names = [f"lrface_{uuid.uuid4().hex[:8]}_{end}" for end in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", CABLE, "netns", names[0], "type", "veth", "peer", "name", CABLE, "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", CABLE)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", CABLE, "up")
        yield names
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are refused here: {error.stderr.strip()}")
    finally:
        for name in names:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "delete", name)


def start(recipe, hosts, number):
    """The same command on each host, but for its own address."""
    host = f"is_host={str(number == 0).lower()}"  # else guessed by looking up the machine's name
    times = "read_timeout=8,last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=5,join_timeout=60"
    options = [
        "--nnodes=2",
        "--nproc-per-node=1",
        "--max-restarts=3",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={ADDRESSES[0]}:{PORT}",
        f"--rdzv-conf={host},{times}",
        f"--local-addr={ADDRESSES[number]}",
    ]
    return Training(
        recipe,
        "two_hosts",
        "train.timeout_minutes=0.2",
        torchrun=options,
        prefix=[*SUPERVISOR, "ip", "netns", "exec", hosts[number]],
        log=f"host_{number}",
        variables={"GLOO_SOCKET_IFNAME": CABLE, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", f"{PACE}_2": "0.2"},
    )


def test_a_host_is_cut_off_and_comes_back(recipe, undisturbed, hosts):
    with start(recipe, hosts, 0) as one, start(recipe, hosts, 1) as two:
        until(lambda: 5 in losses(one.run), 60, "update 5", one, two)
        before = {worker.pid for training in (one, two) for worker in training.workers()}
        assert len(before) == 2
        ip("-n", hosts[1], "link", "set", CABLE, "down")

        def noticed():
            return not before & {worker.pid for training in (one, two) for worker in training.workers()}

        until(noticed, 60, "both hosts give up", one, two)
        assert max(losses(one.run)) < 15
        ip("-n", hosts[1], "link", "set", CABLE, "up")
        assert one.wait() == 0
        assert two.wait() == 0
        one.assert_gone()
        two.assert_gone()
    assert assert_same_run(undisturbed, one.run) > 100_000
    assert images_of(one.run) == images_of(undisturbed)
