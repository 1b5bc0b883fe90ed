"""The documents' commands as cases of tests: each text once, named by the first place that has it."""

from __future__ import annotations

import functools
import re

from tests.documents.collect import commands, unique
from tests.documents.table import NOT_RUN, NotRun

WALKS = (  # documents that are from end to end, each in one folder
    "docs/quick_start.md",
    "docs/from_arcface_torch.md",
    "docs/from_petalface.md",
    "docs/from_cvlface.md",
    "docs/records.md",
)
TRAINING = re.compile(r"tools/(train|compare)\.py\b|^lrface (train|compare) ")


@functools.cache
def every() -> dict[str, str]:
    """Text of a command -> where it stands first."""
    return {
        text: places[0].place
        for text, places in unique(commands()).items()
        if any(one.document not in WALKS for one in places) or not_run(text)
    }


def not_run(text: str) -> NotRun | None:
    """Why a command is not run; None where it is."""
    return next((one for one in NOT_RUN if re.search(one.match, text)), None)


def of_training() -> list[str]:
    """Commands that train."""
    return [text for text in every() if not not_run(text) and TRAINING.search(text)]


def of_other_tools() -> list[str]:
    """All other commands that are run."""
    return [text for text in every() if not not_run(text) and not TRAINING.search(text)]


def named(texts: list[str]) -> dict:
    """Arguments of pytest.mark.parametrize, so that a failure names document and line."""
    return {"argvalues": texts, "ids": [every()[text] for text in texts]}
