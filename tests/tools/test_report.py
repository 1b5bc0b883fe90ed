from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages import make_run
from tools import report


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("report"))


def test_the_page_goes_into_the_run(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert report.main([str(run)]) == 0
    path = run / "report" / "report.html"
    assert path.read_text().startswith("<!doctype html>") and "<img" in path.read_text()
    assert f"written to {path}" in capsys.readouterr().out


def test_it_goes_where_it_is_told(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    assert report.main([str(run), "--no-pictures", "--output", str(path)]) == 0
    assert "<img" not in path.read_text()


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["{run}/report"], "holds no config.json"),
        (["{run}", "{run}"], "both runs are named 'tiny'"),
        (["{run}", "--output", "{run}/config.json/page.html"], "config.json"),
        (["{run}", "--output", "{run}/report"], "report is a folder; name the file to write, such as {run}/report/"),
    ],
)
def test_faults_are_said_in_a_sentence(
    run: Path, capsys: pytest.CaptureFixture, arguments: list[str], complaint: str
) -> None:
    assert report.main([one.format(run=run) for one in arguments]) == 2
    told = capsys.readouterr().err
    assert complaint.format(run=run) in told and "Traceback" not in told


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ([], "RUN"),
        (["x", "--pictures", "-1"], "write 0 or more"),
        (["x", "--pictures", "3", "--no-pictures"], "not allowed with"),
        (["x", "--tensorboard", "--output", "y"], "leave --output out"),
    ],
)
def test_what_does_not_go_together(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        report.parse(arguments)
    assert complaint in capsys.readouterr().err
