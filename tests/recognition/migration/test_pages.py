"""The pages for those who move in: their tables are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from recognition.migration.pages import table
from recognition.migration.sources import PROGRAMS

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGES = {"arcface_torch": "from_arcface_torch.md", "PETALface": "from_petalface.md", "FaceMoE": "from_petalface.md"}


@pytest.mark.parametrize("name", [*PROGRAMS])
def test_the_page_has_the_table_of_the_code(name):
    page = (DOCS / PAGES[name]).read_text()
    found = page.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- /{name} -->")[0]
    assert found == table(PROGRAMS[name]), f"take it from: python tools/convert_config.py --settings {name}"
