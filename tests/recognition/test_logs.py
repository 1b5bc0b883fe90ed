import contextlib
import json
import os
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recognition.logs import Growing, Logs, cut_after
from tests.disk import fill, small_disk


def line(update, **values):
    return json.dumps({"update": update, **values}) + "\n"


def updates_in(path):
    return [json.loads(text)["update"] for text in path.read_text().splitlines()]


def board(run):
    """What TensorBoard reads of a run."""
    found = EventAccumulator(str(run / "logs"), purge_orphaned_data=True)
    found.Reload()
    return found


def steps(run, tag):
    return [event.step for event in board(run).Scalars(tag)]


def test_everything_told_is_read_back(tmp_path):
    logs = Logs(tmp_path, total=2)
    logs.scalars({"train/loss": 2.5, "train/lr": 0.1}, 1, line=False)
    logs.scalars({"train/loss": 1.5}, 2, line=False)
    logs.histogram("quality/score", torch.tensor([[0.0, 1.0], [2.0, float("nan")]]), 2)
    logs.histogram("quality/none", torch.tensor([float("inf")]), 2)
    figure = Figure(figsize=(2, 1), dpi=50)
    logs.figure("pictures/it", figure, 2)
    logs.text("plan", "**words**")
    logs.close()
    found = board(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [(1, 2.5), (2, 1.5)]
    histogram = found.Histograms("quality/score")[0].histogram_value
    assert (histogram.num, histogram.min, histogram.max, sum(histogram.bucket)) == (3, 0, 2, 3)
    picture = found.Images("pictures/it")[0]
    assert (picture.width, picture.height) == (100, 50)
    assert "plan/text_summary" in found.Tags()["tensors"] and "quality/none" not in found.Tags()["histograms"]
    assert [set(json.loads(text)) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"update", "time", "train/loss", "train/lr"},
        {"update", "time", "train/loss"},
    ]


def test_a_run_that_does_not_speak_writes_nothing(tmp_path, capsys):
    logs = Logs(tmp_path / "run", total=2, speaks=False)
    logs.scalars({"train/loss": 2.5}, 1)
    logs.histogram("h", torch.ones(2), 1)
    logs.text("t", "x")
    logs.advance()
    logs.say("x")
    logs.close()
    assert not (tmp_path / "run").exists() and capsys.readouterr().out == ""


def test_a_resume_drops_later_updates_from_both_logs(tmp_path):
    for first, last in ((0, 6), (4, 5)):  # killed at 6, continued from the checkpoint of 4
        logs = Logs(tmp_path, total=9, first=first)
        for update in range(first + 1, last + 1):
            logs.scalars({"train/loss": float(first)}, update, line=False)
        logs.close()
    assert updates_in(tmp_path / "metrics.jsonl") == [1, 2, 3, 4, 5]
    assert steps(tmp_path, "train/loss") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "damage",
    [
        '{"update": 3, "tra',
        "\0\0\0\0\0",
        "not JSON\n",
        "[1]\n",
        "{}\n",
        '{"update": "3"}\n',
        "\u00ff\n",
        "[" * 100_000 + "\n",
    ],
)
def test_damaged_lines_do_not_stop_a_resume(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes((line(1) + line(2)).encode() + damage.encode("latin-1"))
    logs = Logs(tmp_path, total=9, first=2)
    logs.scalars({"train/loss": 1.0}, 3, line=False)
    assert updates_in(path) == [1, 2, 3]


def test_a_damaged_line_in_the_middle_goes_and_the_rest_stays(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1) + "\0\0\0\n" + line(2) + line(3))
    cut_after(path, 2)
    assert updates_in(path) == [1, 2]


