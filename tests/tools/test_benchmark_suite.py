"""The suite of all benchmarks: commands that are understood, files that are kept, failures that are told."""

import pytest

from recognition.bench import suite
from recognition.bench.subjects import SUBJECTS
from tools import benchmark


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("tiny", [False, True])
@pytest.mark.parametrize("run", suite.RUNS, ids=lambda run: run.name)
def test_every_command_is_understood(run, tiny, device):
    args = benchmark.parse(run.argv(device, tiny=tiny))
    if "device" in vars(args):
        assert args.device in (device, "auto")


def test_every_subject_of_the_document_is_in_it():
    measured = {run.argv("cpu", tiny=False)[0] for run in suite.RUNS}
    assert measured == {*SUBJECTS} - {"suite", "checkpoint", "iqa"}  # these two have their own figures elsewhere
    assert len({run.name for run in suite.RUNS}) == len(suite.RUNS)


def test_what_is_there_is_kept_and_what_fails_is_told(tmp_path, monkeypatch, capsys):
    good = suite.Run("good", "metrics --pairs 100 --repeats 1")
    monkeypatch.setattr(suite, "RUNS", (good, suite.Run("bad", "metrics --pairs 3")))
    assert benchmark.main(["suite", "--output", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "bad: failed" in told and "1 of 2 failed: bad" in told and "Traceback" not in told
    text = (tmp_path / "good.md").read_text()
    assert "python tools/benchmark.py metrics --pairs 100" in text and "torch" in text and "| " in text
    assert not (tmp_path / "bad.md").exists()
    monkeypatch.setattr(suite.subprocess, "run", None)  # nothing is started
    assert benchmark.main(["suite", "--output", str(tmp_path), "--only", "good"]) == 0
    assert "is there" in capsys.readouterr().out
    assert benchmark.main(["suite", "--output", str(tmp_path), "--only", "nothing"]) == 1
    assert "names no run" in capsys.readouterr().err
