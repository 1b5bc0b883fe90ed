"""The harness behind the fuzz tests: what goes wrong is told with its seed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests import fuzz


def test_the_harness_tells_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 1)

    def raises(seed: int) -> str:
        if seed == 1234:
            raise KeyError("of the test")
        return "fine"

    def crashes(seed: int) -> str:
        return "fine" if seed < 3 else os.kill(os.getpid(), signal.SIGKILL) or ""

    def hangs(seed: int) -> str:
        return "fine" if seed < 5 else time.sleep(60) or ""

    def eats(seed: int) -> str:
        return "fine" if seed < 7 else str(len(bytes(3 * 2**30)))

    for check, words in (
        (raises, r"seed 1234(?s:.*)KeyError: 'of the test'"),
        (crashes, r"seed 3: the child died of 9"),
        (hangs, r"seed 5: the child took too long"),
        (eats, r"seed 7(?s:.*)MemoryError"),
    ):
        with pytest.raises(AssertionError, match=words):
            fuzz.fuzz(check, 2000, name="harness")
    (tmp_path / "input").write_text("x")
    with pytest.raises(AssertionError, match="its input is kept in") as told:
        fuzz.fuzz(raises, 2000, name="harness", folder=tmp_path)
    kept = Path(str(told.value).split("kept in ")[1].split("\n")[0])
    assert (kept / "input").read_text() == "x"
    shutil.rmtree(kept.parent)
    assert fuzz.fuzz(lambda seed: "odd" if seed % 2 else "even", 2500, name="harness") == {"odd": 1250, "even": 1250}


def test_mutations_are_a_function_of_the_seed_and_differ() -> None:
    data = bytes(range(200))
    made = [fuzz.mutate(data, random.Random(seed), [b"token"]) for seed in range(300)]
    assert made == [fuzz.mutate(data, random.Random(seed), [b"token"]) for seed in range(300)]
    assert len(set(made)) > 250 and sum(b"token" in one for one in made) > 20
    assert min(map(len, made)) < 200 < max(map(len, made))
