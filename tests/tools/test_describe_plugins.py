"""The reference pages are what plugins and recipes say."""

from __future__ import annotations

import re

import pytest

from recognition.margins import MARGINS
from recognition.reference import recipes
from recognition.reference.adapters import BACKBONES_SHOWN, Facts, try_on
from recognition.reference.docstrings import ROOT, about, split
from recognition.reference.packages import renewed, required
from recognition.reference.plugins import PAGES, index, ours, section, write
from recognition.reference.rules import rules_of
from recognition.registry import KINDS
from tests.adapters.narrow import REFUSED
from tools import describe_plugins

DOCS = ROOT / "docs"
AGAIN = "run python tools/describe_plugins.py and commit docs/"


COUNTED = ("r18", "mobilefacenet_nano", "swin_nano", "vit_nano")  # all of them take seven seconds


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    """The pages as they are written now, but for that of the backbones."""
    kinds = [page.kind for page in PAGES if page.kind != "backbone"]
    found = {path: text for kind in kinds for path, text in describe_plugins.pages(kind).items()}
    found["plugins/README.md"] = index({page.kind: ours(page.registry) for page in PAGES})
    return {**found, "recipes.md": recipes.write()}


def test_the_page_of_the_backbones_is_up_to_date():
    page = next(page for page in PAGES if page.kind == "backbone")
    kept = (DOCS / "plugins" / page.file).read_text()
    missing = [line for line in write(page, COUNTED).splitlines() if line not in kept.splitlines()]
    assert not missing, f"{AGAIN}plugins/{page.file}; missing: {missing[:2]}"
    for name in ours(page.registry):
        found = section(page, about(name, page.registry.get(name)))
        assert "\n".join(found).strip() in kept and f"| [`{name}`]" in kept, f"{AGAIN}plugins/{page.file}: {name}"


def test_the_pages_are_up_to_date(written):
    for path, text in written.items():
        kept = (DOCS / path).read_text().splitlines()
        differ = [(a, b) for a, b in zip(kept, text.splitlines(), strict=False) if a != b]
        assert kept == text.splitlines(), f"{AGAIN}{path}; the first changes: {differ[:2]}"
    there = {f"plugins/{path.name}" for path in (DOCS / "plugins").glob("*.md")}
    assert there == {*written, "plugins/backbones.md"} - {"recipes.md"}


def test_every_plugin_has_its_section_and_every_argument_its_row(written):
    assert {page.kind for page in PAGES} == {*KINDS, "augmentation"}
    for page in PAGES:
        names = ours(page.registry)
        text = (DOCS / "plugins" / page.file).read_text()
        sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
        assert [told.split("\n")[0] for told in sections] == names, page.kind
        for name, told in zip(names, sections, strict=True):
            rows = re.findall(r"^\| `(\w+)` \|", told, re.MULTILINE)
            assert rows == [one.name for one in about(name, page.registry.get(name)).arguments], (page.kind, name)
            assert f"]({page.file}#{name})" in written["plugins/README.md"]


@pytest.mark.parametrize("path", ["recipes.md", "plugins/README.md", *(f"plugins/{page.file}" for page in PAGES)])
def test_links_of_the_pages_lead_somewhere(path):
    folder, text = (DOCS / path).parent, (DOCS / path).read_text()
    if text:
        for link in re.findall(r"\]\(([^)]+)\)", text):
            file, _, anchor = link.partition("#")
            if file.startswith("http") or file.endswith(("from_cvlface.md", "from_arcface_torch.md")):
                continue
            target = folder / file if file else DOCS / path
            assert target.exists(), f"{path} links to {link}"
            if anchor and target.suffix == ".md":
                shown = text if not file else target.read_text()
                heads = re.findall(r"^#+ (.*)$", shown, re.MULTILINE)
                assert anchor in [recipes.anchor(re.sub(r"\[(.*?)\]\(.*?\)", r"\1", head)) for head in heads], link


@pytest.mark.parametrize("path", ["recipes.md", "licences.md", *(f"plugins/{page.file}" for page in PAGES)])
def test_tables_have_as_many_cells_in_every_row(path):
    width = 0
    for line in (DOCS / path).read_text().splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not width or not cells or cells == width, f"{path}: {line}"
        width = cells


def test_plugins_of_other_places_stay_off_the_pages(monkeypatch, capsys):
    def stranger(strength: float = 1.0) -> None:
        """A margin of somebody else.

        strength: how strong it is.
        """

    monkeypatch.setitem(MARGINS._objects, "stranger", stranger)
    page = next(page for page in PAGES if page.kind == "margin")
    assert "stranger" in MARGINS.names() and "stranger" not in ours(MARGINS)
    found = about("stranger", stranger)
    assert found.arguments[0].meaning == "how strong it is." and found.arguments[0].default == "1.0"
    assert page.setting == "config.margin.name"


