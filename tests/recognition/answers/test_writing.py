"""Files of embeddings: every form holds the same."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from recognition.answers.results import Answers
from recognition.answers.writing import WRITERS, write_answers

ROWS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
NAMES = ["a.jpg", "größe, zwei.jpg", "torn.jpg", 'b "quoted".jpg']
ANSWERS = Answers(NAMES, ROWS, np.arange(4, dtype=np.float32), np.arange(4, dtype=np.float32) / 3, None, {2: "torn"})
SOUND = [0, 1, 3]
ABOUT = {"model": "abc"}


@pytest.fixture(params=list(WRITERS))
def written(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    return write_answers(tmp_path / f"out{request.param}", ANSWERS, ABOUT)


def test_what_is_written_is_read(written: list[Path]) -> None:
    names, rows, quality = READERS[written[0].suffix](written)
    assert names == [NAMES[i] for i in SOUND]
    np.testing.assert_array_equal(np.asarray(rows, np.float32), ROWS[SOUND])
    if quality is not None:
        np.testing.assert_array_equal(np.asarray(quality, np.float32), ANSWERS.quality[SOUND])


def _npz(written: list[Path]) -> tuple:
    with np.load(written[0]) as file:  # pickles are refused by default
        assert json.loads(str(file["about"])) == ABOUT and "gate" not in file
        return file["names"].tolist(), file["embedding"], file["quality"]


def _npy(written: list[Path]) -> tuple:
    return written[1].read_text().splitlines(), np.load(written[0]), None


def _csv(written: list[Path]) -> tuple:
    with written[0].open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert lines[0]["gate"] == "" and list(lines[0])[:5] == ["name", "norm", "quality", "gate", "e0"]
    rows = [[float(line[f"e{i}"]) for i in range(3)] for line in lines]
    return [line["name"] for line in lines], rows, [float(line["quality"]) for line in lines]


def _jsonl(written: list[Path]) -> tuple:
    lines = [json.loads(line) for line in written[0].read_text().splitlines()]
    assert lines[0]["gate"] is None
    return [one["name"] for one in lines], [one["embedding"] for one in lines], [one["quality"] for one in lines]


def _safetensors(written: list[Path]) -> tuple:
    with safe_open(written[0], "numpy") as file:
        assert json.loads(file.metadata()["about"]) == ABOUT
        return json.loads(file.metadata()["names"]), file.get_tensor("embedding"), file.get_tensor("quality")


READERS = {".npz": _npz, ".npy": _npy, ".csv": _csv, ".jsonl": _jsonl, ".safetensors": _safetensors}


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"written as \.npz, .* not 'out\.pkl'"):
        write_answers(tmp_path / "out.pkl", ANSWERS, ABOUT)
