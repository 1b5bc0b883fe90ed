"""What the documents say can be done."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from recognition.margins import MARGINS
from recognition.objectives import OBJECTIVES

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "SECURITY.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_a_document_names_is_there(name):
    text = (ROOT / name).read_text()
    named = set(re.findall(r"(?:tools|configs|recognition|adapters|iqa|tests|docs|weights)/[\w/.]+\.\w+", text))
    missing = [path for path in sorted(named) if not (ROOT / path).exists() and path != "recognition/margins/mine.py"]
    assert not missing, f"{name} names {missing}"


def test_the_readme_names_every_recipe():
    text = (ROOT / "README.md").read_text()
    recipes = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"base"}
    assert not {recipe for recipe in recipes if f"`{recipe}`" not in text}


def test_every_make_target_a_document_names_is_there():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for name in DOCUMENTS:
        named = set(re.findall(r"\bmake ([a-z][\w-]+)\b(?=\s*(?:#|`|$|  ))", (ROOT / name).read_text(), re.M))
        assert named <= targets, f"{name}: {named - targets}"


@pytest.mark.parametrize("tool", sorted(path.name for path in (ROOT / "tools").glob("*.py")))
def test_every_tool_answers_help_without_torch(tool):
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['tools/{tool}', '--help']\n"
        f"try: runpy.run_path('tools/{tool}', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_the_shipped_model_is_small_and_has_its_card():
    from recognition.weights import read_weights

    path = ROOT / "weights" / "demo_base.safetensors"
    assert path.stat().st_size <= 3 * 2**20
    card = read_weights(path).card
    assert card["backbone"] == "mobilefacenet_nano" and card["licence"]


def test_the_page_of_losses_has_all_of_them():
    rows = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/losses.md").read_text(), re.MULTILINE))
    assert rows == {*MARGINS.names(), *OBJECTIVES.names()}
