"""What the documents say can be done."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from recognition import config as settings
from recognition.margins import MARGINS
from recognition.objectives import OBJECTIVES
from recognition.registry import registry_of
from tests.documents.collect import documents
from tests.documents.lines import read, spans

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [str(path.relative_to(ROOT)) for path in documents()]
OWN = ("recognition/margins/mine.py", "iqa/brightness.py", "configs/mine.py", "tools/x.py")  # of readers, of any
FILE = r"json|onnx|py|sh|pth?|safetensors|rec|idx|bin|mdb|csv|md"  # endings: a file that is called as a section is
SEVERAL = (  # one meaning, worded at several places
    "there is no record file",
    "there is no such file",
    "evaluation.sets is empty",
    "not a weights file",
    "was trained on another base",
    "no threshold at FAR",
    "cannot be merged",
)
SENTENCES = ("recognition", "adapters", "iqa", "tools")  # where errors are worded


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_a_document_names_is_there(name):
    text = (ROOT / name).read_text()
    named = set(re.findall(r"(?:tools|configs|recognition|adapters|iqa|tests|docs|weights)/[\w/.]+\.\w+", text))
    missing = [path for path in sorted(named) if not (ROOT / path).exists() and path not in OWN]
    assert not missing, f"{name} names {missing}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_of_a_document_leads_somewhere(name):
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(), flags=re.DOTALL)
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")}
    missing = [link for link in sorted(links - {""}) if not ((ROOT / name).parent / link).exists()]
    assert not missing, f"{name} links to {missing}"


def test_the_index_names_every_page():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    text = (ROOT / "docs" / "README.md").read_text()
    assert not {page for page in pages if f"]({page})" not in text}


def test_troubleshooting_has_every_pain_with_what_shows_it():
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    pains = re.split(r"^### ", text.partition("## LRFace's own")[0], flags=re.MULTILINE)[1:]
    assert len(pains) == 25
    for pain in pains:
        assert re.search(r"\w+#\d+", pain), f"no thread: {pain[:60]}"
        assert "hown by" in pain and re.search(r"`tests/\S+\.py`", pain), f"no test: {pain[:60]}"
        for path, name in re.findall(r"`(tests/\S+\.py)` \(`(\w+)`\)", pain):
            assert f"def {name}(" in (ROOT / path).read_text()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_setting_of_a_document_is_there(name):
    known = settings.defaults()
    sections = "|".join(section for section in known if isinstance(known[section], dict))
    unknown = []
    for section, key in re.findall(rf"(?<![\w./])({sections})\.(\w+)(?![\w./])", code_of((ROOT / name).read_text())):
        taken = set(known[section])
        if section in settings.PLUGINS:
            registry = registry_of(section)
            taken |= {argument for plugin in registry.names() for argument in registry.parameters(plugin)}
        if key not in taken and not re.fullmatch(FILE, key):
            unknown.append(f"{section}.{key}")
    assert not unknown, f"{name}: no settings: {unknown}"


def code_of(text: str) -> str:
    """Spans of code in words and tables: blocks are run by tests/documents."""
    return "\n".join(span for _, span in spans(read(text)))


def messages() -> set[str]:
    """Every text of the sources but docstrings; {} where a value stands in one."""
    found = set()
    for path in (path for folder in SENTENCES for path in (ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        inner |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in (node for node in ast.walk(tree) if id(node) not in inner):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_errors_of_the_document_are_those_of_the_code():
    table = (ROOT / "docs" / "troubleshooting.md").read_text().partition("## LRFace's own")[2]
    rows = re.findall(r"^\| (`[^|]+)\|", table, re.MULTILINE)
    fragments = [one for row in rows for one in re.findall(r"`([^`]+)`", row)]
    assert len(rows) >= 15
    known = messages()
    found = {one: [text for text in known if one in text] for one in fragments}
    faults = [f"{one!r} is too short to find a sentence by" for one in fragments if len(one) < 12]
    for one, texts in found.items():
        if not texts or (len(texts) > 1) != (one in SEVERAL):
            faults.append(f"{one!r} stands in {len(texts)} messages: {texts}")
    assert not faults, "\n".join(faults)


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
