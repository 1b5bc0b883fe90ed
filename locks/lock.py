"""Writes the locks beside it: every package with its version and SHA-256 hashes, for Python 3.11 to 3.13.

make lock

Versions are those of requirements.txt, so that what is locked is what was tested. Needs uv, which `make lock` puts
into an environment of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CUDA = re.compile(r"torch|triton|(nvidia|cuda)-[\w-]+")
HEAD = "# made by `make lock`; install with: pip install --require-hashes --no-deps -r locks/{}\n"
LOCKS = {  # extras of pyproject.toml in each
    "runtime.txt": (),
    "gpu.txt": ("dali-cuda13",),
}


def compiled(extras: tuple[str, ...]) -> str:
    """What uv resolves pyproject.toml's dependencies and these extras to."""
    command = [sys.executable, "-m", "uv", "pip", "compile", str(ROOT / "pyproject.toml")]
    command += [f"--extra={extra}" for extra in extras]
    command += ["--constraint", str(ROOT / "requirements.txt"), "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--quiet"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def without_torch(lock: str) -> str:
    """The same lock less torch and what only its CUDA build needs: for a CPU build of torch from elsewhere."""
    entries = re.split(r"^(?=\S)", lock, flags=re.MULTILINE)
    return "".join(entry for entry in entries if not CUDA.fullmatch(entry.partition("==")[0]))


def main() -> None:
    made = {name: compiled(extras) for name, extras in LOCKS.items()}
    made["cpu.txt"] = without_torch(made["runtime.txt"])
    for name, lock in made.items():
        (HERE / name).write_text(HEAD.format(name) + lock)
        print(f"locks/{name}: {lock.count('    --hash')} hashes")


if __name__ == "__main__":
    main()
