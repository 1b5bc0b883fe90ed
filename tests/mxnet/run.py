"""Prove that record files agree byte for byte with the real mxnet 1.9.1, in both directions, and so does a network.

mxnet needs an old numpy, so it lives in an environment of its own, .venv-mxnet, made at the first run. Our side
runs in .venv where there is one, else in the interpreter that runs this.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENVIRONMENT = ROOT / ".venv-mxnet"
# opencv-python-headless is mxnet's pack_img; requests is imported by mxnet, the others by requests.
PACKAGES = [
    "mxnet==1.9.1",
    "numpy==1.23.5",
    "graphviz==0.8.4",
    "opencv-python-headless==4.8.1.78",
    "requests",
    "urllib3",
    "idna",
    "certifi",
    "charset-normalizer",
]


def old_python() -> str:
    """An interpreter that numpy 1.23.5 has wheels for."""
    candidates = [sys.executable] + [shutil.which(f"python3.{minor}") or "" for minor in (11, 10, 9, 8)]
    for candidate in filter(None, candidates):
        question = [candidate, "-c", "import sys; sys.exit(not (3, 8) <= sys.version_info[:2] <= (3, 11))"]
        if subprocess.run(question, capture_output=True).returncode == 0:
            return candidate
    raise SystemExit("mxnet 1.9.1 needs numpy 1.23.5, hence Python 3.8 to 3.11: put a python3.11 on the PATH")


def mxnet_python() -> str:
    """The interpreter of .venv-mxnet, made if it is not there or not whole."""
    python = ENVIRONMENT / "bin" / "python"
    question = [str(python), "-c", "import mxnet, numpy, cv2; assert mxnet.__version__ == '1.9.1'"]
    if python.exists() and subprocess.run(question, capture_output=True).returncode == 0:
        return str(python)
    print(f"making {ENVIRONMENT.name} with mxnet 1.9.1", flush=True)
    subprocess.run([old_python(), "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", *PACKAGES], check=True)
    subprocess.run(question, check=True)
    return str(python)


def call(python: str, script: str, *arguments: object) -> int:
    """Run one side; its last line is the number of records it found right. Ends this run where it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [python, str(HERE / script), *map(str, arguments)], env=environment, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"DISAGREEMENT: {script} {arguments[0]} failed, see above")
    return int((done.stdout.split() or ["0"])[-1])


def main() -> None:
    theirs = mxnet_python()
    project = ROOT / ".venv" / "bin" / "python"
    ours = str(project) if project.exists() else sys.executable
    with tempfile.TemporaryDirectory() as folder:
        by_mxnet, by_us = Path(folder, "mxnet"), Path(folder, "ours")
        network = Path(folder, "network")
        network.mkdir()
        by_mxnet.mkdir()
        by_us.mkdir()
        call(theirs, "mxnet_side.py", "write", by_mxnet)
        read_by_us = call(ours, "our_side.py", by_mxnet, by_us)
        read_by_mxnet = call(theirs, "mxnet_side.py", "read", by_us)
        call(theirs, "network_mxnet.py", network)
        embedded = call(ours, "network_ours.py", network)
    print(
        f"mxnet 1.9.1 agrees: {read_by_us} records written by mxnet and read by us, {read_by_mxnet} written by us and "
        f"read by mxnet, all six files byte for byte the same; {embedded} embeddings of its network the same by ours"
    )


if __name__ == "__main__":
    main()
