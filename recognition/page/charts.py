"""Charts as SVG: lines, steps and areas over linear or logarithmic axes, and values with their intervals.

Each is a figure of its own with a caption, a legend of colour and dash, and its numbers as a table behind a summary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from recognition.page.markup import Markup, details, element, join, table
from recognition.page.numbers import NONE
from recognition.page.scales import Axis, Scale, scale_of
from recognition.page.style import DASHES

WIDTH, HEIGHT = 360, 232
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 40
LABEL = 118  # room for names beside rows
ROW, DOT = 15, 4


@dataclass(frozen=True)
class Line:
    """One line of a chart. bars: (x, value, lo, hi) where an interval is known."""

    name: str
    style: int  # 0 = base, then runs: colour and dashes
    x: Sequence[float]
    y: Sequence[float]
    step: bool = False  # y[i] holds from x[i] to x[i + 1]
    area: bool = False
    dots: bool = False
    bars: Sequence[tuple[float, float, float, float]] = ()

    @property
    def kind(self) -> int:
        """Its colour and dashes: they come again where there are more lines than kinds."""
        return self.style % len(DASHES)

    def value(self, at: float) -> float | None:
        """What the line says at a place; None outside it."""
        x = np.asarray(self.x, float)
        if not len(x) or not x[0] * (1 - 1e-9) <= at <= x[-1] * (1 + 1e-9):
            return None
        if self.step:
            return float(self.y[max(0, int(np.searchsorted(x, at * (1 + 1e-9), side="right")) - 1)])
        return float(np.interp(at, x, self.y))


@dataclass(frozen=True)
class Dot:
    """One value with its interval, where one is known, in a row of an interval chart."""

    name: str
    style: int
    value: float
    lo: float | None = None
    hi: float | None = None

    @property
    def kind(self) -> int:
        """As of Line."""
        return self.style % len(DASHES)


@dataclass(frozen=True)
class Row:
    """A name and the values beside it."""

    label: str
    dots: Sequence[Dot] = field(default_factory=tuple)


def line_chart(
    title: str, lines: Sequence[Line], x: Axis, y: Axis, *, unknown: float | None = None, remark: str = ""
) -> Markup:
    """Lines over a common x. unknown: left of it the data cannot tell, and the ground is shaded."""
    horizontal = scale_of(x, [v for line in lines for v in line.x], LEFT, WIDTH - RIGHT)
    heights = [v for line in lines for v in line.y] + [v for line in lines for bar in line.bars for v in bar[2:]]
    vertical = scale_of(y, heights, HEIGHT - BOTTOM, TOP)
    drawn = [_frame(horizontal, vertical)]
    if unknown is not None and horizontal.at(unknown) > LEFT:
        width = round(horizontal.at(unknown) - LEFT, 1)
        drawn.append(element("rect", x=LEFT, y=TOP, width=width, height=HEIGHT - TOP - BOTTOM, class_="unknown"))
    drawn += [_drawn(line, horizontal, vertical) for line in lines]
    heads = [x.label, *(line.name for line in lines)]
    rows = [
        [horizontal.text(tick), *(_written(line.value(tick), vertical) for line in lines)]
        for tick in horizontal.ticks(12)
    ]
    said = f"{title}. {y.label} over {x.label}: {', '.join(line.name for line in lines)}."
    return _figure(title, said, drawn, HEIGHT, _legend(lines), table(heads, rows, label=title), remark)


def interval_chart(title: str, rows: Sequence[Row], x: Axis, *, zero: bool = False, remark: str = "") -> Markup:
    """Dots with their intervals, a row for each name. zero: a line at 0, to which intervals are compared."""
    ends = [v for row in rows for dot in row.dots for v in (dot.value, dot.lo, dot.hi) if v is not None]
    tall = [max(1, len(row.dots)) * ROW + 9 for row in rows]
    height = TOP + sum(tall) + BOTTOM
    horizontal = scale_of(x, [*ends, 0.0] if zero else ends, LABEL, WIDTH - RIGHT)
    drawn = [_ruler(horizontal, TOP, height - BOTTOM)]
    if zero:
        at = horizontal.at(0)
        drawn.append(element("line", x1=at, x2=at, y1=TOP, y2=height - BOTTOM, class_="axis", stroke_width=1.5))
    top = TOP
    for row, room in zip(rows, tall, strict=True):
        shown = row.label if len(row.label) <= 19 else row.label[:18] + "…"
        middle = top + room / 2
        name = element("title", row.label)
        drawn.append(element("text", shown, name, x=LABEL - 8, y=round(middle + 4, 1), text_anchor="end"))
        for number, dot in enumerate(row.dots):
            drawn.append(_dot(dot, horizontal, round(top + 4.5 + (number + 0.5) * ROW, 1)))
        top += room
    names = list(dict.fromkeys((dot.name, dot.style) for row in rows for dot in row.dots))
    heads = ["", *(name for name, _ in names)]
    cells = [[row.label, *(_dot_words(row, name, horizontal) for name, _ in names)] for row in rows]
    legend = _legend([Line(name, style, (), (), dots=True) for name, style in names])
    said = f"{title}. {x.label}, with intervals, for {', '.join(row.label for row in rows)}."
    return _figure(title, said, drawn, height, legend, table(heads, cells, label=title), remark)


def histogram_line(name: str, style: int, values: np.ndarray, edges: np.ndarray, *, area: bool = True) -> Line:
    """Share of the values in each bin, as a step line; values outside fall into the bins at the ends."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)
    share = counts / max(1, len(values))
    return Line(name, style, edges.tolist(), [*share.tolist(), float(share[-1])], step=True, area=area)


