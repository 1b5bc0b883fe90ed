"""What could hide in a document: commands that are none, words that are too long for a line."""

from __future__ import annotations

import pytest

from tests.documents.collect import ROOT, documents, hidden
from tests.documents.lines import read
from tests.documents.table import NO_COMMANDS
from tests.documents.wrap import too_long, wrapped

PAGES = [str(path.relative_to(ROOT)) for path in documents()]


@pytest.mark.parametrize("name", PAGES)
def test_every_block_is_commands_or_known_to_be_none(name: str) -> None:
    found = hidden((ROOT / name).read_text(), name, NO_COMMANDS)
    assert not found, "\n".join(found)


def test_the_list_of_other_blocks_is_not_too_long() -> None:
    texts = [path.read_text() for path in documents()]
    assert not [start for start in NO_COMMANDS if not any(start in text for text in texts)]


@pytest.mark.parametrize("name", [name for name in PAGES if not name.startswith("docs/plugins/")])  # of docstrings
def test_words_have_at_most_120_columns(name: str) -> None:
    found = [f"{name}:{line.number}" for line in too_long(read((ROOT / name).read_text()))]
    assert not found, f"python -m tests.documents.wrap {name} breaks them: {', '.join(found)}"


@pytest.mark.parametrize(
    ("text", "fault"),
    (
        ("Words.\n\n    pythn tools/demo.py", "no command"),
        ("Words.\n\n    Python tools/train.py x", "no command"),
        ("Words.\n\n    lrfacee recipes", "no command"),
        ("Words.\n\n```bash\npythn tools/demo.py\n```", "no command"),
        ("Words.\n\n```bsh\npython tools/demo.py\n```", "no language"),
        ("Words.\n\n```text\npython tools/demo.py\n```", "a command in a block of output"),
        ("Words.\n\n   python tools/demo.py", "neither words nor code"),
        ("Words.\n\npython tools/demo.py", "not indented as code"),
        ("- Item.\n\n  python tools/demo.py", "not indented as code"),
        ("Words.\n\n    python tools/a.py\n   python tools/b.py", "directly behind code"),
        ("Words with `pythn tools/demo.py`.", "pythn is no program"),
        ("Words with `lrfacee recipes`.", "lrfacee is no program"),
        ("Words with `tools/x.py --a`, `it has`\nand `make\ntest`.\n\n    python tools/a.py \\\n        --b", ""),
        ('Words.\n\n    from lrface import LRFace\n    model = LRFace.load("x")', ""),
        ("1. Item,\n   goes on.\n\n   More of it.\n\n        python tools/a.py", ""),
        ("Words.\n\n    a table  of something", "no command"),
    ),
)
def test_slips_are_found(text: str, fault: str) -> None:
    found = hidden(text, "x.md")
    assert bool(found) == bool(fault) and fault in "".join(found), found


def test_words_are_broken_and_nothing_else_changes() -> None:
    long = "word " * 22 + "`code of two` [a link](https://example.org/" + "x" * 90 + ") and more"
    text = f"# {long}\n\n- {long}\n  goes on\n- short\n\n| {long} |\n\n    {long}\n\n{long}\n- 1\nlast\n"
    found = wrapped(text)
    assert found.split() == text.split() and not too_long(read(found)) and wrapped(found) == found
    assert "`code of two`" in found and f"# {long}\n" in found and f"| {long} |" in found and f"    {long}\n" in found
    assert [line.kind for line in read("a\n\n    b\n```text\nc\n```")] == [
        "text",
        "blank",
        "code",
        "fence",
        "code",
        "fence",
    ]
    assert wrapped("x " * 59 + "- 1. # y\n") == " ".join("x" * 58) + "\nx - 1. # y\n"
