"""What the packaging files say agrees, with one another and with the tree; tests/test_installed.py installs it."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import recognition

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("recognition", "adapters", "iqa")
LOCKS = {"runtime.txt": ("",), "cpu.txt": ("",), "gpu.txt": ("", "dali-cuda13")}
NOT_INSTALLED = ("iqa", "forest", "dali-cuda13")  # extras that the tests do without
CUDA = r"torch|triton|(nvidia|cuda)-.*"


def wanted(extra: str = "") -> list[Requirement]:
    """Of pyproject.toml: the project's own dependencies, or an extra's."""
    project = PROJECT["project"]
    texts = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return [Requirement(text) for text in texts]


def pinned(path: Path) -> dict[str, str]:
    """Name -> version of a file of requirements."""
    found = re.findall(r"^([\w.-]+)==([\w.!+]+)", path.read_text(), re.MULTILINE)
    assert found and len({canonicalize_name(name) for name, _ in found}) == len(found), f"{path.name} has a name twice"
    return {canonicalize_name(name): version for name, version in found}


def assert_within(requirements: list[Requirement], pins: dict[str, str], where: str) -> None:
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is missing from {where}"
        assert pins[name] in requirement.specifier, f"{where} has {name} {pins[name]}, wanted {requirement}"


def test_the_packages_of_pyproject_are_those_of_the_tree() -> None:
    listed = PROJECT["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert sorted(listed) == sorted(".".join(folder.parts) for folder in folders)
    assert all((ROOT / package / "py.typed").read_text() == "" for package in PACKAGES)


def test_requirements_hold_what_every_extra_and_the_tests_need() -> None:
    pins = pinned(ROOT / "requirements.txt")
    for extra in ["", *PROJECT["project"]["optional-dependencies"]]:
        if extra not in (*NOT_INSTALLED, "all"):
            assert_within(wanted(extra), pins, f"requirements.txt ({extra})")


def test_the_extra_all_is_made_of_extras() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    (own,) = wanted("all")
    assert own.name == "lrface" and own.extras <= extras.keys()
    assert extras.keys() - own.extras == {"all", "dev", "dali", "dali-cuda13", "iqa"}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_agrees_with_pyproject_and_with_what_is_tested(name: str) -> None:
    text, pins = (ROOT / "locks" / name).read_text(), pinned(ROOT / "locks" / name)
    for extra in LOCKS[name]:
        needed = [one for one in wanted(extra) if name != "cpu.txt" or one.name != "torch"]
        assert_within(needed, pins, f"locks/{name}: make lock")
    tested = pinned(ROOT / "requirements.txt")
    assert not {key: (pins[key], tested[key]) for key in pins.keys() & tested.keys() if pins[key] != tested[key]}
    entries = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins) and all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text and "@" not in text, "neither an index nor a host"


def test_the_lock_without_torch_is_the_other_less_cuda() -> None:
    runtime, cpu = pinned(ROOT / "locks" / "runtime.txt"), pinned(ROOT / "locks" / "cpu.txt")
    assert cpu == {name: version for name, version in runtime.items() if not re.fullmatch(CUDA, name)}
    assert runtime["torch"] == "2.13.0" and "sympy" in cpu, "what torch needs itself stays"


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and recognition.__version__ == newest[1] == citation["version"]
    assert PROJECT["project"]["requires-python"] == ">=3.11,<3.14"
    told = {line.split(" :: ")[-1] for line in PROJECT["project"]["classifiers"] if "Python :: 3" in line}
    assert all(version in SpecifierSet(PROJECT["project"]["requires-python"]) for version in told) and len(told) == 3


def test_the_citation_is_valid() -> None:
    """The parts of Citation File Format 1.2.0 that this file uses, and those that it demands."""
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    texts = {"cff-version", "message", "title", "type", "abstract", "version", "license", "date-released"}
    assert {"cff-version", "message", "title", "authors"} <= found.keys() <= texts | {"authors", "keywords"}
    assert found["cff-version"] == "1.2.0" and found["type"] == "software" and found["license"] == "MIT"
    assert all(isinstance(found[key], date if key == "date-released" else str) for key in texts & found.keys())
    assert found["authors"] and all({*author} <= {"name", "family-names", "given-names"} for author in found["authors"])
    assert all(isinstance(word, str) for word in found["keywords"])
    assert len(set(found["keywords"])) == len(found["keywords"])