def _figure(
    title: str, said: str, drawn: list, height: float, legend: Markup | None, numbers: Markup, remark: str
) -> Markup:
    svg = element("svg", *drawn, viewBox=f"0 0 {WIDTH} {round(height)}", role="img", aria_label=said)
    words = element("p", remark, class_="soft") if remark else None
    return element(
        "figure", element("figcaption", title), legend, svg, words, details("Numbers of this chart", numbers)
    )


def _legend(lines: Sequence[Line]) -> Markup | None:
    if len(lines) < 2:
        return None
    entries = []
    for line in lines:
        mark = (
            _mark(17, 6, line.kind) if line.dots else element("line", x1=1, x2=33, y1=6, y2=6, class_=f"s{line.kind}")
        )
        swatch = element("svg", mark, viewBox="0 0 34 12", aria_hidden="true", focusable="false")
        entries.append(element("li", swatch, line.name))
    return element("ul", *entries, class_="legend")


def _frame(horizontal: Scale, vertical: Scale) -> Markup:
    parts = [_ruler(horizontal, TOP, HEIGHT - BOTTOM)]
    for tick in vertical.ticks(5):
        at = vertical.at(tick)
        parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid"))
        parts.append(element("text", vertical.text(tick), x=LEFT - 5, y=at + 4, text_anchor="end", class_="soft"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f"rotate(-90 10 {middle:g})"
    parts.append(
        element("text", _unit(vertical), x=10, y=f"{middle:g}", transform=turned, text_anchor="middle", class_="soft")
    )
    return join(parts)


def _ruler(scale: Scale, top: float, bottom: float) -> Markup:
    parts = []
    for tick in scale.ticks(6 if scale.begin == LEFT else 5):
        at = scale.at(tick)
        parts.append(element("line", x1=at, x2=at, y1=top, y2=bottom, class_="grid"))
        parts.append(element("text", scale.text(tick), x=at, y=bottom + 15, text_anchor="middle", class_="soft"))
    parts.append(element("line", x1=scale.begin, x2=scale.end, y1=bottom, y2=bottom, class_="axis"))
    middle = round((scale.begin + scale.end) / 2, 1)
    parts.append(element("text", _unit(scale), x=middle, y=bottom + 32, text_anchor="middle", class_="soft"))
    return join(parts)


def _unit(scale: Scale) -> str:
    return f"{scale.axis.label}, %" if scale.axis.shares else scale.axis.label


def _drawn(line: Line, horizontal: Scale, vertical: Scale) -> Markup:
    places = [(horizontal.at(x), vertical.at(y)) for x, y in zip(line.x, line.y, strict=True)]
    if not places:
        return Markup()
    path = [f"M{places[0][0]:g} {places[0][1]:g}"]
    for (_, before), (x, y) in pairwise(places):
        if not line.step:
            path.append(f"L{x:g} {y:g}")
        else:
            path.append(f"H{x:g}" if y == before else f"H{x:g}V{y:g}")
    text = "".join(path)
    parts = [element("title", line.name)]
    if line.area:
        base = f"V{vertical.begin:g}H{places[0][0]:g}Z"
        parts.append(element("path", d=text + base, class_=f"a{line.kind}"))
    parts.append(element("path", d=text, class_=f"s{line.kind}"))
    if line.dots:
        parts += [element("circle", cx=x, cy=y, r=2.5, class_=f"f{line.kind}") for x, y in places]
    for x, value, lo, hi in line.bars:
        said = f"{line.name}: {_written(value, vertical)} [{_written(lo, vertical)}, {_written(hi, vertical)}]"
        at, low, high = horizontal.at(x), vertical.at(lo), vertical.at(hi)
        stroke = element("path", d=f"M{at:g} {low:g}V{high:g}M{at - 3:g} {low:g}h6M{at - 3:g} {high:g}h6")
        mark = element("circle", cx=at, cy=vertical.at(value), r=2.5, class_=f"f{line.kind}")
        parts.append(element("g", element("title", said), stroke, mark, class_=f"e{line.kind}"))
    return element("g", *parts)


def _dot(dot: Dot, scale: Scale, y: float) -> Markup:
    parts = [element("title", f"{dot.name}: {_dot_text(dot, scale)}")]
    if dot.lo is not None and dot.hi is not None:
        lo, hi = scale.at(dot.lo), scale.at(dot.hi)
        parts.append(
            element("path", d=f"M{lo:g} {y:g}H{hi:g}M{lo:g} {y - 3:g}v6M{hi:g} {y - 3:g}v6", class_=f"e{dot.kind}")
        )
    parts.append(_mark(scale.at(dot.value), y, dot.kind))
    return element("g", *parts)


def _mark(x: float, y: float, kind: int) -> Markup:
    """A hollow ring for the base; a disc, square, diamond, triangle, ring or cross for runs: shape tells, too."""
    shapes = {
        2: f"M{x - 3.5:g} {y - 3.5:g}h7v7h-7Z",
        3: f"M{x:g} {y - 5:g}l5 5l-5 5l-5 -5Z",
        4: f"M{x:g} {y - 5:g}l4.8 8.5h-9.6Z",
        6: f"M{x - 1.5:g} {y - 5:g}h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5Z",
    }
    if kind in shapes:
        return element("path", d=shapes[kind], class_=f"f{kind}")
    hollow = kind in (0, 5)
    return element("circle", cx=x, cy=y, r=DOT, class_=f"e{kind} hollow" if hollow else f"f{kind}")


def _dot_words(row: Row, name: str, scale: Scale) -> str:
    return next((_dot_text(dot, scale) for dot in row.dots if dot.name == name), NONE)


def _dot_text(dot: Dot, scale: Scale) -> str:
    if dot.lo is None or dot.hi is None:
        return _written(dot.value, scale)
    return f"{_written(dot.value, scale)} [{_written(dot.lo, scale)}, {_written(dot.hi, scale)}]"


def _written(value: float | None, scale: Scale) -> str:
    if value is None:
        return NONE
    return f"{100 * value:.1f} %" if scale.axis.shares else f"{value:.4g}"
