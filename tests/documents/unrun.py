"""What is looked at of commands that are not run here: programs, options, files, packages, versions."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import recognition
from recognition.recipes import or_shipped
from tests.documents.collect import ROOT, commands
from tests.documents.running import plain, words_of

PIP = {  # its options that documents may have: whether a value follows
    "install": {"-e": 0, "-r": 1, "--no-deps": 0, "--require-hashes": 0, "--no-index": 0, "--find-links": 1, "-U": 0},
    "download": {"--dest": 1, "--no-deps": 0, "-r": 1},
    "uninstall": {"-y": 0},
}
WHEEL = re.compile(rf"dist/lrface-{re.escape(recognition.__version__)}-py3-none-any\.whl")
IMAGE = re.compile(r"docker build (?:--tag (\S+) )?(?:--build-arg LOCK=(\S+) )?(?:--build-arg TORCH_INDEX=\S+ )?\.")
CONTAINER = re.compile(
    r'docker run (?:--rm |--volume "\$PWD:/work" |--gpus all |--shm-size \S+ |--user \S+ |-it )*(\S+) (.+)'
)
BOARD = re.compile(r"tensorboard --logdir (\S+)(?: --port \d+)?(?: --bind_all)?")
FILES = ("model", "models", "root", "recipe")  # arguments of parsers that name what must be there


def make(text: str, folder: Path) -> None:
    done = subprocess.run(["make", "-n", *shlex.split(text)[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def pip(text: str, folder: Path) -> None:
    """Options that are known here, and packages that pyproject.toml knows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = [one for group in (project["dependencies"], *extras.values()) for one in group]
    packages = {re.match(r"[\w-]+", one)[0].lower() for one in listed} | {"lrface"}
    action, *words = shlex.split(text)[1:]
    assert action in PIP, f"pip {action} is not known here"
    given, values, words = {}, PIP[action], iter(words)
    for word in words:
        if word.startswith("-"):
            assert word in values, f"pip {action} {word}: no option that is known here"
            given[word] = next(words) if values[word] else ""
            continue
        assert named_extras(word) <= extras.keys(), f"pyproject.toml has no extra of {word}"
        bare = re.sub(r"\[.*\]", "", word)
        if bare.endswith(".whl"):
            assert WHEEL.fullmatch(bare), f"{bare}: `make dist` makes none of this name"
        elif bare != ".":
            name = re.match(r"[\w-]*", bare)[0].lower()
            assert name in packages, f"{word} is no package that the project knows"
            assert name != "lrface" or action == "uninstall" or "--find-links" in given, "lrface is on no index"
        given.setdefault("", bare)
    assert "" in given or "-r" in given, f"pip {action} of nothing"
    assert "-e" not in given or given[""] == ".", "-e wants the checkout: ."
    assert "-r" not in given or (ROOT / given["-r"]).is_file(), f"there is no {given['-r']}"


def named_extras(word: str) -> set[str]:
    return {name for names in re.findall(r"\[([\w,-]+)\]", word) for name in names.split(",")}


def docker(text: str, folder: Path) -> None:
    """An image is built of the locks that are there; a container of an image that is built, and runs a command."""
    if image := IMAGE.fullmatch(text):
        assert image[2] is None or (ROOT / "locks" / f"{image[2]}.txt").is_file(), f"there is no lock {image[2]}"
        return
    container = CONTAINER.fullmatch(text)
    assert container, "neither `docker build [--tag X] [--build-arg LOCK=Y] .` nor `docker run ... IMAGE COMMAND`"
    tags = {found[1] for one in commands() if (found := IMAGE.fullmatch(one.text))}
    assert container[1] in tags, f"no document builds an image {container[1]}"
    parsed(f"lrface {container[2]}", folder)  # the image's entry point


def tensorboard(text: str, folder: Path) -> None:
    found = BOARD.fullmatch(text)
    assert found, "not `tensorboard --logdir FOLDER`"
    assert (folder / found[1]).is_dir(), f"there is no {found[1]}"


def parsed(text: str, folder: Path) -> None:
    """The tool's own parser takes it, and the files are there."""
    words = plain(words_of(text)[0])
    assert words[0] in ("python", "python3") and (ROOT / words[1]).is_file(), f"there is no {words[1]}"
    try:
        found = importlib.import_module(f"tools.{Path(words[1]).stem}").parse(words[2:])
    except SystemExit as end:
        raise AssertionError(f"its parser refuses it: {text}") from end
    missing = missing_files(found, folder)
    assert not missing, f"there is no {missing}"


def missing_files(found: argparse.Namespace, folder: Path) -> list[str]:
    given = {name: value for name, value in vars(found).items() if name in FILES and isinstance(value, str | Path)}
    names = [str(value) for value in given.values() if value and str(value) != "."]
    return [name for name in names if not (folder / name).exists() and not or_shipped(name).exists()]


def launch(text: str, folder: Path) -> None:
    """The file is there; what a script hands on is what the training tool takes."""
    program, *words = shlex.split(text)
    if program == "kubectl":
        assert words[:2] == ["apply", "--filename"] and (ROOT / words[2]).is_file(), f"there is no {words[-1]}"
        return
    options = [word for word in words if word.startswith("--")][:1]
    assert re.fullmatch(r"--nodes=\d+", options[0]) and words[0] == options[0], "not `sbatch --nodes=N FILE RECIPE ...`"
    assert (ROOT / words[1]).is_file(), f"there is no {words[1]}"
    parsed(shlex.join(["python", "tools/train.py", *words[2:]]), folder)


def own_adapter(text: str, folder: Path) -> None:
    """Run by tests/documents/test_own_adapter.py, word for word."""


LOOKS: dict[str, Callable[[str, Path], None]] = {
    "make": make,
    "pip": pip,
    "docker": docker,
    "tensorboard": tensorboard,
    "parser": parsed,
    "own adapter": own_adapter,
    "launch": launch,
}
