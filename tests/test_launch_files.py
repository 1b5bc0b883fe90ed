"""Launch files: the Slurm script trains on two stand-in nodes, stops and goes on; the PyTorchJob is one."""

from __future__ import annotations

import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed import run as torchrun

from tests.launch import _free_port as free_port
from tests.recovery.launch import losses
from tests.small import write_recipe
from tools import train

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "launch" / "slurm.sh"
JOB = ROOT / "launch" / "kubernetes.yaml"

# runs the command once for each node, as Slurm does, and returns the worst code; at SIGTERM it kills, as srun does
SRUN = """#!{python}
import os, signal, subprocess, sys
from pathlib import Path
words, options = sys.argv[1:], {{}}
while words[0].startswith("--"):
    name, _, value = words.pop(0).partition("=")
    options[name] = value
assert options == {{"--nodes": "2", "--ntasks": "2", "--ntasks-per-node": "1"}}, options
started = []
signal.signal(signal.SIGTERM, lambda *_: [os.killpg(one.pid, signal.SIGKILL) for one in started])
for node in range(2):
    own = dict(os.environ, SLURM_NODEID=str(node), SLURMD_NODENAME="localhost")
    started.append(subprocess.Popen(words, env=own, start_new_session=True))
Path(__file__).with_name("tasks").write_text(" ".join(str(one.pid) for one in started))
sys.exit(max(one.wait() for one in started))
"""
# signals all processes of the job but the script's, as Slurm does
SCANCEL = """#!{python}
import os, signal, sys
from pathlib import Path
assert sys.argv[1:] == ["--signal=TERM", "17"], sys.argv
for task in Path(__file__).with_name("tasks").read_text().split():
    os.killpg(int(task), signal.SIGTERM)
"""
SCONTROL = """#!{python}
import sys
from pathlib import Path
if sys.argv[1] == "show":
    print("localhost", "localhost", sep="\\n")
else:
    Path(__file__).with_name("requeued").write_text(" ".join(sys.argv[1:]))
"""


def test_the_script_is_bash_and_says_how_it_is_called() -> None:
    done = subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 2 and "usage: sbatch" in done.stderr


def test_what_slurm_is_asked_for() -> None:
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", SCRIPT.read_text(), re.M))
    assert asked["ntasks-per-node"] == "1", "one torchrun on each machine"
    assert {"requeue", "open-mode", "nodes", "gpus-per-node"} <= asked.keys()
    to, seconds = asked["signal"].split("@")
    assert to == "B:USR1" and int(seconds) > 60, "the script itself, with time for a checkpoint"


def agent(command: list[str]) -> torchrun.LaunchConfig:
    """What torchrun makes of a command, and what it would start by it, as its own parser says."""
    arguments = torchrun.get_args_parser().parse_args(command)
    config, program, words = torchrun.config_from_args(arguments)
    return config, program, words


def test_the_scripts_command_is_one_that_torchrun_and_the_tool_take() -> None:
    text = re.search(r'exec "\$TORCHRUN" (.*?"\$@")\' torchrun', SCRIPT.read_text(), re.S)[1].replace("\\\n", " ")
    values = {
        "SLURM_JOB_NUM_NODES": "4",
        "PROCESSES": "8",
        "MAX_RESTARTS": "3",
        "MEETING": "17.0",
        "ENDPOINT": "node1:29417",
        "host": "true",
        "SLURMD_NODENAME": "node1",
    }
    for name, value in values.items():
        text = text.replace(f'"${name}"', value).replace(f"${name}", value)
    command = [*shlex.split(text)[:-1], "configs/demo.py", "optim.lr=0.1"]
    assert not [word for word in command if "$" in word]
    config, program, words = agent(command)
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node, config.max_restarts) == (4, 4, 8, 3)
    assert (config.rdzv_backend, config.rdzv_endpoint, config.run_id) == ("c10d", "node1:29417", "17.0")
    assert config.rdzv_configs["is_host"] == "true" and config.local_addr == "node1"
    assert program == sys.executable and words[-3:] == ["tools/train.py", "configs/demo.py", "optim.lr=0.1"]
    assert train.parse(words[words.index("tools/train.py") + 1 :]).recipe == "configs/demo.py"


