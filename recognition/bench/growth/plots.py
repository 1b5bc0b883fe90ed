"""A curve as an SVG file of its own, in the look of the reports: points with their range, the law, the limit."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recognition.bench.growth.fits import Fit, fit
from recognition.page.charts import HEIGHT, WIDTH, Line, line_chart
from recognition.page.markup import Markup, element
from recognition.page.scales import Axis
from recognition.page.style import DASHES, LIGHT

MIB = 2**20
HEAD, FOOT = 24, 40  # room for the title, and for the names of lines


class Measured(Protocol):
    """A point of a curve, as recognition.bench.growth.points.Point."""

    x: float
    memory: int
    predicted: int
    seconds: list[float]
    processor: list[float]


@dataclass(frozen=True)
class Curve:
    """Points over something that grows. limits: seconds at each point that nothing can be below; () = none is known.

    wall: what counts is wall time; else processor time, which other programs change least.
    """

    name: str
    told: str
    label: str
    points: Sequence[Measured]
    limits: Sequence[float]
    limit_name: str
    wall: bool = False

    def times(self, point: Measured) -> list[float]:
        """Seconds of each repeat, of the kind that counts."""
        return point.seconds if self.wall else point.processor

    def time(self, point: Measured) -> float:
        """Their median."""
        return statistics.median(self.times(point))

    def time_law(self) -> Fit:
        """Of seconds."""
        return fit([point.x for point in self.points], [self.time(point) for point in self.points])

    def memory_law(self) -> Fit | None:
        """Of MiB; None where a point has no memory worth a law."""
        if any(point.memory < MIB / 4 for point in self.points):
            return None
        return fit([point.x for point in self.points], [point.memory / MIB for point in self.points])


def draw(curve: Curve, time: Fit, memory: Fit | None) -> str:
    """The SVG file's text: time at the left, memory at the right where there is a law of it."""
    x = [point.x for point in curve.points]
    along = np.geomspace(min(x), max(x), 30).tolist() if len(x) > 1 else x
    kind = "wall" if curve.wall else "processor"
    bars = [(p.x, curve.time(p), min(curve.times(p)), max(curve.times(p))) for p in curve.points]
    middle = [curve.time(point) for point in curve.points]
    lines = [
        Line("measured, median and range", 1, x, middle, bars=bars),
        Line(f"law {time.words().partition(';')[0]}", 2, along, [time.at(value) for value in along]),
    ]
    if curve.limits:
        lines.append(Line(f"limit: {curve.limit_name}", 0, x, curve.limits))
    panels = [_panel(f"{kind} time, s", curve.label, lines)]
    if memory:
        held = [point.memory / MIB for point in curve.points]
        lines = [
            Line("measured", 1, x, held, dots=True),
            Line(f"law {memory.words().partition(';')[0]}", 2, along, [memory.at(value) for value in along]),
        ]
        if all(point.predicted for point in curve.points):
            lines.append(Line("predicted by the model", 3, x, [point.predicted / MIB for point in curve.points]))
        panels.append(_panel("memory, MiB", curve.label, lines))
    width, height = len(panels) * WIDTH, HEAD + HEIGHT + FOOT
    title = element("text", curve.told, x=12, y=16, class_="title")
    placed = [element("g", panel, transform=f"translate({n * WIDTH} {HEAD})") for n, panel in enumerate(panels)]
    ground = element("rect", x=0, y=0, width=width, height=height, fill="#fff")
    whole = element(
        "svg",
        element("style", Markup(_look())),
        ground,
        title,
        *placed,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_label=curve.told,
    )
    return f"{whole}\n"


def _panel(label: str, along: str, lines: Sequence[Line]) -> Markup:
    """A chart of the reports without what only a page can show, and the names of its lines below."""
    chart = str(line_chart(label, lines, Axis(along, log=True), Axis(label, log=True)))
    drawing = re.search(r'<svg viewBox="[^"]*" role="img".*?</svg>', chart, re.DOTALL)[0]
    drawing = drawing.replace("<svg ", f'<svg width="{WIDTH}" height="{HEIGHT}" ', 1)
    names = []
    for number, line in enumerate(lines):
        y = HEIGHT + 8 + 13 * number
        names.append(element("line", x1=46, x2=74, y1=y - 4, y2=y - 4, class_=f"s{line.kind}"))
        names.append(element("text", line.name, x=80, y=y, class_="soft"))
    return element("g", Markup(drawing), *names)


def _look() -> str:
    """What of the reports' style sheet a drawing needs, in its light colours: pictures have no reader's theme."""
    rules = [
        "text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:#1b1f24}"
        ".soft{fill:#545b64;font-size:11px}.title{font-weight:600}.grid{stroke:#e3e6ea}.axis{stroke:#545b64}"
    ]
    for number, (colour, dash) in enumerate(zip(LIGHT, DASHES, strict=True)):
        dashed = f";stroke-dasharray:{dash}" if dash else ""
        rules.append(f".s{number}{{stroke:{colour};fill:none;stroke-width:2{dashed}}}")
        rules.append(f".f{number}{{fill:{colour}}}.e{number}{{stroke:{colour};fill:none;stroke-width:1.5}}")
    return "".join(rules)