def test_cutting_is_one_step(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"

    def killed(*_):
        raise KeyboardInterrupt

    for content in (line(1) + line(2) + line(3), line(1) + "damaged\n" + line(2) + line(3)):
        path.write_text(content)
        with monkeypatch.context() as patch:
            patch.setattr(os, "truncate", killed)
            patch.setattr(os, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                cut_after(path, 2)
        assert path.read_text() == content and [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
        cut_after(path, 2)
        assert updates_in(path) == [1, 2]
    cut_after(tmp_path / "none", 2)
    assert not (tmp_path / "none").exists()


def test_cutting_needs_no_room(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        (disk / "metrics.jsonl").write_text("".join(map(line, range(1000))))
        fill(disk)
        cut_after(disk / "metrics.jsonl", 10)
        assert updates_in(disk / "metrics.jsonl") == [*range(11)]


def test_a_full_disk_is_told_once_and_training_goes_on(tmp_path, capsys):
    with small_disk(tmp_path / "disk") as disk:
        run = disk / "run"
        logs = Logs(run, total=1000)
        for update in range(1, 11):
            logs.scalars({"train/loss": 1.0}, update, line=False)
        ballast = fill(disk)
        for update in range(11, 200):  # the last pages' slack takes some more lines
            logs.scalars({"train/loss": 1.0}, update, line=False)
            logs.histogram("h", torch.ones(3), update)
        told = capsys.readouterr().out.splitlines()
        full = [text for text in told if "is full" in text]
        assert 1 <= len(full) <= 2 and f"the disk of {run} is full: log lines of updates" in full[0]
        lost = int(full[-1].split("updates ")[1].split()[0])
        ballast.unlink()
        for update in range(200, 203):
            logs.scalars({"train/loss": 1.0}, update, line=False)
        logs.close()
        assert capsys.readouterr().out == f"logs are written again; the lines of updates {lost} to 199 are lost\n"
        written = updates_in(run / "metrics.jsonl")
        assert written[:10] == [*range(1, 11)] and written[-3:] == [200, 201, 202] and 150 not in written
        read = steps(run, "train/loss")  # every record before and after the outage is whole
        assert read[:10] == [*range(1, 11)] and read[-3:] == [200, 201, 202] and 150 not in read


def test_a_disk_that_is_full_from_the_start_to_the_end(tmp_path, capsys):
    with small_disk(tmp_path / "disk") as disk:
        fill(disk)
        logs = Logs(disk / "run", total=9)
        for update in range(1, 4):
            logs.scalars({"train/loss": 1.0}, update, line=False)
        logs.figure("f", Figure(), 3)
        logs.close()
    told = capsys.readouterr().out.splitlines()
    assert [text.split(": ")[-1] for text in told] == [
        "log lines of updates 1 on are lost; free some space, and they go on; so does training",
        "the log lines of updates 1 to 3 are lost",
    ]


def test_the_board_begins_rightly_when_room_comes_late(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        ballast = fill(disk)
        logs = Logs(disk / "run", total=9)
        logs.scalars({"train/loss": 1.0}, 1, line=False)
        ballast.unlink()
        logs.scalars({"train/loss": 1.0}, 2, line=False)
        assert steps(disk / "run", "train/loss") == [2] and board(disk / "run").file_version == 2.0


def test_a_device_without_room(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").symlink_to("/dev/full")
    logs = Logs(run, total=9)
    for update in (1, 2):
        logs.scalars({"train/loss": 1.0}, update, line=False)
    logs.close()
    assert capsys.readouterr().out.count("is full") == 1
    assert steps(run, "train/loss") == [1, 2]  # what can be written is


@pytest.mark.parametrize("broken", ["metrics.jsonl", "logs"])
def test_what_cannot_be_written_at_all_is_told_by_name(tmp_path, broken, capsys):
    (tmp_path / ("metrics.jsonl" if broken == "metrics.jsonl" else "unused")).mkdir()
    if broken == "logs":
        (tmp_path / "logs").write_text("a file in the place of the folder")
    logs = Logs(tmp_path, total=9)
    for update in (1, 2):
        logs.scalars({"train/loss": 1.0}, update, line=False)
    logs.close()
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2 and f"/{broken}'" in told[0] and "updates 1 on are lost; once it can be written" in told[0]


def test_a_reader_that_left_does_not_stop_a_run(tmp_path, monkeypatch):
    for target in ("/dev/full", "pipe"):
        reads, writes = os.pipe()
        os.close(reads)
        out = open(writes if target == "pipe" else target, "w")  # noqa: SIM115
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            logs = Logs(tmp_path / target.strip("/"), total=9)
            for update in range(1, 4):
                logs.scalars({"train/loss": 1.0}, update)
                logs.advance()
            logs.close()
        with contextlib.suppress(OSError):  # what its buffer still holds
            out.close()
        assert updates_in(tmp_path / target.strip("/") / "metrics.jsonl") == [1, 2, 3]


def test_going_on_turns_an_error_of_writing_into_a_line(tmp_path, capsys):
    logs = Logs(tmp_path, total=9)
    with logs.going_on("the results of update 3 are not kept"):
        raise OSError(28, "No space left on device", "x")
    assert capsys.readouterr().out == (
        f"the disk of {tmp_path} is full: the results of update 3 are not kept; training goes on\n"
    )
    with pytest.raises(ValueError, match="mine"), logs.going_on("it"):
        raise ValueError("mine")


def test_a_piece_is_whole_or_not_there_even_if_cutting_fails_first(tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk") as disk:
        grown = Growing(disk / "it", head=b"head\n")
        grown.append(b"one\n")
        ballast = fill(disk, leave=4096)
        with monkeypatch.context() as patch:
            patch.setattr(os, "truncate", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
            with pytest.raises(OSError, match=r"No space left on device: '.*/it'"):
                grown.append(b"x" * 20_000)
        assert (disk / "it").stat().st_size > 1000  # the torn rest
        ballast.unlink()
        grown.append(b"two\n")
        assert (disk / "it").read_bytes() == b"head\none\ntwo\n"


def test_numbers_are_numbers_of_any_kind(tmp_path):
    logs = Logs(tmp_path, total=9)
    logs.scalars({"a": float(np.float32(0.5)), "b": float("nan")}, 1, line=False)
    assert np.isnan(board(tmp_path).Scalars("b")[0].value)
