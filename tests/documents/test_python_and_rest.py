"""The documents' Python, what their commands that are not run are looked at for, and the table itself."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.documents import workspace
from tests.documents.cases import WALKS, every, not_run
from tests.documents.collect import Snippet, commands, of_document, snippets
from tests.documents.running import plain, rules_for, words_of
from tests.documents.table import NOT_RUN, RULES
from tests.documents.unrun import LOOKS
from tests.small import photos
from tests.tiny import nameable

DOCUMENTS = sorted({one.document for one in snippets() if one.document not in ("CONTRIBUTING.md", *WALKS)})
SKIPPED = [text for text in every() if not_run(text)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_python_of_a_document_runs_from_its_first_block_to_its_last(
    document: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.copied(finished, tmp_path / "work"))
    given = {"photos": photos(2), "points": np.tile(workspace.TEMPLATE, (2, 1, 1)), "array": photos(1)[0]}
    with nameable():
        for block in (one for one in snippets() if one.document == document):
            run_block(block, given)


def run_block(block: Snippet, names: dict) -> None:
    """Run a block; its names stay for the next."""
    exec(compile(block.text, f"{block.document}:{block.line}", "exec"), names)


@pytest.mark.parametrize("text", SKIPPED, ids=[every()[text] for text in SKIPPED])
def test_what_is_not_run_names_what_is_there(text: str, finished: Path) -> None:
    why = not_run(text)
    print(f"{every()[text]}: {text}: not run, since it {why.reason}")
    LOOKS[why.look](text, finished)


def test_every_command_is_run_or_has_its_reason() -> None:
    uncovered = [
        f"{one.place}: {one.text}"
        for one in commands()
        if not not_run(one.text) and not rules_for(" ".join(plain(words_of(one.text)[0])))
    ]
    assert not uncovered, "no rule of tests/documents/table.py covers\n" + "\n".join(uncovered)


def test_every_rule_is_for_something() -> None:
    texts = {one.text for one in commands()}
    flat = [" ".join(plain(words_of(text)[0])) for text in texts if not not_run(text)]
    idle = [rule.match for rule in RULES if not any(re.search(rule.match, text) for text in flat)]
    idle += [one.match for one in NOT_RUN if not any(re.search(one.match, text) for text in texts)]
    assert not idle, f"no document has a command for {idle}"


def test_commands_are_found_in_every_form() -> None:
    text = """Words, `make check`, and `torchrun --max-restarts`, which is none; `python tools/a.py --list`.

    A=configs/b; python tools/a.py ${A}.py 'x=["p",
        "q"]' \\
        --more   # why
    no command

```bash
$ python tools/c.py "a # b"
```

```text
python tools/d.py
```
"""
    found = [(one.line, one.text) for one in of_document(text, "x.md")]
    assert found == [
        (1, "make check"),
        (1, "python tools/a.py --list"),
        (3, """A=configs/b; python tools/a.py ${A}.py 'x=["p", "q"]' --more"""),
        (9, 'python tools/c.py "a # b"'),
    ]
    assert words_of(found[2][1])[0] == ["python", "tools/a.py", "configs/b.py", 'x=["p", "q"]', "--more"]
    torchrun = ["torchrun", "--nproc-per-node", "8", "--max-restarts=3", "tools/train.py", "RECIPE", "a.b=1"]
    assert plain(torchrun) == ["python", "tools/train.py", "RECIPE", "a.b=1"]
    with pytest.raises(SystemExit):
        plain(["torchrun", "--no-such-option", "1", "tools/train.py"])
