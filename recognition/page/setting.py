"""What each run was made of: its settings, where they differ, its training records, its licence."""

from __future__ import annotations

import json
from collections.abc import Sequence

from recognition.inputs import open_records
from recognition.page.markup import Markup, code, details, element, join, note, table
from recognition.page.numbers import NONE, short
from recognition.page.runs import Run, flat

OWN = ("run.name", "run.root")  # settings that differ between any two runs


def setting(runs: Sequence[Run]) -> Markup:
    """The section on settings, data and licence."""
    names = [run.name for run in runs]
    return element(
        "section",
        element("h2", "Setting", id="setting"),
        _differing(runs) if len(runs) > 1 else None,
        element("h3", "Training data, model and licence"),
        element("div", table(["", *names], _facts(runs), label="training data, model and licence"), class_="words"),
        element("h3", "All settings"),
        *(_whole(run) for run in runs),
        aria_labelledby="setting",
    )


def _differing(runs: Sequence[Run]) -> Markup:
    told = [flat(run.config) for run in runs]
    keys = [key for key in dict.fromkeys(key for one in told for key in one) if key not in OWN]
    rows = []
    for key in keys:
        values = [_written(one[key]) if key in one else NONE for one in told]
        if len(set(values)) > 1:
            rows.append([code(key), *values])
    title = element("h3", "Settings that differ")
    if not rows:
        return join([title, note("None: the runs have the same settings.")])
    heads = ["setting", *(run.name for run in runs)]
    return join([title, element("div", table(heads, rows, label="settings that differ"), class_="words")])


def _facts(runs: Sequence[Run]) -> list[list[object]]:
    counts = [_records(run) for run in runs]
    rows: list[list[object]] = [
        ["training records", *(join((code(one) for one in _listed(run.config.data.records)), ", ") for run in runs)],
        ["images and people", *counts],
        ["fingerprint of the records", *(code(run.provenance.get("records", NONE)) for run in runs)],
        ["base weights", *(code(run.config.backbone.get("weights") or "none") for run in runs)],
        ["base, SHA-256", *(code(run.card.get("base_sha256") or NONE) for run in runs)],
        ["licence of the base", *(_licence(run) for run in runs)],
        ["input", *(_input(run) for run in runs)],
    ]
    return rows


def _licence(run: Run) -> str:
    licence = run.card.get("licence")
    if isinstance(licence, str) and licence:
        return licence
    if not run.card:
        return "no model card yet: training has not come to an end"
    return "not told by the base's card; ask whoever published it"


def _input(run: Run) -> str:
    told = run.card.get("preprocessing")
    if not isinstance(told, dict):
        return NONE
    return ", ".join(f"{key.replace('_', ' ')} {_written(value)}" for key, value in told.items())


def _records(run: Run) -> str:
    try:
        records = open_records(run.config)
        same = records.fingerprint() == run.provenance.get("records")
    except (OSError, ValueError, KeyError) as error:
        return f"not counted: {error}"
    told = f"{short(len(records))} images of {short(len(set(records.labels.tolist())))} people"
    return told if same else f"{told} there now; they are not the records that it was trained on (fingerprint differs)"


def _listed(value: object) -> list[str]:
    return [value] if isinstance(value, str) else [str(one) for one in value]


def _whole(run: Run) -> Markup:
    rows = [[code(key), code(_written(value))] for key, value in flat(run.config).items()]
    told = table(["setting", "value"], rows, label=f"all settings of {run.name}")
    return details(f"{run.name}: {len(rows)} settings", element("div", told, class_="words"))


def _written(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)
