"""The pages written by hand that others refer to: glossary, licences, ideas."""

from __future__ import annotations

import re

import pytest

from recognition.config import defaults
from recognition.reference.docstrings import ROOT
from recognition.reference.recipes import anchor
from recognition.registry import KINDS

DOCS = ROOT / "docs"
PAGES = ("glossary.md", "licences.md", "ideas.md")
FIELD = (
    *("gate", "score", "midpoint", "slope", "scaling", "scale", "rank", "class centre", "TAR", "FAR", "template"),
    *("EDC", "recipe", "embedding", "classifier", "head", "lr", "low_res", "twin", "record"),
)


def words() -> list[str]:
    """What the glossary explains: the bold words before an entry's colon, and further ones inside."""
    text = (DOCS / "glossary.md").read_text()
    return re.findall(r"\*\*([^*]+)\*\*", text)


def test_sections_kinds_and_the_fields_words_have_an_entry():
    wanted = {*defaults(), *KINDS, "augmentation", *FIELD}
    assert not {word for word in wanted if word not in words()}


def test_no_word_is_explained_twice():
    text = (DOCS / "glossary.md").read_text()
    entries = [
        word for line in re.findall(r"^- (.*?):", text, re.MULTILINE) for word in re.findall(r"\*\*(.+?)\*\*", line)
    ]
    assert len(entries) == len(set(entries)) and len(entries) > 70


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", (DOCS / page).read_text()):
        file, _, place = link.partition("#")
        if not file.startswith("http"):
            assert (DOCS / file).exists(), link
            if place:
                heads = re.findall(r"^#+ (.*)$", (DOCS / file).read_text(), re.MULTILINE)
                assert place in map(anchor, heads), link


def test_weights_and_sets_that_recipes_need_have_a_licence():
    page = (DOCS / "licences.md").read_text()
    for name in ("LFW", "WebFace4M", "TinyFace", "BRIAR", "PETALface", "MobileFaceNet", "demo_base.safetensors"):
        assert name in page
    assert page.count("**non-commercial") >= 3 and page.count("ask its publisher") >= 5
    shipped = [path.name for folder in ("weights", "iqa") for path in (ROOT / folder).glob("*.safetensors")]
    assert all(f"/{name}`" in page for name in shipped)


def test_ideas_name_files_that_are_there():
    text = (DOCS / "ideas.md").read_text()
    for path in re.findall(r"`((?:recognition|adapters|iqa|configs|tools)/[\w/.]*)`", text):
        assert (ROOT / path).exists(), path
