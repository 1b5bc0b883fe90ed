"""Licences of the packages that pyproject.toml names, from the metadata of those that are installed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata

from recognition.reference.docstrings import ROOT
from recognition.reference.markdown import cell, table

BEGIN, END = "<!-- packages -->", "<!-- /packages -->"
NOTED = {  # what metadata do not say, or of packages that may not be installed; docs/licences.md has the sources
    "insightface": "MIT; **its models: non-commercial research**",
    "nvidia-dali-cuda130": "Apache-2.0, as its twin for CUDA 12",
    "pyiqa": "**non-commercial**: PolyForm Noncommercial and S-Lab",
    "scikit-learn": "BSD-3-Clause",
}
SAID = {  # long texts and loose words, as SPDX spells them
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "MIT License": "MIT",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Python Software Foundation License": "PSF (matplotlib's own, of that kind)",
}


def required() -> dict[str, list[str]]:
    """Package -> the groups of pyproject.toml that name it, "core" first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"core": project["dependencies"], **project.get("optional-dependencies", {})}
    found: dict[str, list[str]] = {}
    for group, requirements in groups.items():
        for requirement in requirements:
            name = re.match(r"[\w.-]+", requirement)[0]
            if name != project["name"]:
                found.setdefault(name.lower(), []).append(group)
    return found


def licence(package: str) -> str | None:
    """What its metadata say, as SPDX where they do; None where it is not installed or says nothing."""
    try:
        told = metadata(package)
    except PackageNotFoundError:
        return None
    text = (told.get("License-Expression") or "").strip()
    words = (told.get("License") or "").strip()
    classes = [line for line in told.get_all("Classifier") or () if line.startswith("License ::")]
    if not text and "\n" not in words and len(words) < 60:
        text = words
    return SAID.get(text, text) or next((SAID[line] for line in classes if line in SAID), None)


def rows(known: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """(package, groups, licence) in alphabetical order. known: what the page said before, for those not installed."""
    for package, groups in sorted(required().items()):
        said = NOTED.get(package) or licence(package) or known.get(package, "not known: ask its publisher")
        yield f"`{package}`", ", ".join(groups), said if package in NOTED else cell(said)


def known(page: str) -> dict[str, str]:
    """Package -> licence, of a page's table."""
    _, _, rest = page.partition(BEGIN)
    return dict(re.findall(r"^\| `([\w.-]+)` \|[^|]*\| (.*?) \|$", rest.partition(END)[0], re.MULTILINE))


def renewed(page: str) -> str:
    """docs/licences.md with its table written anew. ValueError where the place of the table is not marked."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"licences.md has no {BEGIN} and {END} around the table of packages")
    written = "\n".join(table(("package", "asked for by", "licence"), rows(known(page))))
    return f"{before}{begin}\n{written}\n{end}{after}"