def test_one_kind_goes_to_the_screen_or_a_folder(tmp_path, capsys):
    assert describe_plugins.main(["--kind", "gate", "--out", "-"]) == 0
    assert capsys.readouterr().out.startswith("# Gates")
    assert describe_plugins.main(["--kind", "gate", "--out", str(tmp_path)]) == 0
    assert [path.name for path in (tmp_path / "plugins").iterdir()] == ["gates.md"]
    (tmp_path / "file").write_text("")
    assert describe_plugins.main(["--kind", "gate", "--out", str(tmp_path / "file")]) == 2


def test_docstrings_fall_into_prose_and_meanings():
    text = "Prose: of it.\n\nrate: how fast. low, high: ends,\n    in pixels. More\n    of them.\nProse again."
    text += "\nmode: a\nb."
    prose, meanings = split(text, ["rate", "low", "high", "mode", "none"])
    assert prose == "Prose: of it.\n\nProse again."
    assert meanings == {"rate": "how fast.", "low": "ends, in pixels. More of them.", "mode": "a b."} | {
        "high": "ends, in pixels. More of them."
    }


def test_rules_are_read_from_the_protocols_files():
    from recognition.evaluation.compared import PAIR_RULES
    from recognition.evaluation.protocols import PROTOCOLS

    rules = {name: rules_of(PROTOCOLS.get(name)) for name in ours(PROTOCOLS)}
    assert all(stated.get("gallery") and stated.get("tie") and stated.get("resampled") for stated in rules.values())
    assert rules["bin"]["folds"] == PAIR_RULES.folds and "folds" not in rules["ijbb"]
    assert rules["tinyface"]["failures"] == "as the argument `failures` says"


def test_full_size_and_narrow_networks_fit_the_same_adapters():
    narrow = {"swin_120": "swin"}
    refused = {
        (name, narrow.get(backbone, backbone))
        for name in {adapter for adapter, _ in REFUSED} | {"lora"}
        for backbone in BACKBONES_SHOWN
        if isinstance(try_on(name, backbone), str)
    }
    assert refused == set(REFUSED)


def test_facts_are_measured():
    found = try_on("dual_lora", "vit_t")
    assert isinstance(found, Facts)
    assert found.adapted == [f"blocks.{i}.attn.qkv" for i in range(12)]
    assert sum(found.trained.values()) == 12 * 2 * 8 * (256 + 768) and not found.buffers and not found.unsaved
    assert found.total == sum(
        (256 * 3 * 81 + 256, 144 * 256, 256, 512, 256 * 144 * 256, 2 * 256, 256 * 512, 2 * 512)  # around the blocks
    ) + 12 * (4 * 256 + 4 * 256**2 + 256 + 8 * 256**2 + 5 * 256)
    assert sorted(try_on("full", "r18").buffers)[:2] == ["bn1.running_mean", "bn1.running_var"]
    assert len(try_on("vera", "r18").unsaved) == 2, "one pair, shared"


def test_multiply_adds_are_counted():
    row = next(
        line for line in (DOCS / "plugins/backbones.md").read_text().splitlines() if line.startswith("| [`r18`]")
    )
    sides = {64: 56, 128: 28, 256: 14, 512: 7}
    stages = ((64, 64), (64, 128), (128, 256), (256, 512))
    stem = 112**2 * 64 * 27
    convolutions = sum(
        (sides[o] * 2) ** 2 * o * i * 9
        + sides[o] ** 2 * o * o * 9
        + sides[o] ** 2 * o * i
        + 2 * sides[o] ** 2 * o * o * 9
        for i, o in stages
    )
    assert f"{(stem + convolutions + 512 * 49 * 512) / 1e9:.2f} G" in row


@pytest.mark.parametrize("path", recipes.recipes(), ids=lambda path: path.stem)
def test_every_recipe_has_a_head_that_runs_itself(path):
    head = recipes.head_of(path)
    assert f"configs/{path.name}" in head.parts["Run"]
    for file in re.findall(r"(?:configs|docs|tools)/[\w/]+\.\w+", " ".join(head.parts.values())):
        assert (ROOT / file).exists(), f"{path.name} names {file}"
    if not recipes.figures(path.stem):
        said = head.parts["Expect"]
        assert "not measured" in said or "docs/" in said or "->" in said or "stay those" in said, path.name


def test_a_recipes_figures_are_its_rows():
    page = "## A b\n\n**set: accuracy, %**\n\n| | 112 | 7 |\n|---|---|---|\n| base | 9.0 [1, 2] | 3 |\n"
    page += "| `x` | 8.5 [8, 9]* | 4 |\n\n**set: tar@0.01, %**\n\n| | 112 |\n|---|---|\n| x | 2 |\n"
    (row,) = recipes.rows_of("results.md", page, "x")
    assert (row.heading, row.caption, row.columns) == ("A b", "set: accuracy, %", ("112", "7"))
    assert row.values == ("8.5 [8, 9]*", "4") and row.base == ("9.0 [1, 2]", "3")


def test_licences_of_packages_are_those_of_the_metadata():
    page = (DOCS / "licences.md").read_text()
    assert renewed(page) == page, f"{AGAIN}licences.md"
    assert all(f"| `{package}` |" in page for package in required()) and "not known" not in page
    with pytest.raises(ValueError, match="packages"):
        renewed("# Licences\n")
