from __future__ import annotations

import re

import numpy as np
import pytest

from recognition.page.charts import (
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Dot,
    Line,
    Row,
    histogram_line,
    interval_chart,
    line_chart,
)
from recognition.page.scales import scale_of


def test_places_on_axes() -> None:
    plain = scale_of(Axis("x", least=0, most=10), [], 0, 100)
    assert [plain.at(v) for v in (0, 2.5, 10, 12, -3)] == [0, 25, 100, 100, 0]
    log = scale_of(Axis("x", log=True, least=1e-4, most=1), [], 0, 100)
    assert [log.at(v) for v in (1e-4, 1e-2, 1, 0)] == [0, 50, 100, 0]
    assert log.ticks() == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert plain.ticks(5) == [0, 2, 4, 6, 8, 10]
    falling = scale_of(Axis("y", least=0, most=1, shares=True), [], 200, 10)
    assert falling.at(0.25) == 152.5 and falling.text(0.25) == "25"


@pytest.mark.parametrize("values", [[], [3.0], [0.0, 0.0], [float("nan"), 1.0], [-1.0, -2.0]])
@pytest.mark.parametrize("log", [False, True])
def test_odd_values_make_an_axis(values: list[float], log: bool) -> None:
    scale = scale_of(Axis("x", log=log), values, 0, 100)
    assert scale.low < scale.high and all(0 <= scale.at(tick) <= 100 for tick in scale.ticks())
    assert len(scale.ticks()) >= 1


def test_lines_go_where_their_values_are() -> None:
    line = Line("a", 1, [0, 5, 10], [0, 1, 0.5])
    chart = line_chart("t", [line], Axis("x", least=0, most=10), Axis("y", least=0, most=1))
    bottom, middle = HEIGHT - 40, (LEFT + WIDTH - RIGHT) / 2
    assert f"M{LEFT} {bottom}L{middle:g} {TOP}L{WIDTH - RIGHT} {(TOP + bottom) / 2:g}" in chart
    steps = line_chart(
        "t", [Line("a", 1, [0, 5, 10], [0, 1, 1], step=True)], Axis("x", least=0, most=10), Axis("y", least=0, most=1)
    )
    assert f"M{LEFT} {bottom}H{middle:g}V{TOP}H{WIDTH - RIGHT}" in steps


def test_a_chart_tells_its_numbers() -> None:
    lines = [Line("one", 0, [1, 10, 100], [0.1, 0.2, 0.3], step=True), Line("two", 1, [1, 100], [0, 1])]
    chart = line_chart("title <x>", lines, Axis("far", log=True), Axis("tar", shares=True))
    assert "<figcaption>title &lt;x&gt;</figcaption>" in chart and 'role="img"' in chart
    assert 'aria-label="title &lt;x&gt;. tar over far: one, two."' in chart
    assert re.search(r'<th scope="row">10</th><td>20.0 %</td>', chart)
    assert chart.count("<li>") == 2  # the legend
    assert lines[0].value(50) == 0.2 and lines[1].value(101) is None


def test_intervals_in_rows() -> None:
    rows = [Row("r", [Dot("base", 0, 5, 4, 7), Dot("run", 1, 6)])]
    chart = interval_chart("t", rows, Axis("points", least=0, most=10), zero=True)
    assert "5 [4, 7]" in chart and "<td>6</td>" in chart and "hollow" in chart


def test_histograms_hold_every_value() -> None:
    line = histogram_line("h", 1, np.array([-5.0, 0.1, 0.2, 0.9, 7.0]), np.linspace(0, 1, 3))
    assert line.y == [0.6, 0.4, 0.4] and line.x == [0, 0.5, 1]
