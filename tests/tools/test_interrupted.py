"""Ctrl-C ends a tool with one word and exit code 130."""

from __future__ import annotations

import pytest

from tools import compare_runs, evaluate, report


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "tool, name, arguments",
    [
        (report, "_page", ["run"]),
        (report, "_board", ["run", "--tensorboard"]),
        (compare_runs, "compared", ["a", "b"]),
        (compare_runs, "as_text", ["a", "b"]),
        (evaluate, "_evaluate", ["."]),
        (evaluate, "chosen_config", ["."]),
        (evaluate, "_compare_scorers", [".", "--edc"]),
    ],
)
def test_it_says_so(
    tool: object, name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(compare_runs, "compared", lambda _: {})
    monkeypatch.setattr(evaluate, "chosen_config", lambda _: {})
    monkeypatch.setattr(tool, name, interrupt)
    assert tool.main(arguments) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_one_of_many_processes_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(evaluate, "chosen_config", interrupt)
    monkeypatch.setenv("RANK", "1")
    assert evaluate.main(["."]) == 130 and capsys.readouterr().err == ""