class Cluster:
    """Two nodes on this machine: programs that stand in for Slurm's, and a job."""

    def __init__(self, folder: Path) -> None:
        self.recipe, self.run, self.bin = write_recipe(folder), folder / "runs" / "small", folder / "bin"
        self.bin.mkdir()
        for name, text in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
            path = self.bin / name
            path.write_text(text.format(python=sys.executable))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def submit(self, *overrides: str, agent: str = "") -> subprocess.Popen:
        """The script as sbatch starts it. agent: a program in place of torchrun."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PET_")) and k != "RANK"}
        job = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_JOB_ID": "17",
            "SLURM_JOB_NODELIST": "localhost,localhost",
            "SLURM_JOB_NUM_NODES": "2",
            "PROCESSES": "1",
            "PORT": str(free_port()),
            "TORCHRUN": agent or str(Path(sys.executable).with_name("torchrun")),
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.Popen(
            ["bash", str(SCRIPT), str(self.recipe), *overrides],
            env=kept | job,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def agent(self, text: str) -> str:
        """A program in place of torchrun: these lines of bash."""
        path = self.bin / "agent"
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    @property
    def requeued(self) -> str:
        """What scontrol was told, "" = nothing."""
        path = self.bin / "requeued"
        return path.read_text() if path.exists() else ""


@pytest.mark.slow
def test_two_nodes_train_and_make_a_checkpoint_when_their_time_is_up(tmp_path) -> None:
    cluster = Cluster(tmp_path)
    job = cluster.submit("data.batch_size=3", "evaluation.sets=[]", "schedule.epochs=2000.0")
    deadline = time.monotonic() + 200
    while not losses(cluster.run) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    job.send_signal(signal.SIGUSR1)
    said = job.communicate(timeout=120)[0]
    assert job.returncode == 1 and "is queued again" in said, said
    assert cluster.requeued == "requeue 17" and "2 process(es)" in said
    assert [*(cluster.run / "checkpoints").glob("step_*")], said


def test_how_a_job_ends(tmp_path) -> None:
    cluster = Cluster(tmp_path)
    for code in (0, 3):
        job = cluster.submit("--dry-run", agent=cluster.agent(f'echo "$SLURM_NODEID $*"; exit {code}'))
        said = job.communicate(timeout=60)[0]
        assert job.returncode == code and not cluster.requeued
        assert all(f"{node} --nnodes=2 --nproc-per-node=1 " in said for node in (0, 1))
        assert said.count(f"tools/train.py {cluster.recipe} --dry-run") == 2
        assert said.count("is_host=true") == said.count("is_host=false") == 1 and said.count("--rdzv-id=17.0") == 2
    waiting = cluster.agent("trap 'exit 1' TERM; echo started; while :; do sleep 0.05; done")
    for given, told in ((signal.SIGTERM, ""), (signal.SIGUSR1, "requeue 17")):  # preempted, or its time is up
        job = cluster.submit(agent=waiting)
        assert [job.stdout.readline(), job.stdout.readline()] == ["started\n"] * 2
        job.send_signal(given)
        if given == signal.SIGTERM:  # the workers get theirs from Slurm
            subprocess.run([cluster.bin / "scancel", "--signal=TERM", "17"], check=True)
        job.communicate(timeout=60)
        assert job.returncode == 1 and cluster.requeued == told


def fields(text: str) -> set[str]:
    return set(text.split())


# of kubeflow.org/v1: PyTorchJobSpec, RunPolicy, SchedulingPolicy, ElasticPolicy, ReplicaSpec
SPEC = fields("runPolicy elasticPolicy pytorchReplicaSpecs nprocPerNode")
POLICY = fields("cleanPodPolicy ttlSecondsAfterFinished activeDeadlineSeconds backoffLimit schedulingPolicy suspend")
GANG = fields("minAvailable queue minResources priorityClass scheduleTimeoutSeconds")
ELASTIC = fields("minReplicas maxReplicas rdzvBackend rdzvPort rdzvHost rdzvId rdzvConf standalone maxRestarts metrics")
REPLICAS = fields("replicas template restartPolicy")


@pytest.fixture(scope="module")
def job() -> dict:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(JOB.read_text())


def test_the_job_has_a_pytorchjobs_fields(job) -> None:
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    spec, workers = job["spec"], job["spec"]["pytorchReplicaSpecs"]["Worker"]
    assert spec.keys() <= SPEC and spec["runPolicy"].keys() <= POLICY and workers.keys() <= REPLICAS
    assert spec["elasticPolicy"].keys() <= ELASTIC and spec["runPolicy"]["schedulingPolicy"].keys() <= GANG
    assert spec["pytorchReplicaSpecs"].keys() == {"Worker"}, "an elastic job has no master"
    assert spec["runPolicy"]["cleanPodPolicy"] in ("All", "Running", "None")
    assert workers["restartPolicy"] in ("Always", "OnFailure", "Never", "ExitCode")
    elastic = spec["elasticPolicy"]
    assert elastic["minReplicas"] <= workers["replicas"] <= elastic["maxReplicas"]


def test_its_pod_mounts_what_the_run_needs(job) -> None:
    pod = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "pytorch", "the operator's name of the container it tells the rendezvous"
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert mounts.keys() == volumes.keys()
    assert mounts["data"]["readOnly"] and not mounts["runs"].get("readOnly")
    assert mounts["shared-memory"]["mountPath"] == "/dev/shm"
    assert volumes["shared-memory"]["emptyDir"]["medium"] == "Memory"
    assert pod["terminationGracePeriodSeconds"] > 30, "torchrun's own patience"
    assert container["ports"][0]["containerPort"] == job["spec"]["elasticPolicy"]["rdzvPort"]
    assert pod["securityContext"]["runAsUser"] == int(
        re.search(r"^USER (\d+)", (ROOT / "Dockerfile").read_text(), re.M)[1]
    )


def test_its_command_is_one_that_torchrun_and_the_tool_take(job, monkeypatch) -> None:
    """With the variables that the operator sets of the elastic policy."""
    container = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]
    elastic = job["spec"]["elasticPolicy"]
    told = {
        "PET_NNODES": f"{elastic['minReplicas']}:{elastic['maxReplicas']}",
        "PET_RDZV_BACKEND": elastic["rdzvBackend"],
        "PET_RDZV_ID": elastic["rdzvId"],
        "PET_RDZV_ENDPOINT": f"{job['metadata']['name']}-worker-0:{elastic['rdzvPort']}",
        "PET_MAX_RESTARTS": str(elastic["maxRestarts"]),
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    program, *command = container["command"]
    assert program == "torchrun"
    config, started, words = agent(command)
    assert (config.min_nodes, config.max_nodes, config.max_restarts) == (4, 4, elastic["maxRestarts"])
    assert config.nproc_per_node == container["resources"]["limits"]["nvidia.com/gpu"]
    assert config.rdzv_endpoint == "lrface-worker-0:29400" and (started, words[0]) == ("lrface", "train")
    parsed = train.parse(words[1:])
    assert (ROOT / "configs" / f"{parsed.recipe}.py").is_file()
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    paths = [value for word in parsed.overrides if (value := word.partition("=")[2]).startswith("/")]
    assert paths and all(f"/{path.split('/')[1]}" in mounted for path in paths)
