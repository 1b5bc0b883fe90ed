"""A tiny run folder made by hand, for tests of the page: settings, log lines, records, results with items."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from recognition.config import load, to_json
from recognition.evaluation.protocol import Looked
from recognition.evaluation.results import about, save_results
from recognition.evaluation.sets import asked, open_sets
from tests.small import write_recipe

SETS = """
config.evaluation.sets = [
    edict(name={pairs!r}, kind="drawn", records={records!r}, count=40, folds=2, low_res=[112, [112, 14]]),
    edict(name={people!r}, kind="identification", records={records!r}, low_res=[112])]
config.evaluation.ranks = [1, 5]
config.evaluation.far = [0.1, 0.001]
"""


def make_run(
    folder: Path,
    name: str = "tiny",
    *,
    noise: float = 2.0,
    pairs: str = "pairs",
    people: str = "people",
    whens: tuple[str, ...] = ("before", "after"),
    extra: str = "",
) -> Path:
    """A finished run in folder/name. noise: of the trained model's embeddings; the base's is 4."""
    extra = SETS.format(pairs=pairs, people=people, records=str(folder / "train.rec")) + extra
    config = load(write_recipe(folder, extra))
    run = folder / name
    run.mkdir()
    (run / "config.json").write_text(to_json(config))
    sets = open_sets(config.evaluation)
    for when in whens:
        results = {one.name: measured(one, config, 4.0 if when == "before" else noise) for one in sets}
        save_results(run / "report" / when, results, about(sets))
    lines = [
        {"update": n, "time": 1.7e9 + n, "train/loss": 5 - n / 4, "train/lr": 0.01, "quality/gate_mean": 0.5}
        for n in range(1, 9)
    ]
    lines.insert(4, {"update": 4, "time": 1.7e9, f"during/{pairs}/112/accuracy": 0.75})
    lines.append({"update": 8, "time": 1.7e9 + 60, f"after/{pairs}/112/accuracy": 0.85})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = {"lrface": "0.1.0", "python": "3.11.7", "commit": "abc123", "records": "of-other-records"}
    (run / "provenance.json").write_text(json.dumps(told))
    sizes = {"updates": 8, "train_seconds": 90.0, "parameters": 1000, "trainable_parameters": 100}
    (run / "summary.json").write_text(json.dumps(sizes))
    (run / "model").mkdir()
    (run / "model" / "adapter.json").write_text(json.dumps({"licence": "research only", "base_sha256": "00ff"}))
    return run


def measured(one, config, noise: float) -> dict:
    """Results of a set from drawn embeddings: person k % 6 of picture k, as tests.small writes them."""
    generator = torch.Generator().manual_seed(int(10 * noise))
    looked = {}
    for key, view in one.protocol.views.items():
        labels = [person(one.protocol.images, int(row)) for row in view.rows]
        centres = 3 * torch.eye(16)[labels]
        spread = noise * (1.5 if key == "14" else 1.0)
        embedding = centres + spread * torch.randn(len(labels), 16, generator=generator) / 2
        quality = np.linspace(1, 2, len(labels), dtype=np.float32) - (1 if key == "14" else 0)
        looked[key] = Looked(embedding, quality, 1 / (1 + np.exp(-quality)))
    return one.protocol.measure(looked, asked(config.evaluation))


def person(images, row: int) -> int:
    """Of a picture of tests.small, whose place tells its key."""
    return int(images.where(row).split("key ")[1].split()[0].rstrip(",:")) % 6
