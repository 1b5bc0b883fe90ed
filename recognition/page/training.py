"""Curves of training, from metrics.jsonl: several runs over each other."""

from __future__ import annotations

from collections.abc import Sequence

from recognition.page.charts import Axis, Line, line_chart
from recognition.page.markup import Markup, element, note
from recognition.page.numbers import side_words
from recognition.page.runs import Run

KNOWN = {  # by tag: title, log axis
    "train/loss": ("Loss", False),
    "train/lr": ("Learning rate", False),
    "train/gradient_norm": ("Gradient norm", False),
    "speed/images_per_second": ("Images per second", False),
    "speed/data_wait_share": ("Share of time waiting for data", False),
    "quality/gate_mean": ("Mean gate", False),
}
LEFT_OUT = ("train/epoch",)  # the x axis in other words
MOST_POINTS = 400


def training(runs: Sequence[Run]) -> Markup:
    """The section on training."""
    tags = dict.fromkeys([*KNOWN, *(tag for run in runs for line in run.lines for tag in line)])
    charts = [chart for tag in tags if "/" in tag and _is_plain(tag) and (chart := _chart(tag, runs)) is not None]
    blocks: list[object] = [element("h2", "Training", id="training")]
    for run in runs:
        skipped = [line["update"] for line in run.lines if "skipped" in line]
        if skipped:
            blocks.append(
                note(
                    f"{run.name}: {len(skipped)} updates were skipped because loss or gradient was not finite, the "
                    f"first is update {skipped[0]}."
                )
            )
    if charts:
        blocks.append(element("div", *charts, class_="charts"))
    else:
        blocks.append(note("No curve has two points: metrics.jsonl holds no lines of training."))
    blocks.append(element("h3", "Evaluations during training"))
    during = _during(runs)
    if during:
        blocks.append(element("div", *during, class_="charts"))
    else:
        blocks.append(note("None were made; the setting evaluation.every asks for some."))
    return element("section", *blocks, aria_labelledby="training")


def _is_plain(tag: str) -> bool:
    return not tag.startswith(("before/", "during/", "after/")) and tag not in LEFT_OUT


def _chart(tag: str, runs: Sequence[Run]) -> Markup | None:
    lines = []
    for number, run in enumerate(runs, start=1):
        x, y = _values(run, tag)
        if len(x) > 1:
            lines.append(Line("adapted" if len(runs) == 1 else run.name, number, x, y))
    if not lines:
        return None
    title, log = KNOWN.get(tag, (tag, False))
    least = 0.0 if tag.startswith("speed/") or tag in ("train/lr", "train/gradient_norm") else None
    return line_chart(title, lines, Axis("update"), Axis("", log=log, least=least))


def _during(runs: Sequence[Run]) -> list[Markup]:
    """A chart for each set: its first measure over updates, a line for each part of each run."""
    tags = dict.fromkeys(tag for run in runs for line in run.lines for tag in line if tag.startswith("during/"))
    firsts: dict[tuple[str, str], str] = {}
    for tag in tags:
        _, name, part, measure = tag.split("/", 3)
        firsts.setdefault((name, part), measure)
    charts = []
    for name in dict.fromkeys(name for name, _ in firsts):
        lines, measure = [], ""
        for run in runs:
            for part in (part for other, part in firsts if other == name):
                measure = firsts[name, part]
                x, y = [], []
                for when in ("before", "during", "after"):
                    more = _values(run, f"{when}/{name}/{part}/{measure}")
                    x, y = x + more[0], y + more[1]
                if len(x) > 1:
                    label = side_words(part) if len(runs) == 1 else f"{run.name}, {side_words(part)}"
                    lines.append(Line(label, len(lines) + 1, x, y, dots=True))
        if lines:
            charts.append(line_chart(f"{name}: {measure}", lines, Axis("update"), Axis(measure, shares=True)))
    return charts


def _values(run: Run, tag: str) -> tuple[list[float], list[float]]:
    found = [
        (line["update"], line[tag])
        for line in run.lines
        if isinstance(line.get(tag), int | float) and not isinstance(line[tag], bool)
    ]
    found = found[:: max(1, -(-len(found) // MOST_POINTS))] + (found[-1:] if len(found) > MOST_POINTS else [])
    return [float(x) for x, _ in found], [float(y) for _, y in found]
