"""Runs a command of a document in this process, inside a miniature workspace."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from recognition import config as settings
from recognition import distributed
from recognition.recipes import or_shipped
from recognition.values import literal
from tests.documents import table
from tests.documents.collect import ROOT
from tests.training import blank_pictures

SETTING = re.compile(r"^[a-z_]+(\.[a-z_]+)*=")
SETTINGS_OF = r"tools/(train|calibrate_gate|score_quality|benchmark)\.py "
FILES = re.compile(r"^(?:(?:backbone|adapter|scorer)\.weights|data\.records)=(.*)")
VARIABLE = re.compile(r"^([A-Z_]\w*)=(\S*?)(;?) ")


def words_of(text: str) -> tuple[list[str], dict[str, str]]:
    """A command's words with shell variables put in, and what it puts into the environment."""
    known, environment = {}, {}
    while found := VARIABLE.match(text):
        (known if found[3] else environment)[found[1]] = found[2]
        text = text[found.end() :]
    for name, value in known.items():
        text = re.sub(rf"\$\{{{name}\}}|\${name}\b", lambda _, value=value: value, text)
    words = shlex.split(text)
    odd = [word for word in words if word in ("|", "||", "&&", ">", "<", "&") or word.startswith("$")]
    assert not odd, f"more of a shell than is run here: {odd}; write one plain command on a line"
    return words, environment


def plain(words: list[str]) -> list[str]:
    """The same command as `python tools/x.py ...`: torchrun's own options are checked and left away."""
    words = [words[0].removeprefix(".venv/bin/"), *words[1:]]
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        asked = get_args_parser().parse_args(words[1:])
        first = [] if asked.no_python else ["python"]
        return plain([*first, asked.training_script, *asked.training_script_args])
    if words[0] == "lrface":
        return ["python", *(["recognition/command.py", *words[1:]] if "-" in words[1] else _tool(*words[1:]))]
    return words


def _tool(name: str, *arguments: str) -> list[str]:
    """Of `lrface NAME ...`; a recipe that ships goes by its name there."""
    recipe = arguments and (ROOT / "configs" / f"{arguments[0]}.py").is_file() and name == "train"
    return [f"tools/{name}.py", *([f"configs/{arguments[0]}.py", *arguments[1:]] if recipe else arguments)]


def carry_out(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch, walk: str = "") -> Path:
    """Run a document's command as the table says, in `folder`, which is returned. AssertionError where it fails.

    walk: the document that it is a step of, each on what the last one left.
    """
    words, environment = words_of(text)
    words = plain(words)
    flat = shlex.join(words)
    rules = rules_for(flat, walk)
    assert rules, f"no rule of tests/documents/table.py says how this is made small: {text}"
    for command in (command for rule in rules for command in rule.before if walk == rule.walk):
        carry_out(command, folder, monkeypatch)
    monkeypatch.chdir(folder)
    look_at_choices(words)
    for made in (re.search(rule.gone, flat) for rule in rules if rule.gone):
        if made and (folder / made[1]).exists():
            shutil.rmtree(folder / made[1])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for pattern, by in (pair for rule in rules for pair in rule.change):
        flat = re.sub(pattern, by, flat)
    words = [*shlex.split(flat), *(word for rule in rules for word in rule.add)]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = run(words, folder, monkeypatch, draw=any(rule.draw for rule in rules))
    print(said.getvalue())
    wanted = {rule.code for rule in rules if rule.code} or {0}
    assert code in wanted, f"exit status {code}, not {wanted}: {shlex.join(words)}"
    missing = [name for rule in rules for name in rule.makes if not any(folder.glob(name))]
    assert not missing, f"it did not make {missing}: {shlex.join(words)}"
    unsaid = [rule.says for rule in rules if rule.says not in said.getvalue()]
    assert not unsaid, f"it did not say {unsaid}: {shlex.join(words)}"
    return folder


def look_at_choices(words: list[str]) -> None:
    """What is chosen before anything is made small: plugins, arguments and types fit, files are there. In the folder.

    ConfigError or AssertionError. Of tools that compare recipes or write some, the tool itself looks at settings.
    """
    tool, given = Path(words[1]).name, [word for word in words[2:] if SETTING.match(word)]
    named = [path for word in given if (found := FILES.match(word)) for path in _paths(found[1])]
    if re.search(SETTINGS_OF, " ".join(words)):
        recipes = [word for word in words[2:] if word == "RECIPE" or (word.endswith(".py") and word not in given)]
        for recipe in recipes:
            config = settings.load(recipe, given)
            if not recipe.startswith("configs/"):  # what an earlier command or the document itself wrote
                named.append(config.backbone.weights)
    missing = [path for path in named if path and not path.startswith("hf:/") and not or_shipped(path).exists()]
    assert not missing or tool == "convert_config.py", f"there is no {missing}: {shlex.join(words)}"


def _paths(written: str) -> list[str]:
    value = literal(written)
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def rules_for(flat: str, walk: str = "") -> list[table.Rule]:
    """Those that a plain command matches, in order."""
    fitting = (rule for rule in table.RULES if re.search(rule.match, flat))
    return [rule for rule in fitting if rule.walk in ("", walk) and not (walk and rule.alone)]


def run(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, draw: bool = False) -> int:
    """Exit status of `python SCRIPT ...` run in `folder`. draw: pictures too, which take seconds."""
    assert words[0] in ("python", "python3"), f"{words[0]} is no program that is run here"
    script = ROOT / words[1]
    assert script.is_file(), f"there is no {words[1]}"
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", words[1:])
    with contextlib.nullcontext() if draw else blank_pictures(), in_this_process(), small_measurements():
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(bool(end.code))
        finally:
            distributed.stop()
    return 0


@contextlib.contextmanager
def in_this_process() -> Iterator[None]:
    """Trainings that tools/compare.py would start in processes of their own run here: six times less to import."""
    import subprocess

    real = subprocess.run

    def started(command: list[str], *arguments: object, **options: object) -> object:
        if len(command) > 1 and Path(str(command[1])).name == "train.py":
            with mock.patch.object(sys, "argv", [*command[1:], *small_run(command[2])]):
                try:
                    runpy.run_path(str(command[1]), run_name="__main__")
                    code = 0
                except SystemExit as end:
                    code = int(end.code or 0)
                finally:
                    distributed.stop()
            return subprocess.CompletedProcess(command, code)
        return real(command, *arguments, **options)

    with mock.patch.object(subprocess, "run", started):
        yield


def small_run(recipe: str) -> list[str]:
    """What makes one training of a comparison small; it is evaluated, since the table is made of that."""
    added = [word for rule in rules_for(f"python tools/train.py {recipe}") for word in rule.add]
    return [word for word in added if not word.startswith("evaluation.")] + list(table.COMPARED)


@contextlib.contextmanager
def small_measurements() -> Iterator[None]:
    """Times that scorers are measured by, once in place of many times."""
    with (
        mock.patch("recognition.evaluation.scorers.REPEATS", 1),
        mock.patch("recognition.evaluation.scorers.TIMED", 2),
    ):
        yield
